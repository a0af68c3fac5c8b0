//! Round trips over every kind, bytes that Go wrote, and bytes that nobody should have written.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::table::{self, Field, Label, MessageId, Table, Wire};
use super::*;
use crate::{kinds, schema};

/// Makes objects of any message. Small, but every field is there sooner or later.
struct Maker {
    table: &'static Table,
    state: u64,
}

impl Maker {
    fn below(&mut self, limit: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % limit
    }

    fn fill(&mut self, id: MessageId, depth: u64, object: &mut Map<String, Value>) {
        for field in &self.table.message(id).fields {
            if let (Label::Inline, Wire::Message(id)) = (field.label, field.wire) {
                self.fill(id, depth, object);
            } else if self.below(depth + 1) == 0 {
                let value = self.field(field, depth);
                object.insert(field.name.to_owned(), value);
            }
        }
    }

    fn field(&mut self, field: &Field, depth: u64) -> Value {
        let count = self.below(2) + 1;
        match field.label {
            Label::Repeated => (0..count).map(|_| self.value(field.wire, depth)).collect(),
            Label::Map => (0..count).map(|at| (format!("k{at}"), self.value(field.wire, depth))).collect(),
            Label::One | Label::Inline => self.value(field.wire, depth),
        }
    }

    fn object(&mut self, id: MessageId, depth: u64) -> Value {
        let mut object = Map::new();
        if depth < 12 {
            self.fill(id, depth + 1, &mut object);
        }
        Value::Object(object)
    }

    fn value(&mut self, wire: Wire, depth: u64) -> Value {
        let pick = self.below(3);
        let number = pick as i64 - 1;
        match wire {
            Wire::String => ["", "a", "\u{e9}\u{1f980}"][pick as usize].into(),
            Wire::Bytes => "YWJjAA==".into(),
            Wire::Bool => (pick == 0).into(),
            Wire::Int32 => if pick == 2 { i32::MIN } else { number as i32 }.into(),
            Wire::Int64 => if pick == 2 { i64::MIN } else { number }.into(),
            Wire::Double => (number as f64 + 0.5).into(),
            Wire::Message(id) => self.object(id, depth),
            Wire::Time => {
                ["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"][pick as usize].into()
            }
            Wire::MicroTime => {
                ["2026-01-02T03:04:05.000006Z", "1969-12-31T23:59:58.900000Z", "1970-01-01T00:00:00.000000Z"]
                    [pick as usize]
                    .into()
            }
            Wire::Quantity => ["100m", "1Gi", "0"][pick as usize].into(),
            Wire::IntOrString => [json!(0), json!(-80), json!("http")][pick as usize].clone(),
            Wire::Json => [json!({"a": [null, 1]}), json!(false), json!("")][pick as usize].clone(),
            Wire::Texts => json!(["a", ""]),
            Wire::SchemaOrBool(_) if pick < 2 => (pick == 1).into(),
            Wire::SchemaOrList(id) if pick == 0 => Value::Array(vec![self.object(id, depth + 4)]),
            Wire::SchemaOrTexts(_) if pick == 0 => json!(["a", "b"]),
            Wire::SchemaOrBool(id) | Wire::SchemaOrList(id) | Wire::SchemaOrTexts(id) => {
                self.object(id, depth + 4)
            }
        }
    }
}

fn made(resource: &kinds::Resource, seed: u64) -> Value {
    let table = table::builtin();
    let id = table.named(&resource.type_name).expect("every kind has a message");
    let mut object = Map::new();
    Maker { table, state: seed }.fill(id, 1, &mut object);
    object.insert("kind".to_owned(), resource.kind.as_str().into());
    object.insert("apiVersion".to_owned(), resource.api_version().into());
    Value::Object(object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_kind_comes_back_as_it_went(seed in any::<u64>()) {
        for resource in kinds::builtin() {
            let object = made(resource, seed);
            let back = decode(&encode(&object).expect("encodes"), ("", "")).expect("decodes");
            prop_assert_eq!(&back, &object, "{}", resource.type_name);
        }
    }

    #[test]
    fn damaged_documents_are_errors_and_nothing_worse(
        seed in any::<u64>(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        for resource in kinds::builtin() {
            let mut bytes = encode(&made(resource, seed)).expect("encodes");
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _damaged = decode(&bytes, ("v1", "Pod"));
            let _shorter = decode(&bytes[..cut.index(bytes.len())], ("v1", "Pod"));
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_an_object(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut document = MAGIC.to_vec();
        super::wire::put_bytes(&mut document, 2, &noise);
        for resource in kinds::builtin() {
            let _object = decode(&document, (&resource.api_version(), &resource.kind));
        }
        let _document = decode(&noise, ("v1", "Pod"));
    }
}

#[test]
fn every_field_of_the_schema_has_a_number() {
    for resource in kinds::builtin() {
        let ty = schema::builtin().get(&resource.type_name).expect("type");
        reach(ty, &mut Vec::new());
    }
}

/// Every field of the type, and of those it holds, is in the message or in one embedded in it.
fn reach(ty: schema::TypeRef<'_>, seen: &mut Vec<String>) {
    if seen.iter().any(|name| name == ty.name()) {
        return;
    }
    seen.push(ty.name().to_owned());
    let names = table::builtin().named(ty.name()).map(names).unwrap_or_default();
    for field in ty.fields() {
        assert!(
            matches!(field.name(), "kind" | "apiVersion") || names.contains(&field.name()),
            "{}.{}",
            ty.name(),
            field.name()
        );
        let mut value = field.value();
        while let Some(element) = value.element() {
            value = element;
        }
        value.as_struct().into_iter().for_each(|ty| reach(ty, seen));
    }
}

fn names(id: MessageId) -> Vec<&'static str> {
    let fields = table::builtin().message(id).fields.iter();
    fields
        .flat_map(|field| match (field.label, field.wire) {
            (Label::Inline, Wire::Message(id)) => names(id),
            _ => vec![field.name],
        })
        .collect()
}

#[test]
fn lists_and_the_documents_of_every_group_have_messages() {
    for resource in kinds::builtin().iter().filter(|resource| resource.is_stored()) {
        let version = resource.api_version();
        for kind in [resource.list_kind.as_str(), "Status", "DeleteOptions"] {
            assert!(knows(&version, kind), "{version} {kind}");
        }
    }
    assert!(knows("autoscaling/v1", "Scale") && knows("authentication.k8s.io/v1", "TokenRequest"));
    assert!(knows("policy/v1", "Eviction") && knows("meta.k8s.io/v1", "PartialObjectMetadataList"));
    assert!(!knows("example.com/v1", "Widget"));
}

#[test]
fn nesting_has_an_end() {
    // JSONSchemaProps.not, in itself.
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        let inner = std::mem::take(&mut bytes);
        super::wire::put_bytes(&mut bytes, 28, &inner);
    }
    let mut version = Vec::new();
    super::wire::put_nested(&mut version, 4, |out| {
        super::wire::put_bytes(out, 1, &bytes);
        Ok::<_, Error>(())
    })
    .expect("bytes");
    let mut spec = Vec::new();
    super::wire::put_bytes(&mut spec, 7, &version);
    let mut crd = Vec::new();
    super::wire::put_bytes(&mut crd, 2, &spec);
    let mut document = MAGIC.to_vec();
    super::wire::put_bytes(&mut document, 2, &crd);
    let fault =
        decode(&document, ("apiextensions.k8s.io/v1", "CustomResourceDefinition")).expect_err("too deep");
    assert!(matches!(fault, Error::Malformed { fault: Fault::Depth, .. }), "{fault:?}");
}

#[test]
fn faults_say_what_they_are() {
    assert!(matches!(decode(b"{}", ("v1", "Pod")), Err(Error::NotProtobuf)));
    let cut = decode(b"k8s\0\x12\x05\x0a", ("v1", "Pod")).expect_err("cut");
    assert!(matches!(cut, Error::Malformed { fault: Fault::Truncated, .. }), "{cut:?}");
    let unknown = encode(&json!({"apiVersion": "example.com/v1", "kind": "Widget"})).expect_err("unknown");
    assert_eq!(
        unknown.to_string(),
        "no kind \"Widget\" is registered for version \"example.com/v1\" in protobuf"
    );
    let wrong = encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": []})).expect_err("mismatch");
    assert!(matches!(wrong, Error::Mismatch { field: "data", .. }), "{wrong:?}");
}

#[test]
fn what_go_writes_is_read_as_what_it_writes_in_json_and_written_alike() {
    let lines: Vec<&str> =
        include_str!("go_encoded.txt").lines().filter(|line| !line.starts_with('#')).collect();
    for pair in lines.chunks(2) {
        let [hex, json] = pair else { panic!("a document without its JSON") };
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let object: Value = serde_json::from_str(json).expect("JSON");
        let decoded = decode(&bytes, ("", "")).expect("decodes");
        // Every byte is accounted for: what Go wrote is what is written for the same fields.
        assert_eq!(encode(&decoded).expect("encodes"), bytes);
        let mut pruned = decoded;
        let (api_version, kind) = (crate::meta::api_version(&object), crate::meta::kind(&object));
        let (group, version) = api_version.split_once('/').expect("not of the core group");
        let resource = kinds::find_kind(group, version, kind).expect("a kind");
        assert!(schema::prune(schema::builtin(), &resource.type_name, &mut pruned).is_empty());
        assert_eq!(pruned, object);
    }
}

#[test]
fn a_watch_frame_is_its_length_and_an_event_around_a_document() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}});
    let frame = watch_frame("ADDED", &object).expect("encodes");
    assert_eq!(frame[..4], (frame.len() as u32 - 4).to_be_bytes());
    assert_eq!(frame[4..11], *b"\x0a\x05ADDED");
    let document = encode(&object).expect("encodes");
    assert!(frame.ends_with(&document));
}
