//! JSON or protobuf: how the in-process client of a run writes objects and reads answers.
//!
//! The suite runs in JSON, and once more in protobuf, in a process of its own: [`the_suite_holds_in_protobuf_too`]. Bodies that
//! are wrong on purpose have no protobuf and stay as they are; all others, and all answers, are protobuf then.

use std::process::Command;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Method, Response};
use http_body_util::BodyExt;
use machinery::kinds::{self, Resource};
use machinery::{meta, protobuf, schema};
use serde_json::Value;

/// Set for the run in protobuf.
const VARIABLE: &str = "SKERRY_TEST_ENCODING";
/// What clients written in Go say.
pub(crate) const GO_CLIENT: &str = "application/vnd.kubernetes.protobuf,application/json";
/// Tests whose clients choose for themselves, by parts of their names.
const INDEPENDENT: [&str; 6] = ["kubectl", "clients::", "kube_rs::", "protobuf::", "audit::", "encoding::"];

/// How objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub(crate) fn of_this_run() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) => Self::Json,
            Ok("protobuf") => Self::Protobuf,
            Ok(other) => panic!("{VARIABLE} is {other:?}"),
        }
    }

    /// The media type and bytes of a request's body.
    pub(crate) fn request(
        self,
        method: &Method,
        target: &str,
        media_type: &str,
        body: &str,
    ) -> (String, Bytes) {
        if self == Self::Protobuf
            && media_type == "application/json"
            && let Some(bytes) = in_protobuf(method, target, body)
        {
            return (protobuf::MEDIA_TYPE.to_owned(), bytes.into());
        }
        (media_type.to_owned(), Bytes::copy_from_slice(body.as_bytes()))
    }

    /// The `Accept` header, where JSON goes without saying.
    pub(crate) fn accept(self) -> Option<&'static str> {
        (self == Self::Protobuf).then_some(GO_CLIENT)
    }

    /// The document of an answer. Kinds that have protobuf must come in it when it is preferred.
    pub(crate) async fn read<B>(self, target: &str, response: Response<B>) -> Value
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let is_protobuf =
            response.headers().get(CONTENT_TYPE).is_some_and(|media_type| media_type == protobuf::MEDIA_TYPE);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        if is_protobuf {
            let decoded = protobuf::decode(&bytes, ("", ""));
            return typed(decoded.unwrap_or_else(|error| panic!("{target}: {error}")));
        }
        let answer = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        let had_protobuf = protobuf::knows(meta::api_version(&answer), meta::kind(&answer));
        assert!(self == Self::Json || !had_protobuf, "{target}: JSON where protobuf was asked for: {answer}");
        answer
    }
}

/// What clients know without being told: a list that says nothing of its items has none, and its items are of its kind.
fn typed(mut document: Value) -> Value {
    let api_version = document["apiVersion"].clone();
    let Some(kind) = meta::kind(&document).strip_suffix("List").map(str::to_owned) else { return document };
    let items = document.as_object_mut().unwrap().entry("items").or_insert_with(|| Value::Array(Vec::new()));
    for item in items.as_array_mut().unwrap() {
        item["apiVersion"] = api_version.clone();
        item["kind"] = kind.as_str().into();
    }
    document
}

/// The body as a document, if it is right by the schema of what the path takes.
fn in_protobuf(method: &Method, target: &str, body: &str) -> Option<Vec<u8>> {
    let (mut object, repeated) = schema::decode_json(body.as_bytes()).ok()?;
    if !repeated.is_empty() {
        return None;
    }
    let (api_version, kind, type_name) = expected(method, target)?;
    let map = object.as_object_mut()?;
    map.entry("apiVersion").or_insert_with(|| api_version.clone().into());
    map.entry("kind").or_insert_with(|| kind.clone().into());
    if map["apiVersion"] != api_version.as_str() || map["kind"] != kind.as_str() {
        return None;
    }
    if let Some(type_name) = type_name {
        let table = schema::builtin();
        schema::check_types(table, &type_name, &object).ok()?;
        if !schema::prune(table, &type_name, &mut object.clone()).is_empty() {
            return None;
        }
    }
    Some(protobuf::encode(&object).unwrap_or_else(|error| panic!("{target} {body}: {error}")))
}

/// The `apiVersion`, `kind` and type of what a request carries.
fn expected(method: &Method, target: &str) -> Option<(String, String, Option<String>)> {
    if method == Method::DELETE {
        return Some(("v1".to_owned(), "DeleteOptions".to_owned(), None));
    }
    let path = target.split('?').next()?;
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (resource, subresource): (&Resource, _) = match rest {
        ["namespaces", _, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
            (kinds::find(group, version, plural)?, rest.get(1))
        }
        [plural, rest @ ..] => (kinds::find(group, version, plural)?, rest.get(1)),
        [] => return None,
    };
    let Some(subresource) = subresource.and_then(|name| resource.subresource(name)) else {
        return Some((resource.api_version(), resource.kind.clone(), Some(resource.type_name.clone())));
    };
    let (group, version) = (subresource.group.as_str(), subresource.version.as_str());
    let own = subresource.kind == resource.kind;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some((api_version, subresource.kind.clone(), own.then(|| resource.type_name.clone())))
}

/// The events of a watch, whichever way they are written.
pub(crate) struct Events<B> {
    body: B,
    encoding: Encoding,
    buffer: BytesMut,
}

impl<B> Events<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    pub(crate) fn of(response: Response<B>) -> Self {
        let media_type = response.headers()[CONTENT_TYPE].to_str().unwrap();
        let encoding =
            if media_type == protobuf::WATCH_MEDIA_TYPE { Encoding::Protobuf } else { Encoding::Json };
        Self { body: response.into_body(), encoding, buffer: BytesMut::new() }
    }

    /// The next event's type and object; none when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(event) = self.take() {
                return Some(event);
            }
            let Some(frame) = self.body.frame().await else {
                assert!(self.buffer.is_empty(), "half an event: {:?}", self.buffer);
                return None;
            };
            self.buffer.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }

    /// A whole event of what has come so far.
    fn take(&mut self) -> Option<(String, Value)> {
        if self.encoding == Encoding::Json {
            let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
            let mut event: Value = serde_json::from_slice(&self.buffer.split_to(end + 1)).unwrap();
            return Some((event["type"].as_str().unwrap().to_owned(), event["object"].take()));
        }
        let (length, rest) = self.buffer.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return None;
        }
        let message = self.buffer.split_to(4 + length).split_off(4);
        // Field 1 is the type; field 2 is a message around the object's document.
        assert_eq!(message[0], 0x0a);
        let (kind, rest) = message[2..].split_at(usize::from(message[1]));
        let start = rest.windows(4).position(|window| window == b"k8s\0").expect("a document");
        let object = protobuf::decode(&rest[start..], ("", "")).unwrap();
        Some((String::from_utf8(kind.to_vec()).unwrap(), object))
    }
}

#[test]
fn the_suite_holds_in_protobuf_too() {
    if Encoding::of_this_run() == Encoding::Protobuf {
        return;
    }
    let skipped = INDEPENDENT.iter().flat_map(|name| ["--skip", name]);
    let output = Command::new(std::env::current_exe().unwrap())
        .env(VARIABLE, "protobuf")
        .args(skipped)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let passed = said.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    assert!(passed > 40, "only {passed} tests ran:\n{said}");
}
