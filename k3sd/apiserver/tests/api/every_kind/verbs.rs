//! What a stored resource goes through.

use http::Method;
use http_body_util::BodyExt;
use machinery::protobuf;
use serde_json::{Value, json};

use super::{APPLY, Ask, JSON, JSON_PATCH, MERGE_PATCH, Place, STRATEGIC_PATCH, Walk, method, objects, text};
use crate::harness::admin;

/// What a label of the collection's objects is selected by.
const COLLECTION: &str = "labelSelector=walk%3Dcollection";

impl Walk<'_> {
    pub(super) async fn resource(&mut self, what: &str, place: &Place) {
        let one = place.one(false);
        let before = self.list(what, &place.path).await["metadata"]["resourceVersion"].clone();
        let Some(created) = self.create(what, place).await else { return };
        self.read(what, place, &created).await;
        self.shapes(what, place, &created).await;
        self.refusals(what, place).await;
        self.patch(what, place).await;
        self.update(what, &one).await;
        self.subresources(what, place).await;
        self.delete(what, place).await;
        self.watch(what, place, before.as_str().unwrap_or_default()).await;
        self.collection(what, place).await;
    }

    async fn list(&mut self, what: &str, target: &str) -> Value {
        let ask = Ask { verb: "list", target, media_type: "", body: &Value::Null };
        self.ask(what, ask, &[200]).await
    }

    async fn create(&mut self, what: &str, place: &Place) -> Option<Value> {
        let (one, object) = (place.one(false), place.object(false));
        let target = format!("{}?fieldValidation=Strict", place.path);
        let ask = Ask { verb: "create", target: &target, media_type: JSON, body: &object };
        let created = self.dry_then_real(what, ask, &one, 201).await;
        created["metadata"]["uid"].as_str()?;
        let again = Ask { verb: "create", target: &place.path, media_type: JSON, body: &object };
        self.ask(what, again, &[409]).await;
        Some(created)
    }

    async fn read(&mut self, what: &str, place: &Place, created: &Value) {
        let got = self.get(what, &place.one(false), 200).await;
        self.check(what, got == *created, || format!("get shows {got}, create {created}"));
        let name = objects::name(&place.group, &place.plural, false);
        for path in [&place.path, &place.everywhere] {
            let list = self.list(what, &format!("{path}?fieldSelector=metadata.name%3D{name}")).await;
            let kind = format!("{}List", place.kind);
            self.check(what, list["items"] == json!([got]) && list["kind"] == kind.as_str(), || {
                format!("{path} shows {} of kind {}", list["items"], list["kind"])
            });
        }
    }

    /// The other forms in which objects are shown: a table, only their metadata, YAML.
    async fn shapes(&mut self, what: &str, place: &Place, created: &Value) {
        let name = objects::name(&place.group, &place.plural, false);
        let selected = format!("{}?fieldSelector=metadata.name%3D{name}", place.path);
        let table = self.shown(&selected, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        let [columns, cells] =
            ["/columnDefinitions", "/rows/0/cells"].map(|at| table.pointer(at).and_then(Value::as_array));
        self.check(what, columns.map(Vec::len) == cells.map(Vec::len) && columns.is_some(), || {
            format!("a table of {columns:?} with {cells:?}")
        });
        let first = columns.zip(cells).map(|(columns, cells)| (&columns[0]["name"], &cells[0]));
        // Events are told by when they were seen.
        self.check(what, first == Some((&json!("Name"), &json!(name))) || place.plural == "events", || {
            format!("the first cell is {first:?}")
        });
        let row = table.pointer("/rows/0/object");
        self.check(what, row.is_some_and(|row| row["metadata"] == created["metadata"]), || {
            format!("the row's object is {row:?}")
        });
        for media_type in ["application/json", protobuf::MEDIA_TYPE] {
            let accept = format!("{media_type};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
            let partial = self.shown(&place.one(false), &accept).await;
            let wanted = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": created["metadata"] });
            self.check(what, partial == wanted, || format!("{accept} shows {partial}"));
        }
        let yaml = self.shown(&place.one(false), "application/yaml").await;
        self.check(what, yaml == *created, || format!("YAML shows {yaml}"));
    }

    /// What an `Accept` header of its own is answered with.
    async fn shown(&self, target: &str, accept: &str) -> Value {
        let none = bytes::Bytes::new();
        let response = self.server.send(admin(), Method::GET, target, "", Some(accept), none).await;
        let media_type = response.headers()[http::header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        match media_type.as_str() {
            "application/json" => serde_json::from_slice(&bytes).unwrap(),
            "application/yaml" => serde_yaml_ng::from_slice(&bytes).unwrap(),
            protobuf::MEDIA_TYPE => protobuf::decode(&bytes, ("", "")).unwrap(),
            other => panic!("{target} in {other}"),
        }
    }

    /// What no kind takes, and what is not there.
    async fn refusals(&mut self, what: &str, place: &Place) {
        let one = place.one(false);
        let none = Value::Null;
        let mut other_name = place.object(false);
        other_name["metadata"]["name"] = json!("no/such");
        let mut other_kind = place.configuration(&place.object(false));
        other_kind["kind"] = json!("Nothing");
        let mut unknown = place.object(true);
        unknown["nothing"] = json!(1);
        let strict = format!("{}?fieldValidation=Strict", place.path);
        let missing = format!("{}/no-such", place.path);
        let other_uid = json!({ "preconditions": { "uid": "other" } });
        let empty = json!({});
        // (verb, target, media type, body, code, reason)
        let cases = [
            ("create", &place.path, JSON, &other_name, 422, "Invalid"),
            ("create", &place.path, JSON, &other_kind, 400, "BadRequest"),
            ("create", &strict, JSON, &unknown, 400, "BadRequest"),
            ("update", &one, JSON, &other_name, 400, "BadRequest"),
            ("delete", &one, JSON, &other_uid, 409, "Conflict"),
            ("get", &missing, JSON, &none, 404, "NotFound"),
            ("delete", &missing, JSON, &none, 404, "NotFound"),
            ("patch", &missing, MERGE_PATCH, &empty, 404, "NotFound"),
            ("patch", &one, "application/nothing", &empty, 415, "UnsupportedMediaType"),
        ];
        for (verb, target, media_type, body, code, reason) in cases {
            let (status, answer) =
                self.server.call_as(admin(), method(verb), target, media_type, &text(body)).await;
            self.check(what, status.as_u16() == code && answer["reason"] == reason, || {
                format!("{verb} {target} {body}: {status} {answer}")
            });
        }
    }

    /// The four kinds of patches, each with a label of its own.
    async fn patch(&mut self, what: &str, place: &Place) {
        let one = place.one(false);
        let label = |name: &str| json!({ "metadata": { "labels": { name: "patched" } } });
        let mut config = place.configuration(&place.object(false));
        config["metadata"]["labels"] = json!({ "apply": "patched" });
        let applied = format!("{one}?fieldManager=walk&force=true");
        let json_patch = json!([{ "op": "add", "path": "/metadata/labels/json", "value": "patched" }]);
        let patches = [
            ("merge", &one, MERGE_PATCH, label("merge")),
            ("strategic", &one, STRATEGIC_PATCH, label("strategic")),
            ("json", &one, JSON_PATCH, json_patch),
            ("apply", &applied, APPLY, config),
        ];
        let mut so_far = Vec::new();
        for (name, target, media_type, body) in patches {
            let ask = Ask { verb: "patch", target, media_type, body: &body };
            let patched = self.dry_then_real(what, ask, &one, 200).await;
            so_far.push(name);
            let labels = &patched["metadata"]["labels"];
            self.check(what, so_far.iter().all(|name| labels[name] == "patched"), || {
                format!("labels are {labels} after the patch {name}")
            });
        }
    }

    async fn update(&mut self, what: &str, one: &str) {
        let mut object = self.get(what, one, 200).await;
        let mut stale = object.clone();
        object["metadata"]["labels"]["put"] = json!("4");
        let ask = Ask { verb: "update", target: one, media_type: JSON, body: &object };
        let updated = self.dry_then_real(what, ask, one, 200).await;
        self.check(what, updated["metadata"]["labels"]["put"] == "4", || format!("not updated: {updated}"));
        stale["metadata"]["labels"]["put"] = json!("5");
        let ask = Ask { verb: "update", target: one, media_type: JSON, body: &stale };
        self.ask(what, ask, &[409]).await;
    }

    async fn delete(&mut self, what: &str, place: &Place) {
        let one = place.one(false);
        let now = json!({ "gracePeriodSeconds": 0 });
        let ask = Ask { verb: "delete", target: &one, media_type: JSON, body: &now };
        self.dry_then_real(what, ask, &one, 200).await;
        self.release(what, place, &one).await;
        self.get(what, &one, 404).await;
    }

    /// Protected kinds wait for their controller, which is played here.
    async fn release(&mut self, what: &str, place: &Place, one: &str) {
        let (_, mut waiting) = self.server.call(Method::GET, one, Value::Null).await;
        if waiting["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        if place.is("", "namespaces") {
            waiting["spec"]["finalizers"] = json!([]);
            let (below, target) = (format!("{what}/finalize"), format!("{one}/finalize"));
            let ask = Ask { verb: "update", target: &target, media_type: JSON, body: &waiting };
            self.ask(&below, ask, &[200]).await;
            return;
        }
        waiting["metadata"]["finalizers"] = json!([]);
        let ask = Ask { verb: "update", target: one, media_type: JSON, body: &waiting };
        self.ask(what, ask, &[200]).await;
    }

    /// The whole story is told to whoever asks for it from its beginning.
    async fn watch(&mut self, what: &str, place: &Place, from: &str) {
        let target = format!("{}?watch=1&resourceVersion={from}&timeoutSeconds=1", place.path);
        self.asked.insert((what.to_owned(), "watch"));
        let mut events = self.server.watch(&target).await;
        let name = objects::name(&place.group, &place.plural, false);
        let mut told = Vec::new();
        let mut last = 0;
        while told.last().is_none_or(|event| event != "DELETED") {
            let Some((event, object)) = events.next().await else { break };
            if object["metadata"]["name"] != name {
                continue;
            }
            let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            self.check(what, object["kind"] == place.kind.as_str() && version > Some(last), || {
                format!("{event} {object} after version {last}")
            });
            last = version.unwrap_or(last);
            told.push(event);
        }
        let [first, between @ .., end] = told.as_slice() else {
            return self.fault(what, format!("the watch tells only {told:?}"));
        };
        let whole = first == "ADDED" && between.iter().all(|event| event == "MODIFIED") && end == "DELETED";
        self.check(what, whole && between.len() >= 5, || format!("the watch tells {told:?}"));
    }

    /// Two objects that are made by applying them, listed in pages, and deleted together.
    async fn collection(&mut self, what: &str, place: &Place) {
        let selected = format!("{}?{COLLECTION}", place.path);
        for second in [false, true] {
            let mut config = place.configuration(&place.object(second));
            config["metadata"]["labels"] = json!({ "walk": "collection" });
            let (one, target) = (place.one(second), format!("{}?fieldManager=walk", place.one(second)));
            let ask = Ask { verb: "patch", target: &target, media_type: APPLY, body: &config };
            self.dry_then_real(what, ask, &one, 201).await;
        }
        let page = self.list(what, &format!("{selected}&limit=1")).await;
        let token = page["metadata"]["continue"].as_str().unwrap_or_default();
        let rest = self.list(what, &format!("{selected}&limit=1&continue={token}")).await;
        let names = json!([page["items"][0]["metadata"]["name"], rest["items"][0]["metadata"]["name"]]);
        let name = |second| objects::name(&place.group, &place.plural, second);
        let mut wanted = [name(false), name(true)];
        wanted.sort_unstable();
        self.check(what, names == json!(wanted), || format!("pages with {names}"));
        if place.verbs.contains("deletecollection") {
            let now = json!({ "gracePeriodSeconds": 0 });
            let ask = Ask { verb: "deletecollection", target: &selected, media_type: JSON, body: &now };
            self.dry_then_real(what, ask, &selected, 200).await;
        } else {
            for second in [false, true] {
                let one = place.one(second);
                let ask = Ask { verb: "delete", target: &one, media_type: JSON, body: &Value::Null };
                self.ask(what, ask, &[200]).await;
            }
        }
        for second in [false, true] {
            self.release(what, place, &place.one(second)).await;
        }
        let left = self.list(what, &selected).await;
        self.check(what, left["items"] == json!([]), || format!("left over: {}", left["items"]));
    }
}
