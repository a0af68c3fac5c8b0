//! Requests and limits as the kernel understands them: QoS class, cgroup path, CPU shares and quota, memory.
//!
//! Formulas: upstream's `pkg/kubelet/cm/helpers_linux.go` and `pkg/kubelet/qos/policy.go`.

use std::collections::BTreeMap;

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// One scheduling period of the CPU controller, in microseconds.
const QUOTA_PERIOD_US: i64 = 100_000;
/// The kernel's smallest quota, in microseconds.
const QUOTA_MIN_US: i64 = 1000;
const SHARES_PER_CPU: i64 = 1024;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
/// `oom_score_adj` of pods that must live, and of those that go first.
const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1000;
/// Priority from which a pod counts as critical to the node: `system-cluster-critical`.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

type Quantities = Option<BTreeMap<String, Quantity>>;

/// CPU in thousandths and memory in bytes; `None` where nothing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) milli_cpu: Option<i64>,
    pub(crate) memory: Option<i64>,
}

/// What a quantity is in thousandths, rounded up; 0 when it is not one.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    quantity.0.parse::<machinery::quantity::Quantity>().map_or(0, |quantity| quantity.to_milli())
}

/// What a quantity is in whole units, rounded up; 0 when it is not one.
pub(crate) fn whole(quantity: &Quantity) -> i64 {
    quantity.0.parse::<machinery::quantity::Quantity>().map_or(0, |quantity| quantity.to_bytes())
}

fn amounts(quantities: &Quantities) -> Amounts {
    let get = |name: &str| quantities.as_ref().and_then(|map| map.get(name));
    Amounts { milli_cpu: get("cpu").map(milli), memory: get("memory").map(whole) }
}

/// A container's limits.
pub(crate) fn limits(container: &Container) -> Amounts {
    container.resources.as_ref().map(|resources| amounts(&resources.limits)).unwrap_or_default()
}

/// A container's requests; a limit without a request is the request as well.
pub(crate) fn requests(container: &Container) -> Amounts {
    let limits = limits(container);
    let requests =
        container.resources.as_ref().map(|resources| amounts(&resources.requests)).unwrap_or_default();
    Amounts { milli_cpu: requests.milli_cpu.or(limits.milli_cpu), memory: requests.memory.or(limits.memory) }
}

/// What a pod asks for, over all its containers that run side by side.
pub(crate) fn pod_requests(pod: &Pod) -> Amounts {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.map(requests).fold(Amounts::default(), Amounts::plus)
}

impl Amounts {
    /// Both together; nothing said counts as nothing.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            milli_cpu: Some(self.milli_cpu.unwrap_or(0) + other.milli_cpu.unwrap_or(0)),
            memory: Some(self.memory.unwrap_or(0) + other.memory.unwrap_or(0)),
        }
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let positive = |amount: Option<i64>| amount.is_some_and(|amount| amount > 0);
    let (mut any, mut guaranteed) = (false, true);
    for container in all_containers(spec) {
        let (requests, limits) = (requests(container), limits(container));
        any |= positive(requests.milli_cpu) || positive(requests.memory);
        guaranteed &= positive(limits.milli_cpu) && positive(limits.memory) && requests == limits;
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

/// The pod's cgroup below the root of the hierarchy, as the cgroupfs driver names it.
pub(crate) fn cgroup_parent(qos: &str, uid: &str) -> String {
    match qos {
        "Burstable" => format!("/kubepods/burstable/pod{uid}"),
        "BestEffort" => format!("/kubepods/besteffort/pod{uid}"),
        _ => format!("/kubepods/pod{uid}"),
    }
}

/// CPU shares for a request.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * SHARES_PER_CPU / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu * QUOTA_PERIOD_US / 1000).max(QUOTA_MIN_US)
}

/// Shares as cgroup v2 weight; the mapping of KEP-2254.
fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// The limits a container runs under. `node_memory` is the node's capacity in bytes.
pub(crate) fn linux_resources(pod: &Pod, container: &Container, node_memory: i64) -> LinuxContainerResources {
    let (requests, limits) = (requests(container), limits(container));
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_US,
        cpu_quota: limits.milli_cpu.filter(|cpu| *cpu > 0).map_or(0, quota),
        cpu_shares: shares(requests.milli_cpu.unwrap_or(0)),
        memory_limit_in_bytes: limits.memory.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, node_memory),
        ..LinuxContainerResources::default()
    }
}

fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    if priority >= CRITICAL_PRIORITY {
        return OOM_GUARANTEED;
    }
    match qos_class(pod) {
        "Guaranteed" => OOM_GUARANTEED,
        "BestEffort" => OOM_BEST_EFFORT,
        _ => {
            let request = requests(container).memory.unwrap_or(0);
            // Never as safe as a guaranteed pod, never as exposed as a best-effort one.
            (1000 - 1000 * request / node_memory.max(1)).clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
        }
    }
}

/// Limits of the pod's own cgroup, as the files of cgroup v2 want them.
pub(crate) fn pod_cgroup_files(pod: &Pod) -> Vec<(&'static str, String)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sum = |pick: fn(&Container) -> Option<i64>| -> i64 { spec.containers.iter().filter_map(pick).sum() };
    let all = |pick: fn(&Container) -> Option<i64>| all_containers(spec).all(|c| pick(c).is_some());
    let cpu_shares = shares(sum(|container| requests(container).milli_cpu));
    let mut files = vec![("cpu.weight", weight(cpu_shares).to_string())];
    if all(|container| limits(container).milli_cpu) {
        let total = sum(|container| limits(container).milli_cpu);
        files.push(("cpu.max", format!("{} {QUOTA_PERIOD_US}", quota(total))));
    }
    if all(|container| limits(container).memory) {
        files.push(("memory.max", sum(|container| limits(container).memory).to_string()));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceRequirements;

    fn quantities(list: &[(&str, &str)]) -> Quantities {
        Some(list.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect())
    }

    fn pod(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Pod {
        let resources = ResourceRequirements {
            requests: quantities(requests),
            limits: quantities(limits),
            ..ResourceRequirements::default()
        };
        let container = Container { resources: Some(resources), ..Container::default() };
        Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn the_qos_class_follows_requests_and_limits() {
        assert_eq!(qos_class(&pod(&[], &[])), "BestEffort");
        assert_eq!(qos_class(&pod(&[("cpu", "100m")], &[])), "Burstable");
        assert_eq!(qos_class(&pod(&[], &[("cpu", "1"), ("memory", "64Mi")])), "Guaranteed");
        assert_eq!(qos_class(&pod(&[("cpu", "500m")], &[("cpu", "1"), ("memory", "64Mi")])), "Burstable");
    }

    #[test]
    fn limits_become_shares_quota_and_bytes() {
        let pod = pod(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")]);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let linux = linux_resources(&pod, container, 1 << 30);
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.cpu_period), (256, 50_000, 100_000));
        assert_eq!(linux.memory_limit_in_bytes, 64 << 20);
        let files = pod_cgroup_files(&pod);
        assert!(files.contains(&("cpu.max", "50000 100000".to_owned())), "{files:?}");
        assert!(files.contains(&("memory.max", (64 << 20).to_string())), "{files:?}");
    }

    #[test]
    fn weight_spans_the_range_of_shares() {
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
