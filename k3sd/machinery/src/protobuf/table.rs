//! The messages of the built-in types, read once from the embedded table.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::schema::load::{PROTOBUF, rows};
use crate::{kinds, schema};

const META: &str = "apimachinery.pkg.apis.meta.v1";
const DISCOVERY: &str = "api.apidiscovery.v2";
const SCHEMA_PROPS: &str = "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// All messages.
#[derive(Debug)]
pub(super) struct Table {
    messages: Vec<Message>,
    index: HashMap<&'static str, MessageId>,
}

/// Index into the messages of a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId(u32);

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub name: &'static str,
    /// Sorted by number.
    pub fields: Vec<Field>,
}

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Name in JSON.
    pub name: &'static str,
    pub number: u32,
    pub label: Label,
    pub wire: Wire,
}

/// How often a field is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    One,
    Repeated,
    /// Repeated entries of a string key and the value.
    Map,
    /// A message whose fields are the holder's in JSON.
    Inline,
}

/// How one value is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Message(MessageId),
    /// `Timestamp` with whole seconds.
    Time,
    /// `Timestamp` with microseconds.
    MicroTime,
    /// Message around its text.
    Quantity,
    IntOrString,
    /// Message around JSON text.
    Json,
    /// Message around a list of strings.
    Texts,
    /// A schema or a boolean.
    SchemaOrBool(MessageId),
    /// A schema or a list of them.
    SchemaOrList(MessageId),
    /// A schema or a list of strings.
    SchemaOrTexts(MessageId),
}

/// The messages of the built-in types.
pub(super) fn builtin() -> &'static Table {
    static BUILTIN: LazyLock<Table> = LazyLock::new(load);
    &BUILTIN
}

// === impl Table ===

impl Table {
    /// The message of objects that say they are this.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<MessageId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let package = match group {
            "meta.k8s.io" => META,
            "apidiscovery.k8s.io" => DISCOVERY,
            _ => kinds::type_prefix(group, version)?,
        };
        // Options, Status, and discovery's documents belong to every group.
        [package, META].iter().find_map(|package| self.named(&format!("{package}.{kind}")))
    }

    pub(super) fn named(&self, name: &str) -> Option<MessageId> {
        self.index.get(name).copied()
    }

    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    fn intern(&mut self, name: &'static str) -> MessageId {
        *self.index.entry(name).or_insert_with(|| {
            self.messages.push(Message { name, fields: Vec::new() });
            MessageId(self.messages.len() as u32 - 1)
        })
    }

    fn wire(&mut self, text: &'static str) -> Wire {
        match text {
            "string" => return Wire::String,
            "bytes" => return Wire::Bytes,
            "bool" => return Wire::Bool,
            "int32" => return Wire::Int32,
            "int64" => return Wire::Int64,
            "double" => return Wire::Double,
            _ => {}
        }
        match text.rsplit('.').next().unwrap_or_default() {
            "Time" => Wire::Time,
            "MicroTime" => Wire::MicroTime,
            "Quantity" => Wire::Quantity,
            "IntOrString" => Wire::IntOrString,
            "FieldsV1" | "RawExtension" | "JSON" => Wire::Json,
            "ExtraValue" | "Verbs" => Wire::Texts,
            "JSONSchemaPropsOrBool" => Wire::SchemaOrBool(self.intern(SCHEMA_PROPS)),
            "JSONSchemaPropsOrArray" => Wire::SchemaOrList(self.intern(SCHEMA_PROPS)),
            "JSONSchemaPropsOrStringArray" => Wire::SchemaOrTexts(self.intern(SCHEMA_PROPS)),
            _ => Wire::Message(self.intern(text)),
        }
    }
}

// === impl Message ===

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[at])
    }
}

/// The table comes with the program, so a fault in it is a fault of the build.
fn load() -> Table {
    let mut table = Table { messages: Vec::new(), index: HashMap::new() };
    for [type_name, name, number, label, wire] in rows::<5>(PROTOBUF) {
        let number = number.parse().unwrap_or_else(|_| panic!("no field number for {type_name}.{name}"));
        let wire = table.wire(wire.strip_prefix("string,").unwrap_or(wire));
        let label = match label {
            "repeated" => Label::Repeated,
            "map" => Label::Map,
            _ if is_inline(type_name, name, wire) => Label::Inline,
            _ => Label::One,
        };
        let id = table.intern(type_name);
        table.messages[id.0 as usize].fields.push(Field { name, number, label, wire });
    }
    for message in &mut table.messages {
        message.fields.sort_unstable_by_key(|field| field.number);
        message.fields.shrink_to_fit();
    }
    table
}

/// A message that the JSON type does not have as a field is embedded: its fields are the type's own.
fn is_inline(type_name: &str, name: &str, wire: Wire) -> bool {
    let structure = schema::builtin().get(type_name);
    matches!(wire, Wire::Message(_)) && structure.is_some_and(|structure| structure.field(name).is_none())
}
