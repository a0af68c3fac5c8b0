//! Sets of paths, and their `FieldsV1` form.
//!
//! A set is a tree. Being in the tree does not make a path a member: `.spec.replicas` alone has a node for `.spec`, and `.spec`
//! is a member only if it is marked so, which `FieldsV1` writes as `"."`:
//!
//! ```text
//! {"f:spec":{"f:replicas":{}}}                     .spec.replicas
//! {"f:metadata":{"f:labels":{".":{},"f:app":{}}}}  .metadata.labels and .metadata.labels.app
//! ```

use serde_json::{Map, Value};

use super::path::{PathElement, PathError};

/// `FieldsV1`'s mark of a member that has members below it.
const SELF: &str = ".";
/// Deepest tree that is read: objects themselves may not be deeper.
const MAX_DEPTH: usize = crate::patch::MAX_DEPTH;

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; each is a member or has some below it.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub element: PathElement,
    pub member: bool,
    pub children: Set,
}

/// Text that is no `FieldsV1`.
#[derive(Debug, thiserror::Error)]
pub enum FieldsError {
    /// A key is wrong.
    #[error("parsing key as path element")]
    Key(#[from] PathError),
    /// Something else stands where an object must.
    #[error("expected an object, got {0}")]
    NoObject(Value),
    /// Deeper than any object.
    #[error("exceeded max depth {MAX_DEPTH}")]
    TooDeep,
}

impl Set {
    /// The set of these paths of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path.iter().map(|name| PathElement::field(name)));
        }
        set
    }

    /// Makes a path a member. The empty path is none.
    pub fn insert(&mut self, path: impl IntoIterator<Item = PathElement>) {
        let mut path = path.into_iter().peekable();
        let mut set = self;
        while let Some(element) = path.next() {
            let last = path.peek().is_none();
            let at = match set.position(&element) {
                Ok(at) => at,
                Err(at) => {
                    set.nodes.insert(at, Node { element, member: false, children: Self::default() });
                    at
                }
            };
            set.nodes[at].member |= last;
            set = &mut set.nodes[at].children;
        }
    }

    /// Adds a step with what is below it, unless there is nothing. Elements come mostly in order, which makes this cheap.
    pub(super) fn attach(&mut self, element: impl FnOnce() -> PathElement, member: bool, children: Self) {
        if !member && children.is_empty() {
            return;
        }
        let node = Node { element: element(), member, children };
        if self.nodes.last().is_none_or(|last| last.element < node.element) {
            self.nodes.push(node);
            return;
        }
        match self.position(&node.element) {
            Ok(at) => {
                self.nodes[at].member |= node.member;
                self.nodes[at].children = self.nodes[at].children.union(&node.children);
            }
            Err(at) => self.nodes.insert(at, node),
        }
    }

    fn position(&self, element: &PathElement) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.cmp(element))
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// True if nothing is a member.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.member) + node.children.len()).sum()
    }

    /// Whether one step from the root is a member.
    pub(super) fn has(&self, element: &PathElement) -> bool {
        self.position(element).is_ok_and(|at| self.nodes[at].member)
    }

    /// What is below one step.
    pub(super) fn below(&self, element: &PathElement) -> Option<&Self> {
        let at = self.position(element).ok()?;
        Some(&self.nodes[at].children).filter(|children| !children.is_empty())
    }

    /// Members, as text: all members of one level, then level by level what is below each, as upstream lists them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::with_capacity(self.len());
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.nodes.iter().filter(|n| n.member).map(|n| format!("{prefix}{}", n.element)));
        for node in self.nodes.iter().filter(|node| !node.children.is_empty()) {
            node.children.collect(&format!("{prefix}{}", node.element), paths);
        }
    }

    // === algebra ===

    /// Members of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b, Self::union, (true, true))
    }

    /// Members of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b, Self::intersection, (false, false))
    }

    /// Members that are none of `other`. A member stays when only something below it is in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b, Self::difference, (true, false))
    }

    /// Members that are neither members of `other` nor below one.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let kept = self.nodes.iter().filter_map(|node| match other.position(&node.element) {
            Err(_) => Some(node.clone()),
            Ok(at) if other.nodes[at].member => None,
            Ok(at) => {
                let children = node.children.recursive_difference(&other.nodes[at].children);
                (node.member || !children.is_empty()).then(|| Node { children, ..node.clone() })
            }
        });
        Self { nodes: kept.collect() }
    }

    /// Members that are members of `other` or below one.
    #[must_use]
    pub fn recursive_intersection(&self, other: &Self) -> Self {
        let kept = self.nodes.iter().filter_map(|node| {
            let at = other.position(&node.element).ok()?;
            if other.nodes[at].member {
                return Some(node.clone());
            }
            let children = node.children.recursive_intersection(&other.nodes[at].children);
            (!children.is_empty()).then(|| Node { member: false, children, element: node.element.clone() })
        });
        Self { nodes: kept.collect() }
    }

    /// Walks both in step. `alone` says whether nodes that only one side has are kept.
    fn combine(
        &self,
        other: &Self,
        member: fn(bool, bool) -> bool,
        below: fn(&Self, &Self) -> Self,
        alone: (bool, bool),
    ) -> Self {
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut nodes = Vec::new();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self { nodes },
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            match order {
                std::cmp::Ordering::Less => nodes.extend(left.next().filter(|_| alone.0).cloned()),
                std::cmp::Ordering::Greater => nodes.extend(right.next().filter(|_| alone.1).cloned()),
                std::cmp::Ordering::Equal => {
                    let (Some(a), Some(b)) = (left.next(), right.next()) else { continue };
                    let (member, children) = (member(a.member, b.member), below(&a.children, &b.children));
                    if member || !children.is_empty() {
                        nodes.push(Node { element: a.element.clone(), member, children });
                    }
                }
            }
        }
    }

    // === FieldsV1 ===

    /// Reads `FieldsV1`. Keys of kinds that are not known are skipped.
    ///
    /// # Errors
    /// It is none.
    pub fn from_fields(fields: &Value) -> Result<Self, FieldsError> {
        Self::read(fields, MAX_DEPTH).map(|(_, set)| set)
    }

    /// The set below a value, and whether the value's own path is a member: it says so, or has nothing below it.
    fn read(fields: &Value, room: usize) -> Result<(bool, Self), FieldsError> {
        let entries = match fields {
            Value::Object(entries) => entries,
            Value::Null => return Ok((true, Self::default())),
            other => return Err(FieldsError::NoObject(other.clone())),
        };
        let below = room.checked_sub(1).ok_or(FieldsError::TooDeep)?;
        let mut set = Self::default();
        for (key, value) in entries.iter().filter(|(key, _)| *key != SELF) {
            let element = match PathElement::parse(key) {
                Err(PathError::UnknownType) => continue,
                parsed => parsed?,
            };
            let (member, children) = Self::read(value, below)?;
            set.attach(|| element, member, children);
        }
        Ok((entries.contains_key(SELF) || set.is_empty(), set))
    }

    /// As `FieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.fields(false))
    }

    fn fields(&self, member: bool) -> Map<String, Value> {
        let mut fields = Map::new();
        if member && !self.is_empty() {
            fields.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            fields.insert(node.element.to_key(), Value::Object(node.children.fields(node.member)));
        }
        fields
    }

    /// As the text of `FieldsV1` in upstream's order, which is the order of the elements: ports by number, not by their digits.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(false, &mut out);
        out
    }

    fn write(&self, member: bool, out: &mut String) {
        out.push('{');
        if member && !self.is_empty() {
            out.push_str("\".\":{}");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if at > 0 || member {
                out.push(',');
            }
            out.push_str(&Value::String(node.element.to_key()).to_string());
            out.push(':');
            node.children.write(node.member, out);
        }
        out.push('}');
    }

    // === against FieldsV1 that is not read ===

    /// True if a member of the set is one of `fields`: cheaper than reading all of `fields`, when the set is small.
    pub(super) fn touches(&self, fields: &Value) -> bool {
        self.nodes.iter().any(|node| {
            let Some(found) = fields.get(node.element.to_key()) else { return false };
            (node.member && is_member(found)) || node.children.touches(found)
        })
    }

    /// True if all members of the set are members of `fields`.
    pub(super) fn within(&self, fields: &Value) -> bool {
        self.nodes.iter().all(|node| {
            let Some(found) = fields.get(node.element.to_key()) else { return false };
            (!node.member || is_member(found)) && node.children.within(found)
        })
    }
}

fn is_member(fields: &Value) -> bool {
    fields.as_object().is_none_or(|map| map.is_empty() || map.contains_key(SELF))
}
