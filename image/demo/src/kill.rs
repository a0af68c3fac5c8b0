//! `demo kill NAME [SIGNAL]`: ends processes by name with SIGKILL, to see what the machine does when one of its own dies; or
//! sends them another signal by its number, as those that PID 1 takes requests by.
//!
//! It reaches what its pod may see: nothing but itself, unless the pod is privileged and shares the host's process ids.

use std::fs;
use std::io;

/// What ends a process without asking it.
pub(crate) const SIGKILL: i32 = 9;

/// Sends a signal to every process of this name (the kernel's, at most 15 characters) and says which.
///
/// # Errors
/// If there is none, or one is out of reach.
pub(crate) fn by_name(name: &str, signal: i32) -> io::Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else { continue };
        // A process that ended since the directory was read has no name any more.
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            sys::signal::send(id, signal)?;
            text += &format!("killed {id}\n");
        }
    }
    if text.is_empty() { Err(io::Error::other(format!("no process is called {name}"))) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_name_and_a_missing_one_is_named() {
        let directory = std::env::temp_dir().join(format!("demo-kill-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let name = format!("victim{}", std::process::id());
        let program = directory.join(&name);
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        // Until exec has happened the child still has our name.
        let text = (0..500)
            .find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                by_name(&name, SIGKILL).ok()
            })
            .unwrap();
        assert_eq!(text, format!("killed {}\n", child.id()));
        assert!(!child.wait().unwrap().success());
        let error = by_name("no-such-name", SIGKILL).unwrap_err().to_string();
        assert!(error.contains("no-such-name"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
