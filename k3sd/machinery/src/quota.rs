//! Resource quotas: what an object takes of them, which of them count it, and what they have left (upstream's
//! `pkg/quota/v1/evaluator/core` and `apiserver/pkg/quota/v1/generic`).
//!
//! Admission charges and the quota controller counts with the same functions, so that they cannot disagree.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{self, Amounts, Asked};
use crate::selector::LabelSelector;

/// Prefix of the count of any kind's objects: `count/deployments.apps`.
const COUNT: &str = "count/";
/// Infix of amounts per storage class: `gold.storageclass.storage.k8s.io/requests.storage`.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const REQUESTS: &str = "requests.";
const HUGE_PAGES: &str = "hugepages-";
/// What each container must ask for itself where a quota limits it. Upstream calls it a mistake that stays.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Kinds of the core group that are counted by their plain names, too.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// A kind, as quotas know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind<'a> {
    /// API group, "" for the core.
    pub group: &'a str,
    /// Name in paths.
    pub plural: &'a str,
}

/// A quota as its status has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// The bounds.
    pub hard: Amounts,
    /// What is taken.
    pub used: Amounts,
    /// Objects it counts; all must hold.
    pub scopes: Vec<Scope>,
}

/// One condition on the objects that a quota counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    name: String,
    /// None: it must be there at all.
    values: Option<LabelSelector>,
}

// === impl Kind ===

impl<'a> Kind<'a> {
    /// A kind of the core group.
    pub const fn core(plural: &'a str) -> Self {
        Self { group: "", plural }
    }

    /// The kind whose objects a name counts, as plural and group, if it is the name of a count.
    pub fn counted(name: &'a str) -> Option<Self> {
        match name.strip_prefix(COUNT) {
            Some(kind) => {
                let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
                Some(Self { group, plural })
            }
            None => PLAIN_COUNTS.iter().find(|plain| **plain == name).map(|plural| Self::core(plural)),
        }
    }

    /// The name under which objects of the kind are counted.
    pub fn count_name(&self) -> String {
        if self.group.is_empty() {
            format!("{COUNT}{}", self.plural)
        } else {
            format!("{COUNT}{}.{}", self.plural, self.group)
        }
    }

    /// Whether objects of the kind take any of what has this name.
    pub fn takes(&self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        match (self.group, self.plural) {
            ("", "pods") => {
                let plain = name.strip_prefix(REQUESTS).or_else(|| name.strip_prefix("limits."));
                let compute = matches!(plain.unwrap_or(name), "cpu" | "memory" | "ephemeral-storage");
                let huge = name.strip_prefix(REQUESTS).unwrap_or(name).starts_with(HUGE_PAGES);
                name == "pods" || compute || huge || (name.starts_with(REQUESTS) && !is_native(name))
            }
            ("", "persistentvolumeclaims") => {
                let what = name.split_once(STORAGE_CLASS).map_or(name, |(_, what)| what);
                matches!(what, "persistentvolumeclaims" | "requests.storage")
            }
            ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            ("", plural) => plural == name && PLAIN_COUNTS.contains(&plural),
            _ => false,
        }
    }

    /// What an object of the kind takes.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut taken = Amounts::default();
        taken.0.insert(self.count_name(), Quantity::from_units(1));
        match (self.group, self.plural) {
            ("", "pods") => pod_usage(object, now, &mut taken),
            ("", "persistentvolumeclaims") => claim_usage(object, &mut taken),
            ("", "services") => service_usage(object, &mut taken),
            ("", plural) if PLAIN_COUNTS.contains(&plural) => {
                taken.0.insert(plural.to_owned(), Quantity::from_units(1));
            }
            _ => {}
        }
        taken
    }

    /// Whether an object of the kind is in a scope.
    fn is_in(&self, scope: &Scope, object: &Value) -> bool {
        match (self.group, self.plural) {
            ("", "pods") => scope.has_pod(object),
            ("", "persistentvolumeclaims") => scope.has_claim(object),
            _ => false,
        }
    }
}

// === impl Quota ===

impl Quota {
    /// From the object.
    pub fn of(quota: &Value) -> Self {
        let plain = items(quota, "/spec/scopes")
            .filter_map(Value::as_str)
            .map(|name| Scope { name: name.to_owned(), values: None });
        let selected = items(quota, "/spec/scopeSelector/matchExpressions").filter_map(Scope::of);
        Self {
            name: meta::name(quota).to_owned(),
            hard: Amounts::of(quota.pointer("/status/hard")),
            used: Amounts::of(quota.pointer("/status/used")),
            scopes: plain.chain(selected).collect(),
        }
    }

    /// Whether the object is in all scopes.
    pub fn has(&self, kind: Kind<'_>, object: &Value) -> bool {
        self.scopes.iter().all(|scope| kind.is_in(scope, object))
    }

    /// The bounds that objects of the kind can reach.
    pub fn bounds(&self, kind: Kind<'_>) -> impl Iterator<Item = &str> {
        self.hard.0.keys().map(String::as_str).filter(move |name| kind.takes(name))
    }

    /// Takes more.
    ///
    /// # Errors
    /// In upstream's words, if there is not enough left.
    pub fn charge(&mut self, amounts: &Amounts) -> Result<(), String> {
        let requested = amounts.masked(|name| self.hard.get(name).is_some());
        let mut after = self.used.clone();
        after.add(&requested);
        let over = |name: &str| {
            requested.get(name).is_some()
                && after.get(name).zip(self.hard.get(name)).is_some_and(|(after, hard)| after > hard)
        };
        if requested.0.keys().any(|name| over(name)) {
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                self.name,
                requested.masked(over),
                self.used.masked(over),
                self.hard.masked(over)
            ));
        }
        self.used = after;
        Ok(())
    }
}

// === impl Scope ===

impl Scope {
    fn of(expression: &Value) -> Option<Self> {
        let name = expression.get("scopeName")?.as_str()?.to_owned();
        if expression.get("operator").and_then(Value::as_str) == Some("Exists") {
            return Some(Self { name, values: None });
        }
        let mut expression = expression.clone();
        expression["key"] = name.as_str().into();
        let selector = json!({ "matchExpressions": [expression] });
        Some(Self { name, values: LabelSelector::from_value(Some(&selector)).ok() })
    }

    fn has_pod(&self, pod: &Value) -> bool {
        match self.name.as_str() {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => self.accepts(&[text(pod, "/spec/priorityClassName")]),
            "CrossNamespacePodAffinity" => crosses_namespaces(pod),
            _ => false,
        }
    }

    fn has_claim(&self, claim: &Value) -> bool {
        let classes = [
            "/spec/volumeAttributesClassName",
            "/status/currentVolumeAttributesClassName",
            "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
        ];
        self.name == "VolumeAttributesClass" && self.accepts(&classes.map(|pointer| text(claim, pointer)))
    }

    /// Whether one of the names that are there is accepted, or that there is none.
    fn accepts(&self, names: &[&str]) -> bool {
        let mut names = names.iter().filter(|name| !name.is_empty()).peekable();
        let Some(values) = &self.values else { return names.peek().is_some() };
        let accepts = |name: Option<&str>| {
            let labels = name.map(|name| (self.name.clone(), Value::from(name))).into_iter().collect();
            values.matches(Some(&labels))
        };
        if names.peek().is_none() { accepts(None) } else { names.any(|name| accepts(Some(*name))) }
    }
}

// === what is asked for ===

/// What a pod does not ask for, though a quota bounds it, in upstream's words.
pub fn missing(bounds: &[&str], pod: &Value) -> Option<String> {
    let required: Vec<&str> = REQUIRED.into_iter().filter(|name| bounds.contains(name)).collect();
    let whole = compute(&Asked::by(pod.pointer("/spec/resources")));
    let mut faults = Vec::new();
    for name in required.into_iter().collect::<BTreeSet<_>>() {
        if whole.get(name).is_some() {
            continue;
        }
        let lacking: BTreeSet<&str> = resources::containers(pod)
            .filter(|container| compute(&Asked::by(container.get("resources"))).get(name).is_none())
            .map(|container| container["name"].as_str().unwrap_or_default())
            .collect();
        if !lacking.is_empty() {
            faults.push(format!("{name} for: {}", lacking.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    (!faults.is_empty()).then(|| format!("must specify {}", faults.join("; ")))
}

/// By the names of quotas.
fn compute(asked: &Asked) -> Amounts {
    let mut amounts = Amounts::default();
    let mut set = |name: String, amount: Quantity| amounts.0.insert(name, amount);
    for (name, amount) in &asked.requests.0 {
        let both = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if both || name.starts_with(HUGE_PAGES) {
            set(name.clone(), *amount);
        }
        if both || name.starts_with(HUGE_PAGES) || !is_native(name) {
            set(format!("{REQUESTS}{name}"), *amount);
        }
    }
    for (name, amount) in &asked.limits.0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            set(format!("limits.{name}"), *amount);
        }
    }
    amounts
}

/// Pods that are over, or should be gone, take nothing but their place in the count of objects.
fn pod_usage(pod: &Value, now: Timestamp, taken: &mut Amounts) {
    let over = matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
    let gone = meta::deletion_timestamp(pod).and_then(|time| time.parse::<Timestamp>().ok()).is_some_and(
        |deletion| {
            let grace = meta::deletion_grace_period_seconds(pod).unwrap_or(i64::MAX / 4);
            now.duration_since(deletion) > SignedDuration::from_secs(grace)
        },
    );
    if over || gone {
        return;
    }
    taken.0.insert("pods".to_owned(), Quantity::from_units(1));
    taken.add(&compute(&Asked::by_pod(pod)));
}

fn claim_usage(claim: &Value, taken: &mut Amounts) {
    let one = Quantity::from_units(1);
    let storage = |pointer: &str| Quantity::from_value(claim.pointer(pointer)?).ok().map(whole);
    let asked = storage("/spec/resources/requests/storage");
    // A claim that shrinks back from a growth that did not work still has what was set aside for it.
    let asked = asked.map(|asked| storage("/status/allocatedResources/storage").unwrap_or(asked).max(asked));
    let class = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(claim, "/spec/storageClassName"));
    for prefix in [String::new(), format!("{class}{STORAGE_CLASS}")] {
        if class.is_empty() && !prefix.is_empty() {
            continue;
        }
        taken.0.insert(format!("{prefix}persistentvolumeclaims"), one);
        if let Some(asked) = asked {
            taken.0.insert(format!("{prefix}requests.storage"), asked);
        }
    }
}

/// Rounded up to bytes.
fn whole(amount: Quantity) -> Quantity {
    if amount.is_integer() { amount } else { Quantity::from_units(amount.to_units()) }
}

fn service_usage(service: &Value, taken: &mut Amounts) {
    let count = |number: usize| Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX));
    let ports = items(service, "/spec/ports").count();
    let balanced = text(service, "/spec/type") == "LoadBalancer";
    let node_ports = match text(service, "/spec/type") {
        "NodePort" => ports,
        "LoadBalancer" if service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&false.into()) => {
            let given = |port: &&Value| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0;
            items(service, "/spec/ports").filter(given).count()
        }
        "LoadBalancer" => ports,
        _ => 0,
    };
    taken.0.insert("services".to_owned(), count(1));
    taken.0.insert("services.nodeports".to_owned(), count(node_ports));
    taken.0.insert("services.loadbalancers".to_owned(), count(usize::from(balanced)));
}

/// Kubernetes' own resources have no domain, or its domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    match text(pod, "/status/qosClass") {
        "" => {}
        class => return class == "BestEffort",
    }
    let asks = |asked: Asked| {
        let some = |amounts: &Amounts| {
            ["cpu", "memory"].iter().any(|name| amounts.get(name).is_some_and(|amount| !amount.is_zero()))
        };
        some(&asked.requests) || some(&asked.limits)
    };
    let whole = Asked::by(pod.pointer("/spec/resources"));
    !asks(whole) && !resources::containers(pod).any(|one| asks(Asked::by(one.get("resources"))))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        items(term, "/namespaces").next().is_some()
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = format!("/spec/affinity/{kind}");
        items(pod, &format!("{at}/requiredDuringSchedulingIgnoredDuringExecution")).any(crosses)
            || items(pod, &format!("{at}/preferredDuringSchedulingIgnoredDuringExecution"))
                .any(|term| term.get("podAffinityTerm").is_some_and(crosses))
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
