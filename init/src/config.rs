//! What this machine is told to be: where the configuration is found, and what is made of it.
//!
//! The types, the rules and the mistakes are the crate `node_config`'s. Here are the sources, lowest first: the image's defaults, the
//! copy of what was accepted last ([`accepted`]), a volume ([`volumes`]), credentials of the hypervisor ([`credentials`]), the kernel command line.

mod accepted;
mod apply;
mod credentials;
mod hosts;
mod label;
mod volumes;

use std::path::Path;
use std::sync::Arc;

pub(crate) use node_config::{
    Decision, Level, NodeConfig, Origin, Resolved, Role, RootSource, StatePolicy, Watchdog,
};
use node_config::{Layer, MAX_LEN, Mistake, PREFIX, Sources, resolve};

pub(crate) use self::apply::{files, kernel, modules, services};
use crate::block;
use crate::board::{Board, note};
use crate::cmdline::Cmdline;
use crate::console::say;
use crate::reaper::Reaper;

/// Defaults that the image carries.
pub(crate) const IMAGE_FILE: &str = "/usr/share/skerry/config.toml";

/// The command line alone: all that the first stage can know.
pub(crate) fn from_cmdline(cmdline: &Cmdline) -> Resolved {
    resolve(&[Layer::words(cmdline.with_prefix(PREFIX))])
}

/// The image's defaults and the command line: all that is known before any device is there.
pub(crate) fn early(cmdline: &Cmdline) -> Resolved {
    let image = read_toml(Path::new(IMAGE_FILE)).unwrap_or_default();
    Found { image: image.layer, mistakes: image.mistakes, ..Found::default() }.before_state(cmdline)
}

/// Everything that was found before STATE.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    image: Option<Layer>,
    document: Option<Layer>,
    mistakes: Vec<Mistake>,
    /// Settings of NoCloud that mean nothing here.
    ignored: Vec<Mistake>,
}

/// What one source gave.
#[derive(Debug, Default)]
struct Part {
    layer: Option<Layer>,
    mistakes: Vec<Mistake>,
    ignored: Vec<Mistake>,
}

impl Part {
    fn of(read: Result<Layer, Vec<Mistake>>) -> Self {
        match read {
            Ok(layer) => Self { layer: Some(layer), ..Self::default() },
            Err(mistakes) => Self { mistakes, ..Self::default() },
        }
    }

    fn wrong(mistake: Mistake) -> Self {
        Self { mistakes: vec![mistake], ..Self::default() }
    }
}

/// Looks in every source but STATE. Waits for slow ones where something may yet come from there.
pub(crate) async fn search(board: &Board, cmdline: &Cmdline, reaper: &Reaper) -> Arc<Found> {
    note(board, "fw_cfg", credentials::load_driver(reaper).await);
    let found = Arc::new(look(board).await);
    // With a mistake in it there is nothing to wait for either.
    let told = found.told(cmdline).await;
    if !volumes::wait(board, told.is_sound() || !told.mistakes.is_empty()).await {
        return found;
    }
    Arc::new(look(board).await)
}

/// Mounting waits for a driver and reading for a disk, so neither is done between the tasks.
async fn look(board: &Board) -> Found {
    let found = tokio::task::spawn_blocking(find).await;
    block::tell(board);
    found.unwrap_or_else(|error| Found {
        mistakes: vec![mistake(
            "configuration",
            &format!("a fault while it was read ({error})"),
            "a readable source",
        )],
        ..Found::default()
    })
}

fn find() -> Found {
    let image = read_toml(Path::new(IMAGE_FILE)).unwrap_or_default();
    let mut found = Found { image: image.layer, mistakes: image.mistakes, ..Found::default() };
    for part in volumes::read().into_iter().chain(credentials::read()) {
        found.add(part);
    }
    found
}

impl Found {
    fn add(&mut self, part: Part) {
        self.mistakes.extend(part.mistakes);
        self.ignored.extend(part.ignored);
        self.document = match (self.document.take(), part.layer) {
            (Some(below), Some(above)) => Some(below.overlaid(&above)),
            (below, above) => below.or(above),
        };
    }

    /// What it all comes to with what was accepted before, which is known once STATE is there.
    pub(crate) fn decide(&self, accepted: Option<Layer>, cmdline: &Cmdline) -> Decision {
        let sources = Sources {
            image: self.image.clone(),
            accepted,
            document: self.document.clone(),
            mistakes: self.mistakes.clone(),
            words: cmdline.with_prefix(PREFIX).collect(),
        };
        sources.decide()
    }

    /// What can be known before STATE, and with it whether a disk may be made into one.
    pub(crate) fn before_state(&self, cmdline: &Cmdline) -> Resolved {
        let words = Layer::words(cmdline.with_prefix(PREFIX));
        let layers: Vec<_> =
            self.image.iter().chain(&self.document).cloned().chain(std::iter::once(words)).collect();
        let mut resolved = resolve(&layers);
        resolved.mistakes.splice(0..0, self.mistakes.iter().cloned());
        resolved
    }

    /// [`Self::before_state`], beside the tasks: a document may be long.
    pub(crate) async fn told(self: &Arc<Self>, cmdline: &Cmdline) -> Resolved {
        let (found, cmdline) = (Arc::clone(self), cmdline.clone());
        beside(move || found.before_state(&cmdline)).await
    }

    /// [`Self::settle`], beside the tasks.
    pub(crate) async fn settled(self: &Arc<Self>, cmdline: &Cmdline) -> (Decision, Vec<String>) {
        let (found, cmdline) = (Arc::clone(self), cmdline.clone());
        beside(move || found.settle(&cmdline)).await
    }

    /// Decides with the accepted copy, keeps a new document that is right, and tells what there is to tell. Returns the decision
    /// and problems that are no mistakes of the configuration.
    fn settle(&self, cmdline: &Cmdline) -> (Decision, Vec<String>) {
        let mut problems: Vec<_> = self.ignored.iter().map(|ignored| format!("ignored: {ignored}")).collect();
        let copy = accepted::read(&mut problems);
        let decision = self.decide(copy.clone(), cmdline);
        match (decision.origin, &self.document) {
            (Origin::Found, Some(document)) if decision.usable => {
                say!("configuration: what was found is accepted");
                if let Err(error) = accepted::write(document) {
                    problems.push(format!("the configuration cannot be kept for the next boot: {error:#}"));
                }
            }
            (Origin::Accepted, Some(_)) => {
                say!("configuration: what was found has mistakes; the one accepted last is used");
            }
            (Origin::Accepted, None) => say!("configuration: the one accepted last is used"),
            _ => {}
        }
        (decision, problems)
    }
}

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("nobody cancels it, and a panic ends the machine")
}

/// Reads a file; none if it is not there.
fn read_toml(file: &Path) -> Option<Part> {
    let name = file.display().to_string();
    match read_capped(file) {
        Ok(bytes) => Some(Part::of(Layer::toml(&name, &bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Part::wrong(unreadable(&name, &error))),
    }
}

/// The bytes of a file, of a file that is too long only enough to see that.
fn read_capped(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(name: &str, error: &std::io::Error) -> Mistake {
    mistake(name, &format!("a file that cannot be read ({error})"), "a file that can be read; write it again")
}

fn mistake(name: &str, given: &str, allowed: &str) -> Mistake {
    Mistake {
        source_name: name.to_owned(),
        key: "(whole file)".to_owned(),
        given: given.to_owned(),
        allowed: allowed.to_owned(),
    }
}

/// What to write where, in a few lines, for the maintenance screen.
pub(crate) fn help() -> impl Iterator<Item = &'static str> {
    [
        "in config.toml on the first FAT partition or one labelled CONFIG: [node] and below it role = \"server\"",
        "or on the kernel command line: skerry.role=server, or skerry.role=agent skerry.server=https://HOST:6443 skerry.token=TOKEN",
    ]
    .into_iter()
}
