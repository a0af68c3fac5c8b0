//! Every flag of `k3s server` and `k3s agent` (v1.36), which of the two takes it, and what it takes.

use super::TakenBy::{self, Agent, Both, Server};
use super::Takes::{self, Boolean, List, Number, Text};

/// A flag.
#[derive(Debug)]
pub struct Flag {
    /// Its long name, without dashes.
    pub name: &'static str,
    /// Which command takes it.
    pub by: TakenBy,
    /// What it takes.
    pub takes: Takes,
}

const fn flag(name: &'static str, by: TakenBy, takes: Takes) -> Flag {
    Flag { name, by, takes }
}

/// The flag of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// In the order of K3s's documentation: those of the server, then those of every node.
pub const FLAGS: &[Flag] = &[
    flag("bind-address", Both, Text),
    flag("https-listen-port", Server, Number),
    flag("supervisor-port", Server, Number),
    flag("apiserver-port", Server, Number),
    flag("apiserver-bind-address", Server, Text),
    flag("advertise-address", Server, Text),
    flag("advertise-port", Server, Number),
    flag("tls-san", Server, List),
    flag("tls-san-security", Server, Boolean),
    flag("data-dir", Both, Text),
    flag("cluster-cidr", Server, List),
    flag("service-cidr", Server, List),
    flag("service-node-port-range", Server, Text),
    flag("cluster-dns", Server, List),
    flag("cluster-domain", Server, Text),
    flag("flannel-backend", Server, Text),
    flag("flannel-ipv6-masq", Server, Boolean),
    flag("flannel-external-ip", Server, Boolean),
    flag("egress-selector-mode", Server, Text),
    flag("servicelb-namespace", Server, Text),
    flag("write-kubeconfig", Server, Text),
    flag("write-kubeconfig-mode", Server, Text),
    flag("write-kubeconfig-group", Server, Text),
    flag("write-kubeconfig-name", Server, Text),
    flag("helm-job-image", Server, Text),
    flag("token", Both, Text),
    flag("token-file", Both, Text),
    flag("agent-token", Server, Text),
    flag("agent-token-file", Server, Text),
    flag("server", Both, Text),
    flag("cluster-init", Server, Boolean),
    flag("cluster-reset", Server, Boolean),
    flag("cluster-reset-restore-path", Server, Text),
    flag("kube-apiserver-arg", Server, List),
    flag("etcd-arg", Server, List),
    flag("kube-controller-manager-arg", Server, List),
    flag("kube-controller-arg", Server, List),
    flag("kube-scheduler-arg", Server, List),
    flag("kube-cloud-controller-manager-arg", Server, List),
    flag("kube-cloud-controller-arg", Server, List),
    flag("helm-controller-arg", Server, List),
    flag("datastore-endpoint", Server, Text),
    flag("datastore-cafile", Server, Text),
    flag("datastore-certfile", Server, Text),
    flag("datastore-keyfile", Server, Text),
    flag("kine-tls", Server, Boolean),
    flag("etcd-expose-metrics", Server, Boolean),
    flag("etcd-disable-snapshots", Server, Boolean),
    flag("etcd-snapshot-name", Server, Text),
    flag("etcd-snapshot-schedule-cron", Server, Text),
    flag("etcd-snapshot-reconcile-interval", Server, Text),
    flag("etcd-snapshot-retention", Server, Number),
    flag("etcd-snapshot-dir", Server, Text),
    flag("etcd-snapshot-compress", Server, Boolean),
    flag("etcd-s3", Server, Boolean),
    flag("etcd-s3-endpoint", Server, Text),
    flag("etcd-s3-endpoint-ca", Server, Text),
    flag("etcd-s3-skip-ssl-verify", Server, Boolean),
    flag("etcd-s3-access-key", Server, Text),
    flag("etcd-s3-secret-key", Server, Text),
    flag("etcd-s3-session-token", Server, Text),
    flag("etcd-s3-bucket", Server, Text),
    flag("etcd-s3-bucket-lookup-type", Server, Text),
    flag("etcd-s3-region", Server, Text),
    flag("etcd-s3-folder", Server, Text),
    flag("etcd-s3-retention", Server, Number),
    flag("etcd-s3-proxy", Server, Text),
    flag("etcd-s3-config-secret", Server, Text),
    flag("etcd-s3-insecure", Server, Boolean),
    flag("etcd-s3-timeout", Server, Text),
    flag("default-local-storage-path", Server, Text),
    flag("disable", Server, List),
    flag("disable-scheduler", Server, Boolean),
    flag("disable-cloud-controller", Server, Boolean),
    flag("disable-kube-proxy", Server, Boolean),
    flag("disable-network-policy", Server, Boolean),
    flag("disable-helm-controller", Server, Boolean),
    flag("disable-apiserver", Server, Boolean),
    flag("disable-controller-manager", Server, Boolean),
    flag("disable-etcd", Server, Boolean),
    flag("disable-agent", Server, Boolean),
    flag("embedded-registry", Server, Boolean),
    flag("supervisor-metrics", Server, Boolean),
    flag("system-default-registry", Server, Text),
    flag("secrets-encryption", Server, Boolean),
    flag("secrets-encryption-provider", Server, Text),
    flag("enable-pprof", Both, Boolean),
    flag("rootless", Both, Boolean),
    flag("prefer-bundled-bin", Both, Boolean),
    flag("debug", Both, Boolean),
    flag("v", Both, Number),
    flag("vmodule", Both, Text),
    flag("log", Both, Text),
    flag("alsologtostderr", Both, Boolean),
    flag("node-name", Both, Text),
    flag("with-node-id", Both, Boolean),
    flag("node-label", Both, List),
    flag("node-taint", Both, List),
    flag("image-credential-provider-bin-dir", Both, Text),
    flag("image-credential-provider-config", Both, Text),
    flag("selinux", Both, Boolean),
    flag("lb-server-port", Both, Number),
    flag("protect-kernel-defaults", Both, Boolean),
    flag("container-runtime-endpoint", Both, Text),
    flag("default-runtime", Both, Text),
    flag("image-service-endpoint", Both, Text),
    flag("disable-default-registry-endpoint", Both, Boolean),
    flag("nonroot-devices", Both, Boolean),
    flag("pause-image", Both, Text),
    flag("snapshotter", Both, Text),
    flag("private-registry", Both, Text),
    flag("airgap-extra-registry", Both, List),
    flag("node-ip", Both, List),
    flag("node-external-ip", Both, List),
    flag("node-internal-dns", Both, List),
    flag("node-external-dns", Both, List),
    flag("resolv-conf", Both, Text),
    flag("flannel-iface", Both, Text),
    flag("flannel-conf", Both, Text),
    flag("flannel-cni-conf", Both, Text),
    flag("vpn-auth", Both, Text),
    flag("vpn-auth-file", Both, Text),
    flag("kubelet-arg", Both, List),
    flag("kube-proxy-arg", Both, List),
    flag("docker", Both, Boolean),
    flag("disable-apiserver-lb", Agent, Boolean),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_stands_twice() {
        let mut names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
