//! Where the data of a volume is, and the spec of a persistent volume, which an attachment may hold inline
//! (upstream's `ValidatePersistentVolumeSpec` and the functions for each source).

use machinery::quantity::Quantity;
use machinery::status::FieldError;
use serde_json::Value;

use super::pod_spec::validate_node_selector;
use super::walk::{Faults, Node};
use crate::names;

pub(super) const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const MAX_DRIVER_NAME: usize = 63;

/// Fields of a volume's spec that say where the data is, in the order in which upstream looks at them.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// Fields that must be there, of the sources that have nothing else to check.
const REQUIRED: [(&str, &[&str]); 16] = [
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &["monitors"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("ephemeral", &["volumeClaimTemplate"]),
];

/// The sources of a volume's spec, for comparison.
pub(super) fn sources(spec: &Value) -> Vec<Option<&Value>> {
    SOURCES.iter().map(|name| spec.get(name)).collect()
}

/// Everything about the spec of a persistent volume; `inline` in an attachment.
pub(super) fn validate_volume_spec(spec: &Node<'_>, inline: bool, faults: &mut Faults) {
    if inline {
        inline_fields(spec, faults);
    }
    let modes = spec.get("accessModes");
    if modes.len() == 0 {
        faults.required(&modes, "");
    }
    access_modes(&modes, faults);
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !inline {
        capacity(&spec.get("capacity"), faults);
        faults.one_of_if_set(&policy, &["Delete", "Recycle", "Retain"]);
    }
    let affinity = spec.get("nodeAffinity");
    if affinity.is_set() && !inline {
        let required = affinity.get("required");
        if required.is_set() {
            validate_node_selector(&required, faults);
        } else {
            faults.required(&required, "must specify required node constraints");
        }
    }
    one_source(spec, faults);
    if spec.at("hostPath.path").str() == "/" && policy.str() == "Recycle" {
        faults.forbidden(&policy, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.get("storageClassName");
    if !class.str().is_empty() && !inline {
        faults.name(&class, names::dns1123_subdomain);
    }
    if !inline {
        faults.one_of_if_set(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    }
    let attributes = spec.get("volumeAttributesClassName");
    if attributes.is_set() {
        if attributes.str().is_empty() {
            faults.required(&attributes, "an empty string is disallowed");
        } else {
            faults.name(&attributes, names::dns1123_subdomain);
        }
        if !spec.get("csi").is_set() {
            faults.required(&spec.get("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn inline_fields(spec: &Node<'_>, faults: &mut Faults) {
    const CONTEXT: &str = "in the context of inline volumes";
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        let node = spec.get(field);
        if node.is_set() && node.value() != "" {
            faults.forbidden(&node, format!("may not be specified {CONTEXT}"));
        }
    }
    if !spec.get("csi").is_set() {
        faults.required(&spec.get("csi"), &format!("has to be specified {CONTEXT}"));
    }
    let (policy, mode) = (spec.get("persistentVolumeReclaimPolicy"), spec.get("volumeMode"));
    if !matches!(policy.str(), "" | "Retain") {
        faults.forbidden(&policy, format!("may only be Retain {CONTEXT}"));
    }
    if !matches!(mode.str(), "" | "Filesystem") {
        faults.forbidden(&mode, format!("may not specify volumeMode other than Filesystem {CONTEXT}"));
    }
}

/// Access modes of volumes and claims.
pub(super) fn access_modes(modes: &Node<'_>, faults: &mut Faults) {
    for mode in modes.items().filter(|mode| !MODES.contains(&mode.str())) {
        faults.push(FieldError::not_supported(modes.path(), mode.str(), &MODES));
    }
    let known = |mode: &Node<'_>| MODES.contains(&mode.str());
    let (once, others): (Vec<_>, Vec<_>) =
        modes.items().filter(known).partition(|mode| mode.str() == "ReadWriteOncePod");
    if !once.is_empty() && !others.is_empty() {
        faults.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(capacity: &Node<'_>, faults: &mut Faults) {
    let entries: Vec<_> = capacity.entries().collect();
    if entries.is_empty() {
        faults.required(capacity, "");
    }
    if entries.len() != 1 || entries[0].0 != "storage" {
        let shown = capacity.value().clone();
        faults.push(FieldError::not_supported(capacity.path(), shown, &["storage"]));
    }
    for (name, _) in entries {
        positive_quantity(&capacity.key(name), faults);
    }
}

/// An amount of something that must be there.
pub(super) fn positive_quantity(amount: &Node<'_>, faults: &mut Faults) {
    match Quantity::from_value(amount.value()) {
        Ok(quantity) if quantity > Quantity::ZERO => {}
        Ok(_) => faults.invalid(amount, "must be greater than zero"),
        Err(error) => faults.invalid(amount, error.to_string()),
    }
}

/// Exactly one source, and that one right.
fn one_source(spec: &Node<'_>, faults: &mut Faults) {
    let mut found = false;
    for kind in SOURCES {
        let source = spec.get(kind);
        if !source.is_set() {
            continue;
        }
        if found {
            faults.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        match kind {
            "csi" => persistent_csi(&source, faults),
            "local" => {
                host_directory(&source.get("path"), faults);
                if !spec.at("nodeAffinity.required").is_set() {
                    faults.required(&spec.get("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            _ => validate_source(kind, &source, faults),
        }
    }
    if !found {
        faults.required(spec, "must specify a volume type");
    }
}

/// The sources that pods and persistent volumes have in common.
pub(super) fn validate_source(kind: &str, source: &Node<'_>, faults: &mut Faults) {
    match kind {
        "hostPath" => {
            host_directory(&source.get("path"), faults);
            let types = [
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            faults.one_of_if_set(&source.get("type"), &types);
        }
        "nfs" => {
            let path = source.get("path");
            required(&source.get("server"), faults);
            required(&path, faults);
            if !path.str().starts_with('/') {
                let detail = "must be an absolute path";
                faults.push(FieldError::invalid(path.path(), path.str(), detail));
            }
        }
        "fc" => fibre_channel(source, faults),
        "flocker" => {
            let (name, uuid) = (source.get("datasetName"), source.get("datasetUUID"));
            if name.str().is_empty() && uuid.str().is_empty() {
                faults.required(source, "one of datasetName and datasetUUID is required");
            }
            if !name.str().is_empty() && !uuid.str().is_empty() {
                let detail = "resource";
                faults.push(FieldError::invalid(
                    source.path(),
                    detail,
                    "datasetName and datasetUUID can not be specified simultaneously",
                ));
            }
        }
        _ => {
            let fields = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[] as &[&str], |(_, f)| f);
            for field in fields {
                let node = source.get(field);
                if node.str().is_empty() && node.len() == 0 && node.object().is_none() {
                    faults.required(&node, "");
                }
            }
        }
    }
}

fn fibre_channel(source: &Node<'_>, faults: &mut Faults) {
    let (names, ids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    if names.len() == 0 && ids.len() == 0 {
        faults.required(&names, "must specify either targetWWNs or wwids, but not both");
    }
    if names.len() > 0 && ids.len() > 0 {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        faults.invalid(&names, detail);
    }
    if names.len() > 0 {
        if lun.is_set() {
            faults.in_range(&lun, 0, 255);
        } else {
            faults.required(&lun, "lun is required if targetWWNs is specified");
        }
    }
}

fn required(node: &Node<'_>, faults: &mut Faults) {
    if node.str().is_empty() {
        faults.required(node, "");
    }
}

/// A path on the node that leads nowhere else.
fn host_directory(path: &Node<'_>, faults: &mut Faults) {
    required(path, faults);
    if path.str().split('/').any(|part| part == "..") {
        faults.invalid(path, "must not contain '..'");
    }
}

/// Upstream's `ValidateCSIDriverName`.
pub(super) fn csi_driver_name(name: &Node<'_>, faults: &mut Faults) {
    required(name, faults);
    if name.str().len() > MAX_DRIVER_NAME {
        faults.push(FieldError::too_long(name.path(), MAX_DRIVER_NAME));
    }
    for detail in names::dns1123_subdomain(&name.str().to_lowercase(), false) {
        if !name.str().is_empty() {
            faults.invalid(name, detail);
        }
    }
}

fn persistent_csi(source: &Node<'_>, faults: &mut Faults) {
    csi_driver_name(&source.get("driver"), faults);
    required(&source.get("volumeHandle"), faults);
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let reference = source.get(field);
        if reference.is_set() {
            faults.required_name(&reference.get("name"), names::dns1123_subdomain);
            faults.required_name(&reference.get("namespace"), names::dns1123_label);
        }
    }
}
