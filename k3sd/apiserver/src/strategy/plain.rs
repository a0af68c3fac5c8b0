//! The strategy of every kind that needs nothing beyond its schema, with the few flags that upstream's registries differ in.

use super::Strategy;

/// A kind without code of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plain {
    generation: bool,
    create_on_update: bool,
    path_segment_names: bool,
}

impl Plain {
    /// The flags of upstream's registry for this kind.
    pub(crate) fn of(group: &str, plural: &str) -> Self {
        Self {
            generation: matches!(
                (group, plural),
                ("apps" | "batch", _)
                    | ("admissionregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
                    | ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses")
                    | ("policy", "poddisruptionbudgets")
                    | ("discovery.k8s.io", "endpointslices")
                    | ("", "replicationcontrollers")
                    | ("resource.k8s.io", "resourceslices" | "deviceclasses")
                    | ("apiextensions.k8s.io", _)
            ),
            create_on_update: matches!(
                (group, plural),
                ("coordination.k8s.io", "leases")
                    | ("", "endpoints" | "events" | "limitranges" | "services")
                    | ("events.k8s.io", _)
                    | ("rbac.authorization.k8s.io", _)
                    | ("node.k8s.io", _)
            ),
            path_segment_names: group == "rbac.authorization.k8s.io",
        }
    }
}

impl Strategy for Plain {
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if self.path_segment_names {
            crate::names::path_segment(name, prefix)
        } else {
            crate::names::dns1123_subdomain(name, prefix)
        }
    }

    fn has_generation(&self) -> bool {
        self.generation
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }
}
