//! The rules of ownership, each as a small story: who does what, and who owns what afterwards.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::managed::{Managed, is_reset, manager_from_user_agent};
use super::path::PathElement;
use super::*;
use crate::schema::builtin;

const DEPLOYMENT: &str = "api.apps.v1.Deployment";
const CONFIG_MAP: &str = "api.core.v1.ConfigMap";

/// An object that managers write to, one after the other.
#[derive(Clone)]
struct Story {
    version: OneVersion<'static>,
    live: Option<Value>,
    clock: u32,
}

impl Story {
    fn of(type_name: &str, api_version: &'static str) -> Self {
        let ty = builtin().get(type_name).expect("a type");
        Self { version: OneVersion { api_version, ty }, live: None, clock: 0 }
    }

    fn deployment() -> Self {
        Self::of(DEPLOYMENT, "apps/v1")
    }

    fn config_map() -> Self {
        Self::of(CONFIG_MAP, "v1")
    }

    fn manager<'a>(&'a self, subresource: &'a str) -> FieldManager<'a> {
        let reset = match subresource {
            "status" => Reset::AllBut(&[&["metadata"], &["status"]]),
            _ => Reset::These(&[&["status"]]),
        };
        FieldManager { versions: &self.version, api_version: self.version.api_version, subresource, reset }
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        format!("2026-01-01T00:00:{:02}Z", self.clock)
    }

    fn update_in(&mut self, subresource: &str, name: &str, after: Value) -> &mut Self {
        let now = self.now();
        let managed = self.managed();
        let managed = self.manager(subresource).update(self.live.as_ref(), &after, managed, name, &now);
        self.store(after, managed)
    }

    fn update(&mut self, name: &str, after: Value) -> &mut Self {
        self.update_in("", name, after)
    }

    fn try_apply(&mut self, name: &str, config: &Value, force: bool) -> Result<&mut Self, ApplyError> {
        let now = self.now();
        let how = Applying { manager: name, force, now: &now };
        let applied = self.manager("").apply(self.live.as_ref(), config, how)?;
        Ok(self.store(applied.object, applied.managed))
    }

    fn apply(&mut self, name: &str, config: Value) -> &mut Self {
        self.try_apply(name, &config, false).expect("no conflict")
    }

    fn conflict(&mut self, name: &str, config: &Value) -> String {
        let Err(error) = self.try_apply(name, config, false) else { panic!("no conflict") };
        Status::from(error).message
    }

    fn store(&mut self, mut object: Value, managed: Managed) -> &mut Self {
        let metadata = meta::metadata_mut(&mut object);
        match managed.encode() {
            Some(entries) => metadata.insert("managedFields".to_owned(), entries),
            None => metadata.remove("managedFields"),
        };
        self.live = Some(object);
        self
    }

    fn managed(&self) -> Managed {
        let entries = self.live.as_ref().and_then(|live| live.pointer("/metadata/managedFields"));
        Managed::decode(entries.cloned()).expect("our own")
    }

    /// Without `managedFields`.
    fn object(&self) -> Value {
        without_managed_fields(self.live.as_ref().expect("an object")).0
    }

    /// `MANAGER OPERATION [SUBRESOURCE]: PATHS`, one line each.
    fn owners(&self) -> Vec<String> {
        let mut owners: Vec<String> = self
            .managed()
            .entries
            .iter()
            .map(|entry| {
                let Manager { name, operation, subresource } = &entry.manager;
                let on = if subresource.is_empty() { String::new() } else { format!(" {subresource}") };
                format!("{name} {operation:?}{on}: {}", entry.set().paths().join(" "))
            })
            .collect();
        owners.sort();
        owners
    }

    fn time_of(&self, name: &str) -> String {
        let managed = self.managed();
        managed.entries.iter().find(|entry| entry.manager.name == name).expect("an entry").time.clone()
    }
}

fn config_map(data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data })
}

fn web(spec: &Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" }, "spec": spec })
}

fn containers(containers: &Value) -> Value {
    web(&json!({ "template": { "spec": { "containers": containers } } }))
}

#[test]
fn an_applier_owns_what_it_says_and_no_more() {
    let mut story = Story::deployment();
    story.apply(
        "me",
        web(&json!({ "replicas": 3, "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }] }] } } })),
    );
    assert_eq!(
        story.owners(),
        [concat!(
            "me Apply: .spec.replicas .spec.selector .spec.template.metadata.labels.app ",
            r#".spec.template.spec.containers[name="c"] "#,
            r#".spec.template.spec.containers[name="c"].image .spec.template.spec.containers[name="c"].name "#,
            r#".spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"] "#,
            r#".spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].containerPort"#
        )]
    );
}

#[test]
fn what_is_no_longer_applied_and_nobody_elses_is_removed() {
    let mut story = Story::config_map();
    story.apply("a", config_map(&json!({ "one": "1", "two": "2", "shared": "s" })));
    story.apply("b", config_map(&json!({ "shared": "s", "three": "3" })));
    story.apply("a", config_map(&json!({ "one": "1" })));
    assert_eq!(story.object()["data"], json!({ "one": "1", "shared": "s", "three": "3" }));
    assert_eq!(story.owners(), ["a Apply: .data.one", "b Apply: .data.shared .data.three"]);
    story.apply("b", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } }));
    assert_eq!(story.object()["data"], json!({ "one": "1" }));
    assert_eq!(story.owners(), ["a Apply: .data.one"]);
}

#[test]
fn what_an_updater_added_stays_when_an_applier_leaves() {
    let mut story = Story::config_map();
    story.apply("a", config_map(&json!({ "one": "1" })));
    let mut object = story.object();
    object["data"]["two"] = json!("2");
    story.update("u", object);
    story.apply("a", config_map(&json!({ "other": "3" })));
    assert_eq!(story.object()["data"], json!({ "other": "3", "two": "2" }));
    // It took a field over: then it is its own.
    let mut object = story.object();
    object["data"]["other"] = json!("4");
    story.update("u", object);
    assert_eq!(story.owners(), ["u Update: .data.other .data.two"]);
}

#[test]
fn who_applies_another_value_than_the_owners_is_told_whose_it_is() {
    let mut story = Story::deployment();
    story.update("kubectl-client-side-apply", web(&json!({ "replicas": 1, "paused": true })));
    assert_eq!(
        story.conflict("me", &web(&json!({ "replicas": 3 }))),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let Err(error) = story.try_apply("me", &web(&json!({ "replicas": 3 })), false) else {
        panic!("no conflict")
    };
    let status = Status::from(error).to_value();
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("Conflict")));
    assert_eq!(
        status["details"]["causes"],
        json!([{ "reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1" }])
    );
}

#[test]
fn conflicts_with_several_are_listed_by_owner() {
    let mut story = Story::config_map();
    story.apply("b", config_map(&json!({ "one": "1", "two": "2" })));
    story.apply("a", config_map(&json!({ "two": "2" })));
    story.update_in("status", "s", config_map(&json!({ "one": "1", "two": "2" })));
    assert_eq!(
        story.conflict("me", &config_map(&json!({ "one": "x", "two": "y" }))),
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .data.two\nconflicts with \"b\":\n- .data.one\n- .data.two"
    );
}

#[test]
fn force_takes_fields_from_their_owners() {
    let mut story = Story::config_map();
    story.apply("a", config_map(&json!({ "one": "1", "two": "2" })));
    story.try_apply("b", &config_map(&json!({ "two": "x" })), true).expect("forced");
    assert_eq!(story.object()["data"], json!({ "one": "1", "two": "x" }));
    assert_eq!(story.owners(), ["a Apply: .data.one", "b Apply: .data.two"]);
}

#[test]
fn the_same_value_is_owned_together_without_conflict() {
    let mut story = Story::config_map();
    story.apply("a", config_map(&json!({ "one": "1" }))).apply("b", config_map(&json!({ "one": "1" })));
    assert_eq!(story.owners(), ["a Apply: .data.one", "b Apply: .data.one"]);
    assert!(
        story.conflict("a", &config_map(&json!({ "one": "2" }))).ends_with("conflict with \"b\": .data.one")
    );
}

#[test]
fn equal_quantities_are_no_conflict_however_they_are_written() {
    let pod = |cpu: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } })
    };
    let mut story = Story::of("api.core.v1.Pod", "v1");
    story.apply("a", pod("1")).apply("b", pod("1000m"));
    assert_eq!(story.object()["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
}

#[test]
fn list_elements_are_owned_and_removed_one_by_one() {
    let mut story = Story::deployment();
    story.apply("a", containers(&json!([{ "name": "one", "image": "1" }, { "name": "two", "image": "2" }])));
    story.apply("b", containers(&json!([{ "name": "two", "tty": true }, { "name": "three", "image": "3" }])));
    story.apply("a", containers(&json!([{ "name": "two", "image": "2b" }])));
    assert_eq!(
        story.object().pointer("/spec/template/spec/containers"),
        Some(&json!([{ "name": "two", "image": "2b", "tty": true }, { "name": "three", "image": "3" }]))
    );
    // Gone with its last field, though nobody ever named the list.
    story.apply("a", web(&json!({ "replicas": 1 })));
    story.apply("b", web(&json!({ "replicas": 1 })));
    assert_eq!(story.object()["spec"], json!({ "replicas": 1 }));
}

#[test]
fn elements_that_only_the_object_has_keep_their_place_among_the_applied() {
    let names = |list: &[&str]| list.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
    for (live, applied, merged) in [
        (vec!["a", "b"], vec!["x"], vec!["a", "b", "x"]),
        (vec!["a", "b", "c"], vec!["c", "a"], vec!["b", "c", "a"]),
        (vec!["a", "b", "c"], vec!["x", "c"], vec!["a", "b", "x", "c"]),
        (vec!["a", "b"], vec!["a", "x"], vec!["a", "b", "x"]),
        (vec!["a", "b", "c", "d"], vec!["c", "x", "a"], vec!["b", "c", "d", "x", "a"]),
        (vec!["a", "b", "c"], vec!["a", "c"], vec!["a", "b", "c"]),
    ] {
        let ty = builtin().get(DEPLOYMENT).expect("a type");
        let object =
            merge::merge(ty, &containers(&json!(names(&live))), &containers(&json!(names(&applied))));
        assert_eq!(object, containers(&json!(names(&merged))), "{live:?} with {applied:?}");
    }
}

#[test]
fn sets_are_owned_value_by_value_and_atomic_lists_whole() {
    let object = |finalizers: Value, args: Value| {
        let mut object = containers(&json!([{ "name": "c", "args": args }]));
        object["metadata"]["finalizers"] = finalizers;
        object
    };
    let mut story = Story::deployment();
    story.apply("a", object(json!(["x/a", "x/both"]), json!(["1"])));
    let conflict = story.conflict("b", &object(json!(["x/b", "x/both"]), json!(["2"])));
    assert!(
        conflict.ends_with(r#"conflict with "a": .spec.template.spec.containers[name="c"].args"#),
        "{conflict}"
    );
    story.apply("b", object(json!(["x/b", "x/both"]), json!(["1"])));
    story.apply("a", object(json!([]), json!(["1"])));
    assert_eq!(story.object()["metadata"]["finalizers"], json!(["x/b", "x/both"]));
}

#[test]
fn an_update_moves_ownership_only_of_what_it_changes() {
    let mut story = Story::config_map();
    story.update("a", config_map(&json!({ "one": "1", "two": "2" })));
    story.update("b", config_map(&json!({ "one": "1", "two": "x" })));
    assert_eq!(story.owners(), ["a Update: .data .data.one", "b Update: .data.two"]);
    story.update("b", config_map(&json!({ "two": "x" })));
    assert_eq!(story.owners(), ["a Update: .data", "b Update: .data.two"]);
}

#[test]
fn a_write_that_changes_nothing_changes_no_entry() {
    let mut story = Story::config_map();
    let same = config_map(&json!({ "one": "1" }));
    story.update("a", same.clone());
    let before = story.live.clone();
    story.update("b", same.clone()).update("a", same.clone());
    assert_eq!(story.live, before);
    story.apply("c", same.clone());
    let time = story.time_of("c");
    story.apply("c", same);
    assert_eq!(story.time_of("c"), time, "an apply that changes nothing");
    story.apply("c", config_map(&json!({ "one": "1", "two": "2" })));
    assert_ne!(story.time_of("c"), time);
}

#[test]
fn the_time_of_an_entry_is_that_of_its_last_change() {
    let mut story = Story::config_map();
    story.update("a", config_map(&json!({ "one": "1", "two": "1" })));
    let first = story.time_of("a");
    story.update("b", config_map(&json!({ "one": "2", "two": "1" })));
    assert_eq!(story.time_of("a"), first, "losing a field is no change of its own");
    story.update("a", config_map(&json!({ "one": "2", "two": "3" })));
    assert_ne!(story.time_of("a"), first, "a new value is");
}

#[test]
fn names_of_the_object_and_what_the_server_counts_are_nobodys() {
    let mut story = Story::config_map();
    let mut object = config_map(&Value::Null);
    object["metadata"] = json!({ "name": "m", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "a": "b" } });
    object["data"] = json!({ "one": "1" });
    story.update("a", object);
    assert_eq!(story.owners(), ["a Update: .data .data.one .metadata.labels .metadata.labels.a"]);
}

#[test]
fn a_new_object_is_owned_as_upstream_owns_it() {
    let mut story = Story::deployment();
    story.update(
        "kubectl-create",
        web(&json!({ "replicas": 1, "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [
                { "name": "c", "image": "i", "resources": {}, "ports": [{ "containerPort": 80, "protocol": "TCP" }] }] } } })),
    );
    // What `kubectl create deployment` leaves behind under upstream, with the fields above.
    assert_eq!(
        story.live.as_ref().and_then(|live| live.pointer("/metadata/managedFields/0/fieldsV1")),
        Some(&json!({ "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:strategy": { "f:rollingUpdate": { ".": {}, "f:maxSurge": {} }, "f:type": {} },
            "f:template": {
                "f:metadata": { "f:labels": { ".": {}, "f:app": {} } },
                "f:spec": { "f:containers": { "k:{\"name\":\"c\"}": { ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": { ".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                        { ".": {}, "f:containerPort": {}, "f:protocol": {} } },
                    "f:resources": {} } } } } } }))
    );
}

#[test]
fn the_first_apply_to_an_object_that_nobody_tracked_names_an_owner_of_the_rest() {
    let mut story = Story::config_map();
    story.live = Some(config_map(&json!({ "one": "1", "two": "2" })));
    let refused = story.conflict("me", &config_map(&json!({ "one": "x" })));
    assert!(refused.ends_with("conflict with \"before-first-apply\" using v1: .data.one"), "{refused}");
    story.apply("me", config_map(&json!({ "one": "1" })));
    assert_eq!(
        story.owners(),
        ["before-first-apply Update: .data .data.one .data.two", "me Apply: .data.one"]
    );
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_set() {
    let mut story = Story::deployment();
    let mut object = web(&json!({ "replicas": 1, "paused": true }));
    let last = web(&json!({ "replicas": 1, "paused": true, "minReadySeconds": 5 })).to_string();
    object["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/last-applied-configuration": last });
    object["spec"]["minReadySeconds"] = json!(9);
    story.update("kubectl-client-side-apply", object);
    assert!(story.conflict("other", &web(&json!({ "replicas": 3 }))).contains(".spec.replicas"));
    let config = web(&json!({ "replicas": 3 }));
    story.apply("kubectl", config.clone());
    assert_eq!(story.object()["spec"]["replicas"], 3);
    let annotation =
        story.object()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].clone();
    assert_eq!(
        annotation.as_str().map(|text| serde_json::from_str::<Value>(text).expect("JSON")),
        Some(config)
    );
    // Somebody changed that one since: it is no longer what kubectl applied.
    let refused = story.conflict("kubectl", &web(&json!({ "replicas": 4, "minReadySeconds": 1 })));
    assert!(refused.contains(".spec.minReadySeconds"), "{refused}");
}

#[test]
fn what_a_request_does_not_write_it_does_not_own() {
    let mut story = Story::deployment();
    let mut object = web(&json!({ "replicas": 1 }));
    object["status"] = json!({ "replicas": 1 });
    story.apply("a", object.clone());
    assert_eq!(story.owners(), ["a Apply: .spec.replicas"]);
    object["spec"]["replicas"] = json!(2);
    object["status"]["replicas"] = json!(2);
    story.update_in("status", "c", object);
    assert_eq!(story.owners(), ["a Apply: .spec.replicas", "c Update status: .status.replicas"]);
}

#[test]
fn a_configuration_that_does_not_fit_its_type_is_refused() {
    let mut story = Story::deployment();
    for (spec, fault) in [
        (json!({ "replicass": 1 }), ".spec.replicass: field not declared in schema"),
        (json!({ "replicas": "1" }), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({ "selector": { "matchLabels": [] } }), ".spec.selector.matchLabels: expected map, got []"),
        (
            json!({ "template": { "spec": { "containers": [{ "name": "c" }, { "name": "c" }] } } }),
            r#".spec.template.spec.containers: duplicate entries for key [name="c"]"#,
        ),
    ] {
        let Err(error) = story.try_apply("me", &web(&spec), true) else { panic!("accepted {spec}") };
        let text = error.to_string();
        assert_eq!(
            text,
            format!("failed to create typed patch object (default/web; apps/v1, Kind=Deployment): {fault}")
        );
    }
    let config = json!({ "metadata": { "name": "m", "managedFields": [] } });
    assert!(matches!(story.try_apply("me", &config, true), Err(ApplyError::ManagedFields)));
}

#[test]
fn entries_of_versions_that_are_gone_go_with_the_next_change() {
    let mut story = Story::config_map();
    story.update("a", config_map(&json!({ "one": "1" })));
    let mut managed = story.managed();
    managed.entries.push(Entry::new(
        Manager::update("old", ""),
        "v1beta1",
        &Set::of_fields(&[&["data", "one"]]),
    ));
    let object = story.object();
    story.store(object.clone(), managed);
    story.update("a", object);
    assert_eq!(story.managed().entries.len(), 2, "nothing changed");
    story.update("a", config_map(&json!({ "one": "2" })));
    assert_eq!(story.owners(), ["a Update: .data .data.one"]);
}

#[test]
fn whole_values_are_owned_whole_when_the_schema_came_to_say_so() {
    let mut story = Story::deployment();
    let selector = json!({ "matchLabels": { "app": "web" } });
    story.apply("a", web(&json!({ "selector": selector })));
    let mut managed = story.managed();
    managed.entries[0].set_paths(&Set::of_fields(&[&["spec", "selector", "matchLabels", "app"]]));
    let object = story.object();
    story.store(object, managed);
    story.apply("b", web(&json!({ "selector": selector })));
    assert_eq!(story.owners(), ["a Apply: .spec.selector", "b Apply: .spec.selector"]);
}

#[test]
fn the_scale_of_an_object_shares_one_field_with_it() {
    let mut story = Story::deployment();
    story.apply("a", web(&json!({ "replicas": 1, "paused": true })));
    let parent = story.managed();
    let mut scale = scale::to_scale(&parent);
    assert_eq!((scale.entries.len(), scale.entries[0].api_version.as_str()), (1, "autoscaling/v1"));
    assert_eq!(scale::to_parent(parent.clone(), &scale, "apps/v1"), parent, "nothing was written");
    let replicas = Set::of_fields(&[&["spec", "replicas"]]);
    scale.entries = vec![Entry::new(Manager::update("hpa", "scale"), "autoscaling/v1", &replicas)];
    let object = story.object();
    story.store(object, scale::to_parent(parent, &scale, "apps/v1"));
    assert_eq!(story.owners(), ["a Apply: .spec.paused", "hpa Update scale: .spec.replicas"]);
}

#[test]
fn a_manager_without_a_name_has_that_of_its_program() {
    assert_eq!(manager_from_user_agent("kubectl/v1.36.0 (linux/amd64)"), "kubectl");
    assert_eq!(manager_from_user_agent("a\u{7}b c/1"), "ab c");
    assert_eq!(manager_from_user_agent(&"x".repeat(500)).len(), managed::MANAGER_MAX_BYTES);
    assert_eq!(managed::unprintable("a\u{7}"), ["invalid character U+0007 (at position 1)"]);
    assert_eq!(Manager::update("", "").name, "unknown");
}

#[test]
fn an_empty_list_or_entry_asks_to_forget_all_owners() {
    assert!(is_reset(&json!([])) && is_reset(&json!([{}])));
    assert!(!is_reset(&json!([{}, {}])) && !is_reset(&Value::Null));
    for nonsense in [
        json!([{ "operation": "Patch", "apiVersion": "v1", "fieldsType": "FieldsV1" }]),
        json!([{ "operation": "Apply", "fieldsType": "FieldsV1" }]),
        json!([{ "operation": "Apply", "apiVersion": "v1" }]),
        json!([{ "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2" }]),
        json!([{ "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": { "name": {} } }]),
    ] {
        assert!(Managed::decode_foreign(nonsense.clone()).is_err(), "{nonsense}");
    }
}

#[test]
fn fields_are_written_in_the_order_of_their_elements() {
    let text =
        r#"{"f:b":{".":{},"k:{\"port\":80}":{},"k:{\"port\":443}":{".":{},"f:a":{}}},"f:c":{"v:1":{}}}"#;
    let set = Set::from_fields(&serde_json::from_str(text).expect("JSON")).expect("fields");
    assert_eq!(set.to_text(), text);
    assert_eq!(set.paths(), [".b", ".b[port=80]", ".b[port=443]", ".b[port=443].a", ".c[=1]"]);
}

// === properties ===

/// Sets of few names, so that they overlap.
fn sets() -> impl Strategy<Value = Set> {
    let element = prop_oneof![
        "[abc]".prop_map(PathElement::Field),
        "[ab]".prop_map(|name| PathElement::Key(vec![("name".to_owned(), json!(name))])),
        (0..3i64).prop_map(|n| PathElement::Value(json!(n))),
        Just(PathElement::Value(json!("<é\"&"))),
    ];
    prop::collection::vec(prop::collection::vec(element, 1..4), 0..8).prop_map(|paths| {
        let mut set = Set::default();
        paths.into_iter().for_each(|path| set.insert(path));
        set
    })
}

/// Configurations of a deployment, by one of two appliers.
fn configs() -> impl Strategy<Value = Value> {
    let container = ("[ab]", "[xy]", prop::collection::btree_map("[AB]", "[12]", 0..3));
    let containers = prop::collection::btree_map("[ab]", container, 0..3);
    let labels = prop::collection::btree_map("[ab]", "[12]", 0..3);
    (prop::option::of(0..3), containers, labels, prop::collection::btree_set("[ab]", 0..3)).prop_map(
        |(replicas, containers, labels, finalizers)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (_, image, env))| {
                    let env: Vec<Value> = env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
                    json!({ "name": name, "image": image, "env": env })
                })
                .collect();
            let mut config = web(&json!({ "template": { "metadata": { "labels": labels }, "spec": { "containers": containers } } }));
            if let Some(replicas) = replicas {
                config["spec"]["replicas"] = json!(replicas);
            }
            config["metadata"]["finalizers"] = json!(finalizers);
            config
        },
    )
}

proptest! {
    #[test]
    fn fields_read_back_as_what_was_written(set in sets()) {
        prop_assert_eq!(&Set::from_fields(&set.to_fields()).expect("fields"), &set);
        let text: Value = serde_json::from_str(&set.to_text()).expect("JSON");
        prop_assert_eq!(text, set.to_fields());
    }

    #[test]
    fn sets_obey_the_laws_of_sets(a in sets(), b in sets()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(a.union(&b).len(), a.len() + b.len() - a.intersection(&b).len());
        prop_assert!(a.recursive_difference(&b).recursive_intersection(&b).is_empty());
        prop_assert_eq!(a.intersection(&b).is_empty(), !a.touches(&b.to_fields()));
        prop_assert_eq!(a.difference(&b).is_empty(), a.within(&b.to_fields()));
    }

    #[test]
    fn what_differs_is_what_the_other_side_lacks(a in configs(), b in configs()) {
        let ty = builtin().get(DEPLOYMENT).expect("a type");
        let (there, back) = (compare(ty, &a, &b), compare(ty, &b, &a));
        prop_assert_eq!((&there.added, &there.modified), (&back.removed, &back.modified));
        prop_assert!(compare(ty, &a, &a).is_empty());
        prop_assert_eq!(there.is_empty(), a == b);
    }

    #[test]
    fn applying_twice_is_applying_once(before in configs(), config in configs()) {
        let mut story = Story::deployment();
        story.apply("a", before);
        story.try_apply("b", &config, true).expect("forced");
        let once = story.clone();
        story.try_apply("b", &config, false).expect("its own");
        prop_assert_eq!(story.live, once.live);
    }

    #[test]
    fn applying_and_then_nothing_leaves_what_was_before(before in configs(), config in configs()) {
        let mut story = Story::deployment();
        story.apply("a", before);
        let original = story.clone();
        // What they disagree on would be taken over, and not come back.
        prop_assume!(story.try_apply("b", &config, false).is_ok());
        story.apply("b", json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" } }));
        // Structs that were empty may be gone: every write has them again, with the defaults.
        let whole = |story: &Story| {
            let mut object = story.object();
            schema::apply_static_defaults(builtin(), DEPLOYMENT, &mut object);
            object
        };
        prop_assert_eq!(whole(&story), whole(&original));
        prop_assert_eq!(story.owners(), original.owners());
    }

    #[test]
    fn no_update_leaves_two_owners_of_what_it_changed(before in configs(), after in configs()) {
        let mut story = Story::deployment();
        story.apply("a", before);
        let was = story.object();
        story.update("u", after.clone());
        let changed = compare(builtin().get(DEPLOYMENT).expect("a type"), &was, &after).changed();
        for entry in story.managed().entries.iter().filter(|entry| entry.manager.name == "a") {
            prop_assert!(entry.set().intersection(&changed).is_empty());
        }
    }
}
