//! Limit ranges: what pods get that ask for nothing, and the bounds of what pods and claims may ask for (upstream's
//! `plugin/pkg/admission/limitranger`).

use async_trait::async_trait;
use machinery::meta;
use machinery::quantity::Quantity;
use machinery::resources::{self, Amounts, Asked};
use machinery::status::Status;
use serde_json::{Map, Value};

use super::{Operation, Plugin, Review};

/// Says on a pod what it got from a limit range.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if review.operation == Operation::Create && review.is("", "pods", "") {
            for range in ranges(review) {
                for item in limits(&range, "Container") {
                    set_defaults(object, item);
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let pod = review.is("", "pods", "") || review.is("", "pods", "resize");
        let claim = review.is("", "persistentvolumeclaims", "");
        let resized = review.operation == Operation::Update && (claim || review.cx.subresource == "resize");
        if !(pod || claim) || !(review.operation == Operation::Create || resized) {
            return Ok(());
        }
        let mut faults = Vec::new();
        for range in ranges(review) {
            if claim {
                for item in limits(&range, "PersistentVolumeClaim") {
                    check(
                        item,
                        "PersistentVolumeClaim",
                        &Asked::by(object.pointer("/spec/resources")),
                        &mut faults,
                    );
                }
                continue;
            }
            for item in limits(&range, "Container") {
                for container in resources::containers(object) {
                    check(item, "Container", &Asked::by(container.get("resources")), &mut faults);
                }
            }
            for item in limits(&range, "Pod") {
                check(item, "Pod", &Asked::by_pod(object), &mut faults);
            }
        }
        match faults.len() {
            0 => Ok(()),
            1 => Err(review.forbid(&faults[0])),
            _ => Err(review.forbid(&format!("[{}]", faults.join(", ")))),
        }
    }
}

fn ranges(review: &Review<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    review.cx.objects.for_each("", "limitranges", review.cx.namespace, |range| all.push(range));
    all
}

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let items = range.pointer("/spec/limits").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter(move |item| item["type"] == kind)
}

// === defaults ===

fn set_defaults(pod: &mut Value, item: &Value) {
    let mut told = Vec::new();
    let spec = meta::child_mut(meta::object_mut(pod), "spec");
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let resources = meta::child_mut(meta::object_mut(container), "resources");
            for (from, to, verb) in
                [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
            {
                let set = fill(resources, to, item.get(from));
                if !set.is_empty() {
                    told.push(format!("{} {verb} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

/// Sets what is not set, and says which resources those were.
fn fill(resources: &mut Map<String, Value>, field: &str, defaults: Option<&Value>) -> Vec<String> {
    let Some(defaults) = defaults.and_then(Value::as_object) else { return Vec::new() };
    let own = meta::child_mut(resources, field);
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| !own.contains_key(*name)).collect();
    let names = missing.iter().map(|(name, _)| (*name).clone()).collect();
    for (name, value) in missing {
        own.insert(name.clone(), value.clone());
    }
    names
}

// === bounds ===

/// Adds what is wrong with `asked` by one item of a limit range.
fn check(item: &Value, kind: &str, asked: &Asked, faults: &mut Vec<String>) {
    // Claims have no limits, so their maximum is one of requests.
    let by_request = kind == "PersistentVolumeClaim";
    let bound = |field: &str| Amounts::of(item.get(field)).0;
    for (name, min) in bound("min") {
        let text = format!("minimum {name} usage per {kind} is {min}");
        let (request, limit) = (asked.requests.get(&name), asked.limits.get(&name));
        match (request, limit) {
            (None, _) => faults.push(format!("{text}.  No request is specified")),
            (Some(request), _) if *request < min => faults.push(format!("{text}, but request is {request}")),
            (_, Some(limit)) if *limit < min => faults.push(format!("{text}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, max) in bound("max") {
        let text = format!("maximum {name} usage per {kind} is {max}");
        let (request, limit) = (asked.requests.get(&name), asked.limits.get(&name));
        match (request, limit) {
            (None, _) if by_request => faults.push(format!("{text}.  No request is specified")),
            (_, None) if !by_request => faults.push(format!("{text}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => faults.push(format!("{text}, but limit is {limit}")),
            (Some(request), _) if *request > max => faults.push(format!("{text}, but request is {request}")),
            _ => {}
        }
    }
    for (name, max) in bound("maxLimitRequestRatio") {
        check_ratio(&name, max, kind, asked, faults);
    }
}

fn check_ratio(name: &str, max: Quantity, kind: &str, asked: &Asked, faults: &mut Vec<String>) {
    let text = format!("{name} max limit to request ratio per {kind} is {max}");
    let given = |amounts: &Amounts| amounts.get(name).filter(|amount| !amount.is_zero()).copied();
    match (given(&asked.requests), given(&asked.limits)) {
        (None, _) => faults.push(format!("{text}, but no request is specified or request is 0")),
        (_, None) => faults.push(format!("{text}, but no limit is specified or limit is 0")),
        (Some(request), Some(limit)) => {
            let ratio = limit.ratio(request);
            if ratio > max.ratio(Quantity::from_units(1)) {
                faults.push(format!("{text}, but provided ratio is {ratio:.6}"));
            }
        }
    }
}
