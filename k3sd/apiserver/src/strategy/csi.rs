//! What storage drivers register and report: drivers, nodes, attachments, capacities, classes of attributes
//! (upstream's `pkg/apis/storage/validation`).

use std::collections::BTreeSet;

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{child, set_default};
use super::storage::{parameters, provisioner};
use super::volume_sources::{csi_driver_name, validate_volume_spec};
use super::walk::{Faults, Node, default};
use super::{Context, Strategy};
use crate::names;

const MAX_NODE_ID: usize = 192;
const MAX_METADATA: usize = 256 * 1024;
const MAX_ERROR_MESSAGE: usize = 1024;
const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];

pub(super) struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        driver(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults(self.validate_create(cx, object));
        let (spec, before) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
        // The path of the first is upstream's own spelling.
        for (field, path) in [
            ("attachRequired", "spec.attachedRequired"),
            ("volumeLifecycleModes", "spec.volumeLifecycleModes"),
        ] {
            let value = spec.get(field).value();
            if value != before.get(field).value() {
                faults.push(FieldError::invalid(path, value.clone(), "field is immutable"));
            }
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn driver(spec: &Node<'_>, faults: &mut Faults) {
    faults.one_of_if_set(&spec.get("fsGroupPolicy"), &GROUP_POLICIES);
    let mut audiences = BTreeSet::new();
    for request in spec.get("tokenRequests").items() {
        let (audience, lifetime) = (request.get("audience"), request.get("expirationSeconds"));
        if !audiences.insert(audience.str()) {
            faults.push(FieldError::duplicate(audience.path(), audience.str()));
            continue;
        }
        if lifetime.int().is_some_and(|seconds| seconds < 600) {
            faults.invalid(&lifetime, "may not specify a duration less than 10 minutes");
        }
        if lifetime.int().is_some_and(|seconds| seconds > 1 << 32) {
            faults.invalid(&lifetime, "may not specify a duration larger than 2^32 seconds");
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !matches!(mode.str(), "Persistent" | "Ephemeral")) {
        faults.push(FieldError::not_supported(modes.path(), mode.str(), &["Persistent", "Ephemeral"]));
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|seconds| seconds < 10) {
        faults.invalid(&period, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = spec.get("serviceAccountTokenInSecrets");
    // Also `false` says how tokens come, so there must be some.
    if in_secrets.is_set() && spec.get("tokenRequests").len() == 0 {
        faults.invalid(&in_secrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

pub(super) struct CsiNode;

impl Strategy for CsiNode {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        node_drivers(&Node::root(object).at("spec.drivers"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults(self.validate_create(cx, object));
        let fixed = |driver: &Node<'_>| {
            let mut driver = driver.object().cloned().unwrap_or_default();
            // How many volumes fit may change while the node lives.
            driver.remove("allocatable");
            driver
        };
        let (drivers, before) = (Node::root(object).at("spec.drivers"), Node::root(old).at("spec.drivers"));
        for old in before.items() {
            for new in drivers.items().filter(|new| new.get("name").str() == old.get("name").str()) {
                if fixed(&new) != fixed(&old) {
                    let detail = "field is immutable";
                    faults.push(FieldError::invalid(drivers.path(), new.value().clone(), detail));
                }
            }
        }
        faults.0
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn node_drivers(drivers: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for driver in drivers.items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        csi_driver_name(&name, faults);
        if id.str().is_empty() {
            faults.required(&id, "");
        } else if id.str().len() > MAX_NODE_ID {
            faults.invalid(&id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        faults.non_negative(&driver.at("allocatable.count"));
        if !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").items() {
            if key.str().is_empty() {
                faults.required(&driver, "");
            }
            if !keys.insert(key.str()) {
                faults.push(FieldError::duplicate(driver.path(), key.str()));
            }
            for detail in names::qualified_name(key.str()) {
                faults.push(FieldError::invalid(driver.path(), key.str(), detail));
            }
        }
    }
}

pub(super) struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        attachment(object, &mut faults);
        csi_driver_name(&Node::root(object).at("spec.attacher"), &mut faults);
        let volume = Node::root(object).at("spec.source.persistentVolumeName");
        if !volume.str().is_empty() {
            faults.name(&volume, names::dns1123_subdomain);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        attachment(object, &mut faults);
        if cx.subresource != "status" {
            faults.immutable(&Node::root(object).get("spec"), &Node::root(old).get("spec"));
        }
        faults.0
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn attachment(object: &Value, faults: &mut Faults) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (spec, status) = (Node::root(object).get("spec"), Node::root(object).get("status"));
    if spec.get("attacher").str().is_empty() {
        faults.required(&spec.get("attacher"), "");
    }
    let source = spec.get("source");
    let (inline, volume) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    match (inline.is_set(), volume.is_set()) {
        (false, false) => faults.required(&source, ONE),
        (true, true) => faults.forbidden(&source, ONE),
        (false, true) if volume.str().is_empty() => {
            faults.required(&volume, "must specify non empty persistentVolumeName");
        }
        (false, true) => {}
        (true, false) => validate_volume_spec(&inline, true, faults),
    }
    let node = spec.get("nodeName");
    for detail in names::dns1123_subdomain(node.str(), false) {
        faults.push(FieldError::invalid(node.path(), node.str(), detail));
    }
    let metadata = status.get("attachmentMetadata");
    let size: usize =
        metadata.entries().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_METADATA {
        faults.push(FieldError::too_long(metadata.path(), MAX_METADATA));
    }
    for field in ["attachError", "detachError"] {
        let error = status.get(field);
        let (message, code) = (error.get("message"), error.get("errorCode"));
        if message.str().len() > MAX_ERROR_MESSAGE {
            faults.push(FieldError::too_long(message.path(), MAX_ERROR_MESSAGE));
        }
        faults.in_range(&code, 0, i64::from(i32::MAX));
    }
}

pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let root = Node::root(object);
        faults.label_selector(&root.get("nodeTopology"));
        let class = root.get("storageClassName");
        for detail in names::dns1123_subdomain(class.str(), false) {
            faults.push(FieldError::invalid(class.path(), class.str(), detail));
        }
        faults.non_negative_quantity(&root.get("capacity"));
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        for field in ["nodeTopology", "storageClassName"] {
            faults.immutable(&Node::root(object).get(field), &Node::root(old).get(field));
        }
        faults.0
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

pub(super) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let class = Node::root(object);
        provisioner(&class.get("driverName"), &mut faults);
        parameters(&class.get("parameters"), false, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        for field in ["driverName", "parameters"] {
            if object.get(field) != old.get(field) {
                faults.push(FieldError::forbidden(field, format!("updates to {field} are forbidden.")));
            }
        }
        faults.extend(self.validate_create(cx, object));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    const GROUP: &str = "storage.k8s.io";

    fn refused(plural: &str, mut object: Value) -> Vec<String> {
        object["metadata"]["name"] = "x".into();
        World::new().create(GROUP, plural, object).expect_err("refused").texts()
    }

    #[test]
    fn a_driver_is_filled_in_as_upstream_does() {
        let world = World::new();
        let made = world.create(GROUP, "csidrivers", json!({ "metadata": { "name": "x" } })).expect("valid");
        assert_eq!(
            made["spec"],
            json!({ "attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
                "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"] })
        );
        let refused = world
            .update(GROUP, "csidrivers", &made, |driver| driver["spec"]["attachRequired"] = false.into());
        assert_eq!(
            refused.expect_err("fixed").texts(),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }

    #[test]
    fn a_driver_asks_for_each_token_once() {
        assert_eq!(
            refused(
                "csidrivers",
                json!({ "spec": { "fsGroupPolicy": "X", "volumeLifecycleModes": ["Forever"],
                "nodeAllocatableUpdatePeriodSeconds": 9,
                "tokenRequests": [{ "audience": "a", "expirationSeconds": 599 }, { "audience": "a" }] } })
            ),
            [
                "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Forever\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
            ]
        );
    }

    #[test]
    fn where_tokens_go_is_said_only_of_tokens_that_are_asked_for() {
        for in_secrets in [true, false] {
            assert_eq!(
                refused(
                    "csidrivers",
                    json!({ "spec": { "serviceAccountTokenInSecrets": in_secrets, "tokenRequests": [] } })
                ),
                [format!(
                    "spec.serviceAccountTokenInSecrets: Invalid value: {in_secrets}: serviceAccountTokenInSecrets is set but no \
                     tokenRequests are specified"
                )]
            );
        }
        let spec = json!({ "serviceAccountTokenInSecrets": true, "tokenRequests": [{ "audience": "a" }] });
        let driver = json!({ "metadata": { "name": "x" }, "spec": spec });
        assert!(World::new().create(GROUP, "csidrivers", driver).is_ok());
    }

    #[test]
    fn drivers_of_a_node_stay_as_they_are() {
        let driver = json!({ "name": "d", "nodeID": "n", "topologyKeys": null });
        assert_eq!(
            refused(
                "csinodes",
                json!({ "spec": { "drivers": [driver, { "name": "d", "nodeID": "", "allocatable": { "count": -1 },
                "topologyKeys": ["a", "a"] }] } })
            ),
            [
                "spec.drivers[1].nodeID: Required value",
                "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"d\"",
                "spec.drivers[1]: Duplicate value: \"a\"",
            ]
        );
        let world = World::new();
        let old = json!({ "metadata": { "name": "x" }, "spec": { "drivers": [driver] } });
        let count = |node: &mut Value| node["spec"]["drivers"][0]["allocatable"] = json!({ "count": 3 });
        assert!(world.update(GROUP, "csinodes", &old, count).is_ok());
        let other =
            world.update(GROUP, "csinodes", &old, |node| node["spec"]["drivers"][0]["nodeID"] = "m".into());
        assert!(other.expect_err("fixed").texts()[0].ends_with("field is immutable"));
    }

    #[test]
    fn an_attachment_names_one_volume_and_never_changes() {
        assert_eq!(
            refused(
                "volumeattachments",
                json!({ "spec": { "attacher": "", "source": {}, "nodeName": "n" } })
            ),
            [
                "spec.attacher: Required value",
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                "spec.attacher: Required value",
            ]
        );
        let old = json!({ "metadata": { "name": "x" },
            "spec": { "attacher": "a", "nodeName": "n", "source": { "persistentVolumeName": "p" } } });
        let world = World::new();
        let refused = world.update(GROUP, "volumeattachments", &old, |a| a["spec"]["nodeName"] = "m".into());
        assert!(refused.expect_err("fixed").texts()[0].ends_with("field is immutable"));
        let refused = world.update_status(GROUP, "volumeattachments", &old, |a| {
            a["status"] = json!({ "attached": false, "attachError": { "errorCode": -1, "message": "m".repeat(1025) } });
        });
        assert_eq!(
            refused.expect_err("refused").texts(),
            [
                "status.attachError.message: Too long: may not be more than 1024 bytes",
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ]
        );
    }

    #[test]
    fn capacities_and_attribute_classes_are_about_one_thing_for_ever() {
        let world = World::new();
        let old = json!({ "metadata": { "name": "x" }, "storageClassName": "a" });
        let refused_update =
            world.update(GROUP, "csistoragecapacities", &old, |c| c["storageClassName"] = "b".into());
        assert_eq!(
            refused_update.expect_err("fixed").texts(),
            ["storageClassName: Invalid value: \"b\": field is immutable"]
        );
        assert_eq!(
            refused("volumeattributesclasses", json!({ "driverName": "" })),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair"
            ]
        );
        let old = json!({ "metadata": { "name": "x" }, "driverName": "d", "parameters": { "a": "b" } });
        let changed =
            world.update(GROUP, "volumeattributesclasses", &old, |c| c["parameters"]["a"] = "c".into());
        assert_eq!(
            changed.expect_err("fixed").texts(),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
    }
}
