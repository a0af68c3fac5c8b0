//! Reading a tree into types: what a section's code is written with.
//!
//! An [`At`] stands on one value and knows its path. It gives the value as the type that is wanted, or notes what is wrong
//! in the [`Notes`] that all of them share, and gives nothing; the reader goes on with the next key. So one pass finds everything.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::mistake::Mistake;
use crate::tree::{Item, Place, Table, Value, quoted};

/// Where the mistakes of one reading are gathered.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<Mistake>>);

/// A value at its path.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    item: &'a Item,
    path: String,
    notes: &'a Notes,
}

/// A table whose keys are all known.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    at: At<'a>,
    table: &'a Table,
    known: &'static [&'static str],
}

// === impl Notes ===

impl Notes {
    /// Stands at the top of a document.
    pub(crate) fn read<'a>(&'a self, root: &'a Item) -> At<'a> {
        At { item: root, path: String::new(), notes: self }
    }

    /// Stands on the section `key` of a document.
    pub(crate) fn read_below<'a>(&'a self, key: &str, section: &'a Item) -> At<'a> {
        At { item: section, path: key.to_owned(), notes: self }
    }

    /// Notes a mistake that is not about one value that is there.
    pub(crate) fn add(&self, place: &Place, key: &str, given: &str, allowed: &str) {
        self.0.borrow_mut().push(Mistake {
            source_name: place.to_string(),
            key: key.to_owned(),
            given: given.to_owned(),
            allowed: allowed.to_owned(),
        });
    }

    /// Everything noted, in the order it was found.
    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}

// === impl At ===

impl<'a> At<'a> {
    /// Notes that this value is wrong.
    pub(crate) fn wrong(&self, allowed: impl Display) {
        self.wrong_because(&self.item.shown(), allowed);
    }

    /// Notes that this value is wrong, showing `given` instead of the value: a reason, or less than a secret.
    pub(crate) fn wrong_because(&self, given: &str, allowed: impl Display) {
        self.notes.add(&self.item.place, &self.path, given, &allowed.to_string());
    }

    /// The value itself.
    pub(crate) fn value(&self) -> &'a Value {
        &self.item.value
    }

    /// Text.
    pub(crate) fn text(&self, allowed: &str) -> Option<&'a str> {
        match &self.item.value {
            Value::Text(text) => Some(text),
            Value::Words(words) => words.last().map(String::as_str),
            _ => {
                self.wrong(allowed);
                None
            }
        }
    }

    /// Text that `parse` makes something of.
    pub(crate) fn parsed<T>(&self, allowed: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(self.text(allowed)?);
        if parsed.is_none() {
            self.wrong(allowed);
        }
        parsed
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let find = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        self.parsed(&names.join(", "), find)
    }

    /// True or false. On a command line `1` and `0` do as well, and the key alone means true.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match &self.item.value {
            Value::Boolean(value) => return Some(*value),
            Value::Words(words) => match words.last().map(String::as_str) {
                Some("true" | "1" | "") => return Some(true),
                Some("false" | "0") => return Some(false),
                _ => {}
            },
            _ => {}
        }
        self.wrong("true or false");
        None
    }

    /// A whole number in a range.
    pub(crate) fn integer<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let number = match &self.item.value {
            Value::Integer(number) => Some(*number),
            Value::Words(words) => words.last().and_then(|word| word.parse().ok()),
            _ => None,
        };
        let number =
            number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.wrong(format_args!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// The members of a list. On a command line its members are separated by commas, and a repeated word adds to it.
    pub(crate) fn list<T>(&self, allowed: &str, mut read: impl FnMut(At<'_>) -> Option<T>) -> Vec<T> {
        let member = |index: usize, item: &Item| {
            read(At { item, path: format!("{}[{index}]", self.path), notes: self.notes })
        };
        match &self.item.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(splat(member))
                .collect::<Vec<_>>()
                .into_iter()
                .flatten()
                .collect(),
            Value::Words(words) => {
                let parts = words.iter().flat_map(|word| word.split(',')).filter(|part| !part.is_empty());
                let items: Vec<_> =
                    parts.map(|part| self.beside(Value::Words(vec![part.to_owned()]))).collect();
                items.iter().enumerate().filter_map(splat(member)).collect()
            }
            _ => {
                self.wrong(format_args!("a list of {allowed}"));
                Vec::new()
            }
        }
    }

    /// A table, of which every key must be among `known`. Others are noted.
    pub(crate) fn fields(self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        let Value::Table(table) = &self.item.value else {
            self.wrong(format_args!("a table with {}", known.join(", ")));
            return None;
        };
        for (key, item) in table.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let given = format!("an unknown key, {}", quoted(key));
            self.notes.add(&item.place, &self.join(key), &given, &known.join(", "));
        }
        Some(Fields { table, known, at: self })
    }

    /// A table whose keys are names that the user chooses.
    pub(crate) fn entries(&self, allowed: &str) -> Vec<(&'a str, At<'a>)> {
        let Value::Table(table) = &self.item.value else {
            self.wrong(allowed);
            return Vec::new();
        };
        let entry = |(key, item): (&'a String, &'a Item)| (key.as_str(), self.child(key, item));
        table.iter().map(entry).collect()
    }

    /// Another value at this place.
    fn beside(&self, value: Value) -> Item {
        Item { value, place: self.item.place.clone() }
    }

    fn child(&self, key: &str, item: &'a Item) -> At<'a> {
        At { item, path: self.join(key), notes: self.notes }
    }

    /// The path of `key` below this one; a key that is not plain is quoted, as it has to be in the document.
    fn join(&self, key: &str) -> String {
        let plain = !key.is_empty()
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        let key = if plain { key.to_owned() } else { quoted(key) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// A function of two arguments as one of a pair.
fn splat<A, B, R>(mut function: impl FnMut(A, B) -> R) -> impl FnMut((A, B)) -> R {
    move |(a, b)| function(a, b)
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The value of `key`, if it is set.
    pub(crate) fn get(&self, key: &str) -> Option<At<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is not among the known keys of {}", self.at.path);
        self.table.get(key).map(|item| self.at.child(key, item))
    }

    /// The table itself, to note what is wrong with several keys at once.
    pub(crate) fn whole(&self) -> &At<'a> {
        &self.at
    }
}
