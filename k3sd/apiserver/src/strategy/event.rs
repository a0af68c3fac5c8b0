//! Events, in both of their forms: they vanish after an hour (upstream's `--event-ttl`).

use std::time::Duration;

use machinery::convert;
use machinery::status::FieldError;
use serde_json::Value;

use super::walk::{Faults, Node};
use super::{Context, SelectableField, Strategy};
use crate::names;

const TTL: Duration = Duration::from_secs(3600);

/// What an update through `events.k8s.io` leaves as it is: everything but the series.
const FIXED: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    REPORTER,
    "reportingInstance",
];
/// The reporter as stored. Upstream names it in this group by another name.
const REPORTER: &str = "reportingComponent";
const MAX_WORD: usize = 128;
const MAX_NOTE: usize = 1024;

pub(super) struct Event;

impl Strategy for Event {
    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let core = in_core(cx, object);
        let event = Node::root(&core);
        legacy(cx, &event, &mut faults);
        if !is_new(cx) {
            return faults.0;
        }
        series(&event, &mut faults);
        if !event.get("eventTime").is_set() {
            faults.required(&event.get("eventTime"), "");
        }
        let kind = event.get("type").str();
        if !matches!(kind, "Normal" | "Warning") {
            faults.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            let node = event.get(field);
            let source = node.object().is_some_and(|source| source.values().all(|part| part == ""));
            if node.is_set() && node.int() != Some(0) && !source {
                faults.push(FieldError::invalid(field, "", "needs to be unset"));
            }
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let (core, old) = (in_core(cx, object), in_core(cx, old));
        let (event, before) = (Node::root(&core), Node::root(&old));
        legacy(cx, &event, &mut faults);
        if !is_new(cx) {
            return faults.0;
        }
        if event.get("series").value() != before.get("series").value() {
            series(&event, &mut faults);
        }
        for field in FIXED {
            let (new, old) = (event.get(field), before.get(field));
            let path = if field == REPORTER { reporter_path(cx) } else { field };
            faults.immutable(&new.renamed(path), &old);
        }
        faults.0
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn ttl(&self, _object: &Value) -> Option<Duration> {
        Some(TTL)
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 12] = [
            SelectableField::text("involvedObject.kind", &["involvedObject", "kind"]),
            SelectableField::text("involvedObject.namespace", &["involvedObject", "namespace"]),
            SelectableField::text("involvedObject.name", &["involvedObject", "name"]),
            SelectableField::text("involvedObject.uid", &["involvedObject", "uid"]),
            SelectableField::text("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
            SelectableField::text("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
            SelectableField::text("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
            SelectableField::text("reason", &["reason"]),
            SelectableField::text("reportingComponent", &["reportingComponent"]),
            SelectableField::text("source", &["source", "component"]),
            SelectableField::text("type", &["type"]),
            SelectableField::text("message", &["message"]),
        ];
        &FIELDS
    }
}

/// The form that faults are named after, whichever was sent.
fn in_core(cx: &Context<'_>, object: &Value) -> Value {
    let mut object = object.clone();
    convert::to_storage(cx.resource, &mut object);
    object
}

/// True for the newer of the two groups, which is strict.
fn is_new(cx: &Context<'_>) -> bool {
    !cx.resource.group.is_empty()
}

/// How faults name the reporter.
fn reporter_path(cx: &Context<'_>) -> &'static str {
    if is_new(cx) { "reportingController" } else { REPORTER }
}

fn series(event: &Node<'_>, faults: &mut Faults) {
    let series = event.get("series");
    if !series.is_set() {
        return;
    }
    if series.get("count").int().unwrap_or(0) < 2 {
        faults.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if !series.get("lastObservedTime").is_set() {
        faults.required(&series.get("lastObservedTime"), "");
    }
}

/// What holds for events of either group (upstream's `legacyValidateEvent`).
fn legacy(cx: &Context<'_>, event: &Node<'_>, faults: &mut Faults) {
    let about = event.at("involvedObject.namespace");
    let system = matches!(cx.namespace, "default" | "kube-system");
    let home = match (about.str(), event.get("eventTime").is_set()) {
        // Events about nodes and other cluster-wide things live in `default`, new ones also where the reporter works.
        ("", false) => cx.namespace == "default",
        ("", true) => system,
        (_, true) => true,
        (namespace, false) => namespace == cx.namespace,
    };
    if !home {
        faults.push(FieldError::invalid(about.path(), about.str(), "does not match event.namespace"));
    }
    if event.get("eventTime").is_set() {
        words(cx, event, faults);
    }
}

fn words(cx: &Context<'_>, event: &Node<'_>, faults: &mut Faults) {
    let reporter = event.get(REPORTER).str();
    let path = reporter_path(cx);
    if reporter.is_empty() {
        faults.push(FieldError::required(path, ""));
    }
    for detail in names::qualified_name(reporter) {
        faults.push(FieldError::invalid(path, reporter, detail));
    }
    for (field, limit, required) in [
        ("reportingInstance", MAX_WORD, true),
        ("action", MAX_WORD, true),
        ("reason", MAX_WORD, true),
        ("message", MAX_NOTE, false),
    ] {
        let node = event.get(field);
        if required && node.str().is_empty() {
            faults.required(&node, "");
        }
        if node.str().len() > limit {
            faults.push(FieldError::invalid(field, "", format!("can have at most {limit} characters")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    fn note(change: impl FnOnce(&mut Value)) -> Result<Value, Vec<String>> {
        let mut event = json!({ "metadata": { "name": "x" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "regarding": { "namespace": "default" }, "reason": "R", "action": "A", "reportingController": "c.io/c",
            "reportingInstance": "i" });
        change(&mut event);
        World::new().create_in("events.k8s.io", "v1", "events", event).map_err(|refusal| refusal.texts())
    }

    #[test]
    fn new_events_are_whole() {
        assert!(note(|_| {}).is_ok());
        assert_eq!(
            note(|event| {
                event["type"] = "Odd".into();
                event["action"] = "".into();
                event["note"] = "n".repeat(1025).into();
                event["reportingController"] = "".into();
                event["deprecatedCount"] = 3.into();
                event["series"] = json!({ "count": 1 });
            })
            .expect_err("refused")
            .into_iter()
            .filter(|text| !text.contains("name part"))
            .collect::<Vec<_>>(),
            [
                "reportingController: Required value",
                "action: Required value",
                "message: Invalid value: \"\": can have at most 1024 characters",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ]
        );
    }

    #[test]
    fn only_the_series_of_a_new_event_goes_on() {
        let old = note(|_| {}).expect("valid");
        let strategy = Event;
        let world = World::new();
        let change = |change: fn(&mut Value)| {
            world.update_in("events.k8s.io", "v1", "events", &old, change).map_err(|refusal| refusal.texts())
        };
        assert!(strategy.allow_create_on_update());
        assert!(
            change(|event| {
                event["series"] = json!({ "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" });
            })
            .is_ok()
        );
        assert_eq!(
            change(|event| event["reason"] = "S".into()).expect_err("fixed"),
            ["reason: Invalid value: \"S\": field is immutable"]
        );
        assert_eq!(
            change(|event| {
                event["reportingController"] = "c.io/other".into();
                event["reportingInstance"] = "j".into();
            })
            .expect_err("fixed"),
            [
                "reportingController: Invalid value: \"c.io/other\": field is immutable",
                "reportingInstance: Invalid value: \"j\": field is immutable",
            ]
        );
    }

    #[test]
    fn old_events_are_where_their_objects_are() {
        let event = |namespace: &str| json!({ "metadata": { "name": "x" }, "involvedObject": { "namespace": namespace } });
        assert!(World::new().create("", "events", event("default")).is_ok());
        assert!(World::new().create("", "events", event("")).is_ok());
        assert_eq!(
            World::new().create("", "events", event("other")).expect_err("elsewhere").texts(),
            ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
        );
    }
}
