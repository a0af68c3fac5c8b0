//! Labels of nodes: which a node may give itself (upstream's `NodeRestriction` and `kubelet/pkg/apis/well_known_labels.go`).

/// Labels of Kubernetes that kubelets report.
const REPORTED: [&str; 12] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];
/// Namespaces of Kubernetes that are theirs.
const OWN: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The namespace that administrators tell nodes apart by.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// Whether a node may set, change or remove this label of its own: any but those of Kubernetes, of which only what kubelets report and what
/// is in `kubelet.kubernetes.io` and `node.kubernetes.io`.
pub fn is_for_nodes(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    let below = |domain: &str| {
        namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if below(RESTRICTED) || !KUBERNETES.into_iter().any(below) {
        return !below(RESTRICTED);
    }
    REPORTED.contains(&key) || OWN.into_iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_administrators_decide_by_is_not_for_nodes() {
        for key in
            ["disk", "example.com/disk", "notkubernetes.io/x", "kubernetes.io/os", "a.node.kubernetes.io/x"]
        {
            assert!(is_for_nodes(key), "{key}");
        }
        for key in [
            "kubernetes.io/x",
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "x.k8s.io/y",
        ] {
            assert!(!is_for_nodes(key), "{key}");
        }
    }
}
