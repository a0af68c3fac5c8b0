//! What tests of several modules need: tests that run in a process of their own, and tests that need root.

use std::process::Command;

/// An ignored test that another one starts in a process of its own.
pub(crate) struct Alone {
    name: String,
    command: Command,
}

/// The test of this full name, `module::tests::name`.
pub(crate) fn alone(name: &str) -> Alone {
    let mut command = Command::new(std::env::current_exe().expect("a test has a file"));
    command.args(["--ignored", "--exact", name]);
    Alone { name: name.to_owned(), command }
}

impl Alone {
    /// With this environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it. A name that stands for no test would be success to the harness, so one must have passed.
    pub(crate) fn passes(mut self) {
        let output = self.command.output().expect("a test can be started");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let passed = output.status.success() && text.contains("test result: ok. 1 passed");
        assert!(passed, "{}: {}\n{text}", self.name, output.status);
    }
}

/// Whether a test that takes root can run. It fails where it cannot, unless it is to be left out.
pub(crate) fn has_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let left_out = std::env::var_os("SKERRY_SKIP_ROOT").is_some();
    assert!(left_out, "this needs root: run as root, or set SKERRY_SKIP_ROOT=1 to leave it out");
    eprintln!("skipped, as SKERRY_SKIP_ROOT asks");
    false
}

mod tests {
    use super::alone;

    #[test]
    #[should_panic(expected = "0 passed")]
    fn a_name_that_stands_for_no_test_is_no_success() {
        alone("testing::tests::nowhere").passes();
    }
}
