//! The last look before a pod is taken: does it fit beside what this node has taken already?
//!
//! The scheduler has looked before, but not at static pods, and a stale scheduler may be wrong. Reasons and
//! messages are upstream's (`pkg/kubelet/lifecycle/predicate.go`).

use k8s_openapi::api::core::v1::Pod;

use crate::node::machine::Machine;
use crate::pods::resources::{Amounts, pod_requests};
use crate::pods::status::Verdict;

/// Refuses a pod that does not fit. `others` are what the pods of this node ask for that have
/// not ended.
pub(crate) fn admit(pod: &Pod, others: &[Amounts], machine: &Machine, max_pods: u32) -> Result<(), Verdict> {
    let limit = usize::try_from(max_pods).unwrap_or(usize::MAX);
    if others.len() >= limit {
        return Err(out_of("pods", 1, others.len() as i64, i64::from(max_pods)));
    }
    let wanted = pod_requests(pod);
    let used = others.iter().copied().fold(Amounts::default(), Amounts::plus);
    let cpu = (wanted.milli_cpu.unwrap_or(0), used.milli_cpu.unwrap_or(0), machine.milli_cpu);
    let memory = (wanted.memory.unwrap_or(0), used.memory.unwrap_or(0), machine.memory);
    for (name, (wanted, used, capacity)) in [("cpu", cpu), ("memory", memory)] {
        if wanted > 0 && wanted > capacity - used {
            return Err(out_of(name, wanted, used, capacity));
        }
    }
    Ok(())
}

fn out_of(resource: &str, wanted: i64, used: i64, capacity: i64) -> Verdict {
    Verdict {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Pod was rejected: Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, \
             capacity: {capacity}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn pod(cpu: &str) -> Pod {
        let requests = Some([("cpu".to_owned(), Quantity(cpu.to_owned()))].into());
        let resources = ResourceRequirements { requests, ..ResourceRequirements::default() };
        let container = Container { resources: Some(resources), ..Container::default() };
        Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_the_resource_it_lacks() {
        let machine = Machine { milli_cpu: 1000, memory: 1 << 30, ..Machine::default() };
        assert_eq!(admit(&pod("600m"), &[], &machine, 110), Ok(()));
        let refused = admit(&pod("600m"), &[pod_requests(&pod("500m"))], &machine, 110).unwrap_err();
        assert_eq!(refused.reason, "OutOfcpu");
        assert!(refused.message.contains("requested: 600, used: 500, capacity: 1000"));
        assert_eq!(
            admit(&pod("1m"), &[pod_requests(&pod("1m"))], &machine, 1).unwrap_err().reason,
            "OutOfpods"
        );
    }
}
