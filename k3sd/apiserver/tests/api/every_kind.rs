//! Every resource and subresource that discovery offers goes through every verb it is offered with. What discovery offers and the
//! walk does not do is a fault as well.

mod objects;
mod subresources;
mod verbs;

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use machinery::protobuf;
use serde_json::{Value, json};

use crate::encoding::Encoding;
use crate::harness::{Server, admin};

const NAMESPACE: &str = "walk";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A resource as discovery describes it.
struct Place {
    group: String,
    version: String,
    plural: String,
    kind: String,
    /// Path of the collection.
    path: String,
    /// The same in all namespaces.
    everywhere: String,
    verbs: BTreeSet<String>,
    /// Name and verbs.
    subresources: Vec<(String, BTreeSet<String>)>,
}

impl Place {
    fn of(group: &str, version: &str, described: &Value, all: &[Value]) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let verbs = |value: &Value| value["verbs"].as_array().unwrap().iter().map(text).collect();
        let plural = text(&described["name"]);
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let namespace =
            if described["namespaced"] == true { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let below = |value: &&Value| value["name"].as_str().unwrap().starts_with(&format!("{plural}/"));
        let subresources = all
            .iter()
            .filter(below)
            .map(|value| (text(&value["name"])[plural.len() + 1..].to_owned(), verbs(value)));
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(&described["kind"]),
            path: format!("{root}{namespace}/{plural}"),
            everywhere: format!("{root}/{plural}"),
            verbs: verbs(described),
            subresources: subresources.collect(),
            plural,
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    fn object(&self, second: bool) -> Value {
        objects::object(&self.group, &self.plural, second)
    }

    fn one(&self, second: bool) -> String {
        format!("{}/{}", self.path, objects::name(&self.group, &self.plural, second))
    }

    fn is(&self, group: &str, plural: &str) -> bool {
        (self.group.as_str(), self.plural.as_str()) == (group, plural)
    }

    /// With `kind` and `apiVersion`, as an applied configuration must have them.
    fn configuration(&self, object: &Value) -> Value {
        let mut configuration = object.clone();
        configuration["kind"] = self.kind.as_str().into();
        configuration["apiVersion"] = self.api_version().into();
        configuration
    }
}

/// What is sent.
struct Ask<'a> {
    verb: &'static str,
    target: &'a str,
    media_type: &'a str,
    body: &'a Value,
}

struct Walk<'a> {
    server: &'a Server,
    faults: Vec<String>,
    /// Verbs that were asked for, by resource or subresource.
    asked: BTreeSet<(String, &'static str)>,
}

impl Walk<'_> {
    /// One request; `wanted` is its status.
    async fn ask(&mut self, what: &str, ask: Ask<'_>, wanted: &[u16]) -> Value {
        let method = method(ask.verb);
        self.asked.insert((what.to_owned(), ask.verb));
        let body = text(ask.body);
        if ask.media_type == JSON && !body.is_empty() && Encoding::of_this_run() == Encoding::Protobuf {
            let (sent, _) = Encoding::Protobuf.request(&method, ask.target, JSON, &body);
            self.check(what, sent == protobuf::MEDIA_TYPE, || {
                format!("{} has no protobuf: {body}", ask.verb)
            });
        }
        let (status, answer) = self.server.call_as(admin(), method, ask.target, ask.media_type, &body).await;
        if !wanted.contains(&status.as_u16()) {
            let told = if answer["message"].is_null() { &answer } else { &answer["message"] };
            self.fault(what, format!("{} {} {}: {status} {told}", ask.verb, ask.target, ask.media_type));
        }
        answer
    }

    /// A request as a dry run, which must leave everything as it was, and then in earnest.
    async fn dry_then_real(&mut self, what: &str, ask: Ask<'_>, shown: &str, wanted: u16) -> Value {
        let and = if ask.target.contains('?') { '&' } else { '?' };
        let dry = format!("{}{and}dryRun=All", ask.target);
        let look = || self.server.call(Method::GET, shown, Value::Null);
        let before = look().await;
        self.ask(what, Ask { target: &dry, ..ask }, &[wanted]).await;
        let look = || self.server.call(Method::GET, shown, Value::Null);
        if look().await != before {
            self.fault(what, format!("a dry run of {} has left something", ask.verb));
        }
        self.ask(what, ask, &[wanted]).await
    }

    async fn get(&mut self, what: &str, target: &str, wanted: u16) -> Value {
        let ask = Ask { verb: "get", target, media_type: "", body: &Value::Null };
        self.ask(what, ask, &[wanted]).await
    }

    fn fault(&mut self, what: &str, fault: impl Into<String>) {
        self.faults.push(format!("{what}: {}", fault.into()));
    }

    fn check(&mut self, what: &str, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.fault(what, fault());
        }
    }

    /// Everything that discovery offers there was asked for.
    fn all_asked(&mut self, what: &str, verbs: &BTreeSet<String>) {
        for verb in verbs {
            if !self.asked.iter().any(|(place, asked)| place == what && asked == verb) {
                self.fault(what, format!("{verb} is offered and was not walked"));
            }
        }
    }

    async fn place(&mut self, place: &Place) {
        let what = place.api_version() + "/" + &place.plural;
        match place.verbs.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["create"] => self.question(&what, place).await,
            ["get", "list"] => self.read_only(&what, place).await,
            _ => self.resource(&what, place).await,
        }
        self.all_asked(&what, &place.verbs);
    }

    /// A kind that is only asked.
    async fn question(&mut self, what: &str, place: &Place) {
        let body = objects::question(&place.plural);
        if place.plural == "bindings" {
            let pod = objects::object("", "pods", true);
            let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            let (status, _) = self.server.call(Method::POST, &pods, pod).await;
            assert_eq!(status, StatusCode::CREATED);
        }
        let ask = Ask { verb: "create", target: &place.path, media_type: JSON, body: &body };
        let answer = self.ask(what, ask, &[201]).await;
        self.check(what, !answer["status"].is_null(), || format!("no status in {answer}"));
        if place.plural == "bindings" {
            let pod = format!("/api/v1/namespaces/{NAMESPACE}/pods/second.example.com?gracePeriodSeconds=0");
            let (_, bound) = self.server.call(Method::GET, &pod, Value::Null).await;
            self.check(what, bound["spec"]["nodeName"] == "n", || format!("not bound: {bound}"));
            self.server.call(Method::DELETE, &pod, Value::Null).await;
        }
    }

    /// A kind that is looked up on each read.
    async fn read_only(&mut self, what: &str, place: &Place) {
        let ask = Ask { verb: "list", target: &place.path, media_type: "", body: &Value::Null };
        let list = self.ask(what, ask, &[200]).await;
        let Some(name) = list["items"][0]["metadata"]["name"].as_str() else {
            return self.fault(what, format!("nothing in {list}"));
        };
        let one = self.get(what, &format!("{}/{name}", place.path), 200).await;
        self.check(what, one["metadata"]["name"] == name, || format!("{one} instead of {name}"));
    }
}

fn method(verb: &str) -> Method {
    match verb {
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" | "deletecollection" => Method::DELETE,
        _ => Method::GET,
    }
}

/// A body; null is none.
fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

/// Every resource of every group and version that discovery names.
async fn places(server: &Server) -> Vec<Place> {
    let (_, groups) = server.call(Method::GET, "/apis", Value::Null).await;
    let mut versions = vec![(String::new(), "v1".to_owned(), "/api/v1".to_owned())];
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let root = format!("/apis/{}", text(&version["groupVersion"]));
            versions.push((text(&group["name"]), text(&version["version"]), root));
        }
    }
    let mut places = Vec::new();
    for (group, version, root) in versions {
        let (_, resources) = server.call(Method::GET, &root, Value::Null).await;
        let all = resources["resources"].as_array().unwrap();
        let whole = all.iter().filter(|resource| !resource["name"].as_str().unwrap().contains('/'));
        places.extend(whole.map(|resource| Place::of(&group, &version, resource, all)));
    }
    places
}

#[tokio::test]
async fn every_kind_goes_through_every_verb() {
    let server = Server::start().await;
    let namespace = json!({ "metadata": { "name": NAMESPACE } });
    let (status, _) = server.call(Method::POST, "/api/v1/namespaces", namespace).await;
    assert_eq!(status, StatusCode::CREATED);
    let account = json!({ "metadata": { "name": "default" } });
    server.call(Method::POST, &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), account).await;
    let mut walk = Walk { server: &server, faults: Vec::new(), asked: BTreeSet::new() };
    let places = places(&server).await;
    for place in &places {
        walk.place(place).await;
    }
    let below: usize = places.iter().map(|place| place.subresources.len()).sum();
    assert!(places.len() > 60 && below > 40, "only {} kinds and {below} subresources", places.len());
    assert!(walk.faults.is_empty(), "{} faults:\n{}", walk.faults.len(), walk.faults.join("\n"));
    server.stop().await;
}
