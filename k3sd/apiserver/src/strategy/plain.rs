//! The strategy of every kind that needs nothing beyond its schema, with the few flags that upstream's registries differ in.

use super::Strategy;

/// A kind without code of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plain {
    generation: bool,
    create_on_update: bool,
}

impl Plain {
    /// The flags of upstream's registry for this kind.
    pub(crate) fn of(group: &str, plural: &str) -> Self {
        Self {
            generation: matches!(
                (group, plural),
                ("admissionregistration.k8s.io" | "apiextensions.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
                    | ("resource.k8s.io", "deviceclasses" | "resourceslices")
            ),
            create_on_update: group == "node.k8s.io",
        }
    }
}

impl Strategy for Plain {
    fn has_generation(&self) -> bool {
        self.generation
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }
}
