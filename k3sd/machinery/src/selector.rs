//! Label and field selectors: from text, from `metav1.LabelSelector`, and matching.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

/// All requirements must hold. Without any, everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Matches nothing, whatever the requirements: an absent selector of an object.
    nothing: bool,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// How its value is judged.
    pub operator: Operator,
}

/// How a label's value is judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operator {
    /// Present, with one of these values.
    In(BTreeSet<String>),
    /// Absent, or with none of these values.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, and a whole number above this.
    GreaterThan(i64),
    /// Present, and a whole number below this.
    LessThan(i64),
}

/// Equalities on fields, such as `spec.nodeName=n1,status.phase!=Failed`. Without any, everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    /// The terms; all must hold.
    pub terms: Vec<FieldTerm>,
}

/// One equality of a [`FieldSelector`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// Path, such as `metadata.name`.
    pub field: String,
    /// Whether the value must be equal (or else must differ).
    pub equals: bool,
    /// The value; an absent field counts as empty.
    pub value: String,
}

/// A selector that cannot be read. Leaf error: the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not in the grammar.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A term of a field selector without an operator.
    #[error("invalid field selector term: {0:?}")]
    FieldTerm(String),
    /// A `matchExpressions` entry that makes no sense.
    #[error("{0}")]
    Expression(String),
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// From text such as `app=web,tier in (a,b),!legacy,size>3`.
    ///
    /// # Errors
    /// The text is not in the grammar.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        let mut requirements = parser.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a `metav1.LabelSelector`: absent or `null` matches nothing, empty matches everything.
    ///
    /// # Errors
    /// An operator that does not exist, or one whose values do not fit it.
    pub fn from_value(value: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(Value::Object(selector)) = value else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            requirements.extend(equalities(labels));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(Requirement::from_expression(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a plain map of labels, as services and replication controllers have it. An empty map matches everything; callers
    /// for whom it should match nothing must look first.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        Self { requirements: equalities(labels).collect(), nothing: false }
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether an object with these labels matches. `None` is an object without labels.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_by(|key| labels?.get(key)?.as_str())
    }

    /// As [`Self::matches`], with any way to look up a label.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.operator.accepts(label(&requirement.key)))
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Requirement {
    fn from_expression(expression: &Value) -> Result<Self, SelectorError> {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = text("key").to_owned();
        let values: BTreeSet<String> = expression
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect();
        let operator = match (text("operator"), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("In" | "NotIn", true) => {
                return Err(SelectorError::Expression(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                        .to_owned(),
                ));
            }
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("Exists" | "DoesNotExist", false) => {
                return Err(SelectorError::Expression(
                    "values: Invalid value: values set must be empty for exists and does not exist"
                        .to_owned(),
                ));
            }
            (other, _) => {
                return Err(SelectorError::Expression(format!(
                    "{other:?} is not a valid label selector operator"
                )));
            }
        };
        Ok(Self { key, operator })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list =
            |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values)),
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan(n) => write!(f, "{key}>{n}"),
            Operator::LessThan(n) => write!(f, "{key}<{n}"),
        }
    }
}

impl Operator {
    /// Whether a label with this value, or its absence, is accepted.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Self::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

fn equalities(labels: &Map<String, Value>) -> impl Iterator<Item = Requirement> {
    labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In(BTreeSet::from([value.as_str().unwrap_or_default().to_owned()])),
    })
}

// === impl FieldSelector ===

impl FieldSelector {
    /// From text such as `spec.nodeName=n1,status.phase!=Failed`. A backslash escapes `\`, `,` and `=` in values.
    ///
    /// # Errors
    /// A term without `=`, `==` or `!=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split_unescaped(text).into_iter().filter(|term| !term.is_empty()).map(|term| {
            let fault = || SelectorError::FieldTerm(term.to_owned());
            let (field, rest) = term.split_at(term.find(['=', '!']).ok_or_else(fault)?);
            let (equals, value) = if let Some(value) = rest.strip_prefix("!=") {
                (false, value)
            } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
                (true, value)
            } else {
                return Err(fault());
            };
            Ok(FieldTerm { field: field.to_owned(), equals, value: unescape(value).ok_or_else(fault)? })
        });
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object matches; `field` looks a path up, absent fields count as empty.
    pub fn matches_by<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (field(&term.field).unwrap_or_default() == term.value) == term.equals)
    }

    /// Whether an object matches, reading string, number and boolean fields at their paths.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| {
            let value = term.field.split('.').try_fold(object, |value, name| value.get(name));
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => String::new(),
                Some(scalar) => scalar.to_string(),
            };
            (text == term.value) == term.equals
        })
    }

    /// The value that a field must equal, if one term says so.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equals && term.field == field).map(|term| term.value.as_str())
    }
}

impl FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `None`: a backslash before anything but `\`, `,` and `=`, or one of the latter two without it.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

// === the grammar of label selectors ===

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A key, a value, or one of the words `in` and `notin`.
    Word(String),
    /// One of `, ( ) ! = == != < >`.
    Sign(&'static str),
    Other(char),
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

fn lex(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if let Some(&sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            sign.len()
        } else {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            tokens.push(if length == 0 {
                Token::Other(first)
            } else {
                Token::Word(rest[..length].to_owned())
            });
            length.max(if length == 0 { first.len_utf8() } else { 0 })
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Sign(s)) if *s == sign);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, expected: &str) -> Result<String, SelectorError> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(unexpected(other.as_ref(), expected)),
        }
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        while self.at < self.tokens.len() {
            requirements.push(self.requirement()?);
            match self.next() {
                None => break,
                Some(Token::Sign(",")) if self.at < self.tokens.len() => {}
                Some(Token::Sign(",")) => return Err(unexpected(None, "identifier after ','")),
                other => return Err(unexpected(other.as_ref(), "',' or 'end of string'")),
            }
        }
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.eat("!") {
            let key = self.word("identifier")?;
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let key = self.word("!, identifier, or 'end of string'")?;
        let operator = match self.tokens.get(self.at).cloned() {
            None | Some(Token::Sign(",")) => Operator::Exists,
            Some(token) => {
                self.at += 1;
                match token {
                    Token::Sign("=" | "==") => Operator::In(BTreeSet::from([self.value()])),
                    Token::Sign("!=") => Operator::NotIn(BTreeSet::from([self.value()])),
                    Token::Sign(">") => Operator::GreaterThan(self.number()?),
                    Token::Sign("<") => Operator::LessThan(self.number()?),
                    Token::Word(word) if word == "in" => Operator::In(self.set()?),
                    Token::Word(word) if word == "notin" => Operator::NotIn(self.set()?),
                    other => {
                        return Err(unexpected(Some(&other), "in, notin, =, ==, !=, gt, lt"));
                    }
                }
            }
        };
        Ok(Requirement { key, operator })
    }

    /// A value; nothing there means the empty value.
    fn value(&mut self) -> String {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                word.clone()
            }
            _ => String::new(),
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let text = self.value();
        text.parse().map_err(|_| {
            SelectorError::Syntax(format!(
                "values[0][{text}]: Invalid value: \"{text}\": for 'Gt', 'Lt' operators, the value must be an integer"
            ))
        })
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.eat("(") {
            return Err(unexpected(self.next().as_ref(), "'('"));
        }
        let mut values = BTreeSet::from([self.value()]);
        loop {
            match self.next() {
                Some(Token::Sign(",")) => values.insert(self.value()),
                Some(Token::Sign(")")) => return Ok(values),
                other => return Err(unexpected(other.as_ref(), "',' or ')'")),
            };
        }
    }
}

fn unexpected(found: Option<&Token>, expected: &str) -> SelectorError {
    let found = match found {
        None => String::new(),
        Some(Token::Word(word)) => word.clone(),
        Some(Token::Sign(sign)) => (*sign).to_owned(),
        Some(Token::Other(c)) => c.to_string(),
    };
    SelectorError::Syntax(format!("found '{found}', expected: {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(value: Value) -> Map<String, Value> {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn label_selectors_match_as_upstreams() {
        let web = labels(json!({"app": "web", "tier": "front", "size": "5"}));
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (api, web)", true),
            ("app notin (api,web)", false),
            ("missing notin (a)", true),
            ("missing!=a", true),
            ("missing in (a)", false),
            ("app", true),
            ("!app", false),
            ("!missing,app", true),
            ("size>4,size<6", true),
            ("size>5", false),
            ("app=", false),
            ("example.com/x-y_z.a notin ()", true),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|err| panic!("{text}: {err}"));
            assert_eq!(selector.matches(Some(&web)), expected, "{text}");
        }
    }

    #[test]
    fn text_of_a_selector_reads_as_the_same_selector() {
        for text in ["a=b,c!=d", "a in (x,y),!b", "a notin (x,y)", "k,n<3,z>4"] {
            let selector = LabelSelector::parse(text).expect("parses");
            assert_eq!(selector.to_string(), text);
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    proptest! {
        #[test]
        fn any_selector_reads_back_from_its_text(
            terms in prop::collection::vec("[a-z]{1,3}(=[a-z]{1,2}|!=[a-z]{1,2}| in \\([a-c],[d-f]\\)| notin \\([a-c],[d-f]\\)|>[1-9]|)", 0..4),
            labels in prop::collection::btree_map("[a-z]{1,2}", "[a-z1-9]", 0..4),
        ) {
            let selector = LabelSelector::parse(&terms.join(",")).expect("in the grammar");
            let again = LabelSelector::parse(&selector.to_string()).expect("its own text");
            let find = |key: &str| labels.get(key).map(String::as_str);
            prop_assert_eq!(selector.matches_by(find), again.matches_by(find));
            prop_assert_eq!(selector, again);
        }

        #[test]
        fn no_text_panics(text in ".{0,32}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }

    #[test]
    fn broken_label_selectors_are_refused() {
        for text in ["a=b,", "=", "a in b", "a in (b", "a b", "a>x", "a=b;c", ",", "!"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn absent_selectors_match_nothing_and_empty_ones_everything() {
        let web = labels(json!({"app": "web"}));
        assert!(!LabelSelector::from_value(None).expect("ok").matches(Some(&web)));
        assert!(LabelSelector::from_value(Some(&json!({}))).expect("ok").matches(None));
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["back"]}, {"key": "old", "operator": "DoesNotExist"}]});
        assert!(LabelSelector::from_value(Some(&selector)).expect("ok").matches(Some(&web)));
        let broken = json!({"matchExpressions": [{"key": "a", "operator": "In"}]});
        assert!(LabelSelector::from_value(Some(&broken)).is_err());
    }

    #[test]
    fn field_selectors_compare_paths() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "hostNetwork": true}});
        let cases = [
            ("", true),
            ("metadata.name=a,spec.nodeName==n1", true),
            ("spec.nodeName!=n1", false),
            ("spec.schedulerName=", true),
            ("status.phase!=Failed", true),
            ("spec.hostNetwork=true", true),
            ("metadata.name=a\\,b", false),
        ];
        for (text, expected) in cases {
            assert_eq!(FieldSelector::parse(text).expect("parses").matches(&pod), expected, "{text}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert!(FieldSelector::parse("a=b\\c").is_err());
        let selector = FieldSelector::parse("spec.nodeName=n1").expect("parses");
        assert_eq!(selector.required_value("spec.nodeName"), Some("n1"));
    }
}
