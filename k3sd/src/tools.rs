//! `kubectl`, `crictl` and `ctr`, as subcommands and as names of this program: the program of that name takes over, told where this
//! node's cluster and container runtime are.
//!
//! Unlike K3s, this program does not contain them. They are looked for in `DATA/data/current/bin`, where K3s unpacks its own and
//! where anybody may put them, and in `PATH`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where K3s keeps the programs that it brings, below the data directory.
const BUNDLED: &str = "data/current/bin";
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
const CRICTL_CONFIGS: [&str; 2] = ["/var/lib/rancher/k3s/agent/etc/crictl.yaml", "/etc/crictl.yaml"];
const CONTAINERD: &str = "/run/k3s/containerd/containerd.sock";
/// The namespace of containerd that the kubelet's containers are in.
const CONTAINERD_NAMESPACE: &str = "k8s.io";
/// As shells say "found, but cannot be run" and "not found".
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A program that this one answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Kubectl,
    Crictl,
    Ctr,
}

/// A tool and what it is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    tool: Tool,
    arguments: Vec<OsString>,
}

impl Call {
    /// The tool that a command line asks for, by the name of the program or by its first argument.
    pub(crate) fn of(command_line: &[OsString]) -> Option<Self> {
        let (program, arguments) = command_line.split_first()?;
        if let Some(tool) = Path::new(program).file_name().and_then(Tool::named) {
            return Some(Self { tool, arguments: arguments.to_vec() });
        }
        let (word, arguments) = arguments.split_first()?;
        Some(Self { tool: Tool::named(word)?, arguments: arguments.to_vec() })
    }

    /// Becomes the tool. Comes back only if that fails.
    pub(crate) fn run(self, data_dir: &Path) -> ExitCode {
        let name = self.tool.name();
        let places = places(data_dir);
        let Some(program) = places.iter().map(|place| place.join(name)).find(|path| is_another_program(path))
        else {
            eprintln!(
                "k3sd: {name} is not on this machine: install it, or put it into {}",
                data_dir.join(BUNDLED).display()
            );
            return ExitCode::from(NOT_FOUND);
        };
        let mut command = Command::new(&program);
        command.args(&self.arguments).envs(self.surroundings(data_dir));
        let error = command.exec();
        eprintln!("k3sd: failed to run {}: {error}", program.display());
        ExitCode::from(CANNOT_RUN)
    }

    /// What the tool is told in its environment, where the caller has not said it.
    fn surroundings(&self, data_dir: &Path) -> Vec<(&'static str, PathBuf)> {
        let told = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let first = |places: Vec<PathBuf>| places.into_iter().find(|path| path.exists());
        let home = env::var_os("HOME").map(PathBuf::from);
        match self.tool {
            Tool::Kubectl if !told("KUBECONFIG") && !self.has_flag("--kubeconfig") => {
                let own = home.map(|home| home.join(".kube/k3s.yaml"));
                let found = first([Some(PathBuf::from(KUBECONFIG)), own].into_iter().flatten().collect());
                if let Some(Err(error)) = found.as_ref().map(File::open) {
                    warn_unreadable(found.as_deref(), &error);
                }
                found.map(|path| ("KUBECONFIG", path)).into_iter().collect()
            }
            Tool::Crictl if !told("CRI_CONFIG_FILE") => {
                let own = data_dir.join("agent/etc/crictl.yaml");
                let config = first([own].into_iter().chain(CRICTL_CONFIGS.map(PathBuf::from)).collect());
                match config {
                    Some(path) => vec![("CRI_CONFIG_FILE", path)],
                    None if told("CONTAINER_RUNTIME_ENDPOINT") => Vec::new(),
                    None => vec![("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{CONTAINERD}").into())],
                }
            }
            Tool::Ctr => [("CONTAINERD_ADDRESS", CONTAINERD), ("CONTAINERD_NAMESPACE", CONTAINERD_NAMESPACE)]
                .into_iter()
                .filter(|(name, _)| !told(name))
                .map(|(name, value)| (name, PathBuf::from(value)))
                .collect(),
            Tool::Kubectl | Tool::Crictl => Vec::new(),
        }
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.arguments
            .iter()
            .map(|argument| argument.to_string_lossy())
            .take_while(|argument| argument != "--")
            .any(|argument| {
                argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })
    }
}

impl Tool {
    fn named(name: &OsStr) -> Option<Self> {
        [Self::Kubectl, Self::Crictl, Self::Ctr].into_iter().find(|tool| name == tool.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kubectl => "kubectl",
            Self::Crictl => "crictl",
            Self::Ctr => "ctr",
        }
    }
}

fn warn_unreadable(path: Option<&Path>, error: &io::Error) {
    eprintln!(
        "k3sd: cannot read {}: {error}; start the server with --write-kubeconfig-mode to change who may",
        path.unwrap_or(Path::new(KUBECONFIG)).display()
    );
}

fn places(data_dir: &Path) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    [data_dir.join(BUNDLED)].into_iter().chain(env::split_paths(&path)).collect()
}

/// Whether this is a program, and not this one under another name, which would only look again.
fn is_another_program(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let runs = fs::metadata(&real).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    runs && env::current_exe().and_then(fs::canonicalize).is_ok_and(|own| own != real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Option<Call> {
        Call::of(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_tool_is_asked_for_by_name_or_by_word_with_its_arguments_untouched() {
        let arguments = vec![OsString::from("get"), "--help".into()];
        let kubectl = Some(Call { tool: Tool::Kubectl, arguments });
        assert_eq!(call(&["/usr/bin/kubectl", "get", "--help"]), kubectl);
        assert_eq!(call(&["k3s", "kubectl", "get", "--help"]), kubectl);
        assert_eq!(call(&["k3sd", "ctr"]), Some(Call { tool: Tool::Ctr, arguments: Vec::new() }));
        for other in [&["k3s"][..], &["k3sd", "server"], &["k3sd", "server", "kubectl"]] {
            assert_eq!(call(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_the_tools_own_flags_count() {
        let kubectl = |words: &[&str]| call(words).unwrap().has_flag("--kubeconfig");
        assert!(kubectl(&["kubectl", "--kubeconfig=x"]) && kubectl(&["kubectl", "get", "--kubeconfig", "x"]));
        assert!(!kubectl(&["kubectl", "exec", "p", "--", "tool", "--kubeconfig=x"]));
    }

    #[test]
    fn this_program_under_another_name_is_not_the_tool() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("kubectl");
        std::os::unix::fs::symlink(env::current_exe().unwrap(), &own).unwrap();
        assert!(!is_another_program(&own) && is_another_program(Path::new("/bin/sh")));
        assert!(!is_another_program(dir.path()) && !is_another_program(&dir.path().join("none")));
    }
}
