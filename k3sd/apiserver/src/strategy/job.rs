//! Jobs.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Map, Value};

use super::pod_spec::validate_template;
use super::walk::{Faults, Node, default, default_zero, object_at, objects_in};
use super::workload::{default_template, fresh_status};
use super::{Context, SelectableField, Strategy};

/// Labels that tie pods to their job, as it is known now and as it was before v1.27.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Most pods of an indexed job.
const MAX_INDEXED_PODS: i64 = 100_000;

/// Jobs: pods that run to their end.
#[derive(Debug)]
pub(crate) struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        default_labels(object);
        if let Some(spec) = object_at(object, &["spec"]) {
            default_spec(spec);
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.batch.v1.Job");
        own_pods(object);
        default_labels(object);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        validate_spec(&spec, &mut faults);
        validate_ownership(object, &mut faults);
        faults.workload_selector(&spec, "empty selector is invalid for job");
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            let status = Node::root(object).get("status");
            ["active", "succeeded", "failed", "ready", "terminating"]
                .iter()
                .for_each(|field| faults.non_negative(&status.get(field)));
        } else {
            validate_spec(&Node::root(object).get("spec"), &mut faults);
            validate_change(object, old, &mut faults);
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// `batch/v1` garbage collects by default, but the old default of the kind was to orphan.
    fn orphans_by_default(&self) -> bool {
        false
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 1] =
            [SelectableField { name: "status.successful", path: &["status", "succeeded"], absent: "0" }];
        &FIELDS
    }
}

/// A job without labels has those of its template.
fn default_labels(object: &mut Value) {
    let labels =
        object.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object()).cloned();
    if let Some(labels) = labels {
        default(meta::metadata_mut(object), "labels", labels);
    }
}

fn default_spec(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    default_zero(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let policy = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_zero(spec, "podReplacementPolicy", policy);
    for rule in spec
        .get_mut("podFailurePolicy")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|p| objects_in(p, "rules"))
    {
        objects_in(rule, "onPodConditions").for_each(|pattern| default_zero(pattern, "status", "True"));
    }
}

/// The labels and selector that tie pods to this job, unless its maker takes care of that.
fn own_pods(object: &mut Value) {
    if object.pointer("/spec/manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let (uid, name) = (meta::uid(object).to_owned(), meta::name(object).to_owned());
    let Some(spec) = object_at(object, &["spec"]) else { return };
    let template = meta::child_mut(spec, "template");
    let labels = meta::child_mut(meta::child_mut(template, "metadata"), "labels");
    for key in UID_LABELS {
        labels.insert(key.to_owned(), uid.clone().into());
    }
    for key in NAME_LABELS {
        labels.insert(key.to_owned(), name.clone().into());
    }
    let wanted = meta::child_mut(meta::child_mut(spec, "selector"), "matchLabels");
    wanted.remove(UID_LABELS[1]);
    wanted.insert(UID_LABELS[0].to_owned(), uid.into());
}

/// A selector that its maker wrote without saying so would adopt the pods of others.
fn validate_ownership(object: &Value, faults: &mut Faults) {
    let spec = Node::root(object).get("spec");
    if spec.get("manualSelector").bool() {
        return;
    }
    let labels = spec.at("selector.matchLabels");
    if labels.entries().count() > 1 || spec.at("selector.matchExpressions").len() > 0 {
        faults.invalid(&spec.get("selector"), "`selector` not auto-generated");
    }
}

/// The spec of a job, in a job or in the template of a cron job.
pub(super) fn validate_spec(spec: &Node<'_>, faults: &mut Faults) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    counts.iter().for_each(|field| faults.non_negative(&spec.get(field)));
    let (mode, completions) = (spec.get("completionMode"), spec.get("completions"));
    faults.one_of_if_set(&mode, &["NonIndexed", "Indexed"]);
    if mode.str() == "Indexed" {
        if !completions.is_set() {
            faults.required(&completions, "when completion mode is Indexed");
        }
        if spec.get("parallelism").int().is_some_and(|n| n > MAX_INDEXED_PODS) {
            faults.invalid(
                &spec.get("parallelism"),
                "must be less than or equal to 100000 when completion mode is Indexed",
            );
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.get(field).is_set() {
                faults.invalid(&spec.get(field), "requires indexed completion mode");
            }
        }
    }
    validate_template(&spec.get("template"), faults);
    let policy = spec.at("template.spec.restartPolicy");
    match policy.str() {
        "" | "Always" => faults.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        _ => faults.one_of(&policy, &["OnFailure", "Never"]),
    }
    if spec.get("podFailurePolicy").is_set() && policy.str() != "Never" {
        let node = spec.get("podFailurePolicy");
        faults.push(FieldError::invalid(
            policy.path(),
            policy.str(),
            format!(
                "only \"Never\" is supported when {} is specified",
                node.path().rsplit('.').next().unwrap_or_default()
            ),
        ));
    }
    faults.one_of_if_set(&spec.get("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"]);
    if spec.get("podFailurePolicy").is_set()
        && spec.get("podReplacementPolicy").str() == "TerminatingOrFailed"
    {
        faults.one_of(&spec.get("podReplacementPolicy"), &["Failed"]);
    }
}

fn validate_change(object: &Value, old: &Value, faults: &mut Faults) {
    let (spec, before) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
    let resized = spec.get("completionMode").str() == "Indexed"
        && spec.get("completions").is_set()
        && spec.get("completions").int() == spec.get("parallelism").int();
    if !resized {
        faults.immutable(&spec.get("completions"), &before.get("completions"));
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "managedBy",
        "successPolicy",
    ] {
        faults.immutable(&spec.get(field), &before.get(field));
    }
    // Before the first start, where pods may run is still open.
    let unstarted = before.get("suspend").bool() && !Node::root(old).at("status.startTime").is_set();
    if !(unstarted && without_placement(&spec) == without_placement(&before)) {
        faults.immutable(&spec.get("template"), &before.get("template"));
    }
}

fn without_placement(spec: &Node<'_>) -> Value {
    let mut template = spec.get("template").value().clone();
    if let Some(pod) = object_at(&mut template, &["spec"]) {
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            pod.remove(field);
        }
    }
    if let Some(metadata) = object_at(&mut template, &["metadata"]) {
        for field in ["labels", "annotations"] {
            metadata.remove(field);
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(mut object: Value) -> Value {
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.batch.v1.Job",
            &mut object,
        );
        Job.default(&mut object);
        own_pods(&mut object);
        object
    }

    fn plain() -> Value {
        json!({"metadata": {"name": "once", "uid": "u-1"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}})
    }

    #[test]
    fn a_job_owns_its_pods_by_label() {
        let job = job(plain());
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
                "batch.kubernetes.io/job-name": "once", "job-name": "once"})
        );
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})
        );
        assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        let mut faults = Faults::default();
        validate_spec(&Node::root(&job).get("spec"), &mut faults);
        validate_ownership(&job, &mut faults);
        assert_eq!(faults.0, []);
    }

    #[test]
    fn a_job_needs_pods_that_end() {
        let mut object = plain();
        object["spec"]["template"]["spec"]["restartPolicy"] = Value::Null;
        let job = job(object);
        let mut faults = Faults::default();
        validate_spec(&Node::root(&job).get("spec"), &mut faults);
        assert_eq!(
            faults.0[0].to_string(),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        );
    }

    #[test]
    fn templates_of_jobs_stay_as_they_are() {
        let old = job(plain());
        let mut new = old.clone();
        new["spec"]["parallelism"] = 3.into();
        new["spec"]["suspend"] = true.into();
        let mut faults = Faults::default();
        validate_change(&new, &old, &mut faults);
        assert_eq!(faults.0, []);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        validate_change(&new, &old, &mut faults);
        assert_eq!(faults.0[0].field, "spec.template");
    }
}
