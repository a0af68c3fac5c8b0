//! Reads the embedded tables into a [`Schema`].
//!
//! Five tables are joined: structure and server-side apply, strategic merge, optional scalars, required fields, and protobuf (for the
//! widths of numbers and for base64 fields). They come with the program, so a fault in them is a fault of the build: reading panics with the line.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::{Extra, Field, Merge, PatchStrategy, Schema, Shape, Type};

const STRUCTURE: &str = include_str!("../../data/kubernetes-1.36-schema.tsv");
const SUPPLEMENT: &str = include_str!("../../data/supplement.tsv");
const STRATEGIC_MERGE: &str = include_str!("../../data/kubernetes-1.36-strategic-merge.tsv");
const OPTIONAL: &str = include_str!("../../data/kubernetes-1.36-optional.tsv");
const REQUIRED: &str = include_str!("../../data/kubernetes-1.36-required.tsv");
pub(crate) const PROTOBUF: &str = include_str!("../../data/kubernetes-1.36-protobuf.tsv");

/// Types whose fields upstream declares on another type that is embedded in them.
const EMBEDDED: [(&str, &str); 1] =
    [("api.core.v1.EphemeralContainerCommon", "api.core.v1.EphemeralContainer")];

/// Protobuf's view of the fields of every type.
type Wires = HashMap<&'static str, HashMap<&'static str, Wire>>;

struct Wire {
    /// The scalar, or the value of a map.
    scalar: &'static str,
    /// The struct type, for fields that may be embedded (flattened) in JSON.
    message: &'static str,
}

pub(super) fn builtin() -> Schema {
    let wires = wires();
    let mut schema = Schema::default();
    for [name, field, _, merge, ..] in rows::<6>(STRUCTURE).chain(rows::<6>(SUPPLEMENT)) {
        if field.is_empty() {
            schema.index.insert(Cow::Borrowed(name), schema.types.len() as u32);
            schema.types.push(Type {
                name: Cow::Borrowed(name),
                atomic: merge == "atomic",
                fields: Vec::new(),
            });
        }
    }
    for [type_name, name, value, merge, keys, default] in rows::<6>(STRUCTURE).chain(rows::<6>(SUPPLEMENT)) {
        if name.is_empty() {
            continue;
        }
        let shape = schema.shape(value, width(&wires, type_name, name));
        let field = Field {
            name: Cow::Borrowed(name),
            shape,
            merge: merge_of(merge),
            optional: false,
            required: false,
            extra: extra(keys, default),
        };
        let id = schema.index[type_name] as usize;
        schema.types[id].fields.push(field);
    }
    for ty in &mut schema.types {
        ty.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        ty.fields.shrink_to_fit();
    }
    mark(&mut schema, OPTIONAL, |field| field.optional = true);
    mark(&mut schema, REQUIRED, |field| field.required = true);
    join_patch_strategies(&mut schema);
    schema
}

/// The rows of a table, each cut into `N` columns; missing ones are empty.
pub(crate) fn rows<const N: usize>(text: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut columns = [""; N];
        columns.iter_mut().zip(line.split('\t')).for_each(|(column, text)| *column = text);
        columns
    })
}

fn wires() -> Wires {
    let mut wires = Wires::new();
    for [type_name, field, _, label, wire] in rows::<5>(PROTOBUF) {
        let scalar = wire.rsplit(',').next().unwrap_or(wire);
        let message = if label == "optional" && wire.contains('.') { wire } else { "" };
        wires.entry(type_name).or_default().insert(field, Wire { scalar, message });
    }
    wires
}

/// The protobuf scalar of a field, looked for in the type and in those embedded in it.
fn width(wires: &Wires, type_name: &str, field: &str) -> &'static str {
    let Some(fields) = wires.get(type_name) else { return "" };
    if let Some(wire) = fields.get(field) {
        return wire.scalar;
    }
    let mut embedded = fields.values().filter_map(|wire| wires.get(wire.message));
    embedded.find_map(|fields| fields.get(field)).map_or("", |wire| wire.scalar)
}

fn merge_of(text: &str) -> Merge {
    match text {
        "" => Merge::Default,
        "atomic" => Merge::Atomic,
        "set" => Merge::Set,
        "map" => Merge::Map,
        "separable" => Merge::Separable,
        other => panic!("unknown merge '{other}' in the schema table"),
    }
}

fn extra(keys: &'static str, default: &'static str) -> Option<Box<Extra>> {
    if keys.is_empty() && default.is_empty() {
        return None;
    }
    Some(Box::new(Extra {
        keys: keys.split(',').filter(|key| !key.is_empty()).map(Cow::Borrowed).collect(),
        default: (!default.is_empty()).then(|| default_value(default)),
        patch: None,
    }))
}

/// JSON, or a bare word where the table's source wrote a string without quotes.
fn default_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Marks the fields that a table names, type by type.
fn mark(schema: &mut Schema, table: &'static str, set: fn(&mut Field)) {
    for [type_name, names] in rows::<2>(table) {
        let Some(&id) = schema.index.get(type_name) else { panic!("no type {type_name}") };
        let fields = &mut schema.types[id as usize].fields;
        let named = |field: &&mut Field| names.split(' ').any(|name| name == field.name);
        fields.iter_mut().filter(named).for_each(set);
    }
}

fn join_patch_strategies(schema: &mut Schema) {
    for [type_name, field, strategy, key] in rows::<4>(STRATEGIC_MERGE) {
        let type_name = EMBEDDED.iter().find(|(from, _)| *from == type_name).map_or(type_name, |(_, to)| to);
        let Some(&id) = schema.index.get(type_name) else { panic!("no type {type_name}") };
        let fields = &mut schema.types[id as usize].fields;
        // A few rows name fields of types that are embedded elsewhere or that the structural table does not list.
        let Some(field) = fields.iter_mut().find(|f| f.name == field) else { continue };
        field.extra.get_or_insert_default().patch = Some(PatchStrategy {
            merge: strategy.split(',').any(|s| s == "merge"),
            replace: strategy.split(',').any(|s| s == "replace"),
            retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
            merge_key: (!key.is_empty()).then_some(Cow::Borrowed(key)),
        });
    }
}

impl Schema {
    /// The shape a cell of the table names. `width` is the protobuf scalar at its leaf.
    fn shape(&mut self, text: &str, width: &str) -> Shape {
        if let Some(element) = inner(text, "list(") {
            let element = self.shape(element, width);
            return Shape::List(self.intern(element));
        }
        if text == "map(untyped)" {
            return Shape::Object;
        }
        if let Some(element) = inner(text, "map(") {
            let element = self.shape(element, width);
            return Shape::Map(self.intern(element));
        }
        if let Some(ty) = inner(text, "union(") {
            return Shape::Union(self.index[ty]);
        }
        match text {
            "string" if width == "bytes" => Shape::Bytes,
            "string" => Shape::String,
            "boolean" => Shape::Boolean,
            "numeric" => match width {
                "int32" => Shape::Int32,
                "double" => Shape::Double,
                // Counts of the few types without a protobuf row are whole numbers, too.
                _ => Shape::Int64,
            },
            "untyped" | "__untyped_atomic_" | "__untyped_deduced_" => Shape::Untyped,
            "apimachinery.pkg.api.resource.Quantity" => Shape::Quantity,
            "apimachinery.pkg.apis.meta.v1.Time" => Shape::Time,
            "apimachinery.pkg.apis.meta.v1.MicroTime" => Shape::MicroTime,
            "apimachinery.pkg.util.intstr.IntOrString" => Shape::IntOrString,
            "apimachinery.pkg.apis.meta.v1.FieldsV1" | "apimachinery.pkg.runtime.RawExtension" => {
                Shape::Object
            }
            name => Shape::Struct(*self.index.get(name).unwrap_or_else(|| panic!("no type {name}"))),
        }
    }

    fn intern(&mut self, shape: Shape) -> u32 {
        let at = self.shapes.iter().position(|&s| s == shape).unwrap_or_else(|| {
            self.shapes.push(shape);
            self.shapes.len() - 1
        });
        at as u32
    }
}

fn inner<'t>(text: &'t str, open: &str) -> Option<&'t str> {
    text.strip_prefix(open)?.strip_suffix(')')
}
