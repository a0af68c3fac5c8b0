//! Nodes: written by kubelets; address ranges and provider ids are settled once (upstream's `ValidateNodeUpdate`).

use std::collections::HashSet;

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{child, is_set, list, text};
use super::walk::{self, Faults};
use super::{Context, SelectableField, Strategy};
use crate::names;

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        // `podCIDR` is the first of `podCIDRs`; clients may know only one of them.
        let cidr = text(object, "/spec/podCIDR").to_owned();
        let first = list(object, "/spec/podCIDRs").first().cloned();
        match first {
            None if !cidr.is_empty() => {
                child(object, "spec").insert("podCIDRs".to_owned(), json!([cidr]));
            }
            Some(first) if cidr.is_empty() => {
                child(object, "spec").insert("podCIDR".to_owned(), first);
            }
            _ => {}
        }
        let capacity = object.pointer("/status/capacity").cloned();
        if let Some(capacity) = capacity
            && !is_set(object, "/status/allocatable")
        {
            child(object, "status").insert("allocatable".to_owned(), capacity);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = validate(object);
        for (field, name) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            let pointer = format!("/spec/{field}");
            let was = old.pointer(&pointer).filter(|was| **was != json!("") && **was != json!([]));
            if was.is_some() && object.pointer(&pointer) != was {
                faults.push(FieldError::forbidden(
                    format!("spec.{field}"),
                    format!("node updates may not change {name} except from \"\" to valid"),
                ));
            }
        }
        faults
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 1] = [SelectableField {
            name: "spec.unschedulable",
            path: &["spec", "unschedulable"],
            absent: "false",
        }];
        &FIELDS
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let node = walk::Node::root(object);
    let mut seen = HashSet::new();
    for taint in node.at("spec.taints").items() {
        let (key, effect) = (taint.get("key"), taint.get("effect"));
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
        for detail in names::label_value(taint.get("value").str()) {
            faults.invalid(&taint.get("value"), detail);
        }
        faults.one_of(&effect, &EFFECTS);
        if !seen.insert((key.str(), effect.str())) {
            faults.duplicate(&taint);
        }
    }
    let mut ranges = Vec::new();
    for range in node.at("spec.podCIDRs").items() {
        super::check::cidr(range.str(), range.path(), &mut faults.0);
        ranges.push(range.str());
    }
    if let Some(first) = ranges.first()
        && text(object, "/spec/podCIDR") != *first
    {
        faults.invalid(&node.at("spec.podCIDRs"), "must match `podCIDR`");
    }
    let mut addresses = HashSet::new();
    for address in node.at("status.addresses").items() {
        if !addresses.insert((address.get("type").str(), address.get("address").str())) {
            faults.duplicate(&address);
        }
    }
    for field in ["capacity", "allocatable"] {
        let amounts = node.at("status").get(field);
        for (name, amount) in amounts.entries() {
            let path = format!("{}.{name}", amounts.path());
            super::check::quantity(amount, &path, false, &mut faults.0);
        }
    }
    if meta::name(object).is_empty() {
        // Reported with the metadata.
        faults.0.clear();
    }
    faults.0
}
