//! Which of the documents a machine goes by.
//!
//! A document that is right is used, and becomes the accepted one. One that is wrong is not: the machine goes by the one it accepted last,
//! and says what is wrong. Only a machine that has never accepted any has to wait for someone.

use crate::document::{NodeConfig, Resolved, resolve};
use crate::mistake::Mistake;
use crate::tree::Layer;

/// What the sources said, lowest first.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// The image's defaults.
    pub image: Option<Layer>,
    /// What the machine accepted before.
    pub accepted: Option<Layer>,
    /// What was found now: on partitions and in credentials, laid over each other.
    pub document: Option<Layer>,
    /// What kept some of that from being read at all.
    pub mistakes: Vec<Mistake>,
    /// Words of the kernel command line, without their prefix.
    pub words: Vec<(&'a str, Option<&'a str>)>,
}

/// What a machine goes by.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The configuration; where it is not usable, as much of it as could be understood.
    pub config: NodeConfig,
    /// Where its document comes from.
    pub origin: Origin,
    /// Whether the machine can be what it is told to be.
    pub usable: bool,
    /// Everything that is wrong, whether or not it is in the way.
    pub mistakes: Vec<Mistake>,
}

/// Where the document comes from that a machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// There is none: the image's defaults and the kernel command line say everything.
    None,
    /// It was found now, and may be kept.
    Found,
    /// It was accepted before.
    Accepted,
}

impl Sources<'_> {
    /// Decides.
    #[must_use]
    pub fn decide(&self) -> Decision {
        let words = Layer::words(self.words.iter().copied());
        let (document, origin) = match (&self.document, &self.accepted) {
            (Some(found), _) => (Some(found), Origin::Found),
            // What could not be read was meant to replace it.
            (None, Some(accepted)) if self.mistakes.is_empty() => (Some(accepted), Origin::Accepted),
            (None, _) => (None, Origin::None),
        };
        let told = self.with(document, Some(&words));
        let mut mistakes = self.mistakes.clone();
        mistakes.extend(told.mistakes.iter().cloned());
        // What could not be read may have said what is missing.
        if self.mistakes.is_empty() {
            mistakes.extend(told.missing.iter().cloned());
        }
        if mistakes.is_empty() {
            return Decision { config: told.config, origin, usable: true, mistakes };
        }
        match self.fall_back(&words) {
            Some((resolved, origin)) => Decision { config: resolved.config, origin, usable: true, mistakes },
            None => Decision { config: told.config, origin, usable: false, mistakes },
        }
    }

    /// What a machine that has accepted something before does when not everything is right now: without the words that are wrong, the
    /// document if it is right, else the accepted one; if that is not right with the words either, the accepted one alone.
    fn fall_back(&self, words: &Layer) -> Option<(Resolved, Origin)> {
        let accepted = self.accepted.as_ref()?;
        let sound = |word: &&(&str, Option<&str>)| resolve(&[Layer::words([**word])]).mistakes.is_empty();
        let good = Layer::words(self.words.iter().filter(sound).copied());
        let document = self.document.as_ref().filter(|_| self.mistakes.is_empty());
        let tries = [
            document.map(|document| (document, Some(&good), Origin::Found)),
            Some((accepted, Some(words), Origin::Accepted)),
            Some((accepted, Some(&good), Origin::Accepted)),
            Some((accepted, None, Origin::Accepted)),
        ];
        let mut tries = tries.into_iter().flatten();
        tries.find_map(|(layer, words, origin)| {
            let resolved = self.with(Some(layer), words);
            resolved.is_sound().then_some((resolved, origin))
        })
    }

    fn with(&self, document: Option<&Layer>, words: Option<&Layer>) -> Resolved {
        let layers: Vec<_> = [self.image.as_ref(), document, words].into_iter().flatten().cloned().collect();
        resolve(&layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    fn layer(text: &str) -> Option<Layer> {
        Some(Layer::toml("config.toml", text.as_bytes()).unwrap())
    }

    fn sources(accepted: &str, document: &str) -> Sources<'static> {
        let some = |text: &str| layer(text).filter(|layer| !layer.is_empty());
        Sources { accepted: some(accepted), document: some(document), ..Sources::default() }
    }

    const GOOD: &str = "node.role = 'server'\nnode.hostname = 'good'";
    const OLD: &str = "node.role = 'server'\nnode.hostname = 'old'";
    const BAD: &str = "node.role = 'server'\nnode.hostname = 'Bad'\nnode.colour = 1";

    #[test]
    fn what_is_right_is_used_what_is_wrong_is_told_and_the_accepted_one_used() {
        let cases = [
            ("a right one", OLD, GOOD, (Origin::Found, true, "good", 0)),
            ("a wrong one", OLD, BAD, (Origin::Accepted, true, "old", 2)),
            ("a wrong one, nothing accepted", "", BAD, (Origin::Found, false, "", 2)),
            ("none", OLD, "", (Origin::Accepted, true, "old", 0)),
            ("one without a role", OLD, "node.hostname = 'x'", (Origin::Accepted, true, "old", 1)),
            ("none, nothing accepted", "", "", (Origin::None, false, "", 1)),
        ];
        for (name, accepted, document, expected) in cases {
            let decision = sources(accepted, document).decide();
            let hostname = decision.config.node.hostname.as_deref().unwrap_or_default();
            assert_eq!(
                (decision.origin, decision.usable, hostname, decision.mistakes.len()),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn what_could_not_be_read_counts_as_wrong() {
        let mut sources = sources(OLD, GOOD);
        sources.mistakes = Layer::toml("user-data", b"\xFF\xFEx\0").unwrap_err();
        let decision = sources.decide();
        assert_eq!((decision.origin, decision.usable, decision.mistakes.len()), (Origin::Accepted, true, 1));
    }

    #[test]
    fn a_wrong_word_is_left_out_where_something_was_accepted_and_stops_a_new_machine() {
        let mut known = sources(OLD, GOOD);
        known.words = vec![("bogus", Some("1")), ("log", Some("warn"))];
        let decision = known.decide();
        assert_eq!((decision.origin, decision.usable, decision.mistakes.len()), (Origin::Found, true, 1));
        assert_eq!(decision.config.log.level, crate::Level::Warn);
        let new = Sources { words: vec![("bogus", None), ("role", Some("server"))], ..Sources::default() };
        let decision = new.decide();
        assert_eq!((decision.usable, decision.mistakes.len()), (false, 1));
        assert_eq!(decision.config.node.role, Some(Role::Server));
    }

    #[test]
    fn words_that_do_not_go_with_the_accepted_document_are_left_out() {
        let mut sources = sources(OLD, "");
        sources.words = vec![("role", Some("agent"))];
        let decision = sources.decide();
        assert_eq!((decision.usable, decision.config.node.role), (true, Some(Role::Server)));
        assert!(!decision.mistakes.is_empty());
    }
}
