//! Objects that are right by the schema, and others much like them.

use machinery::kinds::Resource;
use machinery::schema::{FieldRef, Merge, TypeRef, ValueKind, ValueRef};
use serde_json::{Map, Value, json};

/// Elements a list that merges can have, and keys a map can have.
const POOL: usize = 3;
/// Where objects end; types may contain themselves.
const DEPTH: u64 = 9;

/// Makes objects from a seed. Small ones, but every field is there sooner or later.
pub(super) struct Maker {
    state: u64,
}

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// An object of a kind; with a `prior` one that shares much with it.
    pub(super) fn object(&mut self, resource: &Resource, ty: TypeRef<'_>, prior: Option<&Value>) -> Value {
        let mut object = self.fields(ty, prior, 1);
        object["kind"] = resource.kind.as_str().into();
        object["apiVersion"] = resource.api_version().into();
        if ty.field("metadata").is_some() {
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            // Which object it is does not change, and who owns what is for the server to say.
            object["metadata"]["name"] = "it".into();
            object["metadata"].as_object_mut().expect("an object").remove("managedFields");
        }
        object
    }

    fn fields(&mut self, ty: TypeRef<'_>, prior: Option<&Value>, depth: u64) -> Value {
        let mut object = Map::new();
        // A claim's template may say its kind, but a message in a message has no place for that, upstream's neither.
        let is_kind = |name| matches!(name, "kind" | "apiVersion") && ty.field("metadata").is_some();
        for field in ty.fields().filter(|field| !is_kind(field.name())) {
            let before = prior.and_then(|prior| prior.get(field.name()));
            let there = match before {
                Some(_) => !self.one_in(4),
                None => depth < DEPTH && self.one_in(depth + 1),
            };
            if there {
                let value = self.field(field, before, depth);
                object.insert(field.name().to_owned(), value);
            }
        }
        Value::Object(object)
    }

    fn field(&mut self, field: FieldRef<'_>, prior: Option<&Value>, depth: u64) -> Value {
        if let Some(prior) = prior
            && self.one_in(3)
        {
            return prior.clone();
        }
        let patch = field.patch();
        let merges =
            patch.is_some_and(|patch| patch.merge) || matches!(field.merge(), Merge::Map | Merge::Set);
        match field.value().kind() {
            ValueKind::List(element) if merges => {
                let mut keys: Vec<&str> = field.keys().iter().map(AsRef::as_ref).collect();
                keys.extend(patch.and_then(|patch| patch.merge_key.as_deref()));
                self.merging_list(element, &keys, prior, depth)
            }
            _ => self.value(field.value(), prior, depth),
        }
    }

    /// A list whose elements can be told apart: some of the pool, in some order.
    fn merging_list(
        &mut self,
        element: ValueRef<'_>,
        keys: &[&str],
        prior: Option<&Value>,
        depth: u64,
    ) -> Value {
        let mut list = Vec::new();
        for at in self.some_of_the_pool() {
            let Some(ty) = element.as_struct() else {
                let number = matches!(element.kind(), ValueKind::Int32 | ValueKind::Int64);
                list.push(if number { json!(at) } else { json!(format!("v{at}")) });
                continue;
            };
            let mut identity = Map::new();
            for key in keys {
                let kind = ty.field(key).map(|field| field.value().kind());
                let number = matches!(kind, Some(ValueKind::Int32 | ValueKind::Int64));
                let id = if number { json!(80 + at) } else { json!(format!("k{at}")) };
                identity.insert((*key).to_owned(), id);
            }
            let same = |item: &&Value| identity.iter().all(|(key, id)| item.get(key) == Some(id));
            let before = prior.and_then(Value::as_array).and_then(|items| items.iter().find(same));
            let mut item = self.fields(ty, before, depth + 1);
            item.as_object_mut().expect("an object").extend(identity);
            list.push(item);
        }
        Value::Array(list)
    }

    /// At least one index, in any order.
    fn some_of_the_pool(&mut self) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..POOL).filter(|_| self.one_in(2)).collect();
        if chosen.is_empty() {
            chosen.push(self.below(POOL as u64) as usize);
        }
        if self.one_in(2) {
            chosen.reverse();
        }
        chosen
    }

    fn value(&mut self, value: ValueRef<'_>, prior: Option<&Value>, depth: u64) -> Value {
        let pick = self.below(3) as usize;
        match value.kind() {
            ValueKind::String => ["", "a", "\u{e9}\u{1f980}"][pick].into(),
            ValueKind::Bytes => ["YWJjAA==", "", "/w=="][pick].into(),
            ValueKind::Int32 => [0, -1, i32::MAX][pick].into(),
            ValueKind::Int64 => [0, 1, i64::MIN][pick].into(),
            ValueKind::Double => [0.5, -1.5, 1e300][pick].into(),
            ValueKind::Boolean => (pick == 0).into(),
            ValueKind::Quantity => ["100m", "1Gi", "2"][pick].into(),
            ValueKind::Time => {
                ["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"][pick].into()
            }
            ValueKind::MicroTime => {
                ["2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05.900000Z", "1970-01-01T00:00:00.000000Z"]
                    [pick]
                    .into()
            }
            ValueKind::IntOrString => [json!(0), json!(-80), json!("25%")][pick].clone(),
            ValueKind::Untyped => {
                [json!({ "a": [1, "x"] }), json!({ "a": { "b": 2 }, "c": true }), json!("text")][pick].clone()
            }
            ValueKind::Object => {
                [json!({ "a": [1, "x"] }), json!({ "a": { "b": 2 } }), json!({ "c": 1 })][pick].clone()
            }
            ValueKind::Struct(ty) | ValueKind::Union(ty) => self.fields(ty, prior, depth + 1),
            ValueKind::List(element) => {
                let count = 1 + self.below(2);
                (0..count).map(|_| self.value(element, None, depth + 1)).collect()
            }
            ValueKind::Map(element) => {
                let chosen = self.some_of_the_pool();
                chosen
                    .into_iter()
                    .map(|at| {
                        let key = format!("k{at}");
                        let before = prior.and_then(|prior| prior.get(&key));
                        let value = self.value(element, before, depth + 1);
                        (key, value)
                    })
                    .collect()
            }
        }
    }
}
