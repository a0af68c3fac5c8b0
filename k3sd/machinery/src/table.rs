//! Server-side printing: objects as rows of a `meta.k8s.io/v1` Table, which is what `kubectl get` shows.
//!
//! A [`Printer`] is a row of column names and one function that makes the cells of an object. Columns and texts are those of
//! upstream's `pkg/printers/internalversion`; kinds without a printer get upstream's default, the name and the creation time.
//! Columns of priority 1 are sent always and shown with `-o wide`.

mod core;
mod duration;
mod field;
mod network;
mod policy;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Resource;

pub use duration::human_duration;

/// What each row carries besides its cells: the `includeObject` query parameter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata, as a PartialObjectMetadata. What kubectl asks for.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; none for a value that is not known.
    pub fn parse(parameter: &str) -> Option<Self> {
        match parameter {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A Table of `objects`, which are of `resource`'s kind. `list_metadata` is the metadata of the list (or of the single
/// object, of which only `resourceVersion` is used). A watch leaves out the `headers` after its first event.
pub fn table<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Value>,
    include: IncludeObject,
    list_metadata: &Value,
    headers: bool,
) -> Value {
    let printer = printer(resource);
    let now = Timestamp::now();
    let rows: Vec<Value> = objects.map(|object| row(printer, object, include, now)).collect();
    let mut metadata = serde_json::Map::new();
    for key in ["resourceVersion", "continue", "remainingItemCount"] {
        if let Some(value) = list_metadata.get(key) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let columns: Vec<Value> = printer.columns.iter().filter(|_| headers).map(Column::definition).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(printer: &Printer, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let shown = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        }),
        IncludeObject::Object => object.clone(),
    };
    let mut row = json!({ "cells": (printer.cells)(object, now), "object": shown });
    if let Some(conditions) = (printer.conditions)(object) {
        row["conditions"] = conditions;
    }
    row
}

// === printers ===

/// How the objects of one kind are printed.
struct Printer {
    group: &'static str,
    kind: &'static str,
    columns: &'static [Column],
    /// As many cells as there are columns.
    cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// `conditions` of the row, which grey out what is finished.
    conditions: fn(&Value) -> Option<Value>,
}

impl Printer {
    const fn new(
        group: &'static str,
        kind: &'static str,
        columns: &'static [Column],
        cells: fn(&Value, Timestamp) -> Vec<Value>,
    ) -> Self {
        Self { group, kind, columns, cells, conditions: |_| None }
    }
}

/// A column's definition.
struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: u8,
}

impl Column {
    fn definition(&self) -> Value {
        let description = match self.name {
            "Name" => "Name of the object, unique within its namespace.",
            "Age" => "Time since the object was created.",
            "Created At" => "Time at which the object was created.",
            _ => "",
        };
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": description,
            "priority": self.priority,
        })
    }
}

const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Column = text("Age");

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

const fn integer(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0 }
}

/// Shown with `-o wide` only.
const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

fn printer(resource: &Resource) -> &'static Printer {
    [core::PRINTERS, workload::PRINTERS, network::PRINTERS, storage::PRINTERS, policy::PRINTERS]
        .into_iter()
        .flatten()
        .find(|printer| printer.group == resource.group && printer.kind == resource.kind)
        .unwrap_or(&DEFAULT)
}

/// Upstream's default table convertor.
static DEFAULT: Printer = Printer::new(
    "",
    "",
    &[NAME, Column { name: "Created At", kind: "date", format: "", priority: 0 }],
    |object, _| vec![field::name(object), field::text(object, "/metadata/creationTimestamp").into()],
);

#[cfg(test)]
mod tests;
