//! The program's own memory.

use std::ffi::c_void;
use std::fs;
use std::io;

use rustix::mm::{Advice, madvise};

/// Lets go of the pages of our own code: what is used again comes back from the page cache by itself, and what only the boot used does not
/// count as ours any more. Returns how many bytes were mapped as code.
///
/// # Errors
/// If `/proc/self/maps` cannot be read, or the kernel refuses.
pub fn release_code() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for (start, len) in maps.lines().filter_map(code_of_a_file) {
        // SAFETY: the range is one mapping of this process, executable and not writable, private and of a file, so no page in it was ever
        // changed: a static position-independent program relocates data, never code, and nothing here writes to code. Dropping such pages
        // loses nothing; the next access, this very code included, takes the same bytes from the file again.
        unsafe {
            madvise(std::ptr::with_exposed_provenance_mut::<c_void>(start), len, Advice::LinuxDontNeed)?
        };
        released += len;
    }
    Ok(released)
}

/// Gives back to the kernel what was freed and the allocator keeps, wherever that is whole pages; else it does so only at the end of
/// each thread's memory. Takes milliseconds for a hundred megabytes. Returns whether there was any; on C libraries other than GNU's it
/// does nothing.
pub fn release_freed() -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number and has no conditions; it may be called from any thread at any time (malloc_trim(3)).
    return unsafe { nix::libc::malloc_trim(0) } != 0;
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Start and length of a line of `/proc/self/maps` that maps code of a file: `START-END r-xp OFFSET DEVICE INODE PATH`.
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (rights, inode) = (fields.next()?, fields.nth(2)?);
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    (rights == "r-xp" && inode != "0").then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let code = "5560000-5570000 r-xp 00001000 fe:00 1234 /sbin/init";
        assert_eq!(code_of_a_file(code), Some((0x556_0000, 0x1_0000)));
        for other in [
            "5570000-5580000 rw-p 00011000 fe:00 1234 /sbin/init",
            "7ff0000-7ff1000 r-xp 00000000 00:00 0 [vdso]",
            "x",
        ] {
            assert_eq!(code_of_a_file(other), None, "{other}");
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_between_what_stays_is_given_back() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().to_owned();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        // Small enough for the heap, large enough to hold whole pages; every second one stays.
        let mut blocks: Vec<_> = (0..1000).map(|_| Some(vec![1u8; 64 * 1024])).collect();
        for block in blocks.iter_mut().step_by(2) {
            *block = None;
        }
        let before = resident();
        assert!(release_freed());
        let after = resident();
        assert!(after + 20_000 < before, "{before} KiB before, {after} KiB after");
        assert_eq!(blocks.iter().flatten().count(), 500);
    }

    #[test]
    fn code_still_runs_after_it_was_let_go() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        assert!(release_code().unwrap() > 0);
        let after = resident();
        assert!(after < before, "{before} {after}");
        assert_eq!(format!("{:>5}", 7 * 6), "   42");
    }
}
