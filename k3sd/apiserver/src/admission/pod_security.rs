//! Pod security: namespaces say by labels what their pods may not do (upstream's `pod-security-admission`). Pods that break what
//! is enforced are refused; of what is only warned of, the answer's `Warning` headers tell, for everything with a pod template, too.
//! A namespace that becomes stricter is told which of its pods break the new rules.
//! The audit log is told which policy was enforced and what breaks the one that is to be audited.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;
use tokio::time::Instant;

use self::checks::{Violation, violations};
use self::configuration::Exemptions;
use self::policy::{Level, Policies, Policy};
use super::{Operation, Plugin, Review};

mod checks;
mod configuration;
mod policy;

pub(super) use self::configuration::Configuration;

/// Subresources of pods that cannot change what a pod may do.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Of a namespace that becomes stricter, no more pods are looked at,
const MAX_PODS: usize = 3000;
/// nor for longer than this,
const MAX_TIME: Duration = Duration::from_secs(1);
/// and after each so many, others get their turn.
const BATCH: usize = 50;

pub(super) struct PodSecurity(pub(super) Configuration);

#[async_trait]
impl Plugin for PodSecurity {
    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        if !matches!(review.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let resource = review.cx.resource;
        match (resource.group.as_str(), resource.plural.as_str()) {
            ("", "namespaces") if review.cx.subresource.is_empty() => self.namespace(review, object).await,
            ("", "pods") => self.pod(review, object),
            _ if !review.cx.subresource.is_empty() => Ok(()),
            (group, plural) => {
                if let Some(template) = template(group, plural).and_then(|pointer| object.pointer(pointer))
                    && !self.is_exempt(review, template)
                {
                    let policies = self.policies(review)?;
                    audit(review, policies.audit, template);
                    warn(review, policies.warn, template);
                }
                Ok(())
            }
        }
    }
}

/// Where a kind has its pod template.
fn template(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

impl PodSecurity {
    fn policies(&self, review: &Review<'_>) -> Result<Policies, Status> {
        let name = review.cx.namespace;
        let namespace = review.cx.objects.object("", "namespaces", "", name);
        let namespace =
            namespace.ok_or_else(|| Status::internal(format!("failed to lookup namespace {name}")))?;
        Ok(Policies::of(&namespace, &self.0.defaults).0)
    }

    /// Whether the pod, or what makes pods like it, is nobody's business.
    fn is_exempt(&self, review: &Review<'_>, pod: &Value) -> bool {
        let exemptions = &self.0.exemptions;
        let because = if exemptions.has_namespace(review.cx.namespace) {
            "namespace"
        } else if exemptions.has_user(&review.cx.user.name) {
            "user"
        } else if exemptions.has_runtime_class(pod) {
            "runtimeClass"
        } else {
            return false;
        };
        review.annotate("pod-security.kubernetes.io/exempt", || because.to_owned());
        true
    }

    fn pod(&self, review: &Review<'_>, pod: &Value) -> Result<(), Status> {
        if IGNORED.contains(&review.cx.subresource) || self.is_exempt(review, pod) {
            return Ok(());
        }
        let policies = self.policies(review)?;
        if policies.all_privileged() {
            return Ok(());
        }
        if review.old.is_some_and(|old| review.operation == Operation::Update && !is_significant(old, pod)) {
            return Ok(());
        }
        review.annotate("pod-security.kubernetes.io/enforce-policy", || policies.enforce.to_string());
        audit(review, policies.audit, pod);
        let found = violations(policies.enforce, pod);
        if !found.is_empty() {
            let detail = format!("violates PodSecurity \"{}\": {}", policies.enforce, details(&found));
            return Err(review.forbid(&detail));
        }
        warn(review, policies.warn, pod);
        Ok(())
    }

    async fn namespace(&self, review: &Review<'_>, namespace: &Value) -> Result<(), Status> {
        let of = |namespace: &Value| Policies::of(namespace, &self.0.defaults);
        let (policies, faults) = of(namespace);
        let before = review.old.map(of);
        // Labels that were wrong before may stay.
        let known = before.as_ref().is_some_and(|(_, old)| *old == faults);
        if !faults.is_empty() && !known {
            let kind = &review.cx.resource.kind;
            return Err(Status::invalid("", kind, review.name, faults));
        }
        if self.0.exemptions.has_namespace(review.name) {
            let said = policies.said();
            if !said.is_empty()
                && policies != self.0.defaults
                && before.is_none_or(|(old, _)| old != policies)
            {
                review.notes.warn(format!(
                    "namespace \"{}\" is exempt from Pod Security, and the policy ({said}) will be ignored",
                    review.name
                ));
            }
            return Ok(());
        }
        let Some((old, _)) = before else { return Ok(()) };
        let (new, old) = (policies.enforce, old.enforce);
        let relaxed = new.version == old.version && new.level <= old.level;
        if new.level == Level::Privileged || relaxed {
            return Ok(());
        }
        for warning in breaches(review, new, &self.0.exemptions).await {
            review.notes.warn(warning);
        }
        Ok(())
    }
}

// === pods ===

fn warn(review: &Review<'_>, policy: Policy, pod: &Value) {
    let found = violations(policy, pod);
    if !found.is_empty() {
        review.notes.warn(format!("would violate PodSecurity \"{policy}\": {}", details(&found)));
    }
}

fn audit(review: &Review<'_>, policy: Policy, pod: &Value) {
    // Without somebody to tell there is no need to look.
    let found = if review.trail.is_some() { violations(policy, pod) } else { Vec::new() };
    if !found.is_empty() {
        review.annotate("pod-security.kubernetes.io/audit-violations", || {
            format!("would violate PodSecurity \"{policy}\": {}", details(&found))
        });
    }
}

fn details(found: &[Violation]) -> String {
    let texts = found.iter().map(|one| match one.detail.as_str() {
        "" => one.reason.to_owned(),
        detail => format!("{} ({detail})", one.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// Whether an update changes anything that checks look at. Of what may be changed, that is images, containers and annotations.
fn is_significant(old: &Value, new: &Value) -> bool {
    let same_annotation = |key: &str| meta::annotation(old, key) == meta::annotation(new, key);
    let containers = |pod: &Value, field: &str| -> Vec<Value> {
        pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let changed = |old: &Value, new: &Value| {
        let name = new["name"].as_str().unwrap_or_default();
        old["image"] != new["image"] || !same_annotation(&format!("{SECCOMP_CONTAINER}{name}"))
    };
    if !same_annotation(SECCOMP_POD) {
        return true;
    }
    for field in ["containers", "initContainers"] {
        let (old, new) = (containers(old, field), containers(new, field));
        if old.len() != new.len() || old.iter().zip(&new).any(|(old, new)| changed(old, new)) {
            return true;
        }
    }
    let before = containers(old, "ephemeralContainers");
    containers(new, "ephemeralContainers").iter().any(|new| {
        let old = before.iter().find(|old| old["name"] == new["name"]);
        old.is_none_or(|old| changed(old, new))
    })
}

// === namespaces ===

/// How the namespace's pods break a policy that they were not made under.
async fn breaches(review: &Review<'_>, policy: Policy, exempt: &Exemptions) -> Vec<String> {
    let tables = review.cx.objects.tables();
    let Some(cache) = tables.find_any("", "pods").and_then(|entry| entry.cache.as_ref()) else {
        return Vec::new();
    };
    let pods = cache.page(&format!("{}/", review.name), None, 0, |_, _| true).items;
    let total = pods.len();
    let pods = pods.into_iter().filter_map(|(_, object)| object.decode().ok());
    let deadline = Instant::now() + MAX_TIME;
    // By what is wrong: the first pod by name, and how many.
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut checked = 0;
    for pod in different_first(pods.collect()).into_iter().take(MAX_PODS) {
        checked += 1;
        let found_here = if exempt.has_runtime_class(&pod) { Vec::new() } else { violations(policy, &pod) };
        let reasons: Vec<&str> = found_here.iter().map(|one| one.reason).collect();
        if !reasons.is_empty() {
            let name = meta::name(&pod).to_owned();
            let (first, count) = found.entry(reasons.join(", ")).or_insert_with(|| (name.clone(), 0));
            *count += 1;
            if name < *first {
                *first = name;
            }
        }
        if checked % BATCH == 0 {
            tokio::task::yield_now().await;
        }
        if Instant::now() > deadline {
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{policy}\"",
            review.name
        ));
    }
    let mut by_pod: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            _ => format!("{first} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    by_pod.sort();
    warnings.extend(by_pod);
    warnings
}

/// One pod of each controller before all the others, which are like it.
fn different_first(pods: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let (mut first, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| {
        meta::controller_of(pod)
            .is_none_or(|owner| seen.insert(owner["uid"].as_str().unwrap_or_default().to_owned()))
    });
    first.extend(others);
    first
}
