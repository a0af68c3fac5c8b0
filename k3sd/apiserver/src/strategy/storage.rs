//! Volumes, claims and storage classes (upstream's `ValidatePersistentVolume`, `ValidatePersistentVolumeClaim`,
//! `ValidateStorageClass`).

use machinery::meta;
use machinery::quantity::Quantity;
use machinery::status::{FieldError, Status};
use serde_json::{Value, json};

use super::check::{self, child, is_set, set_default, text};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::allocator::Reservation;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
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
        let spec = Node::root(object).get("spec");
        access_modes(&spec.get("accessModes"), &mut faults);
        let capacity = spec.get("capacity");
        if capacity.entries().next().is_none() {
            faults.required(&capacity, "");
        }
        for (name, amount) in capacity.entries() {
            check::quantity(amount, &format!("spec.capacity[{name}]"), false, &mut faults.0);
        }
        faults.one_of_if_set(&spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
        faults.one_of_if_set(&spec.get("volumeMode"), &["Block", "Filesystem"]);
        if volume_sources(&spec) == 0 {
            faults.required(&spec, "must specify a volume type");
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = self.validate_create(cx, object);
        check::immutable(object, old, "/spec/volumeMode", &mut faults);
        let spec = object.pointer("/spec").cloned().unwrap_or_default();
        if sources(&spec) != sources(old.pointer("/spec").unwrap_or(&Value::Null)) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            faults.push(FieldError::forbidden("spec.persistentvolumesource", detail));
        }
        faults
    }
}

/// Fields of a volume's spec that say where the data is.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

fn volume_sources(spec: &Node<'_>) -> usize {
    SOURCES.iter().filter(|name| spec.get(name).is_set()).count()
}

fn sources(spec: &Value) -> Vec<Option<&Value>> {
    SOURCES.iter().map(|name| spec.get(name)).collect()
}

fn access_modes(modes: &Node<'_>, faults: &mut Faults) {
    if modes.len() == 0 {
        faults.required(modes, "at least 1 access mode is required");
    }
    for mode in modes.items() {
        faults.one_of_if_set(&mode, &MODES);
    }
    let once_pod = modes.items().any(|mode| mode.str() == "ReadWriteOncePod");
    if once_pod && modes.len() > 1 {
        faults.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
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
    let spec = Node::root(object).get("spec");
    access_modes(&spec.get("accessModes"), &mut faults);
    faults.one_of_if_set(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    if spec.get("selector").is_set() {
        faults.label_selector(&spec.get("selector"));
    }
    let requests = spec.at("resources.requests");
    match requests.value().get("storage") {
        None => faults.push(FieldError::required("spec.resources[storage]", "")),
        Some(amount) => {
            check::quantity(amount, "spec.resources[storage]", false, &mut faults.0);
            if Quantity::from_value(amount).is_ok_and(Quantity::is_zero) {
                let field = "spec.resources[storage]";
                faults.push(FieldError::invalid(field, amount.clone(), "must be greater than zero"));
            }
        }
    }
    faults.0
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
        if class.get("provisioner").str().is_empty() {
            faults.required(&class.get("provisioner"), "");
        }
        faults.one_of_if_set(&class.get("reclaimPolicy"), &["Delete", "Retain"]);
        faults.one_of_if_set(&class.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
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
