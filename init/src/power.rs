//! Being asked to stop: signals, Ctrl-Alt-Del, and the power button.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

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

/// Waits until someone asks the machine to stop.
pub(crate) async fn asked() -> Action {
    let mut waits = JoinSet::new();
    for (kind, action) in asks() {
        if let Ok(mut stream) = signal(kind) {
            waits.spawn_local(async move {
                next(&mut stream).await;
                action
            });
        }
    }
    waits.spawn_local(async {
        button_pressed().await;
        Action::PowerOff
    });
    loop {
        match waits.join_next().await {
            Some(Ok(action)) => return action,
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

async fn next(stream: &mut Signal) {
    while stream.recv().await.is_none() {}
}

/// Waits until a power key is pressed on any input device that has one, now or later.
async fn button_pressed() {
    let Ok(devices) = Listener::open().and_then(readable) else { return std::future::pending().await };
    let mut known = BTreeSet::new();
    let mut presses = JoinSet::new();
    loop {
        devices.get_ref().drain();
        for name in power_keys() {
            if !known.contains(&name)
                && let Ok(keys) = open_keys(&name)
            {
                known.insert(name);
                presses.spawn_local(power_key_pressed(keys));
            }
        }
        tokio::select! {
            Some(result) = presses.join_next() => if let Ok(Ok(())) = result { return },
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
}
