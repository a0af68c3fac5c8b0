//! A document as a tree of values that know where they were written, and how one tree is laid over another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// More than this of a wrong value helps nobody.
const LONGEST_SHOWN: usize = 80;

/// One source of configuration, in the shape of our own document.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub(crate) root: Item,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// File name, or another name of a source.
    pub(crate) source: Arc<str>,
    /// Line, counted from one, where the source has lines.
    pub(crate) line: Option<usize>,
}

/// The kinds of value the sources have between them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// YAML's empty value.
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// A date or a time, as it was written.
    Date(String),
    Text(String),
    /// What one key was given on a command line, word by word: text, whatever the key takes.
    Words(Vec<String>),
    List(Vec<Item>),
    Table(Table),
}

/// Keys and values.
pub(crate) type Table = BTreeMap<String, Item>;

// === impl Layer ===

impl Layer {
    /// A layer that says nothing.
    pub(crate) fn empty(place: Place) -> Self {
        Self { root: Item { value: Value::Table(Table::new()), place } }
    }

    /// Lays `other` over this layer: tables are merged key by key, everything else is replaced.
    #[must_use]
    pub fn overlaid(mut self, other: &Self) -> Self {
        self.root.overlay(&other.root);
        self
    }

    /// Whether nothing at all is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.root.value, Value::Table(table) if table.is_empty())
    }
}

// === impl Item ===

impl Item {
    pub(crate) fn overlay(&mut self, other: &Self) {
        match (&mut self.value, &other.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (key, item) in above {
                    match below.get_mut(key) {
                        Some(existing) => existing.overlay(item),
                        None => {
                            below.insert(key.clone(), item.clone());
                        }
                    }
                }
            }
            _ => *self = other.clone(),
        }
    }

    /// What a mistake shows as given: the kind of value, and the value where it is short.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::Null => "an empty value".to_owned(),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Date(text) => format!("the date {}", shortened(text)),
            Value::Text(text) => quoted(text),
            Value::Words(words) => quoted(words.last().map(String::as_str).unwrap_or_default()),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Table(table) => {
                let mut text = "a table".to_owned();
                let keys: Vec<_> = table.keys().take(4).map(String::as_str).collect();
                if !keys.is_empty() {
                    // Writing to a String does not fail.
                    let _ = write!(text, " with {}", shortened(&keys.join(", ")));
                }
                text
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// A place in a source without lines.
    pub(crate) fn named(source: &str) -> Self {
        Self { source: source.into(), line: None }
    }

    /// Another line of the same source.
    pub(crate) fn at_line(&self, line: usize) -> Self {
        Self { source: Arc::clone(&self.source), line: Some(line) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// `text` in quotes, shortened.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
