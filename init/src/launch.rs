//! `init exec`: the process that becomes a service.
//!
//! PID 1 cannot prepare a child between fork and exec without unsafe code, so it starts itself in this role: a fresh process that
//! enters its control group, sets its limits, gives up capabilities and then becomes the service. Its process id is the service's.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::services::Service;

/// The word that selects this role.
pub(crate) const ROLE: &str = "exec";
/// Exit status when the service could not be become, as shells have it.
pub(crate) const EXIT_CANNOT_EXEC: u8 = 126;
/// Files a service may have open.
const OPEN_FILES: u64 = 1_048_576;

/// The command that launches `service` by way of this role.
pub(crate) fn command(service: &Service) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let without: Vec<_> = service.without.iter().map(ToString::to_string).collect();
    command.arg(ROLE).arg(service.cgroup).arg(service.oom_score_adj.to_string()).arg(without.join(","));
    command.args(service.command);
    command
}

/// Does what `arguments` (those of [`command`], without the role word) ask and becomes the service.
pub(crate) fn run(arguments: &[String]) -> Result<Infallible> {
    let [cgroup, oom_score_adj, without, program, rest @ ..] = arguments else {
        bail!("exec needs CGROUP OOM_SCORE_ADJ CAPABILITIES PROGRAM [ARGUMENT...]");
    };
    let procs = format!("{}{cgroup}/cgroup.procs", crate::cgroup::ROOT);
    fs::write(&procs, "0").with_context(|| format!("failed to enter {procs}"))?;
    fs::write("/proc/self/oom_score_adj", oom_score_adj).context("failed to set oom_score_adj")?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("failed to set RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY).context("failed to set RLIMIT_NPROC")?;
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
        .context("failed to set RLIMIT_MEMLOCK")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("failed to set RLIMIT_CORE")?;
    for name in without.split(',').filter(|name| !name.is_empty()) {
        let capability: Capability =
            name.parse().map_err(|_| anyhow::anyhow!("there is no capability {name}"))?;
        // Exec by root recomputes the other sets from the bounding set, so dropping it there drops it for good.
        caps::drop(None, CapSet::Bounding, capability).with_context(|| format!("failed to drop {name}"))?;
    }
    nix::unistd::setsid().context("failed to start a session")?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("failed to start {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::SERVER;

    #[test]
    fn the_command_carries_what_the_role_reads() {
        for service in SERVER {
            let command = command(service);
            let arguments: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
            assert_eq!(arguments[..2], [ROLE, service.cgroup]);
            assert_eq!(arguments[2].parse(), Ok(service.oom_score_adj));
            assert!(arguments[3].split(',').all(|name| name.parse::<Capability>().is_ok()), "{arguments:?}");
            assert_eq!(arguments[4..], *service.command);
        }
    }
}
