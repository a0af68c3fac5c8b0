//! Flags of K3s that are accepted and do nothing, so that what was written for K3s starts; each one given is warned of.
//!
//! Those that say where data lives, how it is protected or which cluster it belongs to are refused instead: to go on without
//! them would be to do something else than was asked for.

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

/// Which command has a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Server,
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Value,
    Switch,
}

use Takes::{Switch, Value};

/// Flags that `server` and `agent` have in K3s.
const NODE: &[(&str, Takes)] = &[
    ("image-credential-provider-bin-dir", Value),
    ("image-credential-provider-config", Value),
    ("selinux", Switch),
    ("lb-server-port", Value),
    ("protect-kernel-defaults", Switch),
    ("default-runtime", Value),
    ("image-service-endpoint", Value),
    ("disable-default-registry-endpoint", Switch),
    ("nonroot-devices", Switch),
    ("snapshotter", Value),
    ("private-registry", Value),
    ("airgap-extra-registry", Value),
    ("node-external-ip", Value),
    ("node-internal-dns", Value),
    ("node-external-dns", Value),
    ("flannel-conf", Value),
    ("flannel-cni-conf", Value),
    ("vpn-auth", Value),
    ("vpn-auth-file", Value),
    ("kube-proxy-arg", Value),
    ("enable-pprof", Switch),
    ("rootless", Switch),
    ("prefer-bundled-bin", Switch),
    ("docker", Switch),
    ("vmodule", Value),
    ("log", Value),
    ("alsologtostderr", Switch),
];

/// Flags that only `agent` has.
const AGENT: &[(&str, Takes)] = &[("disable-apiserver-lb", Switch)];

/// Flags that only `server` has.
const SERVER: &[(&str, Takes)] = &[
    ("supervisor-port", Value),
    ("apiserver-port", Value),
    ("apiserver-bind-address", Value),
    ("advertise-port", Value),
    ("tls-san-security", Switch),
    ("flannel-ipv6-masq", Switch),
    ("flannel-external-ip", Switch),
    ("egress-selector-mode", Value),
    ("servicelb-namespace", Value),
    ("write-kubeconfig-group", Value),
    ("helm-job-image", Value),
    ("cluster-init", Switch),
    ("etcd-arg", Value),
    ("kube-controller-manager-arg", Value),
    ("kube-controller-arg", Value),
    ("kube-scheduler-arg", Value),
    ("kube-cloud-controller-manager-arg", Value),
    ("kube-cloud-controller-arg", Value),
    ("helm-controller-arg", Value),
    ("kine-tls", Switch),
    ("etcd-expose-metrics", Switch),
    ("etcd-disable-snapshots", Switch),
    ("etcd-snapshot-name", Value),
    ("etcd-snapshot-schedule-cron", Value),
    ("etcd-snapshot-reconcile-interval", Value),
    ("etcd-snapshot-retention", Value),
    ("etcd-snapshot-dir", Value),
    ("etcd-snapshot-compress", Switch),
    ("etcd-s3", Switch),
    ("etcd-s3-endpoint", Value),
    ("etcd-s3-endpoint-ca", Value),
    ("etcd-s3-skip-ssl-verify", Switch),
    ("etcd-s3-access-key", Value),
    ("etcd-s3-secret-key", Value),
    ("etcd-s3-session-token", Value),
    ("etcd-s3-bucket", Value),
    ("etcd-s3-bucket-lookup-type", Value),
    ("etcd-s3-region", Value),
    ("etcd-s3-folder", Value),
    ("etcd-s3-retention", Value),
    ("etcd-s3-proxy", Value),
    ("etcd-s3-config-secret", Value),
    ("etcd-s3-insecure", Switch),
    ("etcd-s3-timeout", Value),
    ("default-local-storage-path", Value),
    ("disable-cloud-controller", Switch),
    ("disable-network-policy", Switch),
    ("disable-helm-controller", Switch),
    ("disable-etcd", Switch),
    ("embedded-registry", Switch),
    ("supervisor-metrics", Switch),
    ("system-default-registry", Value),
    ("secrets-encryption-provider", Value),
];

/// Flags of `server` without which it must not start.
const REFUSED: &[(&str, Takes)] = &[
    ("server", Value),
    ("cluster-reset", Switch),
    ("cluster-reset-restore-path", Value),
    ("datastore-cafile", Value),
    ("datastore-certfile", Value),
    ("datastore-keyfile", Value),
    ("disable-apiserver", Switch),
    ("disable-controller-manager", Switch),
    ("secrets-encryption", Switch),
];

fn of(command: Command) -> impl Iterator<Item = &'static (&'static str, Takes)> {
    let more: [&[_]; 2] = match command {
        Command::Server => [SERVER, REFUSED],
        Command::Agent => [AGENT, &[]],
    };
    NODE.iter().chain(more.into_iter().flatten())
}

/// Lets a command accept its idle flags.
pub(crate) fn accept(command: clap::Command, which: Command) -> clap::Command {
    command.args(of(which).map(|(name, takes)| {
        let flag = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
        match takes {
            Value => flag.num_args(1).allow_hyphen_values(true),
            Switch => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
        }
    }))
}

/// The idle flags that were given, those that must be refused apart. A switch that is turned off asks for nothing.
pub(crate) fn given(matches: &ArgMatches, which: Command) -> (Vec<&'static str>, Vec<&'static str>) {
    of(which)
        .filter(|(name, takes)| {
            let typed = matches.value_source(name) == Some(ValueSource::CommandLine);
            let mut values = matches.get_many::<String>(name).into_iter().flatten();
            typed && !(*takes == Switch && values.all(|value| value == "false"))
        })
        .map(|(name, _)| *name)
        .partition(|name| !(which == Command::Server && REFUSED.iter().any(|(refused, _)| refused == name)))
}
