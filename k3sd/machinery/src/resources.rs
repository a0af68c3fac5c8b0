//! What containers, pods and claims ask for, added up (upstream's `component-helpers/resource`).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::quantity::Quantity;

/// Amounts by the name of the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(pub BTreeMap<String, Quantity>);

/// Requests and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// What is set aside.
    pub requests: Amounts,
    /// What is never exceeded.
    pub limits: Amounts,
}

impl Amounts {
    /// A resource list. What is no quantity has been refused by validation, and is left out.
    pub fn of(list: Option<&Value>) -> Self {
        let entries = list.and_then(Value::as_object).into_iter().flatten();
        Self(
            entries
                .filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?)))
                .collect(),
        )
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Quantity> {
        self.0.get(name)
    }

    /// More of each.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
        }
    }

    /// Less of each, but not less than nothing.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if let Some(own) = self.0.get_mut(name) {
                *own = (*own - *amount).max(Quantity::ZERO);
            }
        }
    }

    /// Only those that are something.
    pub fn without_zeros(mut self) -> Self {
        self.0.retain(|_, amount| !amount.is_zero());
        self
    }

    /// Only those with names that `keep` keeps.
    pub fn masked(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(name, _)| keep(name));
        Self(kept.map(|(name, amount)| (name.clone(), *amount)).collect())
    }

    /// As a resource list.
    pub fn to_value(&self) -> Value {
        self.0.iter().map(|(name, amount)| (name.clone(), Value::String(amount.to_string()))).collect()
    }

    /// The bigger one of each.
    fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_insert(*amount);
            *own = (*own).max(*amount);
        }
    }
}

impl Asked {
    /// By `resources` of a container or a claim.
    pub fn by(resources: Option<&Value>) -> Self {
        let part = |field| Amounts::of(resources.and_then(|resources| resources.get(field)));
        Self { requests: part("requests"), limits: part("limits") }
    }

    /// By a pod: its containers and sidecars together, or its most demanding moment of initialisation if that is more. What it
    /// asks for as a whole replaces that. Its overhead comes on top; on top of limits only where there is one.
    pub fn by_pod(pod: &Value) -> Self {
        let mut sum = Self::default();
        for container in listed(pod, "containers") {
            sum.add(&Self::by(container.get("resources")));
        }
        let (mut sidecars, mut peak) = (Self::default(), Self::default());
        for container in listed(pod, "initContainers") {
            let mut own = Self::by(container.get("resources"));
            if container["restartPolicy"] == "Always" {
                sidecars.add(&own);
                own = sidecars.clone();
            } else {
                own.add(&sidecars);
            }
            peak.requests.raise(&own.requests);
            peak.limits.raise(&own.limits);
        }
        sum.add(&sidecars);
        sum.requests.raise(&peak.requests);
        sum.limits.raise(&peak.limits);
        let whole = Self::by(pod.pointer("/spec/resources"));
        sum.requests.0.extend(whole.requests.0);
        sum.limits.0.extend(whole.limits.0);
        let overhead = Amounts::of(pod.pointer("/spec/overhead"));
        sum.requests.add(&overhead);
        for (name, amount) in overhead.0 {
            if let Some(limit) = sum.limits.0.get_mut(&name) {
                *limit += amount;
            }
        }
        sum
    }

    fn add(&mut self, other: &Self) {
        self.requests.add(&other.requests);
        self.limits.add(&other.limits);
    }
}

/// The containers of a pod that can ask for something, init containers first.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    listed(pod, "initContainers").chain(listed(pod, "containers"))
}

fn listed<'a>(pod: &'a Value, field: &'a str) -> impl Iterator<Item = &'a Value> {
    pod.pointer("/spec").and_then(|spec| spec.get(field)?.as_array()).into_iter().flatten()
}

impl FromIterator<(String, Quantity)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (String, Quantity)>>(amounts: I) -> Self {
        Self(amounts.into_iter().collect())
    }
}

impl fmt::Display for Amounts {
    /// `cpu=1,memory=1Gi`, by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, amount)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={amount}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cpu(pod: &Value) -> (String, String) {
        let asked = Asked::by_pod(pod);
        let text = |amounts: &Amounts| amounts.get("cpu").map(ToString::to_string).unwrap_or_default();
        (text(&asked.requests), text(&asked.limits))
    }

    fn container(request: &str, limit: &str) -> Value {
        json!({ "resources": { "requests": { "cpu": request }, "limits": { "cpu": limit } } })
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_for_its_biggest_init_container() {
        let containers = json!([container("100m", "1"), container("200m", "1")]);
        let pod = json!({ "spec": { "containers": containers, "initContainers": [container("1", "1")] } });
        assert_eq!(cpu(&pod), ("1".to_owned(), "2".to_owned()));
    }

    #[test]
    fn sidecars_run_beside_everything_after_them() {
        let mut sidecar = container("500m", "500m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({ "spec": {
            "containers": [container("100m", "100m")],
            "initContainers": [container("700m", "700m"), sidecar, container("400m", "400m")],
        } });
        assert_eq!(cpu(&pod), ("900m".to_owned(), "900m".to_owned()));
    }

    #[test]
    fn overhead_adds_to_requests_and_to_limits_that_are_there() {
        let pod = json!({ "spec": {
            "containers": [{ "resources": { "requests": { "cpu": "1" } } }], "overhead": { "cpu": "250m" },
        } });
        assert_eq!(cpu(&pod), ("1250m".to_owned(), String::new()));
    }
}
