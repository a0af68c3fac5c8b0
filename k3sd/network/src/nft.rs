//! Applies nftables scripts with the `nft` binary, each as one atomic transaction.
//!
//! `nft -f -` turns a whole script into one netlink batch: either every line takes effect or none does. The rule sets
//! themselves are written by their owners; nothing here knows what they mean.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::Instant;

/// Where `nft` is looked for after `PATH`: a service manager often starts daemons without the `sbin` directories.
const FALLBACK_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];

/// Why a rule set could not be applied or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` program.
    #[error("failed to apply rule set '{rule_set}': no 'nft' program in PATH")]
    NotFound {
        /// The rule set that was to be applied.
        rule_set: String,
    },
    /// `nft` could not be run to its end.
    #[error("failed to run '{}' for rule set '{rule_set}'", program.display())]
    Run {
        /// The rule set that was to be applied.
        rule_set: String,
        /// The `nft` program.
        program: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// `nft` or the kernel refused the script; nothing of it took effect.
    #[error("rule set '{rule_set}' was refused: {}", diagnosis.trim_end())]
    Refused {
        /// The rule set that was to be applied.
        rule_set: String,
        /// What `nft` printed.
        diagnosis: String,
    },
}

/// Applies `script` as one transaction. `rule_set` names it in errors.
pub async fn apply(rule_set: &str, script: &str) -> Result<(), Error> {
    run(rule_set, &["-f", "-"], script).await.map(drop)
}

/// The text of a table as the kernel has it, or `None` if `nft` cannot list it (as a rule: it does not exist).
pub async fn list_table(family: &str, table: &str) -> Result<Option<String>, Error> {
    match run(table, &["list", "table", family, table], "").await {
        Ok(text) => Ok(Some(text)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn run(rule_set: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let program = find().ok_or_else(|| Error::NotFound { rule_set: rule_set.to_owned() })?;
    let failed = |source| Error::Run { rule_set: rule_set.to_owned(), program: program.clone(), source };
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be piped");
    // `nft` reads the whole script before it prints anything, so writing first cannot deadlock. If it dies early the
    // pipe breaks; its own diagnosis says more than that error.
    let written = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(failed)?;
    if !output.status.success() {
        let diagnosis = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Refused { rule_set: rule_set.to_owned(), diagnosis });
    }
    written.map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(FALLBACK_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join("nft"))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}

/// Spaces transactions: the first change goes out at once (after a moment in which changes that come together are
/// gathered), a stream of changes at most once per interval.
#[derive(Debug)]
pub struct Pace {
    gather: Duration,
    interval: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// Waits `gather` after each change, and keeps `interval` between the starts of two transactions.
    pub fn new(gather: Duration, interval: Duration) -> Self {
        Self { gather, interval, last: None }
    }

    /// When a change that happens now may go out.
    pub fn due(&self) -> Instant {
        let gathered = Instant::now() + self.gather;
        self.last.map_or(gathered, |last| gathered.max(last + self.interval))
    }

    /// Notes that a transaction starts now.
    pub fn start(&mut self) {
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_gathered_first_and_spaced_afterwards() {
        let (gather, interval) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut pace = Pace::new(gather, interval);
        let first = Instant::now();
        assert_eq!(pace.due(), first + gather);
        pace.start();
        assert_eq!(pace.due(), first + interval);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(pace.due(), Instant::now() + gather);
    }
}
