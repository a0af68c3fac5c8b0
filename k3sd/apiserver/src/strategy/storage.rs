//! Volumes, claims and storage classes (upstream's `ValidatePersistentVolume`, `ValidatePersistentVolumeClaim`,
//! `ValidateStorageClass`).

use std::collections::BTreeSet;

use machinery::meta;
use machinery::quantity::Quantity;
use machinery::status::{FieldError, Status};
use serde_json::{Value, json};

use super::check::{self, child, is_set, set_default, text};
use super::volume_sources::{access_modes, sources, validate_volume_spec};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::allocator::Reservation;
use crate::names;

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        let spec = child(object, "spec");
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if spec.get("hostPath").is_some_and(Value::is_object) {
            set_default(meta::child_mut(spec, "hostPath"), "type", "");
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": meta::now() });
    }

    fn prepare_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        let changed = object.pointer("/status/phase") != old.pointer("/status/phase");
        let told = object.pointer("/status/lastPhaseTransitionTime")
            != old.pointer("/status/lastPhaseTransitionTime");
        if changed && !told {
            child(object, "status").insert("lastPhaseTransitionTime".to_owned(), meta::now().into());
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_volume_spec(&Node::root(object).get("spec"), false, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return Vec::new();
        }
        let mut faults = Faults(self.validate_create(cx, object));
        volume_update(object, old, &mut faults);
        faults.0
    }
}

/// Where the data is never changes; that a driver gets a secret for growing it, may come later.
fn volume_update(object: &Value, old: &Value, faults: &mut Faults) {
    let mut spec = object.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").unwrap_or(&Value::Null);
    if before.pointer("/csi/controllerExpandSecretRef").is_none()
        && let Some(csi) = spec.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if sources(&spec) != sources(before) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        faults.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    // The paths are upstream's.
    let field = |name: &str| (spec.get(name).cloned().unwrap_or_default(), before.get(name));
    let (mode, was) = field("volumeMode");
    if Some(&mode) != was && (was.is_some() || !mode.is_null()) {
        faults.push(FieldError::invalid("volumeMode", mode, "field is immutable"));
    }
    let (affinity, was) = field("nodeAffinity");
    if was.is_some_and(|was| *was != affinity) {
        faults.push(FieldError::invalid("nodeAffinity", affinity, "field is immutable"));
    }
    let class = "volumeAttributesClassName";
    if before.get(class).is_some() && spec.get(class).is_none() {
        let detail = "update from non-nil value to nil is forbidden";
        faults.push(FieldError::forbidden(format!("spec.{class}"), detail));
    }
}

pub(super) struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        set_default(child(object, "spec"), "volumeMode", "Filesystem");
    }

    /// A claim that names no class gets the default one, if there is one.
    fn begin_create(&self, cx: &Context<'_>, object: &mut Value) -> Result<Reservation, Status> {
        if !is_set(object, "/spec/storageClassName")
            && let Some(class) = default_class(cx)
        {
            child(object, "spec").insert("storageClassName".to_owned(), class.into());
        }
        Ok(Reservation::none())
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({ "phase": "Pending" });
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        claim(object)
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = claim(object);
        if cx.subresource.is_empty() {
            claim_update(object, old, &mut faults);
        }
        faults
    }
}

/// The newest of the classes that are marked as default.
fn default_class(cx: &Context<'_>) -> Option<String> {
    let mut newest: Option<(String, String)> = None;
    cx.objects.for_each("storage.k8s.io", "storageclasses", "", |class| {
        if meta::annotation(&class, DEFAULT_CLASS) != Some("true") {
            return;
        }
        let found = (text(&class, "/metadata/creationTimestamp").to_owned(), meta::name(&class).to_owned());
        // Of classes made in the same second, the first by name.
        let better =
            newest.as_ref().is_none_or(|best| found.0 > best.0 || (found.0 == best.0 && found.1 < best.1));
        if better {
            newest = Some(found);
        }
    });
    newest.map(|(_, name)| name)
}

fn claim(object: &Value) -> Vec<FieldError> {
    let mut faults = Faults::default();
    claim_spec(&Node::root(object).get("spec"), &mut faults);
    faults.0
}

/// The spec of a claim, also of those that pods and stateful sets have templates of.
pub(super) fn claim_spec(spec: &Node<'_>, faults: &mut Faults) {
    let modes = spec.get("accessModes");
    if modes.len() == 0 {
        faults.required(&modes, "at least 1 access mode is required");
    }
    if spec.get("selector").is_set() {
        faults.label_selector(&spec.get("selector"));
    }
    access_modes(&modes, faults);
    let amount = spec.at("resources.requests.storage");
    let field = format!("{}[storage]", spec.get("resources").path());
    match Quantity::from_value(amount.value()) {
        _ if !amount.is_set() => faults.push(FieldError::required(field, "")),
        Ok(quantity) if quantity > Quantity::ZERO => {}
        Ok(_) => faults.push(FieldError::invalid(field, amount.value().clone(), "must be greater than zero")),
        Err(error) => faults.push(FieldError::invalid(field, amount.value().clone(), error.to_string())),
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = spec.get(field);
        if !class.str().is_empty() {
            faults.name(&class, names::dns1123_subdomain);
        }
    }
    faults.one_of_if_set(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    data_sources(spec, faults);
}

/// What a new volume is filled from.
fn data_sources(spec: &Node<'_>, faults: &mut Faults) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for from in [&source, &reference].into_iter().filter(|from| from.is_set()) {
        let (kind, group) = (from.get("kind"), from.get("apiGroup").str());
        for field in ["name", "kind"] {
            if from.get(field).str().is_empty() {
                faults.required(&from.get(field), "");
            }
        }
        if group.is_empty() && kind.str() != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            faults.push(FieldError::invalid(from.path(), kind.str(), detail));
        }
        if !group.is_empty() {
            for detail in names::dns1123_subdomain(group, false) {
                faults.push(FieldError::invalid(from.path(), group, detail));
            }
        }
    }
    if !source.is_set() || !reference.is_set() {
        return;
    }
    let same = |field: &str| source.get(field).str() == reference.get(field).str();
    let detail = if !reference.get("namespace").str().is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if !(same("apiGroup") && same("kind") && same("name")) {
        "must match dataSourceRef"
    } else {
        return;
    };
    faults.push(FieldError::invalid(spec.path(), source.path(), detail));
}

/// Of a claim's spec only the volume it is bound to may be filled in, and the size of a bound claim may grow.
fn claim_update(object: &Value, old: &Value, faults: &mut Vec<FieldError>) {
    let mut comparable = object.clone();
    if text(old, "/spec/volumeName").is_empty() {
        child(&mut comparable, "spec").remove("volumeName");
    }
    let bound = text(old, "/status/phase") == "Bound";
    if bound {
        let requests = old.pointer("/spec/resources/requests").cloned();
        if let (Some(resources), Some(requests)) = (comparable.pointer_mut("/spec/resources"), requests) {
            resources["requests"] = requests;
        }
    }
    let class = "volumeAttributesClassName";
    match old.pointer(&format!("/spec/{class}")).cloned() {
        Some(was) => child(&mut comparable, "spec").insert(class.to_owned(), was),
        None => child(&mut comparable, "spec").remove(class),
    };
    if comparable.get("spec") != old.get("spec") {
        faults.push(FieldError::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
        return;
    }
    let storage = |object: &Value| {
        object
            .pointer("/spec/resources/requests/storage")
            .and_then(|amount| Quantity::from_value(amount).ok())
    };
    if bound && storage(object) < storage(old) {
        faults.push(FieldError::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than previous value",
        ));
    }
}

pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        let class = meta::object_mut(object);
        set_default(class, "reclaimPolicy", "Delete");
        set_default(class, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let class = Node::root(object);
        provisioner(&class.get("provisioner"), &mut faults);
        parameters(&class.get("parameters"), true, &mut faults);
        faults.one_of_if_set(&class.get("reclaimPolicy"), &["Delete", "Retain"]);
        faults.one_of(&class.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
        topologies(&class.get("allowedTopologies"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = self.validate_create(cx, object);
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if object.get(field) != old.get(field) {
                faults.push(FieldError::forbidden(field, format!("updates to {field} are forbidden.")));
            }
        }
        check::immutable(object, old, "/volumeBindingMode", &mut faults);
        faults
    }
}

/// Who makes the volumes: a qualified name, in whatever case.
pub(super) fn provisioner(name: &Node<'_>, faults: &mut Faults) {
    if name.str().is_empty() {
        faults.required(name, "");
        return;
    }
    let lower = name.str().to_lowercase();
    for detail in names::qualified_name(&lower) {
        faults.push(FieldError::invalid(name.path(), lower.as_str(), detail));
    }
}

/// What the provisioner is told.
pub(super) fn parameters(parameters: &Node<'_>, may_be_empty: bool, faults: &mut Faults) {
    let count = parameters.entries().count();
    if count > MAX_PARAMETERS {
        faults.push(FieldError::too_long(parameters.path(), MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            faults.push(FieldError::invalid(parameters.path(), key, "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETER_BYTES {
        faults.push(FieldError::too_long(parameters.path(), MAX_PARAMETER_BYTES));
    }
    if !may_be_empty && count == 0 {
        faults.required(parameters, "must contain at least one key/value pair");
    }
}

fn topologies(terms: &Node<'_>, faults: &mut Faults) {
    for term in terms.items() {
        let expressions = term.get("matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            if values.len() == 0 {
                faults.required(&values, "");
            }
            let mut seen = BTreeSet::new();
            for value in values.items().filter(|value| !seen.insert(value.str())) {
                faults.duplicate(&value);
            }
            for detail in names::qualified_name(key.str()) {
                faults.invalid(&key, detail);
            }
            if !keys.insert(key.str()) {
                faults.duplicate(&key);
            }
        }
    }
}
