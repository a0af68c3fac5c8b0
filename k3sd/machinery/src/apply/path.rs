//! One step of a path: a field, a list element by its keys or by its value. How it is written as a key of `FieldsV1`, shown in
//! messages, and ordered.
//!
//! | step | `FieldsV1` | message |
//! | --- | --- | --- |
//! | field or map key | `f:spec` | `.spec` |
//! | element of a list with keys | `k:{"name":"web"}` | `[name="web"]` |
//! | element of a set | `v:"finalizer"` | `[="finalizer"]` |
//! | position | `i:3` | `[3]` |

use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathElement {
    /// A field of an object, or a key of a map.
    Field(String),
    /// The list element with these values in its key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// The element of a set.
    Value(Value),
    /// A position in a list that has no keys.
    Index(i64),
}

/// A key of `FieldsV1` that names no path element.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither `f:`, `k:`, `v:` nor `i:`. Later versions of the format may have more, so readers skip such keys.
    #[error("unknown path element type")]
    UnknownType,
    /// No prefix at all.
    #[error("missing colon: {0}")]
    NoPrefix(String),
    /// What follows the prefix is not what it promises.
    #[error("'{key}' is no path element")]
    Malformed {
        /// The key as it was given.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// No number follows `i:`.
    #[error("'{0}' is no position")]
    NoIndex(String),
}

impl PathElement {
    /// A field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    /// Reads a key of `FieldsV1`.
    ///
    /// # Errors
    /// The key is none.
    pub fn parse(key: &str) -> Result<Self, PathError> {
        let malformed = |source| PathError::Malformed { key: key.to_owned(), source };
        let (kind, rest) = key
            .split_at_checked(2)
            .filter(|(kind, _)| kind.ends_with(':'))
            .ok_or_else(|| PathError::NoPrefix(key.to_owned()))?;
        match kind {
            "f:" => Ok(Self::field(rest)),
            "v:" => serde_json::from_str(rest).map(Self::Value).map_err(malformed),
            // Maps are sorted by name, as keys are.
            "k:" => serde_json::from_str::<Map<String, Value>>(rest)
                .map(|fields| Self::Key(fields.into_iter().collect()))
                .map_err(malformed),
            "i:" => rest.parse().map(Self::Index).map_err(|_| PathError::NoIndex(key.to_owned())),
            _ => Err(PathError::UnknownType),
        }
    }

    /// As a key of `FieldsV1`.
    pub fn to_key(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Field(name) => {
                out.reserve_exact(2 + name.len());
                out.push_str("f:");
                out.push_str(name);
            }
            Self::Key(fields) => {
                out.push_str("k:{");
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_value(&mut out, &Value::String(name.clone()));
                    out.push(':');
                    write_value(&mut out, value);
                }
                out.push('}');
            }
            Self::Value(value) => {
                out.push_str("v:");
                write_value(&mut out, value);
            }
            Self::Index(at) => out = format!("i:{at}"),
        }
        out
    }
}

/// JSON as Go's encoder writes it, which escapes what HTML treats specially: the keys must be the same byte for byte, whoever
/// wrote them.
fn write_value(out: &mut String, value: &Value) {
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_char('[')?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_char(']')
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(at) => write!(f, "[{at}]"),
        }
    }
}

// === order ===

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    /// Fields, then keys, then values, then positions.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => compare_keys(a, b),
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

fn compare_keys(a: &[(String, Value)], b: &[(String, Value)]) -> Ordering {
    let fields = a.iter().zip(b).map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare_values(&a.1, &b.1)));
    fields.filter(|order| order.is_ne()).chain([a.len().cmp(&b.len())]).next().unwrap_or(Ordering::Equal)
}

/// Numbers, strings, booleans, lists, objects, null.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let items = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            items
                .filter(|order| order.is_ne())
                .chain([a.len().cmp(&b.len())])
                .next()
                .unwrap_or(Ordering::Equal)
        }
        (Value::Object(a), Value::Object(b)) => {
            let entries = a.iter().zip(b).map(|(a, b)| a.0.cmp(b.0).then_with(|| compare_values(a.1, b.1)));
            entries
                .filter(|order| order.is_ne())
                .chain([a.len().cmp(&b.len())])
                .next()
                .unwrap_or(Ordering::Equal)
        }
        (a, b) => value_rank(a).cmp(&value_rank(b)),
    }
}

fn value_rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_read_back_as_what_was_written_and_show_in_messages() {
        let port = PathElement::Key(vec![
            ("containerPort".to_owned(), json!(80)),
            ("protocol".to_owned(), json!("TCP")),
        ]);
        for (element, key, shown) in [
            (
                PathElement::field("app.kubernetes.io/name"),
                "f:app.kubernetes.io/name",
                ".app.kubernetes.io/name",
            ),
            (port, r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#),
            (PathElement::Value(json!("a/b")), r#"v:"a/b""#, r#"[="a/b"]"#),
            (PathElement::Index(2), "i:2", "[2]"),
            (PathElement::Value(json!("<&>")), r#"v:"\u003c\u0026\u003e""#, r#"[="<&>"]"#),
        ] {
            assert_eq!(element.to_key(), key);
            assert_eq!(PathElement::parse(key).expect("a key"), element);
            assert_eq!(element.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_key_is_told_from_what_is_one_of_a_later_version() {
        assert!(matches!(PathElement::parse("x:1"), Err(PathError::UnknownType)));
        for key in ["", "f", "name", "k:[1]", "k:{", "v:", "i:x", "é:"] {
            let error = PathElement::parse(key).expect_err(key);
            assert!(!matches!(error, PathError::UnknownType), "{key}");
        }
    }

    #[test]
    fn numbers_are_ordered_as_numbers_and_kinds_of_steps_one_after_the_other() {
        let keys = ["f:b", r#"k:{"port":80}"#, r#"k:{"port":443}"#, "v:1", r#"v:"a""#, "v:true", "i:0"];
        let elements: Vec<PathElement> =
            keys.iter().map(|key| PathElement::parse(key).expect("a key")).collect();
        assert!(elements.is_sorted());
    }
}
