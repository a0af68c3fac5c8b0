//! `demo kill NAME`: ends processes by name with SIGKILL, to see what the machine does when one of its own dies.
//!
//! It reaches what its pod may see: nothing but itself, unless the pod is privileged and shares the host's process ids.

use std::fs;
use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every process of this name (the kernel's, at most 15 characters) and says which.
///
/// # Errors
/// If there is none, or one may not be killed.
pub(crate) fn by_name(name: &str) -> io::Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else { continue };
        // A process that ended since the directory was read has no name any more.
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            kill(Pid::from_raw(id), Signal::SIGKILL)?;
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
                by_name(&name).ok()
            })
            .unwrap();
        assert_eq!(text, format!("killed {}\n", child.id()));
        assert!(!child.wait().unwrap().success());
        let error = by_name("no-such-name").unwrap_err().to_string();
        assert!(error.contains("no-such-name"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
