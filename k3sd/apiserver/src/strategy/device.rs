//! Devices: their classes, who claims them, and who has them (upstream's `pkg/apis/resource/validation`). The syntax of the CEL
//! expressions that choose among them is not looked at.

use std::collections::BTreeSet;

use machinery::status::FieldError;
use serde_json::{Map, Value};

use super::pod_spec::validate_node_selector;
use super::volume_sources::csi_driver_name;
use super::walk::{Faults, Node, default, default_zero, object_at, objects_in};
use super::{Context, Strategy};
use crate::names;

const MAX_ITEMS: usize = 32;
const MAX_SUBREQUESTS: usize = 8;
const MAX_DEVICES: usize = 128;
const MAX_EXPRESSION: usize = 10 * 1024;

pub(super) struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        selectors(&spec.get("selectors"), &mut faults);
        configurations(&spec.get("config"), &BTreeSet::new(), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Claims, and templates of claims, which have the claim's spec one level further down.
pub(super) struct ResourceClaim {
    pub(super) template: bool,
}

impl Strategy for ResourceClaim {
    fn default(&self, object: &mut Value) {
        let path: &[&str] = if self.template { &["spec", "spec", "devices"] } else { &["spec", "devices"] };
        let Some(devices) = object_at(object, path) else { return };
        for request in objects_in(devices, "requests") {
            if let Some(exactly) = request.get_mut("exactly").and_then(Value::as_object_mut) {
                default_request(exactly);
            }
            objects_in(request, "firstAvailable").for_each(default_request);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        if self.template {
            faults.template_metadata(&spec);
            devices(&spec.at("spec.devices"), &mut faults);
        } else {
            devices(&spec.get("devices"), &mut faults);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource != "status" {
            faults.immutable(&Node::root(object).get("spec"), &Node::root(old).get("spec"));
        }
        faults.0
    }
}

fn default_request(request: &mut Map<String, Value>) {
    default_zero(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_zero(request, "count", 1);
    }
    objects_in(request, "tolerations").for_each(|toleration| default(toleration, "operator", "Equal"));
}

fn devices(devices: &Node<'_>, faults: &mut Faults) {
    let requests = devices.get("requests");
    at_most(&requests, MAX_ITEMS, faults);
    let mut known = BTreeSet::new();
    for request in requests.items() {
        let name = request.get("name");
        faults.required_name(&name, names::dns1123_label);
        if !name.str().is_empty() && !known.insert(name.str().to_owned()) {
            faults.duplicate(&name);
        }
        one_request(&request, faults);
    }
    for request in requests.items() {
        for sub in request.get("firstAvailable").items() {
            known.insert(format!("{}/{}", request.get("name").str(), sub.get("name").str()));
        }
    }
    let constraints = devices.get("constraints");
    at_most(&constraints, MAX_ITEMS, faults);
    for constraint in constraints.items() {
        request_names(&constraint.get("requests"), &known, faults);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if !same.is_set() && !distinct.is_set() {
            faults.required(&same, "");
        }
        for attribute in [same, distinct].into_iter().filter(Node::is_set) {
            for detail in names::qualified_name(attribute.str()) {
                faults.invalid(&attribute, detail);
            }
            if !attribute.str().contains('/') {
                faults.invalid(&attribute, "must include a domain");
            }
        }
    }
    configurations(&devices.get("config"), &known, faults);
}

fn one_request(request: &Node<'_>, faults: &mut Faults) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), first.len() > 0) {
        (true, true) => {
            let detail = format!("{ONE}, but multiple fields are set");
            faults.push(FieldError::invalid(request.path(), Value::Null, detail));
        }
        (false, false) => faults.required(request, ONE),
        (true, false) => device_request(&exactly, faults),
        (false, true) => {
            at_most(&first, MAX_SUBREQUESTS, faults);
            let mut seen = BTreeSet::new();
            for sub in first.items() {
                let name = sub.get("name");
                faults.required_name(&name, names::dns1123_label);
                if !name.str().is_empty() && !seen.insert(name.str()) {
                    faults.duplicate(&name);
                }
                device_request(&sub, faults);
            }
        }
    }
}

fn device_request(request: &Node<'_>, faults: &mut Faults) {
    faults.required_name(&request.get("deviceClassName"), names::dns1123_subdomain);
    selectors(&request.get("selectors"), faults);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.str() {
        "All" if count.int().unwrap_or(0) != 0 => {
            faults.invalid(&count, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" => {
            if count.int().unwrap_or(0) <= 0 {
                faults.invalid(&count, "must be greater than zero");
            }
        }
        _ => faults.push(FieldError::not_supported(mode.path(), mode.str(), &["All", "ExactCount"])),
    }
}

fn at_most(list: &Node<'_>, limit: usize, faults: &mut Faults) {
    if list.len() > limit {
        faults.push(FieldError::too_many(list.path(), list.len(), limit));
    }
}

fn selectors(selectors: &Node<'_>, faults: &mut Faults) {
    at_most(selectors, MAX_ITEMS, faults);
    for selector in selectors.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            faults.required(&cel, "");
        } else if cel.get("expression").str().len() > MAX_EXPRESSION {
            let expression = cel.get("expression");
            faults.push(FieldError::too_long(expression.path(), MAX_EXPRESSION));
        }
    }
}

fn request_names(list: &Node<'_>, known: &BTreeSet<String>, faults: &mut Faults) {
    at_most(list, MAX_ITEMS, faults);
    let mut seen = BTreeSet::new();
    for name in list.items() {
        if !known.contains(name.str()) {
            faults.invalid(
                &name,
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            );
        }
        if !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
    }
}

/// What drivers are told, in a form that only they understand.
fn configurations(configurations: &Node<'_>, requests: &BTreeSet<String>, faults: &mut Faults) {
    at_most(configurations, MAX_ITEMS, faults);
    for configuration in configurations.items() {
        request_names(&configuration.get("requests"), requests, faults);
        let opaque = configuration.get("opaque");
        if !opaque.is_set() {
            faults.required(&opaque, "");
            continue;
        }
        csi_driver_name(&opaque.get("driver"), faults);
        let parameters = opaque.get("parameters");
        if !parameters.is_set() {
            faults.required(&parameters, "");
        } else if parameters.object().is_none() {
            faults.push(FieldError::invalid(
                parameters.path(),
                "<value omitted>",
                "must be a valid JSON object",
            ));
        }
    }
}

pub(super) struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        slice(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults(self.validate_create(cx, object));
        let (spec, before) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
        for field in ["driver", "pool.name", "nodeName"] {
            faults.immutable(&spec.at(field), &before.at(field));
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn slice(spec: &Node<'_>, faults: &mut Faults) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    csi_driver_name(&spec.get("driver"), faults);
    let (name, count, generation) =
        (spec.at("pool.name"), spec.at("pool.resourceSliceCount"), spec.at("pool.generation"));
    if name.str().is_empty() {
        faults.required(&name, "");
    }
    for part in name.str().split('/').filter(|_| !name.str().is_empty()) {
        for detail in names::dns1123_subdomain(part, false) {
            faults.push(FieldError::invalid(name.path(), part, detail));
        }
    }
    if count.int().unwrap_or(0) <= 0 {
        faults.invalid(&count, "must be greater than zero");
    }
    if generation.int().is_some_and(|generation| generation < 0) {
        faults.invalid(&generation, "must be greater than or equal to zero");
    }
    let set = |field: &&str| {
        let node = spec.get(field);
        node.is_set() && node.value() != "" && node.value() != false
    };
    let chosen: Vec<&str> =
        ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"].into_iter().filter(set).collect();
    match chosen.as_slice() {
        [] => faults.required(spec, ONE),
        ["nodeName"] => faults.name(&spec.get("nodeName"), names::dns1123_subdomain),
        ["nodeSelector"] => validate_node_selector(&spec.get("nodeSelector"), faults),
        [_] => {}
        several => {
            let shown = several.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
            let detail = format!("{ONE}, but multiple fields are set");
            faults.push(FieldError::invalid(spec.path(), format!("{{{shown}}}"), detail));
        }
    }
    let devices = spec.get("devices");
    at_most(&devices, MAX_DEVICES, faults);
    let mut seen = BTreeSet::new();
    for device in devices.items() {
        let name = device.get("name");
        faults.required_name(&name, names::dns1123_label);
        if !name.str().is_empty() && !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    fn create(plural: &str, spec: Value) -> Result<Value, Vec<String>> {
        let object = json!({ "metadata": { "name": "x" }, "spec": spec });
        World::new().create("resource.k8s.io", plural, object).map_err(|refusal| refusal.texts())
    }

    #[test]
    fn a_claim_asks_for_devices_of_a_class() {
        let requests = json!([{ "name": "a", "exactly": { "deviceClassName": "gpu" } },
            { "name": "b", "firstAvailable": [{ "name": "big", "deviceClassName": "gpu", "count": 2 }] }]);
        let made = create("resourceclaims", json!({ "devices": { "requests": requests } })).expect("valid");
        assert_eq!(
            made["spec"]["devices"]["requests"][0]["exactly"],
            json!({ "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1 })
        );
        assert_eq!(made["spec"]["devices"]["requests"][1]["firstAvailable"][0]["count"], 2);
        let requests = json!([{ "name": "a" }, { "name": "a", "exactly": { "deviceClassName": "", "allocationMode": "All", "count": 1,
            "selectors": [{}] } }, { "name": "c", "exactly": { "deviceClassName": "gpu", "allocationMode": "Some" } }]);
        assert_eq!(
            create(
                "resourceclaims",
                json!({ "devices": { "requests": requests,
                "constraints": [{ "requests": ["z"], "matchAttribute": "model" }],
                "config": [{ "opaque": { "driver": "d", "parameters": 3 } }, {}] } })
            )
            .expect_err("refused"),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].name: Duplicate value: \"a\"",
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1].exactly.selectors[0].cel: Required value",
                "spec.devices.requests[1].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[2].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"z\": must be the name of a request in the claim or the name of \
                 a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": must include a domain",
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                "spec.devices.config[1].opaque: Required value",
            ]
        );
    }

    #[test]
    fn claims_and_templates_never_change() {
        for (plural, spec) in [
            ("resourceclaims", json!({ "devices": {} })),
            ("resourceclaimtemplates", json!({ "spec": { "devices": {} } })),
        ] {
            let old = create(plural, spec).expect("valid");
            let refused = World::new().update("resource.k8s.io", plural, &old, |object| {
                object["spec"]["spec"] = json!({ "devices": { "requests": [] } });
            });
            let texts = refused.expect_err(plural).texts();
            assert!(
                texts[0].starts_with("spec: Invalid value:") && texts[0].ends_with("field is immutable"),
                "{texts:?}"
            );
        }
    }

    #[test]
    fn a_slice_is_of_one_place_and_one_driver() {
        assert_eq!(
            create(
                "resourceslices",
                json!({ "driver": "", "nodeName": "n", "allNodes": true,
                "pool": { "name": "", "generation": -1, "resourceSliceCount": 0 },
                "devices": [{ "name": "a" }, { "name": "a" }] })
            )
            .expect_err("refused"),
            [
                "spec.driver: Required value",
                "spec.pool.name: Required value",
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                 `perDeviceNodeSelection` is required, but multiple fields are set",
                "spec.devices[1].name: Duplicate value: \"a\"",
            ]
        );
        let spec = json!({ "driver": "d", "nodeName": "n", "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 } });
        let old = create("resourceslices", spec).expect("valid");
        let refused = World::new().update("resource.k8s.io", "resourceslices", &old, |slice| {
            slice["spec"]["driver"] = "e".into();
            slice["spec"]["pool"]["generation"] = 2.into();
        });
        assert_eq!(
            refused.expect_err("fixed").texts(),
            ["spec.driver: Invalid value: \"e\": field is immutable"]
        );
    }
}
