//! Being asked to stop: signals, Ctrl-Alt-Del, and the power button.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::readiness::readable;
use crate::uevent::Listener;

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Off.
    PowerOff,
    /// Start again.
    Reboot,
    /// Stop, with the power on.
    Halt,
    /// Start again without the firmware.
    Kexec,
}

/// `KEY_POWER` and `EV_KEY` (include/uapi/linux/input-event-codes.h).
const KEY_POWER: u16 = 116;
const EV_KEY: u16 = 1;
/// `struct input_event` on 64-bit machines: two 8-byte times, type, code, value.
const INPUT_EVENT_LEN: usize = 24;
/// glibc's first real-time signal; systemd's numbers for machine control count from it (systemd(1)).
const SIGRTMIN: i32 = 34;
/// What comes within this time is one request.
const ONE_REQUEST: Duration = Duration::from_secs(3);

/// Signals that ask PID 1 for something: BusyBox's, systemd's, and SIGINT, which the kernel sends for Ctrl-Alt-Del.
fn asks() -> [(SignalKind, Action); 9] {
    [
        (SignalKind::interrupt(), Action::Reboot),
        (SignalKind::terminate(), Action::Reboot),
        (SignalKind::user_defined1(), Action::Halt),
        (SignalKind::user_defined2(), Action::PowerOff),
        (SignalKind::from_raw(nix::libc::SIGPWR), Action::PowerOff),
        (SignalKind::from_raw(SIGRTMIN + 3), Action::Halt),
        (SignalKind::from_raw(SIGRTMIN + 4), Action::PowerOff),
        (SignalKind::from_raw(SIGRTMIN + 5), Action::Reboot),
        (SignalKind::from_raw(SIGRTMIN + 6), Action::Kexec),
    ]
}

/// Everyone who may ask the machine to stop.
pub(crate) struct Asked {
    receiver: mpsc::Receiver<Action>,
    /// One for each way of asking.
    _waits: JoinSet<()>,
}

impl Asked {
    /// Listens from now on. Needs a local set, in which it lives.
    pub(crate) fn listen() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let mut waits = JoinSet::new();
        for (kind, action) in asks() {
            if let Ok(mut stream) = signal(kind) {
                let sender = sender.clone();
                waits.spawn_local(async move {
                    loop {
                        next(&mut stream).await;
                        // One that waits to be heard is enough.
                        let _ = sender.try_send(action);
                    }
                });
            }
        }
        waits.spawn_local(async move {
            loop {
                button_pressed().await;
                let _ = sender.try_send(Action::PowerOff);
            }
        });
        Self { receiver, _waits: waits }
    }

    /// Waits until someone asks.
    pub(crate) async fn next(&mut self) -> Action {
        match self.receiver.recv().await {
            Some(action) => action,
            None => std::future::pending().await,
        }
    }

    /// Waits until someone asks once more, who cannot have meant the same: a key that is held down, or a button that is seen by two
    /// drivers, asks several times.
    pub(crate) async fn again(&mut self) {
        let since = Instant::now();
        loop {
            self.next().await;
            if since.elapsed() >= ONE_REQUEST {
                return;
            }
        }
    }
}

async fn next(stream: &mut Signal) {
    while stream.recv().await.is_none() {}
}

/// Waits until a power key is pressed on any input device that has one, now or later.
async fn button_pressed() {
    let Ok(devices) = Listener::open().and_then(readable) else { return std::future::pending().await };
    let mut watched = BTreeSet::new();
    let mut presses = JoinSet::new();
    loop {
        devices.get_ref().drain();
        for name in power_keys() {
            if !watched.contains(&name)
                && let Ok(keys) = open_keys(&name)
            {
                watched.insert(name.clone());
                presses.spawn_local(async move { (power_key_pressed(keys).await, name) });
            }
        }
        tokio::select! {
            Some(result) = presses.join_next() => match result {
                Ok((Ok(()), _)) => return,
                // It went away. One that comes later may have its name.
                Ok((Err(_), name)) => drop(watched.remove(&name)),
                Err(_) => {}
            },
            guard = devices.readable() => match guard {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return std::future::pending().await,
            },
        }
    }
}

/// Input devices that can send `KEY_POWER`.
fn power_keys() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/input") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).ok()?;
            let name = entry.file_name().into_string().ok()?;
            (name.starts_with("event") && has_key(&keys, KEY_POWER)).then_some(name)
        })
        .collect()
}

/// The bitmap is written as hexadecimal 64-bit words, the highest first.
fn has_key(bitmap: &str, key: u16) -> bool {
    bitmap
        .split_whitespace()
        .rev()
        .nth(usize::from(key / 64))
        .and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (key % 64) & 1 == 1)
}

fn open_keys(name: &str) -> io::Result<AsyncFd<File>> {
    let path = Path::new("/dev/input").join(name);
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    readable(file)
}

async fn power_key_pressed(keys: AsyncFd<File>) -> io::Result<()> {
    let mut event = [0; INPUT_EVENT_LEN];
    loop {
        let len = keys.async_io(Interest::READABLE, |mut file| file.read(&mut event)).await?;
        if len == INPUT_EVENT_LEN && is_press(&event) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8; INPUT_EVENT_LEN]) -> bool {
    event[16..18] == EV_KEY.to_ne_bytes()
        && event[18..20] == KEY_POWER.to_ne_bytes()
        && event[20..24] == 1i32.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_key_is_found_in_the_bitmap() {
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(!has_key("10000000000000\n", KEY_POWER));
        assert!(has_key("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe", 1));
    }

    #[test]
    fn only_the_press_counts_not_the_release() {
        let mut event = [0; INPUT_EVENT_LEN];
        event[16..18].copy_from_slice(&EV_KEY.to_ne_bytes());
        event[18..20].copy_from_slice(&KEY_POWER.to_ne_bytes());
        assert!(!is_press(&event));
        event[20..24].copy_from_slice(&1i32.to_ne_bytes());
        assert!(is_press(&event));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_held_down_asks_once_and_one_that_is_pressed_later_asks_again() {
        let (sender, receiver) = mpsc::channel(1);
        let mut asked = Asked { receiver, _waits: JoinSet::new() };
        let started = Instant::now();
        let presses = async {
            for _ in 0..20 {
                sender.send(Action::Reboot).await.unwrap();
                tokio::time::sleep(ONE_REQUEST / 30).await;
            }
            tokio::time::sleep(ONE_REQUEST).await;
            sender.send(Action::Reboot).await.unwrap();
        };
        let ((), first) = tokio::join!(presses, async {
            assert_eq!(asked.next().await, Action::Reboot);
            asked.again().await;
            started.elapsed()
        });
        assert!(first > ONE_REQUEST, "{first:?}");
    }
}
