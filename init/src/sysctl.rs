//! Kernel settings: what Kubernetes expects, and hardening that does not get in its way.

use std::fs;
use std::io;

use crate::cmdline::Cmdline;

/// Expected by the kubelet and by pod networks.
const KUBERNETES: &[(&str, &str)] = &[
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    // As long as the kernel command line does not say otherwise (`panic=`), see `apply`.
    (PANIC, "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
    // Pods' links are not to tell the machine where its routers are; those of the network are set up to listen.
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.tcp_keepalive_time", "600"),
    ("net.ipv4.tcp_keepalive_intvl", "60"),
    ("fs.inotify.max_user_instances", "8192"),
    ("fs.inotify.max_user_watches", "524288"),
    ("fs.aio-max-nr", "1048576"),
    ("kernel.pid_max", "4194304"),
    ("vm.max_map_count", "262144"),
    ("net.core.somaxconn", "4096"),
    // Entries of the journal socket that may wait for PID 1; ten, the kernel's default, would hold up k3sd's threads.
    ("net.unix.max_dgram_qlen", "512"),
    // A cluster has more neighbours than a workstation.
    ("net.ipv4.neigh.default.gc_thresh1", "1024"),
    ("net.ipv4.neigh.default.gc_thresh2", "4096"),
    ("net.ipv4.neigh.default.gc_thresh3", "8192"),
    // What k3sd, the kubelet and containerd listen on must not be taken by someone's outgoing connection.
    ("net.ipv4.ip_local_reserved_ports", "2379-2382,6443-6444,10010,10248-10260"),
];

/// Seconds until a machine whose kernel panicked starts again.
const PANIC: &str = "kernel.panic";

/// Hardening that no pod notices, or that pods ought to notice. What is left out, and why: user namespaces
/// (`user.max_user_namespaces`) and module loads (`kernel.modules_disabled`) are what pods and their networks ask for;
/// `kernel.io_uring_disabled` breaks databases; `kernel.yama.ptrace_scope` 3 cannot be taken back; `kernel.kexec_load_disabled` would forbid
/// restarting by kexec, and no service has the capability to load a kernel.
const HARDENING: &[(&str, &str)] = &[
    ("kernel.kptr_restrict", "2"),
    ("kernel.dmesg_restrict", "1"),
    ("kernel.perf_event_paranoid", "3"),
    ("kernel.randomize_va_space", "2"),
    ("kernel.yama.ptrace_scope", "2"),
    ("kernel.unprivileged_bpf_disabled", "1"),
    ("net.core.bpf_jit_harden", "2"),
    ("dev.tty.ldisc_autoload", "0"),
    ("dev.tty.legacy_tiocsti", "0"),
    ("vm.unprivileged_userfaultfd", "0"),
    ("fs.protected_symlinks", "1"),
    ("fs.protected_hardlinks", "1"),
    ("fs.protected_fifos", "2"),
    ("fs.protected_regular", "2"),
    ("fs.suid_dumpable", "0"),
    ("kernel.core_pattern", "|/bin/false"),
    ("kernel.sysrq", "176"),
    ("vm.mmap_min_addr", "65536"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.accept_source_route", "0"),
    ("net.ipv4.conf.default.accept_source_route", "0"),
    ("net.ipv4.icmp_echo_ignore_broadcasts", "1"),
    ("net.ipv4.icmp_ignore_bogus_error_responses", "1"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.tcp_rfc1337", "1"),
];

/// Exist only once br_netfilter is in the kernel.
const BRIDGE: &[(&str, &str)] =
    &[("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")];

/// Applies everything that does not depend on a module, except what the kernel command line has decided. A key this kernel lacks is
/// skipped; other failures are returned.
pub(crate) fn apply(cmdline: &Cmdline) -> Vec<String> {
    let decided = |key: &str| key == PANIC && cmdline.get("panic").is_some();
    let wanted = KUBERNETES.iter().chain(HARDENING).filter(|(key, _)| !decided(key));
    wanted.filter_map(|(key, value)| set(key, value).err()).collect()
}

/// Applies what the bridge filter module brought.
pub(crate) fn apply_bridge() -> Vec<String> {
    BRIDGE.iter().filter_map(|(key, value)| set(key, value).err()).collect()
}

/// Sets what the configuration asks for. False if the kernel has no such setting.
pub(crate) fn set_existing(key: &str, value: &str) -> Result<bool, String> {
    if !std::path::Path::new(&path(key)).exists() {
        return Ok(false);
    }
    set(key, value).map(|()| true)
}

fn set(key: &str, value: &str) -> Result<(), String> {
    match fs::write(path(key), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{key} = {value}: {error}")),
        _ => Ok(()),
    }
}

/// Dots separate, unless a slash comes first; then slashes do, so that interface names may hold dots.
fn path(key: &str) -> String {
    let slashes_separate = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let key = if slashes_separate { key.to_owned() } else { key.replace('.', "/") };
    format!("/proc/sys/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that a kubelet with `protectKernelDefaults` insists on (pkg/kubelet/cm/container_manager_linux.go,
    /// `setupKernelTunables`).
    #[test]
    fn the_kernel_is_as_a_kubelet_that_protects_its_defaults_wants_it() {
        let wanted = [
            ("vm.overcommit_memory", "1"),
            ("vm.panic_on_oom", "0"),
            ("kernel.panic", "10"),
            ("kernel.panic_on_oops", "1"),
            ("kernel.keys.root_maxkeys", "1000000"),
            ("kernel.keys.root_maxbytes", "25000000"),
        ];
        for setting in wanted {
            assert!(KUBERNETES.contains(&setting), "{setting:?}");
        }
    }

    #[test]
    fn no_key_is_set_twice() {
        let mut keys: Vec<_> = KUBERNETES.iter().chain(HARDENING).chain(BRIDGE).map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    }

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.5/forwarding"), "/proc/sys/net/ipv4/conf/eth0.5/forwarding");
    }
}
