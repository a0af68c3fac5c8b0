//! Amounts of resources: what pods ask for and what nodes have.

use std::collections::BTreeMap;

use crate::views::Container;

/// Quantities by resource name, as the API writes them.
pub(crate) type QuantityMap = BTreeMap<String, String>;

/// What a container is taken to ask for in scoring if it asks for nothing (`pkg/scheduler/util/pod_resources.go`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Only of nodes: how many pods fit.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// What a pod asks for (KEP-753): the containers' sum and the sidecars', or what the largest step of initialization
    /// needs if that is more, or what the pod as a whole says; and the runtime's overhead.
    pub(crate) fn of_pod(
        containers: &[Container],
        init: &[Container],
        pod_level: &QuantityMap,
        overhead: &QuantityMap,
        scoring: bool,
    ) -> Self {
        let ask = |container: &Container| {
            let mut asked = Self::from(&container.resources.requests);
            if scoring {
                asked.fill_defaults(&container.resources.requests);
            }
            asked
        };
        let mut sum = Self::default();
        containers.iter().for_each(|container| sum.add(&ask(container)));
        let (mut sidecars, mut peak) = (Self::default(), Self::default());
        for container in init {
            let mut step = ask(container);
            step.add(&sidecars);
            if container.restart_policy == "Always" {
                sidecars = step.clone();
            }
            peak.raise_to(&step);
        }
        sum.add(&sidecars);
        sum.raise_to(&peak);
        sum.replace_by(pod_level);
        sum.add(&Self::from(overhead));
        sum
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, least: &Self) {
        self.combine(least, i64::max);
    }

    fn combine(&mut self, with: &Self, operation: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, with.milli_cpu);
        self.memory = operation(self.memory, with.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, with.ephemeral_storage);
        for (name, amount) in &with.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = operation(*mine, *amount);
        }
    }

    /// Amounts set for the pod as a whole count instead of the containers'.
    fn replace_by(&mut self, pod_level: &QuantityMap) {
        for (name, quantity) in pod_level {
            self.set(name, quantity);
        }
    }

    fn fill_defaults(&mut self, asked: &QuantityMap) {
        if !asked.contains_key("cpu") {
            self.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked.contains_key("memory") {
            self.memory = DEFAULT_MEMORY;
        }
    }

    fn set(&mut self, name: &str, quantity: &str) {
        // The API server admits only valid quantities; one from elsewhere counts as nothing.
        let Ok(quantity) = quantity.parse::<machinery::quantity::Quantity>() else { return };
        match name {
            "cpu" => self.milli_cpu = quantity.to_milli(),
            "memory" => self.memory = quantity.to_bytes(),
            "ephemeral-storage" => self.ephemeral_storage = quantity.to_bytes(),
            "pods" => self.pods = quantity.to_bytes(),
            _ => {
                self.other.insert(name.to_owned(), quantity.to_bytes());
            }
        }
    }
}

impl From<&QuantityMap> for Resources {
    fn from(quantities: &QuantityMap) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities {
            resources.set(name, quantity);
        }
        resources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Requirements;

    fn container(restart_policy: &str, cpu: &str) -> Container {
        let requests = [("cpu".to_owned(), cpu.to_owned())].into();
        Container {
            restart_policy: restart_policy.to_owned(),
            resources: Requirements { requests },
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_pod_needs_its_containers_or_its_largest_init_step_whichever_is_more() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str], i64);
        let cases: [Case; 5] = [
            ("containers add up", &[], &["100m", "1"], 1100),
            ("init containers run one by one", &[("", "700m"), ("", "900m")], &["500m"], 900),
            ("sidecars stay", &[("Always", "200m"), ("", "900m")], &["500m"], 1100),
            ("sidecars count only for later steps", &[("", "900m"), ("Always", "200m")], &["500m"], 900),
            ("sidecars run beside the containers", &[("Always", "200m")], &["500m"], 700),
        ];
        for (case, init, main, expected) in cases {
            let init: Vec<_> = init.iter().map(|(policy, cpu)| container(policy, cpu)).collect();
            let main: Vec<_> = main.iter().map(|cpu| container("", cpu)).collect();
            let total = Resources::of_pod(&main, &init, &QuantityMap::new(), &QuantityMap::new(), false);
            assert_eq!(total.milli_cpu, expected, "{case}");
        }
    }

    #[test]
    fn pod_level_amounts_replace_and_overhead_adds() {
        let pod = [("cpu".to_owned(), "2".to_owned())].into();
        let overhead = [("cpu".to_owned(), "50m".to_owned()), ("memory".to_owned(), "1Mi".to_owned())].into();
        let total = Resources::of_pod(&[container("", "100m")], &[], &pod, &overhead, true);
        assert_eq!((total.milli_cpu, total.memory), (2050, DEFAULT_MEMORY + (1 << 20)));
    }
}
