//! The kernel command line: words, quotes, and the rule that a later word wins.
//!
//! The kernel's own rules (Documentation/admin-guide/kernel-parameters.rst): words are separated by blanks, double
//! quotes protect blanks and may stand around the value or around the whole word, and there are no escapes. What
//! follows `--` is for init's arguments and is left alone here.

/// The words of one command line, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Cmdline {
    words: Vec<(String, Option<String>)>,
}

impl Cmdline {
    /// Reads `/proc/cmdline`; an unreadable one counts as empty, since the machine must come up either way.
    pub(crate) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// Splits `text` into `key` and `key=value` words.
    pub(crate) fn parse(text: &str) -> Self {
        let words = split(text)
            .into_iter()
            .take_while(|word| word != "--")
            .map(|word| match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word, None),
            })
            .collect();
        Self { words }
    }

    /// The value of `key`; of several the last one. A word without `=` has no value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.words.iter().rev().find(|(name, _)| name == key).and_then(|(_, value)| value.as_deref())
    }

    /// Every word whose key starts with `prefix`, with the prefix taken off, in the order written.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        self.words
            .iter()
            .filter_map(move |(key, value)| key.strip_prefix(prefix).map(|rest| (rest, value.as_deref())))
    }
}

fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut begun) = (false, false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_blanks_around_a_value_or_a_whole_word() {
        let line = Cmdline::parse("a=\"x y\" \"b=p q\" c quiet\n");
        assert_eq!(line.get("a"), Some("x y"));
        assert_eq!(line.get("b"), Some("p q"));
        assert_eq!(line.get("c"), None);
    }

    #[test]
    fn a_later_word_wins() {
        assert_eq!(Cmdline::parse("skerry.role=agent skerry.role=server").get("skerry.role"), Some("server"));
    }

    #[test]
    fn words_after_the_double_dash_are_not_ours() {
        assert_eq!(Cmdline::parse("a=1 -- a=2").get("a"), Some("1"));
    }

    #[test]
    fn a_prefix_lists_keys_without_it_and_keeps_valueless_ones() {
        let line = Cmdline::parse("ro skerry.role=server skerry.bogus console=ttyS0");
        let found: Vec<_> = line.with_prefix("skerry.").collect();
        assert_eq!(found, [("role", Some("server")), ("bogus", None)]);
    }
}
