//! CRI's description of a pod's sandbox.

use std::path::PathBuf;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::config::Config;
use crate::pods::container::pod_labels;
use crate::pods::{dns, resources, security};

/// Name of the directory of a pod's container logs: upstream's `<namespace>_<name>_<uid>`.
pub(crate) fn log_dir_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}_{}_{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default()
    )
}

/// Directory of a pod's container logs.
pub(crate) fn log_dir(pod: &Pod, config: &Config) -> PathBuf {
    config.pod_log_dir.join(log_dir_name(pod))
}

/// The description for the sandbox's `attempt`-th incarnation, counted from 0.
pub(crate) fn config(pod: &Pod, config: &Config, dns: cri::DnsConfig, attempt: u32) -> cri::PodSandboxConfig {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let metadata = &pod.metadata;
    let uid = metadata.uid.clone().unwrap_or_default();
    let (hostname, _) = dns::hostname(pod, config);
    let labels = metadata.labels.clone().unwrap_or_default();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            uid: uid.clone(),
            attempt,
        }),
        // A pod in the host's network has the host's name, which the runtime knows itself.
        hostname: if spec.host_network == Some(true) { String::new() } else { hostname },
        log_directory: log_dir(pod, config).to_string_lossy().into_owned(),
        dns_config: Some(dns),
        port_mappings: port_mappings(spec),
        labels: labels.into_iter().chain(pod_labels(pod)).collect(),
        annotations: metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup_parent(resources::qos_class(pod), &uid),
            security_context: Some(security::sandbox(spec)),
            sysctls: sysctls(spec),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

fn sysctls(spec: &PodSpec) -> std::collections::HashMap<String, String> {
    let context = spec.security_context.clone().unwrap_or_default();
    context.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect()
}

/// Ports the network plug-in opens on the host. With `hostNetwork` they are there anyway.
fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten();
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or_default(),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            }
        })
        .collect()
}
