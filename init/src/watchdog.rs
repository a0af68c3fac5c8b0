//! The hardware watchdog: it resets the machine when PID 1 no longer turns.
//!
//! It is pinged from the event loop that does everything else, so a loop that hangs or a PID 1 that panics means no pings. Its
//! driver may come late, with the other modules; until then nothing watches, except where the firmware has started one, which the
//! kernel keeps alive until it is opened here. It stays armed on the way down, with more time, so that a reboot that hangs ends, too.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::board::Board;
use crate::config::Watchdog as Setting;
use crate::console::say;
use crate::power::Action;
use crate::readiness::readable;
use crate::uevent::Listener;

/// The first watchdog. A second one is nobody's.
const DEVICE: &str = "/dev/watchdog0";
/// What the way down may take: pods end, and a slow disk gets everything written.
const SHUTDOWN: Duration = Duration::from_secs(600);
/// Pings within one timeout. A loop that is late once is no reason to reset.
const PINGS: u32 = 3;
/// Any byte pings; this one, before the device is closed, disarms (Documentation/watchdog/watchdog-api.rst).
const PING: &[u8] = b"\0";
const DISARM: &[u8] = b"V";

/// The machine's watchdog, once there is one; clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Watchdog(Rc<RefCell<Option<File>>>);

impl Watchdog {
    /// Waits for a watchdog, arms it and pings it, for ever. Ends on error. Owned by the main task.
    pub(crate) async fn run(self, setting: Setting, board: Board) -> Result<()> {
        let Setting::Within(timeout) = setting else { return std::future::pending().await };
        let device = appeared(Path::new(DEVICE)).await?;
        let timeout = arm(&device, timeout, &board);
        *self.0.borrow_mut() = Some(device);
        let mut pings = tokio::time::interval(timeout / PINGS);
        loop {
            pings.tick().await;
            self.write(PING).context("failed to ping the watchdog")?;
        }
    }

    /// Gives the way down its time. The pings go on until its end.
    pub(crate) fn expect_shutdown(&self) {
        if let Some(device) = &*self.0.borrow() {
            // One that cannot count that far keeps its timeout, and its pings.
            let _ = sys::watchdog::set_timeout(device, SHUTDOWN);
        }
    }

    /// Leaves it armed for an end that may hang, and stops it for one after which nobody pings.
    pub(crate) fn finish(&self, action: Action) {
        let result = match action {
            Action::Reboot => self.write(PING),
            // A machine that is halted stays as it is; a kernel that is started by ours may have no driver for it.
            Action::PowerOff | Action::Halt | Action::Kexec => self.write(DISARM),
        };
        if let Err(error) = result {
            say!("problem: the watchdog does not answer: {error}");
        }
        self.0.borrow_mut().take();
    }

    fn write(&self, byte: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().as_mut().map_or(Ok(()), |device| device.write_all(byte))
    }
}

/// Opens the device, now or when its driver has made it. Opening arms it.
async fn appeared(path: &Path) -> Result<File> {
    let events = readable(Listener::open()?).context("failed to listen for devices")?;
    loop {
        events.get_ref().drain();
        match OpenOptions::new().write(true).open(path) {
            Ok(device) => return Ok(device),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to open {}", path.display())),
        }
        events.readable().await.context("failed to listen for devices")?.clear_ready();
    }
}

/// Sets the timeout and says what watches. Returns the timeout that the hardware has.
fn arm(device: &File, wanted: Duration, board: &Board) -> Duration {
    let name = sys::watchdog::identity(device).unwrap_or_else(|_| "unknown".to_owned());
    if sys::watchdog::caused_last_reset(device).unwrap_or(false) {
        let text = format!("the watchdog ({name}) reset the machine: PID 1 had hung, or the kernel");
        board.problem("last reset", Some(text));
    }
    match sys::watchdog::set_timeout(device, wanted) {
        Ok(timeout) => {
            say!("watchdog {name} armed, {} s", timeout.as_secs());
            timeout
        }
        Err(error) => {
            // The hardware's own timeout is unknown; the shortest in use is that of the Raspberry Pi, about 15 s.
            say!("problem: watchdog {name} takes no timeout of {} s: {error}", wanted.as_secs());
            Duration::from_secs(12)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is written to a file in place of the device.
    fn written_at_the_end(action: Action) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        let watchdog = Watchdog(Rc::new(RefCell::new(Some(File::create(&path).unwrap()))));
        watchdog.finish(action);
        assert!(watchdog.0.borrow().is_none(), "closed");
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn only_a_reboot_is_watched_to_its_end() {
        assert_eq!(written_at_the_end(Action::Reboot), "\0");
        for action in [Action::PowerOff, Action::Halt, Action::Kexec] {
            assert_eq!(written_at_the_end(action), "V", "{action:?}");
        }
    }
}
