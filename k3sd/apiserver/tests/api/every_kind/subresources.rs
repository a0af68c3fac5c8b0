//! What the subresources of an object go through.

use http::Method;
use serde_json::{Value, json};

use super::{APPLY, Ask, JSON, JSON_PATCH, MERGE_PATCH, Place, STRATEGIC_PATCH, Walk, objects};

/// Subresources that end in a kubelet or in a service's pods: nothing runs here, and they say what is missing.
const FORWARDED: [(&str, &str, &str); 7] = [
    ("pods", "log", "does not have a host assigned"),
    ("pods", "exec", "does not have a host assigned"),
    ("pods", "attach", "does not have a host assigned"),
    ("pods", "portforward", "does not have a host assigned"),
    ("pods", "proxy", "address not allowed"),
    ("services", "proxy", "no endpoints available for service"),
    ("nodes", "proxy", "no preferred addresses found"),
];

/// What a write to a subresource changes.
struct Change {
    /// Where, in the document that the subresource shows.
    pointer: &'static str,
    value: Value,
    /// Fields of the status that must be there beside it.
    beside: Value,
}

impl Walk<'_> {
    pub(super) async fn subresources(&mut self, parent: &str, place: &Place) {
        let mut below: Vec<_> = place.subresources.iter().collect();
        // A pod's last steps are its node and its eviction.
        below.sort_by_key(|(name, _)| match name.as_str() {
            "binding" => 1,
            "eviction" => 2,
            _ => 0,
        });
        for (name, verbs) in below {
            let what = format!("{parent}/{name}");
            let forwarded = FORWARDED.iter().find(|(plural, sub, _)| *plural == place.plural && sub == name);
            match (name.as_str(), forwarded) {
                (_, Some((.., message))) => self.forwarded(&what, place, name, verbs, message).await,
                ("status" | "scale" | "approval" | "ephemeralcontainers" | "resize", _) => {
                    self.written(&what, place, name).await;
                }
                ("binding" | "eviction" | "token", _) => self.posted(&what, place, name).await,
                // That of a namespace is walked when it is deleted.
                ("finalize", _) => continue,
                _ => self.fault(&what, "nobody walks this subresource"),
            }
            self.all_asked(&what, verbs);
        }
    }

    async fn forwarded(
        &mut self,
        what: &str,
        place: &Place,
        name: &str,
        verbs: &std::collections::BTreeSet<String>,
        message: &str,
    ) {
        let target = format!("{}/{name}", place.one(false));
        for verb in ["create", "delete", "get", "patch", "update"] {
            if verbs.contains(verb) {
                let ask = Ask { verb, target: &target, media_type: JSON, body: &Value::Null };
                let answer = self.ask(what, ask, &[400, 404, 500, 503]).await;
                let told = answer["message"].as_str().unwrap_or_default();
                self.check(what, told.contains(message), || format!("{verb}: {answer}"));
            }
        }
    }

    async fn posted(&mut self, what: &str, place: &Place, name: &str) {
        let one = place.one(false);
        let target = format!("{one}/{name}");
        let object = objects::name(&place.group, &place.plural, false);
        let body = match name {
            "binding" => json!({ "metadata": { "name": object }, "target": { "kind": "Node", "name": "n" } }),
            "eviction" => json!({ "metadata": { "name": object } }),
            _ => json!({ "spec": { "expirationSeconds": 600 } }),
        };
        let ask = Ask { verb: "create", target: &target, media_type: JSON, body: &body };
        let answer = self.dry_then_real(what, ask, &one, 201).await;
        let (_, after) = self.server.call(Method::GET, &one, Value::Null).await;
        let done = match name {
            "binding" => after["spec"]["nodeName"] == "n",
            "eviction" => after["metadata"]["deletionTimestamp"].is_string(),
            _ => answer["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3),
        };
        self.check(what, done, || format!("answered {answer}, and left {after}"));
    }

    /// Read, updated and patched in four ways, each change another one.
    async fn written(&mut self, what: &str, place: &Place, name: &str) {
        let one = place.one(false);
        let target = format!("{one}/{name}");
        let mut n = 0;
        let mut object = self.get(what, &target, 200).await;
        let mut change = next(place, name, &object, &mut n);
        if name == "status" {
            for (field, value) in change.beside.as_object().unwrap() {
                object["status"][field] = value.clone();
            }
        }
        set(&mut object, change.pointer, change.value.clone());
        let ask = Ask { verb: "update", target: &target, media_type: JSON, body: &object };
        let mut shown = self.dry_then_real(what, ask, &one, 200).await;
        self.changed(what, "update", &change, &shown);
        let applied = format!("{target}?fieldManager=walk&force=true");
        for media_type in [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY] {
            change = next(place, name, &shown, &mut n);
            let mut partial = json!({});
            set(&mut partial, change.pointer, change.value.clone());
            let (target, body) = match media_type {
                JSON_PATCH => {
                    (&target, json!([{ "op": "add", "path": change.pointer, "value": change.value }]))
                }
                APPLY => {
                    partial["metadata"] = json!({ "name": shown["metadata"]["name"] });
                    for field in ["kind", "apiVersion"] {
                        partial[field] = shown[field].clone();
                    }
                    (&applied, partial)
                }
                _ => (&target, partial),
            };
            let ask = Ask { verb: "patch", target, media_type, body: &body };
            shown = self.dry_then_real(what, ask, &one, 200).await;
            self.changed(what, media_type, &change, &shown);
        }
        let got = self.get(what, &target, 200).await;
        self.check(what, got == shown, || format!("shows {got}, not {shown}"));
        if name == "status" {
            self.kept(what, &one).await;
        }
        if name == "scale" {
            let parent = self.get(what, &one, 200).await;
            let scaled = parent["spec"]["replicas"] == shown["spec"]["replicas"];
            self.check(what, scaled, || format!("{shown} of {parent}"));
        }
    }

    fn changed(&mut self, what: &str, how: &str, change: &Change, shown: &Value) {
        let is = shown.pointer(change.pointer).unwrap_or(&Value::Null);
        self.check(what, contains(is, &change.value), || {
            format!("{how}: {} is {is} instead of {}", change.pointer, change.value)
        });
    }

    /// Who writes the object itself does not write its status.
    async fn kept(&mut self, what: &str, one: &str) {
        let before = self.get(what, one, 200).await;
        let mut without = before.clone();
        without.as_object_mut().unwrap().remove("status");
        let ask = Ask { verb: "update", target: one, media_type: JSON, body: &without };
        let after = self.ask(what, ask, &[200]).await;
        let kept = after["status"] == before["status"];
        self.check(what, kept, || format!("{} became {}", before["status"], after["status"]));
    }
}

/// The next change to make to what the subresource shows.
fn next(place: &Place, name: &str, shown: &Value, n: &mut usize) -> Change {
    *n += 1;
    let (pointer, value, beside) = match name {
        "status" => objects::status(&place.group, &place.plural, &place.version, *n),
        "scale" => ("/spec/replicas", json!(n), json!({})),
        "approval" => ("/status/conditions", json!([objects::condition("Approved", *n)]), json!({})),
        "ephemeralcontainers" => {
            let mut all = shown["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
            all.push(json!({ "name": format!("e{n}"), "image": "i", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "resources": {} }));
            ("/spec/ephemeralContainers", Value::Array(all), json!({}))
        }
        "resize" => {
            let mut all = shown["spec"]["containers"].clone();
            all[0]["resources"]["requests"]["cpu"] = json!(format!("{}m", 10 + *n));
            ("/spec/containers", all, json!({}))
        }
        other => panic!("{other} is not written"),
    };
    Change { pointer, value, beside }
}

/// Everything of `part` is there; defaults and what merging keeps may be there as well.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| contains(whole, part)))
        }
        _ => whole == part,
    }
}

/// Put a value two levels down.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (outer, inner) = pointer[1..].split_once('/').expect("two levels");
    document[outer][inner] = value;
}
