//! Reads the few fields that selectors ask about out of an object's bytes, without building the object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::selectable::Selectable;
use crate::strategy::SelectableField;

const LABELS: &[&str] = &["metadata", "labels"];

/// Labels and the values of `fields`. Bytes that are not an object yield nothing.
pub(super) fn extract(json: &[u8], fields: &'static [SelectableField]) -> Selectable {
    let absent = || fields.iter().map(|field| field.absent.into()).collect();
    let mut found = Found { labels: Vec::new(), values: absent() };
    let active: Vec<usize> = (0..fields.len()).collect();
    let mut json = serde_json::Deserializer::from_slice(json);
    let seed = Node { fields, active: &active, labels: true, depth: 0, found: &mut found };
    if seed.deserialize(&mut json).is_err() {
        found = Found { labels: Vec::new(), values: absent() };
    }
    Selectable::new(&found.values, &found.labels)
}

struct Found {
    labels: Vec<(Box<str>, Box<str>)>,
    values: Vec<Box<str>>,
}

/// One level of the object on the way to the fields that are still `active`.
struct Node<'a> {
    fields: &'static [SelectableField],
    active: &'a [usize],
    /// On the path to `metadata.labels`.
    labels: bool,
    depth: usize,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.labels && self.depth == LABELS.len() {
            while let Some((key, value)) = map.next_entry::<Box<str>, Box<str>>()? {
                self.found.labels.push((key, value));
            }
            return Ok(());
        }
        let mut below = Vec::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            below.clear();
            let wanted =
                |index: &&usize| self.fields[**index].path.get(self.depth).is_some_and(|part| *part == key);
            below.extend(self.active.iter().filter(wanted).copied());
            let labels = self.labels && LABELS.get(self.depth).is_some_and(|part| *part == key);
            if below.is_empty() && !labels {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            map.next_value_seed(Node {
                fields: self.fields,
                active: &below,
                labels,
                depth: self.depth + 1,
                found: self.found,
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.set(text);
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.set(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.set(&value.to_string());
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.set(&value.to_string());
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.set(&value.to_string());
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl Node<'_> {
    fn set(self, text: &str) {
        for index in self.active {
            if self.fields[*index].path.len() == self.depth {
                self.found.values[*index] = text.into();
            }
        }
    }
}
