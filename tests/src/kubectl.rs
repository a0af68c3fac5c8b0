//! Unmodified kubectl, pointed at one cluster.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// kubectl with a kubeconfig, and a cache directory of its own so that no discovery is left over from elsewhere.
#[derive(Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    cache: TempDir,
}

/// How a call of kubectl ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status zero.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// For the cluster the file names.
    ///
    /// # Panics
    /// If there is no room for a cache.
    pub fn new(kubeconfig: &Path) -> Self {
        let cache = tempfile::tempdir().expect("there is room for a directory");
        Self { kubeconfig: kubeconfig.to_path_buf(), cache }
    }

    /// Runs it and gives back how it ended.
    ///
    /// # Panics
    /// If there is no kubectl.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        self.call_with(arguments, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// As [`Kubectl::call`].
    pub fn call_with(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is there: run the tests through `./just test`");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A kubectl that does not read its input has closed it, which is no failure of the test.
        let _closed = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it, insists on success, and gives back its standard output.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let outcome = self.call_with(arguments, input);
        assert!(outcome.success, "kubectl {arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// The command, for callers that keep it running.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(arguments);
        command
    }
}
