//! Reading from disks that may not answer.
//!
//! A read from a dying disk returns after the kernel has tried again for minutes, and nobody can end it before. So each question to a
//! disk has a thread of its own, and a limit after which the answer is not waited for any more. That disk is left alone until
//! the answer has come all the same, so there are never more threads than such disks.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::board::Board;

/// What a disk may need that has to spin up first.
const LIMIT: Duration = Duration::from_secs(10);
/// Nothing that is asked here needs more.
const STACK: usize = 256 << 10;
/// Begins the topic of what is told about a disk.
const TOPIC: &str = "disk ";

/// Those that owe an answer.
static SILENT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What `question` finds on `disk`. Blocks until it has, but not for ever; [`io::ErrorKind::TimedOut`] then, and at once for a disk that
/// still owes an answer.
pub(crate) fn ask<T: Send + 'static>(
    disk: &str,
    question: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    ask_within(LIMIT, disk, question)
}

fn ask_within<T: Send + 'static>(
    limit: Duration,
    disk: &str,
    question: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let no_answer = || io::Error::new(io::ErrorKind::TimedOut, format!("{disk} does not answer"));
    if silent().contains(disk) {
        return Err(no_answer());
    }
    let (sender, receiver) = sync_channel(1);
    let name = disk.to_owned();
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let answer = question();
        // Under the lock, so that who gives up sees the answer or is corrected by it.
        let mut silent = silent();
        let _ = sender.send(answer);
        silent.remove(&name);
    })?;
    match receiver.recv_timeout(limit) {
        Ok(answer) => return Ok(answer),
        Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the question failed")),
        Err(RecvTimeoutError::Timeout) => {}
    }
    let mut silent = silent();
    receiver.try_recv().map_err(|_| {
        silent.insert(disk.to_owned());
        no_answer()
    })
}

fn silent() -> MutexGuard<'static, BTreeSet<String>> {
    SILENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What there is to tell, by disk.
pub(crate) fn complaints() -> Vec<(String, String)> {
    let silent = silent();
    silent.iter().map(|disk| (disk.clone(), format!("{disk} does not answer; it is left alone"))).collect()
}

/// Makes problems of what there is to tell, and takes those back that are over.
pub(crate) fn tell(board: &Board) {
    board.update(|facts| {
        facts.problems.retain(|topic, _| !topic.starts_with(TOPIC));
        facts.problems.extend(complaints().into_iter().map(|(disk, text)| (format!("{TOPIC}{disk}"), text)));
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;
    use crate::board::Facts;

    #[test]
    fn a_disk_that_does_not_answer_is_left_alone_until_it_does_and_the_others_are_asked() {
        let board = Board::new(Facts::default());
        let problem = || board.watch().borrow().problems.get("disk sick").cloned();
        let (answer, wait) = channel::<()>();
        let asked = ask_within(Duration::from_millis(50), "sick", move || wait.recv());
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let start = Instant::now();
        assert_eq!(ask("sick", || ()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < LIMIT / 2, "it was waited for again");
        assert_eq!(ask("sound", || 7).unwrap(), 7);
        tell(&board);
        assert_eq!(problem().as_deref(), Some("sick does not answer; it is left alone"));
        answer.send(()).unwrap();
        while ask("sick", || ()).is_err() {
            thread::yield_now();
        }
        tell(&board);
        assert_eq!(problem(), None);
    }
}
