//! A [`Layer`] as TOML text, for the copy that a machine keeps of what it accepted.

use std::fmt::Write as _;

use crate::tree::{Item, Layer, Table, Value};

impl Layer {
    /// The layer as TOML. Reading it gives the same layer again, but for the places.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        if let Value::Table(table) = &self.root.value {
            section(&mut text, "", table);
        }
        text
    }
}

/// A table: its plain values, then the tables in it, each under its own heading.
fn section(text: &mut String, path: &str, table: &Table) {
    let (tables, plain): (Vec<_>, Vec<_>) =
        table.iter().partition(|(_, item)| matches!(item.value, Value::Table(_)));
    if !path.is_empty() && (!plain.is_empty() || tables.is_empty()) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "\n[{path}]");
    }
    for (key, item) in plain {
        let _ = writeln!(text, "{} = {}", quoted_key(key), inline(item));
    }
    for (key, item) in tables {
        if let Value::Table(table) = &item.value {
            let key = quoted_key(key);
            section(text, &if path.is_empty() { key } else { format!("{path}.{key}") }, table);
        }
    }
}

fn inline(item: &Item) -> String {
    match &item.value {
        // TOML has no empty value; an empty text is told wherever it is not allowed.
        Value::Null => quoted(""),
        Value::Boolean(on) => on.to_string(),
        Value::Integer(number) => number.to_string(),
        // `{:?}` keeps the point that makes it a float.
        Value::Float(number) => format!("{number:?}").to_lowercase(),
        Value::Date(text) => text.clone(),
        Value::Text(text) => quoted(text),
        Value::Words(words) => quoted(&words.join(",")),
        Value::List(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let entry = |(key, item): (&String, &Item)| format!("{} = {}", quoted_key(key), inline(item));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted_key(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { quoted(key) }
}

/// A basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Place;

    fn item(value: Value) -> Item {
        Item { value, place: Place::named("x") }
    }

    fn values() -> impl Strategy<Value = Item> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            (-1e300..1e300).prop_map(Value::Float),
            ".*".prop_map(Value::Text),
        ]
        .prop_map(item);
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map(".*", inner, 0..4).prop_map(Value::Table),
            ]
            .prop_map(item)
        })
    }

    fn same(a: &Item, b: &Item) -> bool {
        match (&a.value, &b.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Table(a), Value::Table(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((x, a), (y, b))| x == y && same(a, b))
            }
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(table in prop::collection::btree_map(".*", values(), 0..5)) {
            let layer = Layer { root: item(Value::Table(table)) };
            let text = layer.to_toml();
            let again = Layer::toml("x", text.as_bytes());
            prop_assert!(again.is_ok_and(|again| same(&again.root, &layer.root)), "{}", text);
        }
    }
}
