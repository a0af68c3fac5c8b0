//! Services and their pods, as the two endpoint controllers see them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use client::{Change, Informer, ObjectKey, Stored};
use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use serde::Deserialize;

/// What the endpoint controllers read of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pod {
    pub(crate) metadata: PodMeta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodMeta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<ContainerPort>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A port of a service as one pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedPort {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

impl Pod {
    pub(crate) fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(crate) fn node_name(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The pod's address of a family (`IPv4` or `IPv6`).
    pub(crate) fn address(&self, family: &str) -> Option<&str> {
        let listed = self.status.pod_ips.iter().map(|ip| ip.ip.as_str());
        listed.chain(self.status.pod_ip.as_deref()).find(|ip| family_of(ip) == Some(family))
    }

    /// The name that DNS gives the pod in a headless service.
    pub(crate) fn hostname_in(&self, service: &str) -> Option<String> {
        self.spec
            .hostname
            .clone()
            .filter(|name| !name.is_empty() && self.spec.subdomain.as_deref() == Some(service))
    }

    pub(crate) fn reference(&self) -> core::ObjectReference {
        core::ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.metadata.namespace.clone()),
            name: Some(self.metadata.name.clone()),
            uid: Some(self.metadata.uid.clone()),
            ..core::ObjectReference::default()
        }
    }

    /// A container's port by name, sidecars' too.
    fn named_port(&self, name: &str, protocol: &str) -> Option<i32> {
        let sidecars = self
            .spec
            .init_containers
            .iter()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let ports = self.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        ports
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol)
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    }

    /// Whether endpoints made of the two would be the same.
    fn serves_as(&self, other: &Self) -> bool {
        let same_status = self.is_ready() == other.is_ready()
            && self.has_ended() == other.has_ended()
            && self.status.pod_ip == other.status.pod_ip
            && self.status.pod_ips == other.status.pod_ips;
        same_status && self.metadata == other.metadata && self.spec == other.spec
    }
}

/// `IPv4` or `IPv6`.
fn family_of(ip: &str) -> Option<&'static str> {
    Some(match ip.parse().ok()? {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    })
}

/// The service's ports as this pod serves them; a named port that the pod does not have is left out.
pub(crate) fn resolve_ports(service: &core::ServiceSpec, pod: &Pod) -> Vec<ResolvedPort> {
    let mut resolved: Vec<_> = service
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let number = match &port.target_port {
                None | Some(IntOrString::Int(0)) => Some(port.port),
                Some(IntOrString::Int(number)) => Some(*number),
                Some(IntOrString::String(name)) => pod.named_port(name, &protocol),
            };
            Some(ResolvedPort {
                name: port.name.clone().unwrap_or_default(),
                protocol,
                port: number?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    resolved.sort();
    resolved
}

/// The pods that a service selects and that can be endpoints of it.
pub(crate) fn selected_pods(
    pods: &Informer<core::Pod>,
    namespace: &str,
    selector: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<Pod>> {
    let mut found = Vec::new();
    for stored in pods.list_namespace(namespace) {
        let pod: Pod = stored.project()?;
        if matches(selector, &pod.metadata.labels) && !pod.has_ended() {
            found.push(pod);
        }
    }
    Ok(found)
}

fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The services whose endpoints a pod's change concerns.
pub(crate) fn services_of_change(
    services: &Informer<core::Service>,
    change: &Change<core::Pod>,
) -> BTreeSet<ObjectKey> {
    #[derive(Deserialize)]
    struct View {
        #[serde(default)]
        spec: Spec,
    }
    #[derive(Deserialize, Default)]
    struct Spec {
        #[serde(default)]
        selector: BTreeMap<String, String>,
    }
    let project =
        |stored: &Option<Stored<core::Pod>>| stored.as_ref().and_then(|pod| pod.project::<Pod>().ok());
    let (old, new) = (project(&change.old), project(&change.new));
    if let (Some(old), Some(new)) = (&old, &new)
        && old.serves_as(new)
    {
        return BTreeSet::new();
    }
    let selects = |service: &Stored<core::Service>| {
        let selector = service.project::<View>().map(|view| view.spec.selector).unwrap_or_default();
        let pods = old.iter().chain(&new);
        !selector.is_empty() && pods.into_iter().any(|pod| matches(&selector, &pod.metadata.labels))
    };
    let services = services.list_namespace(change.key.namespace());
    services.into_iter().filter(selects).map(|service| service.key().clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn target_ports_are_numbers_names_of_container_ports_or_the_service_s_own() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "containers": [{"ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53}]}],
                "initContainers": [
                    {"restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]},
                    {"ports": [{"name": "setup", "containerPort": 1}]},
                ],
            },
        }))
        .unwrap();
        let service: core::ServiceSpec = serde_json::from_value(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": "web"},
            {"name": "b", "port": 81, "targetPort": 8081, "appProtocol": "http"},
            {"name": "c", "port": 82},
            {"name": "d", "port": 83, "targetPort": "metrics"},
            {"name": "e", "port": 84, "targetPort": "setup"},
            {"name": "f", "port": 85, "targetPort": "dns", "protocol": "UDP"},
        ]}))
        .unwrap();
        let resolved: Vec<_> =
            resolve_ports(&service, &pod).into_iter().map(|port| (port.name, port.port)).collect();
        let expected = [("a", 8080), ("b", 8081), ("c", 82), ("d", 9090)];
        assert_eq!(resolved, expected.map(|(name, port)| (name.to_owned(), port)));
    }

    #[test]
    fn a_pod_s_address_is_of_the_family_asked_for() {
        let pod: Pod = serde_json::from_value(json!({
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .unwrap();
        assert_eq!(pod.address("IPv4"), Some("10.0.0.1"));
        assert_eq!(pod.address("IPv6"), Some("fd00::1"));
        assert_eq!(Pod::default().address("IPv4"), None);
    }
}
