//! Kernel settings: what Kubernetes expects, and hardening that does not get in its way.

use std::fs;
use std::io;

/// Expected by the kubelet and by pod networks.
const KUBERNETES: &[(&str, &str)] = &[
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
    ("net.ipv6.conf.default.accept_ra", "2"),
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
    ("net.ipv4.ip_local_reserved_ports", "6443,10010,10250"),
];

/// Hardening. User namespaces stay possible (pods may ask for them), and so do module loads (pod networks need them).
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
    ("kernel.kexec_load_disabled", "1"),
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

/// Applies everything that does not depend on a module. A key this kernel lacks is skipped; other failures are returned.
pub(crate) fn apply() -> Vec<String> {
    KUBERNETES.iter().chain(HARDENING).filter_map(|(key, value)| set(key, value).err()).collect()
}

/// Applies what the bridge filter module brought.
pub(crate) fn apply_bridge() -> Vec<String> {
    BRIDGE.iter().filter_map(|(key, value)| set(key, value).err()).collect()
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

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.5/forwarding"), "/proc/sys/net/ipv4/conf/eth0.5/forwarding");
    }
}
