//! `init exec`: the process that becomes a service.
//!
//! PID 1 cannot prepare a child between fork and exec without unsafe code, so it starts itself in this role: a fresh process that
//! enters its control group, sets its limits, gives up capabilities and then becomes the service. Its process id is the service's.
//!
//! What it is to do is said in words `key=value` before `--`, and the service's own command stands after it.

use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::services::{Namespace, Service, Streams};

/// The word that selects this role.
pub(crate) const ROLE: &str = "exec";
/// Exit status when the service could not be become, as shells have it.
pub(crate) const EXIT_CANNOT_EXEC: u8 = 126;

/// Adds to `launcher` (a command that ends where this role's words begin) what launches `service`.
pub(crate) fn prepare(launcher: &mut Command, service: &Service) {
    let without: Vec<_> = service.without.iter().map(ToString::to_string).collect();
    let (files, most_files) = service.open_files;
    launcher
        .arg(format!("cgroup={}{}", crate::cgroup::ROOT, service.cgroup))
        .arg(format!("oom-score-adj={}", service.oom_score_adj))
        .arg(format!("open-files={files}:{most_files}"))
        .arg(format!("without={}", without.join(",")));
    for namespace in service.namespaces {
        launcher.arg(format!("namespace={}", namespace_name(*namespace)));
    }
    if service.no_new_privileges {
        launcher.arg("no-new-privileges=yes");
    }
    if service.streams == Streams::Console {
        launcher.arg("streams=console");
    }
    launcher.arg("--").args(service.command);
}

/// Does what `arguments` (those of [`prepare`]) ask and becomes the service.
pub(crate) fn run(arguments: &[String]) -> Result<Infallible> {
    let mut words = arguments.iter();
    nix::unistd::setsid().context("failed to start a session")?;
    set_common_limits()?;
    for word in words.by_ref().take_while(|word| *word != "--") {
        let (key, value) = word.split_once('=').with_context(|| format!("{word:?} is not key=value"))?;
        apply(key, value).with_context(|| format!("failed to apply {word}"))?;
    }
    let program = words.next().context("no program was named after --")?;
    let mut command = Command::new(program);
    command.args(words);
    if std::env::var_os("WATCHDOG_USEC").is_some() {
        // Only the service itself is to answer, not what it starts (sd_watchdog_enabled(3)).
        command.env("WATCHDOG_PID", std::process::id().to_string());
    }
    Err(command.exec()).with_context(|| format!("failed to start {program}"))
}

/// What every service gets.
fn set_common_limits() -> Result<()> {
    raise(Resource::RLIMIT_NPROC).context("failed to set RLIMIT_NPROC")?;
    raise(Resource::RLIMIT_MEMLOCK).context("failed to set RLIMIT_MEMLOCK")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("failed to set RLIMIT_CORE")
}

/// Takes a limit off; who may not do that gets what he may have.
fn raise(resource: Resource) -> nix::Result<()> {
    match setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY) {
        Err(Errno::EPERM) => {
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, hard, hard)
        }
        result => result,
    }
}

fn apply(key: &str, value: &str) -> Result<()> {
    match key {
        "cgroup" => {
            fs::create_dir_all(value)?;
            fs::write(format!("{value}/cgroup.procs"), "0")?;
        }
        "oom-score-adj" => fs::write("/proc/self/oom_score_adj", value)?,
        "open-files" => {
            let (files, most_files) = value.split_once(':').context("needs two numbers")?;
            setrlimit(Resource::RLIMIT_NOFILE, files.parse()?, most_files.parse()?)?;
        }
        // Exec by root recomputes the other sets from the bounding set, so dropping it there drops it for good.
        "without" => {
            for name in value.split(',').filter(|name| !name.is_empty()) {
                let capability: Capability =
                    name.parse().map_err(|_| anyhow::anyhow!("there is no capability {name}"))?;
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
        "namespace" => unshare(namespace_flag(value)?)?,
        "no-new-privileges" => nix::sys::prctl::set_no_new_privs()?,
        "streams" => take_console()?,
        _ => bail!("there is no such key"),
    }
    Ok(())
}

fn namespace_name(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Ipc => "ipc",
    }
}

fn namespace_flag(name: &str) -> Result<CloneFlags> {
    match name {
        "ipc" => Ok(CloneFlags::CLONE_NEWIPC),
        _ => bail!("there is no such namespace"),
    }
}

/// Points the standard streams at the terminal behind `/dev/console`. It becomes the controlling one, because we lead a session that has
/// none; `/dev/console` itself never does.
fn take_console() -> Result<()> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let name = active.split_whitespace().last().unwrap_or("console");
    let terminal = OpenOptions::new().read(true).write(true).open(format!("/dev/{name}"))?;
    nix::unistd::dup2_stdin(&terminal)?;
    nix::unistd::dup2_stdout(&terminal)?;
    nix::unistd::dup2_stderr(&terminal)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;
    use crate::services::of_role;

    /// Becomes a program as a service would, in a process of its own, and tells what that program printed.
    fn launched(words: &[&str], program: &[&str]) -> String {
        let words = [words, &["--"], program].concat().join("\n");
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "launch::tests::become_it"])
            .env("LAUNCH_WORDS", words)
            .env("WATCHDOG_USEC", "1")
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    #[test]
    #[ignore = "started by other tests, as a process of its own"]
    fn become_it() {
        let words: Vec<_> = std::env::var("LAUNCH_WORDS").unwrap().lines().map(str::to_owned).collect();
        // A test process may lead its group already, and then cannot start a session; a fresh one can.
        let Err(error) = run(&words);
        panic!("{error:#}");
    }

    #[test]
    fn the_service_is_confined_as_its_words_say() {
        let group = tempfile::tempdir().unwrap();
        let cgroup = format!("cgroup={}", group.path().display());
        let words = [
            cgroup.as_str(),
            "oom-score-adj=500",
            "open-files=100:200",
            "without=CAP_SYS_BOOT,CAP_SYS_TIME",
            "namespace=ipc",
            "no-new-privileges=yes",
        ];
        let script = "cat /proc/self/status /proc/self/limits /proc/self/oom_score_adj; readlink /proc/self/ns/ipc; echo pid $$ $WATCHDOG_PID";
        let text = launched(&words, &["/bin/sh", "-c", script]);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {text}"))
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let bounding = u64::from_str_radix(&value("CapBnd:")[0], 16).unwrap();
        assert_eq!(bounding & (1 << 22 | 1 << 25), 0, "{bounding:x}");
        assert_eq!(value("NoNewPrivs:"), ["1"]);
        assert_eq!(value("Max open files"), ["100", "200", "files"]);
        assert_eq!(value("Max core file size"), ["0", "0", "bytes"]);
        assert!(text.contains("\n500\n"), "{text}");
        let ours = fs::read_link("/proc/self/ns/ipc").unwrap();
        assert!(text.contains("ipc:[") && !text.contains(ours.to_str().unwrap()), "{text}");
        let pids = value("pid ");
        assert_eq!(pids[0], pids[1]);
        assert_eq!(fs::read_to_string(group.path().join("cgroup.procs")).unwrap(), "0");
    }

    #[test]
    fn what_cannot_be_applied_is_named() {
        for (word, named) in
            [("without=CAP_NONE", "CAP_NONE"), ("colour=red", "colour=red"), ("namespace=x", "namespace=x")]
        {
            assert!(launched(&[word], &["/bin/true"]).contains(named), "{word}");
        }
        assert!(launched(&[], &["/none"]).contains("/none"));
    }

    #[test]
    fn the_words_name_the_group_and_end_where_the_command_begins() {
        for service in of_role(Role::Agent) {
            let mut command = Command::new("init");
            prepare(&mut command, service);
            let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words[0], format!("cgroup=/sys/fs/cgroup{}", service.cgroup));
            let dashes = words.iter().position(|word| *word == "--").unwrap();
            assert_eq!(words[dashes + 1..], *service.command);
        }
    }
}
