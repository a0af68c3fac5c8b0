//! `metadata.managedFields`: who owns which fields of an object, by which kind of request, and since when.

use serde_json::{Map, Value, json};

use super::set::Set;

/// Longest name of a manager, in bytes.
pub const MANAGER_MAX_BYTES: usize = 128;
/// The only format of field sets.
const FIELDS_V1: &str = "FieldsV1";

/// Kind of request that made an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A server-side apply.
    Apply,
    /// Everything else.
    Update,
}

/// What tells entries apart, besides the version: an applier has one entry, whichever version it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// Name, as the request gave it.
    pub name: String,
    /// How it owns.
    pub operation: Operation,
    /// The subresource it wrote to, or "".
    pub subresource: String,
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Who.
    pub manager: Manager,
    /// The version of the object that the paths are of.
    pub api_version: String,
    /// When it last changed; "" if that is not known.
    pub time: String,
    /// The paths, as `FieldsV1`: most entries are neither read nor changed by a write.
    pub(super) fields: Value,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managed {
    /// In no particular order; [`Managed::encode`] sorts.
    pub entries: Vec<Entry>,
}

/// `managedFields` that mean nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManagedError {
    /// Neither `Apply` nor `Update`.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// No format.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// Another format.
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    /// No `FieldsV1`.
    #[error("error decoding set of managed fields entry {0}")]
    Fields(usize),
}

impl Manager {
    /// An applier.
    pub fn apply(name: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Apply, subresource)
    }

    /// A writer of another kind.
    pub fn update(name: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Update, subresource)
    }

    fn new(name: &str, operation: Operation, subresource: &str) -> Self {
        let name = if name.is_empty() { "unknown" } else { name };
        Self { name: name.to_owned(), operation, subresource: subresource.to_owned() }
    }
}

impl Entry {
    /// An entry with these paths.
    pub fn new(manager: Manager, api_version: &str, set: &Set) -> Self {
        Self { manager, api_version: api_version.to_owned(), time: String::new(), fields: set.to_fields() }
    }

    /// The paths. Stored entries were checked when they were written; one that somebody spoiled since owns nothing.
    pub fn set(&self) -> Set {
        Set::from_fields(&self.fields).unwrap_or_default()
    }

    /// Puts other paths in the place of these.
    pub fn set_paths(&mut self, set: &Set) {
        self.fields = set.to_fields();
    }

    fn is(&self, manager: &Manager, api_version: &str) -> bool {
        self.manager == *manager && (manager.operation == Operation::Apply || self.api_version == api_version)
    }

    fn is_empty(&self) -> bool {
        self.fields.as_object().is_none_or(Map::is_empty)
    }

    fn decode(at: usize, mut entry: Value) -> Result<Self, ManagedError> {
        let mut text = |field: &str| match entry.get_mut(field).map(Value::take) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(ManagedError::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(ManagedError::ApiVersion);
        }
        match text("fieldsType").as_str() {
            FIELDS_V1 => {}
            "" => return Err(ManagedError::NoFieldsType(at)),
            other => return Err(ManagedError::FieldsType(at, other.to_owned())),
        }
        let manager = Manager { name: text("manager"), operation, subresource: text("subresource") };
        let time = text("time");
        let fields = entry.get_mut("fieldsV1").map_or_else(|| json!({}), Value::take);
        Ok(Self { manager, api_version, time, fields })
    }

    fn encode(self) -> Value {
        let mut out = Map::new();
        let mut put = |field: &str, text: String| {
            if !text.is_empty() {
                out.insert(field.to_owned(), Value::String(text));
            }
        };
        put("manager", self.manager.name);
        put("operation", format!("{:?}", self.manager.operation));
        put("apiVersion", self.api_version);
        put("time", self.time);
        put("fieldsType", FIELDS_V1.to_owned());
        put("subresource", self.manager.subresource);
        out.insert("fieldsV1".to_owned(), self.fields);
        Value::Object(out)
    }
}

impl Managed {
    /// Reads the entries that the server itself has stored.
    ///
    /// # Errors
    /// One of them means nothing. Field sets are not looked into.
    pub fn decode(entries: Option<Value>) -> Result<Self, ManagedError> {
        let Some(Value::Array(entries)) = entries else { return Ok(Self::default()) };
        let mut managed = Self { entries: Vec::with_capacity(entries.len()) };
        for (at, entry) in entries.into_iter().enumerate() {
            managed.put(Entry::decode(at, entry)?);
        }
        Ok(managed)
    }

    /// Reads entries that a client sent, field sets included, which get their usual form.
    ///
    /// # Errors
    /// One of them means nothing.
    pub fn decode_foreign(entries: Value) -> Result<Self, ManagedError> {
        let mut managed = Self::decode(Some(entries))?;
        for (at, entry) in managed.entries.iter_mut().enumerate() {
            let set = Set::from_fields(&entry.fields).map_err(|_| ManagedError::Fields(at))?;
            entry.fields = set.to_fields();
        }
        Ok(managed)
    }

    /// As `managedFields`, in upstream's order; `None` if there is nothing to say.
    pub fn encode(mut self) -> Option<Value> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.sort_by(|a, b| {
            let key =
                |entry: &Entry| (entry.manager.operation, entry.time.clone(), entry.manager.name.clone());
            let rest = |entry: &Entry| (entry.api_version.clone(), entry.manager.subresource.clone());
            key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
        });
        Some(self.entries.into_iter().map(Entry::encode).collect())
    }

    /// The entry of a manager. The version counts only for updates.
    pub fn find(&self, manager: &Manager, api_version: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(manager, api_version))
    }

    /// Takes the entry of a manager out.
    pub fn take(&mut self, manager: &Manager, api_version: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.is(manager, api_version))?;
        Some(self.entries.remove(at))
    }

    /// Puts an entry in the place of the manager's present one.
    pub fn put(&mut self, entry: Entry) {
        self.take(&entry.manager, &entry.api_version);
        self.entries.push(entry);
    }

    /// Drops the entries that own nothing.
    pub(super) fn drop_empty(&mut self) {
        self.entries.retain(|entry| !entry.is_empty());
    }
}

/// True if a client asks for the entries to be forgotten: an empty list, or one empty entry.
pub fn is_reset(entries: &Value) -> bool {
    entries.as_array().is_some_and(|entries| match entries.as_slice() {
        [] => true,
        [one] => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    })
}

/// The name of the manager that a request without one has: the first word of its `User-Agent`, as far as it is a name.
pub fn manager_from_user_agent(agent: &str) -> String {
    let mut name = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        name.push(c);
    }
    name
}

/// What is wrong with a manager's name, in upstream's words, besides its length: each character that cannot be printed.
pub fn unprintable(name: &str) -> Vec<String> {
    name.char_indices()
        .filter(|(_, c)| !is_printable(*c))
        .map(|(at, c)| format!("invalid character U+{:04X} (at position {at})", u32::from(c)))
        .collect()
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space. As far as the standard library tells
/// them: no control characters, no other white space, none of the format and private characters.
fn is_printable(c: char) -> bool {
    let other = matches!(u32::from(c), 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xe0000..=0xe007f | 0xf_0000..=0x10_ffff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || other)
}
