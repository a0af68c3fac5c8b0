//! The hardware watchdog: it resets the machine when PID 1 no longer turns.
//!
//! It is pinged from the event loop that does everything else, so a loop that hangs or a PID 1 that panics means no pings. Its
//! driver may come late, with the other modules; until then nothing watches, except where the firmware has started one, which the
//! kernel keeps alive until it is opened here. A configuration that is read later may set another time, or stop it. It stays armed on the way down, with more time, so that a reboot that hangs ends, too.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use tokio::sync::watch;

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
/// What counts as the timeout of hardware that does not tell it; the shortest in use is that of the Raspberry Pi, about 15 s.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(12);
/// Any byte pings; this one, before the device is closed, disarms (Documentation/watchdog/watchdog-api.rst).
const PING: &[u8] = b"\0";
const DISARM: &[u8] = b"V";

/// The machine's watchdog; clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Watchdog {
    device: Rc<RefCell<Option<File>>>,
    setting: Rc<watch::Sender<Setting>>,
}

impl Watchdog {
    /// One that is to be armed like this as soon as there is one.
    pub(crate) fn new(setting: Setting) -> Self {
        Self { device: Rc::default(), setting: Rc::new(watch::Sender::new(setting)) }
    }

    /// From now on like this.
    pub(crate) fn set(&self, setting: Setting) {
        self.setting.send_if_modified(|current| std::mem::replace(current, setting) != setting);
    }

    /// Waits for a watchdog, arms it and pings it, for ever. Ends on error. Owned by the main task.
    pub(crate) async fn run(self, board: Board) -> Result<()> {
        let mut settings = self.setting.subscribe();
        loop {
            let setting = *settings.borrow_and_update();
            tokio::select! {
                changed = settings.changed() => changed.context("nobody sets the watchdog any more")?,
                result = self.keep(setting, &board) => return result,
            }
        }
    }

    async fn keep(&self, setting: Setting, board: &Board) -> Result<()> {
        let timeout = match setting {
            Setting::Within(timeout) => {
                if self.device.borrow().is_none() {
                    let device = appeared(Path::new(DEVICE)).await?;
                    tell_last_reset(&device, board);
                    self.device.replace(Some(device));
                }
                self.with_device(|device| arm(device, timeout))
            }
            Setting::Off if self.stop(board) => None,
            Setting::Off => Some(UNKNOWN_TIMEOUT),
        };
        let Some(timeout) = timeout else { return std::future::pending().await };
        let mut pings = tokio::time::interval(timeout / PINGS);
        loop {
            pings.tick().await;
            self.write(PING).context("failed to ping the watchdog")?;
        }
    }

    /// Stops it if it was armed. False if it cannot be stopped: then it must be pinged as before.
    fn stop(&self, board: &Board) -> bool {
        let Some(stopped) = self.with_device(|device| sys::watchdog::stop(device)) else { return true };
        match stopped {
            Ok(()) => {
                say!("watchdog stopped");
                // Nothing is left to disarm, but the kernel complains of one who closes without a word.
                let _ = self.write(DISARM);
                self.device.borrow_mut().take();
                true
            }
            Err(error) => {
                let text = format!("boot.watchdog: this watchdog cannot be stopped ({error}) and goes on");
                board.problem("watchdog off", Some(text));
                false
            }
        }
    }

    /// Gives the way down its time. The pings go on until its end.
    pub(crate) fn expect_shutdown(&self) {
        // One that cannot count that far keeps its timeout, and its pings.
        let _ = self.with_device(|device| sys::watchdog::set_timeout(device, SHUTDOWN));
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
        self.device.borrow_mut().take();
    }

    fn with_device<T>(&self, act: impl FnOnce(&File) -> T) -> Option<T> {
        self.device.borrow().as_ref().map(act)
    }

    fn write(&self, byte: &[u8]) -> io::Result<()> {
        self.device.borrow_mut().as_mut().map_or(Ok(()), |device| device.write_all(byte))
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

fn tell_last_reset(device: &File, board: &Board) {
    if sys::watchdog::caused_last_reset(device).unwrap_or(false) {
        let text =
            format!("the watchdog ({}) reset the machine: PID 1 had hung, or the kernel", name(device));
        board.problem("last reset", Some(text));
    }
}

/// Sets the timeout and says what watches. Returns the timeout that the hardware has.
fn arm(device: &File, wanted: Duration) -> Duration {
    let name = name(device);
    match sys::watchdog::set_timeout(device, wanted) {
        Ok(timeout) => {
            say!("watchdog {name} armed, {} s", timeout.as_secs());
            timeout
        }
        Err(error) => {
            say!("problem: watchdog {name} takes no timeout of {} s: {error}", wanted.as_secs());
            UNKNOWN_TIMEOUT
        }
    }
}

fn name(device: &File) -> String {
    sys::watchdog::identity(device).unwrap_or_else(|_| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::board::Facts;

    /// What is written to a file in place of the device.
    fn written_at_the_end(action: Action) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        let watchdog = Watchdog::new(Setting::Off);
        watchdog.device.replace(Some(File::create(&path).unwrap()));
        watchdog.finish(action);
        assert!(watchdog.device.borrow().is_none(), "closed");
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn only_a_reboot_is_watched_to_its_end() {
        assert_eq!(written_at_the_end(Action::Reboot), "\0");
        for action in [Action::PowerOff, Action::Halt, Action::Kexec] {
            assert_eq!(written_at_the_end(action), "V", "{action:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_setting_takes_the_place_of_the_first_and_what_cannot_be_stopped_is_pinged_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        let board = Board::new(Facts::default());
        let watchdog = Watchdog::new(Setting::Off);
        // No kernel stops a plain file.
        watchdog.device.replace(Some(File::create(&path).unwrap()));
        let pings = || fs::read(&path).unwrap().len();
        let run = watchdog.clone().run(board.clone());
        let script = async {
            tokio::time::sleep(UNKNOWN_TIMEOUT).await;
            let told = board.watch().borrow().problems.clone();
            assert!(
                format!("{told:?}").contains("boot.watchdog: this watchdog cannot be stopped"),
                "{told:?}"
            );
            let before = pings();
            assert!(before >= PINGS as usize);
            watchdog.set(Setting::Within(Duration::from_secs(30)));
            tokio::time::sleep(UNKNOWN_TIMEOUT).await;
            assert!(pings() > before);
        };
        tokio::select! {
            ended = run => panic!("{ended:?}"),
            () = script => {}
        }
    }
}
