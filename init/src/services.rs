//! The service table: everything PID 1 starts, what each needs, how it shows that it is ready, and how it is confined.

use std::time::Duration;

use caps::Capability;

use crate::board::Condition;
use crate::cgroup;
use crate::config::{Level, Role};
use crate::logs;

/// The CRI socket, at K3s's path.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/k3s/containerd/containerd.sock";
/// The same, as k3sd is told it.
const CONTAINERD_ENDPOINT: &str = "unix:///run/k3s/containerd/containerd.sock";
/// The generated configuration of containerd.
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// The group shims are put into, so that they outlive containerd.
pub(crate) const SHIM_CGROUP: &str = "/podruntime/shim";

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Short name, as the console and the log show it.
    pub(crate) name: &'static str,
    /// Program and arguments.
    pub(crate) command: &'static [&'static str],
    /// Its environment, besides what every service gets.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The environment variable in which it is told the host's name, if it is.
    pub(crate) hostname_variable: Option<&'static str>,
    /// What must hold before it is started. Not what must go on holding: it is not stopped when that ends.
    pub(crate) needs: &'static [Condition],
    /// How it shows that it is ready.
    pub(crate) ready: Ready,
    /// How long it may take until then; it can ask for more (`EXTEND_TIMEOUT_USEC`). None means for ever.
    pub(crate) start_timeout: Option<Duration>,
    /// How often it is to say that it lives (`WATCHDOG_USEC`); one that has begun to and stops is stuck. None means it is not asked.
    pub(crate) watchdog: Option<Duration>,
    /// What follows when it ends without being asked to.
    pub(crate) restart: Restart,
    /// Its control group, below `/sys/fs/cgroup`; the limits of the group are in [`crate::cgroup`].
    pub(crate) cgroup: &'static str,
    /// What is left of it in its group when it ends: killed before it starts again, or kept.
    pub(crate) leftovers: Leftovers,
    /// Files it may have open: what it gets, and what it may raise that to.
    pub(crate) open_files: (u64, u64),
    /// How readily the kernel kills it when memory runs out.
    pub(crate) oom_score_adj: i16,
    /// Capabilities it never has, nor anything it starts.
    pub(crate) without: &'static [Capability],
    /// Whether no program it starts can have more rights than it has.
    pub(crate) no_new_privileges: bool,
    /// Namespaces of its own.
    pub(crate) namespaces: &'static [Namespace],
    /// Where its standard streams lead.
    pub(crate) streams: Streams,
    /// How long it may take to end when asked.
    pub(crate) stop_timeout: Duration,
    /// What the console counts the lines as that it calls `info`.
    pub(crate) info_counts_as: Level,
}

/// How a service shows that it is ready.
#[derive(Debug)]
pub(crate) enum Ready {
    /// This socket accepts.
    Socket(&'static str),
    /// It sends `READY=1` to `NOTIFY_SOCKET`.
    Notify,
    /// It is started.
    Started,
}

/// What follows when a service ends without being asked to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It has failed, whatever its status, and is started again after a growing wait.
    Failed,
    /// It was done, if its status is 0, and is started again.
    Done,
}

/// What happens to processes a service leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// They are part of it and go.
    Kill,
    /// They may belong to running pods and stay.
    Keep,
}

/// A kind of namespace a service can have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// System V IPC and POSIX message queues.
    Ipc,
}

/// Where the standard streams of a service lead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// No input; output and error to the log.
    Log,
    /// All to the console, as its controlling terminal.
    Console,
}

/// Nothing in the runtime needs to reboot the machine; pods that ask for every capability get all but this.
const CONTAINERD_WITHOUT: &[Capability] = &[Capability::CAP_SYS_BOOT];

/// k3sd needs the network, mounts, cgroups and other users' files, and none of these.
const K3SD_WITHOUT: &[Capability] = &[
    Capability::CAP_AUDIT_CONTROL,
    Capability::CAP_AUDIT_READ,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_BLOCK_SUSPEND,
    Capability::CAP_LEASE,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_MAC_ADMIN,
    Capability::CAP_MAC_OVERRIDE,
    Capability::CAP_SYS_BOOT,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_PACCT,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_SYS_TIME,
    Capability::CAP_SYS_TTY_CONFIG,
    Capability::CAP_WAKE_ALARM,
];

/// The container runtime.
static CONTAINERD: Service = Service {
    name: "containerd",
    command: &["/usr/bin/containerd", "--config", CONTAINERD_CONFIG],
    environment: &[],
    hostname_variable: None,
    needs: &[Condition::State],
    ready: Ready::Socket(CONTAINERD_SOCKET),
    // Natively it takes a fifth of a second. An emulated machine takes fifty times that, and a full disk or a big snapshot database more.
    start_timeout: Some(Duration::from_secs(180)),
    watchdog: None,
    restart: Restart::Failed,
    cgroup: "/podruntime/containerd",
    leftovers: Leftovers::Keep,
    // Go raises the limit for itself and gives its children the lower one. So containers get what systemd gives: software that goes
    // through all possible descriptors at its start would take minutes with a million.
    open_files: (1024, 524_288),
    oom_score_adj: -999,
    without: CONTAINERD_WITHOUT,
    // Containers may hold programs with more rights than their users.
    no_new_privileges: false,
    // Containers that share the host's namespaces share those of containerd.
    namespaces: &[],
    streams: Streams::Log,
    stop_timeout: Duration::from_secs(20),
    // Its shims tell of every plugin they load, for every pod.
    info_counts_as: Level::Debug,
};

/// What a server and an agent have in common.
const K3SD: Service = Service {
    name: "k3sd",
    command: &[],
    environment: &[],
    // In its environment, so that the user's configuration file can say otherwise.
    hostname_variable: Some("K3S_NODE_NAME"),
    // Started is enough: k3sd has much to do before it needs containerd, and waits for it then.
    needs: &[Condition::State, Condition::Network, Condition::Modules, Condition::Started("containerd")],
    ready: Ready::Notify,
    // An agent waits for its server, and a server for its datastore, as long as it takes; to start again would not help.
    start_timeout: None,
    watchdog: Some(Duration::from_secs(120)),
    restart: Restart::Failed,
    cgroup: "/podruntime/k3s",
    leftovers: Leftovers::Kill,
    open_files: (1_048_576, 1_048_576),
    oom_score_adj: -999,
    without: K3SD_WITHOUT,
    no_new_privileges: true,
    // Not mounts: containers must see the volumes it mounts.
    namespaces: &[Namespace::Ipc],
    streams: Streams::Log,
    stop_timeout: Duration::from_secs(30),
    info_counts_as: Level::Info,
};

static K3SD_SERVER: Service = Service {
    command: &["/usr/bin/k3sd", "server", "--container-runtime-endpoint", CONTAINERD_ENDPOINT],
    ..K3SD
};

static K3SD_AGENT: Service = Service {
    command: &["/usr/bin/k3sd", "agent", "--container-runtime-endpoint", CONTAINERD_ENDPOINT],
    ..K3SD
};

/// The program of the debug shell, which only images built for debugging have.
pub(crate) const SHELL: &str = "/usr/bin/busybox";

/// A shell on the console, for who asked for it (`skerry.debug`) of an image that has one.
static DEBUG_SHELL: Service = Service {
    name: "debug shell",
    command: &[SHELL, "sh", "-i"],
    environment: &[],
    hostname_variable: None,
    needs: &[],
    ready: Ready::Started,
    start_timeout: None,
    watchdog: None,
    restart: Restart::Done,
    cgroup: "/system/shell",
    leftovers: Leftovers::Keep,
    open_files: (1024, 524_288),
    oom_score_adj: 0,
    without: &[],
    no_new_privileges: false,
    namespaces: &[],
    streams: Streams::Console,
    stop_timeout: Duration::from_secs(1),
    info_counts_as: Level::Info,
};

/// The services of a machine with this role.
pub(crate) fn of_role(role: Role) -> Vec<&'static Service> {
    vec![
        &CONTAINERD,
        match role {
            Role::Server => &K3SD_SERVER,
            Role::Agent => &K3SD_AGENT,
        },
    ]
}

/// The debug shell, where the image has one.
pub(crate) fn debug_shell() -> Option<&'static Service> {
    std::path::Path::new(SHELL).exists().then_some(&DEBUG_SHELL)
}

/// Whose control group this is, for whoever has a process to name.
pub(crate) fn name_of_group(group: &str) -> Option<&'static str> {
    let services = [&CONTAINERD, &K3SD_SERVER, &DEBUG_SHELL].map(|service| (service.cgroup, service.name));
    let others = [(SHIM_CGROUP, "shim"), (cgroup::INIT, logs::INIT), (cgroup::SYSTEM, logs::INIT)];
    services.into_iter().chain(others).find(|(path, _)| cgroup::contains(path, group)).map(|(_, name)| name)
}

impl Service {
    /// Whether it needs the service `name`.
    fn builds_on(&self, name: &str) -> bool {
        let names =
            |need: &Condition| matches!(need, Condition::Started(n) | Condition::Service(n) if *n == name);
        self.needs.iter().any(names)
    }
}

/// The services in the order they are stopped: each before what it needs.
pub(crate) fn stop_order(services: &[&'static Service]) -> Vec<&'static Service> {
    let mut order: Vec<&Service> = Vec::new();
    // A service may go once nothing that still runs needs it; the table has no cycles, which a test holds it to.
    while order.len() < services.len() {
        let gone = |service: &Service| order.iter().any(|done| done.name == service.name);
        let needed = |name: &str| services.iter().any(|other| !gone(other) && other.builds_on(name));
        match services.iter().find(|candidate| !gone(candidate) && !needed(candidate.name)) {
            Some(service) => order.push(service),
            None => break,
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 2] = [Role::Server, Role::Agent];

    #[test]
    fn every_needed_service_is_in_the_table_and_there_is_no_cycle() {
        for services in ROLES.map(of_role) {
            for service in &services {
                for need in service.needs {
                    if let Condition::Started(name) | Condition::Service(name) = need {
                        assert!(
                            services.iter().any(|other| other.name == *name),
                            "{} needs {name}",
                            service.name
                        );
                    }
                }
            }
            assert_eq!(stop_order(&services).len(), services.len());
        }
    }

    #[test]
    fn a_service_is_stopped_before_what_it_needs() {
        let names: Vec<_> = stop_order(&of_role(Role::Server)).iter().map(|service| service.name).collect();
        assert_eq!(names, ["k3sd", "containerd"]);
    }

    #[test]
    fn the_endpoint_given_to_k3sd_is_the_socket_waited_for() {
        assert_eq!(CONTAINERD_ENDPOINT.strip_prefix("unix://"), Some(CONTAINERD_SOCKET));
    }

    #[test]
    fn the_role_chooses_what_k3sd_is_started_as() {
        for (role, word) in [(Role::Server, "server"), (Role::Agent, "agent")] {
            assert_eq!(of_role(role)[1].command[1], word);
        }
    }

    #[test]
    fn a_process_is_named_by_its_group() {
        assert_eq!(name_of_group("/podruntime/k3s"), Some("k3sd"));
        assert_eq!(name_of_group("/podruntime/shim"), Some("shim"));
        assert_eq!(name_of_group("/system/shell"), Some("debug shell"));
        assert_eq!(name_of_group("/system"), Some("init"));
        assert_eq!(name_of_group("/kubepods/podruntime/k3s"), None);
    }
}
