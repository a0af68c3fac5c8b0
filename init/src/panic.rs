//! A panic in PID 1: what happened, where, and a machine that starts again.
//!
//! PID 1 that returns or aborts is a kernel panic whose text hides ours, so the hook never returns: it prints the panic with its
//! backtrace and reboots as `panic=` asks the kernel to. Other faults that nothing goes on from end the same way ([`restart`]). The binary keeps its symbol table (see the release profile in Cargo.toml),
//! which no running machine loads: it is read from the file here, and nowhere else.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::fs;
use std::panic::PanicHookInfo;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

use crate::cmdline::Cmdline;
use crate::console;

/// Where the kernel keeps the number of `panic=`: seconds, 0 for no reboot, and less for one at once.
const PANIC_SECONDS: &str = "/proc/sys/kernel/panic";
/// When that cannot be read.
const DEFAULT_SECONDS: i64 = 10;

/// Takes over every panic from here on.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        console::write_in_panic(&describe(info));
        restart();
    }));
}

/// Restarts the machine when there was time to read why, unless it was told not to.
pub(crate) fn restart() -> ! {
    let text = fs::read_to_string(PANIC_SECONDS).unwrap_or_default();
    match pause(&text, Cmdline::read().get("panic").is_some()) {
        Some(time) => {
            console::write_in_panic(&format!("skerry: rebooting in {} s\n", time.as_secs()));
            std::thread::sleep(time);
            let _ = reboot(RebootMode::RB_AUTOBOOT);
        }
        None => console::write_in_panic(
            "skerry: stopped (panic=0); switch the machine off, or wait for its watchdog\n",
        ),
    }
    loop {
        std::thread::park();
    }
}

/// How long to wait by the kernel's number; none for ever. Its 0 counts only if someone asked for it: until the second stage sets
/// another it is just what the kernel begins with.
fn pause(text: &str, asked: bool) -> Option<Duration> {
    let told = text.trim().parse().ok().filter(|seconds| *seconds != 0 || asked);
    let seconds = told.unwrap_or(DEFAULT_SECONDS);
    (seconds != 0).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The panic, and the functions that led to it, the innermost first.
fn describe(info: &PanicHookInfo<'_>) -> String {
    let mut text = format!("skerry: panic in PID 1: {info}\n");
    let _ = writeln!(text, "{}", Backtrace::force_capture());
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static SAID: Mutex<String> = Mutex::new(String::new());

    #[inline(never)]
    fn the_culprit() {
        panic!("a bug");
    }

    #[test]
    fn the_kernels_number_says_when_to_restart_and_whether() {
        let seconds = |text, asked| pause(text, asked).map(|time| time.as_secs());
        assert_eq!(seconds("30\n", true), Some(30));
        assert_eq!(seconds("-1\n", true), Some(0));
        assert_eq!(seconds("0\n", true), None);
        assert_eq!(seconds("0\n", false), Some(10));
        assert_eq!(seconds("", false), Some(10));
    }

    #[test]
    fn a_panic_is_told_with_the_functions_that_led_to_it() {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|info| *SAID.lock().unwrap() = describe(info)));
        let result = std::panic::catch_unwind(the_culprit);
        std::panic::set_hook(before);
        assert!(result.is_err());
        let said = SAID.lock().unwrap();
        assert!(said.contains("a bug") && said.contains("the_culprit"), "{said}");
    }
}
