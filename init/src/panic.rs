//! A panic in PID 1: what happened, where, and a machine that starts again.
//!
//! PID 1 that returns or aborts is a kernel panic whose text hides ours, so the hook never returns: it prints the panic with its
//! backtrace and reboots as `panic=` asks the kernel to. The binary keeps its symbol table (see the release profile in Cargo.toml),
//! which no running machine loads: it is read from the file here, and nowhere else.

use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::fs;
use std::panic::PanicHookInfo;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

use crate::console;

/// Where the kernel keeps the number of `panic=`: seconds, 0 for no reboot, and less for one at once.
const PANIC_SECONDS: &str = "/proc/sys/kernel/panic";
/// When that cannot be read.
const DEFAULT_SECONDS: i64 = 10;

/// Takes over every panic from here on.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        console::write_in_panic(&describe(info));
        let text = fs::read_to_string(PANIC_SECONDS).unwrap_or_default();
        let seconds = text.trim().parse().unwrap_or(DEFAULT_SECONDS);
        if seconds == 0 {
            console::write_in_panic(
                "skerry: stopped (panic=0); switch the machine off, or wait for its watchdog\n",
            );
            loop {
                std::thread::park();
            }
        }
        if let Ok(seconds) = u64::try_from(seconds) {
            console::write_in_panic(&format!("skerry: rebooting in {seconds} s\n"));
            std::thread::sleep(Duration::from_secs(seconds));
        }
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }));
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
