//! YAML text as a tree, for the files of cloud-init.
//!
//! YAML 1.2's core schema, so that `no` is a country and `0644` a text; duplicate keys are mistakes; aliases are followed within limits.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle};

use crate::mistake::Mistake;
use crate::toml_text::{shown_of_line, text_of};
use crate::tree::{Item, Place, Table, Value};

/// Deeper than any document for people.
const DEEPEST: usize = 64;
/// More values than this, with all aliases followed, are an attack or an accident.
const MOST_VALUES: usize = 50_000;

/// Reads the first document of `bytes`. `name` is what mistakes call the source. An empty text is an empty table.
pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<Item, Vec<Mistake>> {
    let text = text_of(name, bytes).map_err(|mistake| vec![mistake])?;
    let mut builder = Builder::new(name);
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::DocumentEnd, _)) => break,
            Ok((event, span)) => builder.take(event, span.start.line()),
            Err(error) => {
                let line = error.marker().line();
                builder.wrong(
                    line,
                    "(syntax)",
                    shown_of_line(text.lines().nth(line - 1).unwrap_or_default()),
                    &format!("YAML: {}", error.info()),
                );
                break;
            }
        }
        if builder.mistakes.last().is_some_and(|mistake| mistake.key == "(size)") {
            break;
        }
    }
    if !builder.mistakes.is_empty() {
        return Err(builder.mistakes);
    }
    let empty = Item { value: Value::Table(Table::new()), place: builder.place };
    Ok(builder.root.filter(|root| root.value != Value::Null).unwrap_or(empty))
}

/// What is being put together.
struct Builder {
    place: Place,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Item>,
    values: usize,
    root: Option<Item>,
    mistakes: Vec<Mistake>,
}

/// A collection that has not ended yet.
struct Open {
    line: usize,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Item>),
    /// A table, and the key whose value comes next.
    Table(Table, Option<String>),
}

impl Builder {
    fn new(name: &str) -> Self {
        Self {
            place: Place::named(name),
            stack: Vec::new(),
            anchors: BTreeMap::new(),
            values: 0,
            root: None,
            mistakes: Vec::new(),
        }
    }

    fn wrong(&mut self, line: usize, key: &str, given: String, allowed: &str) {
        self.mistakes.push(Mistake {
            source_name: self.place.at_line(line).to_string(),
            key: key.to_owned(),
            given,
            allowed: allowed.to_owned(),
        });
    }

    fn take(&mut self, event: Event<'_>, line: usize) {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value =
                    if style == ScalarStyle::Plain { plain(&text) } else { Value::Text(text.into_owned()) };
                self.add(value, anchor, line);
            }
            Event::SequenceStart(_, anchor, _) => self.open(Kind::List(Vec::new()), anchor, line),
            Event::MappingStart(_, anchor, _) => self.open(Kind::Table(Table::new(), None), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(item) => {
                    self.values += count(&item);
                    self.add(item.value, 0, line);
                }
                None => self.wrong(
                    line,
                    "(alias)",
                    "an alias within what it stands for".to_owned(),
                    "the alias of a whole value before it",
                ),
            },
            _ => {}
        }
    }

    fn open(&mut self, kind: Kind, anchor: usize, line: usize) {
        self.stack.push(Open { line, anchor, kind });
        if self.stack.len() > DEEPEST {
            self.wrong(line, "(size)", "a deeper nesting".to_owned(), &format!("at most {DEEPEST} levels"));
        }
    }

    fn close(&mut self) {
        let Some(open) = self.stack.pop() else { return };
        let value = match open.kind {
            Kind::List(items) => Value::List(items),
            Kind::Table(table, _) => Value::Table(table),
        };
        self.add(value, open.anchor, open.line);
    }

    fn add(&mut self, value: Value, anchor: usize, line: usize) {
        self.values += 1;
        if self.values > MOST_VALUES {
            self.wrong(line, "(size)", "more values".to_owned(), &format!("at most {MOST_VALUES} values"));
            return;
        }
        let item = Item { value, place: self.place.at_line(line) };
        if anchor != 0 {
            self.anchors.insert(anchor, item.clone());
        }
        let mut twice = None;
        match self.stack.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(item),
            Some(Kind::List(items)) => items.push(item),
            Some(Kind::Table(table, key)) => match key.take() {
                None => *key = Some(key_text(&item)),
                Some(key) => {
                    if table.insert(key.clone(), item).is_some() {
                        twice = Some(key);
                    }
                }
            },
        }
        if let Some(key) = twice {
            self.wrong(line, &key, "the key twice in one table".to_owned(), "each key once");
        }
    }
}

fn count(item: &Item) -> usize {
    match &item.value {
        Value::List(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Table(table) => table.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

fn key_text(item: &Item) -> String {
    match &item.value {
        Value::Text(text) => text.clone(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Null => String::new(),
        _ => item.shown(),
    }
}

/// A text without quotes. Numbers that begin with a zero stay text, since nobody agrees on what they mean.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let zero_first = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    if !zero_first && digits.starts_with(|c: char| c.is_ascii_digit()) {
        if let Ok(number) = text.parse() {
            return Value::Integer(number);
        }
        if let Ok(number) = text.parse::<f64>() {
            return Value::Float(number);
        }
    }
    Value::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Layer;

    fn toml(text: &str) -> String {
        Layer { root: read("y", text.as_bytes()).unwrap() }.to_toml()
    }

    #[test]
    fn values_are_of_yaml_1_2s_kinds_and_lines_are_known() {
        let text = "a: no\nb: 0644\nc: 12\nd: [1.5, true, ~]\ne: &x {f: 'g'}\nh: *x\n";
        assert_eq!(
            toml(text),
            "a = \"no\"\nb = \"0644\"\nc = 12\nd = [1.5, true, \"\"]\n\n[e]\nf = \"g\"\n\n[h]\nf = \"g\"\n"
        );
        let item = read("y", text.as_bytes()).unwrap();
        let Value::Table(table) = &item.value else { panic!() };
        assert_eq!(table["c"].place.to_string(), "y:3");
    }

    #[test]
    fn a_key_given_twice_and_broken_syntax_are_told_with_their_lines() {
        let told = |text: &str| read("y", text.as_bytes()).unwrap_err()[0].to_string();
        assert!(told("a: 1\nb: 2\na: 3\n").starts_with("y:3: a: given the key twice"));
        assert!(told("a: 1\nb: [1, 2\n").contains("(syntax)"));
        let secret = told("k3s:\n  token: \"hidden\n  b: [hidden\n");
        assert!(secret.contains("(syntax)") && !secret.contains("hidden"), "{secret}");
    }

    #[test]
    fn a_small_text_cannot_become_a_big_tree() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
        for (one, two) in ["ab", "bc", "cd", "de", "ef", "fg"].map(|pair| pair.split_at(1)) {
            bomb += &format!(
                "{two}: &{two} [*{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}]\n"
            );
        }
        assert_eq!(read("y", bomb.as_bytes()).unwrap_err()[0].key, "(size)");
        assert!(read("y", "[".repeat(100_000).as_bytes()).is_err());
        assert!(read("y", "- ".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a-c: \\n\\[\\]{}&*!|>'\"#%@,~0-9]*") {
            let _ = read("y", text.as_bytes());
        }
    }
}
