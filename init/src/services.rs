//! The service table: everything PID 1 starts, what each needs, how it shows that it is ready, and how it is confined.

use std::time::Duration;

use caps::Capability;

use crate::board::Condition;
use crate::config::Level;

/// The CRI socket, at K3s's path.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/k3s/containerd/containerd.sock";
/// The generated configuration of containerd.
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// The group shims are put into, so that they outlive containerd.
pub(crate) const SHIM_CGROUP: &str = "/podruntime/shim";

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Short name, as the console shows it.
    pub(crate) name: &'static str,
    /// Program and arguments.
    pub(crate) command: &'static [&'static str],
    /// The environment variable in which it is told the host's name, if it is.
    pub(crate) hostname_variable: Option<&'static str>,
    /// What must hold before it is started. Not what must go on holding: it is not stopped when that ends.
    pub(crate) needs: &'static [Condition],
    /// How it shows that it is ready.
    pub(crate) ready: Ready,
    /// Its control group, below `/sys/fs/cgroup`.
    pub(crate) cgroup: &'static str,
    /// What is left of it in its group when it ends: killed before it starts again, or kept.
    pub(crate) leftovers: Leftovers,
    /// How readily the kernel kills it when memory runs out.
    pub(crate) oom_score_adj: i16,
    /// Capabilities it never has, nor anything it starts.
    pub(crate) without: &'static [Capability],
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
}

/// What happens to processes a service leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// They are part of it and go.
    Kill,
    /// They may belong to running pods and stay.
    Keep,
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

/// The services of a server.
pub(crate) const SERVER: &[Service] = &[
    Service {
        name: "containerd",
        command: &["/usr/bin/containerd", "--config", CONTAINERD_CONFIG],
        hostname_variable: None,
        needs: &[Condition::State],
        ready: Ready::Socket(CONTAINERD_SOCKET),
        cgroup: "/podruntime/containerd",
        leftovers: Leftovers::Keep,
        oom_score_adj: -999,
        without: CONTAINERD_WITHOUT,
        stop_timeout: Duration::from_secs(20),
        // Its shims tell of every plugin they load, for every pod.
        info_counts_as: Level::Debug,
    },
    Service {
        name: "k3sd",
        command: &[
            "/usr/bin/k3sd",
            "server",
            "--container-runtime-endpoint",
            "unix:///run/k3s/containerd/containerd.sock",
        ],
        // In its environment, so that the user's configuration file can say otherwise.
        hostname_variable: Some("K3S_NODE_NAME"),
        // Started is enough: k3sd has much to do before it needs containerd, and waits for it then.
        needs: &[Condition::State, Condition::Network, Condition::Modules, Condition::Started("containerd")],
        ready: Ready::Notify,
        cgroup: "/podruntime/k3s",
        leftovers: Leftovers::Kill,
        oom_score_adj: -999,
        without: K3SD_WITHOUT,
        stop_timeout: Duration::from_secs(30),
        info_counts_as: Level::Info,
    },
];

impl Service {
    /// Whether it needs the service `name`.
    fn builds_on(&self, name: &str) -> bool {
        let names =
            |need: &Condition| matches!(need, Condition::Started(n) | Condition::Service(n) if *n == name);
        self.needs.iter().any(names)
    }
}

/// The services in the order they are stopped: each before what it needs.
pub(crate) fn stop_order(services: &'static [Service]) -> Vec<&'static Service> {
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

    #[test]
    fn every_needed_service_is_in_the_table_and_there_is_no_cycle() {
        for service in SERVER {
            for need in service.needs {
                if let Condition::Started(name) | Condition::Service(name) = need {
                    assert!(SERVER.iter().any(|other| other.name == *name), "{} needs {name}", service.name);
                }
            }
        }
        assert_eq!(stop_order(SERVER).len(), SERVER.len());
    }

    #[test]
    fn a_service_is_stopped_before_what_it_needs() {
        let names: Vec<_> = stop_order(SERVER).iter().map(|service| service.name).collect();
        assert_eq!(names, ["k3sd", "containerd"]);
    }

    #[test]
    fn the_endpoint_given_to_k3sd_is_the_socket_waited_for() {
        let endpoint = format!("unix://{CONTAINERD_SOCKET}");
        assert!(SERVER.iter().any(|service| service.command.contains(&endpoint.as_str())));
    }
}
