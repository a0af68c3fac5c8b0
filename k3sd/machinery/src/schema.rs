//! What the fields of an API type are: value types, merge behaviour, static defaults.
//!
//! One table serves everything that walks an object without knowing its kind: pruning and strict decoding
//! ([`prune`], [`check_types`]), defaults ([`apply_static_defaults`]), patches, OpenAPI. The facts of the built-in kinds are
//! text files embedded in the program (`data/`); they are read once, on first use, into a few flat vectors whose strings
//! still point into the embedded text.

mod decode;
mod defaults;
pub(crate) mod load;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use decode::normalize;
pub use decode::{FieldValidation, check_types, decode_from, decode_json, prune};
pub use defaults::apply_static_defaults;

/// Text of a name: borrowed from the embedded tables for built-in types.
type Name = Cow<'static, str>;

/// A set of types that refer to each other by name.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    shapes: Vec<Shape>,
    index: HashMap<Name, u32>,
}

/// One type of a [`Schema`].
#[derive(Debug, Clone, Copy)]
pub struct TypeRef<'a> {
    schema: &'a Schema,
    id: u32,
}

/// One field of a [`TypeRef`].
#[derive(Debug, Clone, Copy)]
pub struct FieldRef<'a> {
    schema: &'a Schema,
    field: &'a Field,
}

/// The type of a value: what a field, a list element or a map value holds.
#[derive(Debug, Clone, Copy)]
pub struct ValueRef<'a> {
    schema: &'a Schema,
    shape: Shape,
}

/// What a [`ValueRef`] can be.
#[derive(Debug, Clone, Copy)]
pub enum ValueKind<'a> {
    /// JSON string.
    String,
    /// JSON string of base64.
    Bytes,
    /// Whole number of 32 bits.
    Int32,
    /// Whole number of 64 bits.
    Int64,
    /// Any number.
    Double,
    /// JSON boolean.
    Boolean,
    /// Resource quantity: a string, or a number that reads as one.
    Quantity,
    /// RFC 3339 time, whole seconds.
    Time,
    /// RFC 3339 time, microseconds.
    MicroTime,
    /// Number or string, as ports and percentages.
    IntOrString,
    /// Any JSON value; nothing in it is checked or pruned.
    Untyped,
    /// Any JSON object; nothing in it is checked or pruned.
    Object,
    /// Object with known fields.
    Struct(TypeRef<'a>),
    /// Object with known fields, or any value that is not an object (JSON Schema's "schema or boolean").
    Union(TypeRef<'a>),
    /// JSON array.
    List(ValueRef<'a>),
    /// JSON object with free keys.
    Map(ValueRef<'a>),
}

/// How a field merges under server-side apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Merge {
    /// As its value type says: structs and maps field by field, lists whole.
    #[default]
    Default,
    /// Replaced whole.
    Atomic,
    /// A list of scalars without order or repetition.
    Set,
    /// A list of objects told apart by [`FieldRef::keys`].
    Map,
    /// A map merged key by key.
    Separable,
}

/// How a field merges under a strategic merge patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists: merge elements instead of replacing the list.
    pub merge: bool,
    /// Objects: replace whole instead of merging.
    pub replace: bool,
    /// Objects: `$retainKeys` drops the fields that the patch does not name.
    pub retain_keys: bool,
    /// Field that tells elements apart; `None` for lists of scalars.
    pub merge_key: Option<Cow<'static, str>>,
}

#[derive(Debug)]
struct Type {
    name: Name,
    atomic: bool,
    /// Sorted by name.
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: Name,
    shape: Shape,
    merge: Merge,
    /// The zero value says something else than absence.
    optional: bool,
    /// Clients must give it.
    required: bool,
    /// Boxed: few fields have any of it.
    extra: Option<Box<Extra>>,
}

#[derive(Debug, Default)]
struct Extra {
    keys: Vec<Name>,
    default: Option<Value>,
    patch: Option<PatchStrategy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    String,
    Bytes,
    Int32,
    Int64,
    Double,
    Boolean,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    Untyped,
    Object,
    /// Index into `types`.
    Struct(u32),
    Union(u32),
    /// Index of the element into `shapes`.
    List(u32),
    Map(u32),
}

/// The types of the built-in kinds.
pub fn builtin() -> &'static Schema {
    static BUILTIN: LazyLock<Schema> = LazyLock::new(load::builtin);
    &BUILTIN
}

// === impl Schema ===

impl Schema {
    /// The type of that name, such as `api.core.v1.Pod`.
    pub fn get(&self, type_name: &str) -> Option<TypeRef<'_>> {
        self.index.get(type_name).map(|&id| TypeRef { schema: self, id })
    }

    /// All types, in no particular order.
    pub fn types(&self) -> impl Iterator<Item = TypeRef<'_>> {
        (0..self.types.len() as u32).map(|id| TypeRef { schema: self, id })
    }
}

// === impl TypeRef ===

impl<'a> TypeRef<'a> {
    fn ty(self) -> &'a Type {
        &self.schema.types[self.id as usize]
    }

    /// Name of the type.
    pub fn name(self) -> &'a str {
        &self.ty().name
    }

    /// As the type of a value.
    pub fn value(self) -> ValueRef<'a> {
        ValueRef { schema: self.schema, shape: Shape::Struct(self.id) }
    }

    /// Last part of the name, such as `PodSpec`.
    pub fn short_name(self) -> &'a str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// Whether server-side apply replaces values of this type whole.
    pub fn is_atomic(self) -> bool {
        self.ty().atomic
    }

    /// The field of that name.
    pub fn field(self, name: &str) -> Option<FieldRef<'a>> {
        let fields = &self.ty().fields;
        let at = fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(FieldRef { schema: self.schema, field: &fields[at] })
    }

    /// All fields, sorted by name.
    pub fn fields(self) -> impl Iterator<Item = FieldRef<'a>> {
        let schema = self.schema;
        self.ty().fields.iter().map(move |field| FieldRef { schema, field })
    }
}

// === impl FieldRef ===

impl<'a> FieldRef<'a> {
    /// Name in JSON.
    pub fn name(self) -> &'a str {
        &self.field.name
    }

    /// What it holds.
    pub fn value(self) -> ValueRef<'a> {
        ValueRef { schema: self.schema, shape: self.field.shape }
    }

    /// How it merges under server-side apply.
    pub fn merge(self) -> Merge {
        self.field.merge
    }

    /// The fields that tell the elements of a [`Merge::Map`] list apart.
    pub fn keys(self) -> &'a [Cow<'static, str>] {
        self.field.extra.as_ref().map_or(&[], |extra| &extra.keys)
    }

    /// The value that stands for an absent field.
    pub fn default(self) -> Option<&'a Value> {
        self.field.extra.as_ref()?.default.as_ref()
    }

    /// Whether a scalar's zero value (`""`, 0, false) says something else than absence. Where it does not, upstream never
    /// writes zero values.
    pub fn is_optional(self) -> bool {
        self.field.optional
    }

    /// Whether clients must give it. What is missing is refused by validation, kind by kind; this is for documents about the type.
    pub fn is_required(self) -> bool {
        self.field.required
    }

    /// How it merges under a strategic merge patch, where that differs from a JSON merge patch.
    pub fn patch(self) -> Option<&'a PatchStrategy> {
        self.field.extra.as_ref()?.patch.as_ref()
    }
}

// === impl ValueRef ===

impl<'a> ValueRef<'a> {
    /// What it is.
    pub fn kind(self) -> ValueKind<'a> {
        let schema = self.schema;
        let element = |at: u32| ValueRef { schema, shape: schema.shapes[at as usize] };
        match self.shape {
            Shape::String => ValueKind::String,
            Shape::Bytes => ValueKind::Bytes,
            Shape::Int32 => ValueKind::Int32,
            Shape::Int64 => ValueKind::Int64,
            Shape::Double => ValueKind::Double,
            Shape::Boolean => ValueKind::Boolean,
            Shape::Quantity => ValueKind::Quantity,
            Shape::Time => ValueKind::Time,
            Shape::MicroTime => ValueKind::MicroTime,
            Shape::IntOrString => ValueKind::IntOrString,
            Shape::Untyped => ValueKind::Untyped,
            Shape::Object => ValueKind::Object,
            Shape::Struct(id) => ValueKind::Struct(TypeRef { schema, id }),
            Shape::Union(id) => ValueKind::Union(TypeRef { schema, id }),
            Shape::List(at) => ValueKind::List(element(at)),
            Shape::Map(at) => ValueKind::Map(element(at)),
        }
    }

    /// The struct type, if it is one.
    pub fn as_struct(self) -> Option<TypeRef<'a>> {
        match self.kind() {
            ValueKind::Struct(ty) | ValueKind::Union(ty) => Some(ty),
            _ => None,
        }
    }

    /// The element type of a list or map, if it is one.
    pub fn element(self) -> Option<ValueRef<'a>> {
        match self.kind() {
            ValueKind::List(element) | ValueKind::Map(element) => Some(element),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(type_name: &str, field: &str) -> FieldRef<'static> {
        builtin().get(type_name).expect("type").field(field).expect("field")
    }

    #[test]
    fn fields_carry_their_value_types() {
        let containers = field("api.core.v1.PodSpec", "containers");
        let element = containers.value().element().and_then(ValueRef::as_struct).expect("list of structs");
        assert_eq!(element.name(), "api.core.v1.Container");
        assert_eq!(containers.merge(), Merge::Map);
        assert_eq!(containers.keys(), ["name"]);
        assert!(matches!(field("api.apps.v1.DeploymentSpec", "replicas").value().kind(), ValueKind::Int32));
        assert!(matches!(
            field("api.core.v1.PodSpec", "activeDeadlineSeconds").value().kind(),
            ValueKind::Int64
        ));
        let data = field("api.core.v1.Secret", "data").value().element().expect("map");
        assert!(matches!(data.kind(), ValueKind::Bytes));
        let limits = field("api.core.v1.ResourceRequirements", "limits").value().element().expect("map");
        assert!(matches!(limits.kind(), ValueKind::Quantity));
    }

    #[test]
    fn fields_of_embedded_types_know_their_widths_and_patch_keys() {
        let port = field("api.core.v1.EphemeralContainer", "ports");
        assert_eq!(port.patch().and_then(|p| p.merge_key.as_deref()), Some("containerPort"));
        assert!(matches!(field("api.core.v1.Probe", "periodSeconds").value().kind(), ValueKind::Int32));
    }

    #[test]
    fn every_number_of_the_structural_table_has_a_width() {
        // A number without a protobuf row would be a Double; upstream has three of those, all in JSON schemas.
        for ty in builtin().types().filter(|ty| !ty.name().starts_with("apiextensions")) {
            for field in ty.fields() {
                assert!(!matches!(field.value().kind(), ValueKind::Double), "{}.{}", ty.name(), field.name());
            }
        }
    }

    #[test]
    fn patch_strategies_are_joined() {
        let volumes = field("api.core.v1.PodSpec", "volumes").patch().expect("strategy");
        assert!(volumes.merge && volumes.retain_keys);
        assert!(
            field("api.policy.v1.PodDisruptionBudgetSpec", "selector").patch().expect("strategy").replace
        );
        let finalizers =
            field("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers").patch().expect("strategy");
        assert_eq!((finalizers.merge, &finalizers.merge_key), (true, &None));
    }
}
