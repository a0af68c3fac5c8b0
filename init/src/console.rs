//! The console: whole lines to every terminal the kernel was told about, never blocking for long.
//!
//! A serial port can be stuck (no carrier, flow control, a reader that went away). So terminals are opened without
//! blocking, a write waits for room for a bounded time, and a terminal that had no room is skipped until it has.
//!
//! Two kinds of text go out. Lines that begin with `skerry: ` are a stable format that programs may wait for (see
//! `docs`), written by [`say!`]. Everything else (service logs, the status block) is for people. What others say is [tamed](tame) on its
//! way out, so that nobody can forge such a line or take hold of a terminal.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::config::Level;
use crate::logs;

/// How long one piece of text may wait for a slow terminal: 4 KiB at 115200 baud take about 0.36 s.
const PATIENCE: Duration = Duration::from_millis(1000);

static TERMINALS: Mutex<Vec<Terminal>> = Mutex::new(Vec::new());

struct Terminal {
    file: File,
    stuck: bool,
}

/// Writes one `skerry: ...` line and keeps it with the other lines of PID 1.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::say_line(&format!($($arg)*)) };
}
pub(crate) use say;

/// Points fds 0, 1 and 2 at `/dev/console` and opens every terminal of `/sys/class/tty/console/active` for output.
///
/// The kernel leaves PID 1 without fds when the initramfs has no `/dev/console`, and a later `open` would get a number
/// that children take for their standard output; so this is the first thing to do once `/dev` is there.
pub(crate) fn open() {
    if let Some(console) = open_terminal("console") {
        // Blocking for the three fds: tools that write through them do not expect EAGAIN.
        let _ = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open("/dev/console")
            .map(|blocking| {
                let _ = nix::unistd::dup2_stdin(&blocking);
                let _ = nix::unistd::dup2_stdout(&blocking);
                let _ = nix::unistd::dup2_stderr(&blocking);
            });
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let mut terminals: Vec<_> = active.split_whitespace().filter_map(open_terminal).collect();
        if terminals.is_empty() {
            terminals.push(console);
        }
        *lock() = terminals;
    }
}

/// What [`say!`] does.
pub(crate) fn say_line(text: &str) {
    write_line("skerry: ", text);
    let level = if text.starts_with("problem: ") { Level::Warn } else { Level::Info };
    logs::record(logs::INIT, level, text);
}

/// Writes a line of someone else's words, and before them who it is.
pub(crate) fn write_line(before: &str, text: &str) {
    write(&line(before, text));
}

fn line(before: &str, text: &str) -> String {
    format!("{}{}\n", tame(before), tame(text))
}

/// `text` so that it does nothing but be read: further lines are indented, and control characters are spelled out.
pub(crate) fn tame(text: &str) -> String {
    let text = text.trim_end_matches(['\n', '\r']);
    let mut tamed = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => tamed.push_str("\n    "),
            '\t' => tamed.push(c),
            // Writing to a String does not fail.
            _ if c.is_control() => drop(write!(tamed, "\\x{:02x}", u32::from(c))),
            _ => tamed.push(c),
        }
    }
    tamed
}

/// Writes `text`, of which every part that others chose has been tamed, to every terminal, and drops what does not fit in time.
pub(crate) fn write(text: &str) {
    for terminal in lock().iter_mut() {
        terminal.write(text.as_bytes());
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Terminal>> {
    TERMINALS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_terminal(name: &str) -> Option<Terminal> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().write(true).custom_flags(flags.bits()).open(format!("/dev/{name}")).ok()?;
    Some(Terminal { file, stuck: false })
}

impl Terminal {
    fn write(&mut self, mut text: &[u8]) {
        let deadline = Instant::now() + if self.stuck { Duration::ZERO } else { PATIENCE };
        while !text.is_empty() {
            match self.file.write(text) {
                Ok(0) => return,
                Ok(n) => text = &text[n..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if !self.wait_for_room(deadline) {
                        self.stuck = true;
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        self.stuck = false;
    }

    fn wait_for_room(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        matches!(nix::poll::poll(&mut fds, timeout), Ok(n) if n > 0)
    }
}

/// Writes even if the panic came out of a write, which still holds the lock.
pub(crate) fn write_in_panic(text: &str) {
    match TERMINALS.try_lock() {
        Ok(mut terminals) => terminals.iter_mut().for_each(|terminal| terminal.write(text.as_bytes())),
        Err(_) => eprint!("{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_forge_a_line_or_command_a_terminal() {
        let forged = line("[journal/x] ", "x\nskerry: ready\r\n\u{1b}[2J\u{9b}2J\tend\r\n");
        let expected = "[journal/x] x\n    skerry: ready\\x0d\n    \\x1b[2J\\x9b2J\tend\n";
        assert_eq!(forged, expected);
        assert_eq!(
            line("skerry: ", "status k3sd a\nskerry: ready"),
            "skerry: status k3sd a\n    skerry: ready\n"
        );
        assert_eq!(line("skerry: ", "ready"), "skerry: ready\n");
    }
}
