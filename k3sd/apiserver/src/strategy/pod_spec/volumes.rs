//! Volumes of a pod, and the mounts that refer to them.

use std::collections::{BTreeMap, BTreeSet};

use machinery::status::FieldError;

use super::probes::data_key;
use crate::names;
use crate::strategy::storage::claim_spec;
use crate::strategy::volume_sources::{csi_driver_name, validate_source as validate_source_of};
use crate::strategy::walk::{Faults, Node};

/// The volumes of a pod by name, with the kind of source each has.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a str>;

const MAX_FILE_MODE: i64 = 0o777;

/// Fields that a downward API volume may show.
const FILE_FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"];

pub(super) fn validate<'a>(volumes: &Node<'a>, faults: &mut Faults) -> Volumes<'a> {
    let mut known = Volumes::new();
    for volume in volumes.items() {
        let name = volume.get("name");
        faults.required_name(&name, names::dns1123_label);
        if known.contains_key(name.str()) {
            faults.duplicate(&name);
        }
        let source = validate_source(&volume, faults);
        known.insert(name.str(), source);
    }
    known
}

/// One kind of source, and the right fields in the common ones. Returns the kind.
fn validate_source<'a>(volume: &Node<'a>, faults: &mut Faults) -> &'a str {
    let mut found = "";
    for (kind, _) in volume.entries().filter(|(field, _)| *field != "name") {
        let source = volume.get(kind);
        if !found.is_empty() {
            faults.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        found = kind;
        match kind {
            "emptyDir" => faults.non_negative_quantity(&source.get("sizeLimit")),
            "secret" => validate_files(&source, "secretName", faults),
            "configMap" => validate_files(&source, "name", faults),
            "downwardAPI" => validate_downward(&source, faults),
            "projected" => validate_projected(&source, faults),
            "persistentVolumeClaim" => required_text(&source.get("claimName"), faults),
            "csi" => {
                csi_driver_name(&source.get("driver"), faults);
                let secret = source.get("nodePublishSecretRef");
                if secret.is_set() {
                    required_text(&secret.get("name"), faults);
                }
            }
            "image" => required_text(&source.get("reference"), faults),
            "ephemeral" => {
                let template = source.get("volumeClaimTemplate");
                if template.is_set() {
                    claim_spec(&template.get("spec"), faults);
                } else {
                    faults.required(&template, "");
                }
            }
            _ => validate_source_of(kind, &source, faults),
        }
    }
    if found.is_empty() {
        faults.required(volume, "must specify a volume type");
    }
    found
}

fn required_text(node: &Node<'_>, faults: &mut Faults) {
    if node.str().is_empty() {
        faults.required(node, "");
    }
}

fn validate_files(source: &Node<'_>, name: &str, faults: &mut Faults) {
    required_text(&source.get(name), faults);
    validate_mode(&source.get("defaultMode"), faults);
    for item in source.get("items").items() {
        let key = item.get("key");
        if key.str().is_empty() {
            faults.required(&key, "");
        } else {
            for detail in data_key(key.str()) {
                faults.invalid(&key, detail);
            }
        }
        validate_item(&item, faults);
    }
}

fn validate_item(item: &Node<'_>, faults: &mut Faults) {
    validate_relative(&item.get("path"), faults);
    validate_mode(&item.get("mode"), faults);
}

fn validate_mode(mode: &Node<'_>, faults: &mut Faults) {
    if mode.int().is_some_and(|m| !(0..=MAX_FILE_MODE).contains(&m)) {
        faults.invalid(mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A path inside a volume that must be there.
fn validate_relative(path: &Node<'_>, faults: &mut Faults) {
    required_text(path, faults);
    validate_sub_path(path, faults);
    if path.str().starts_with("..") && !path.str().starts_with("../") && path.str() != ".." {
        faults.invalid(path, "must not start with '..'");
    }
}

/// A path inside a volume.
fn validate_sub_path(path: &Node<'_>, faults: &mut Faults) {
    if path.str().starts_with('/') {
        faults.invalid(path, "must be a relative path");
    }
    if path.str().split('/').any(|part| part == "..") {
        faults.invalid(path, "must not contain '..'");
    }
}

fn validate_downward(source: &Node<'_>, faults: &mut Faults) {
    validate_mode(&source.get("defaultMode"), faults);
    for item in source.get("items").items() {
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        if field.is_set() {
            let path = field.get("fieldPath");
            let plain = path.str().split_once('[').map_or(path.str(), |(plain, _)| plain);
            if !FILE_FIELDS.contains(&plain) {
                faults.push(FieldError::not_supported(path.path(), path.str(), &FILE_FIELDS));
            }
            if resource.is_set() {
                faults.invalid(&item, "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        } else if resource.is_set() {
            required_text(&resource.get("containerName"), faults);
            required_text(&resource.get("resource"), faults);
        } else {
            faults.required(&item, "one of fieldRef and resourceFieldRef is required");
        }
        validate_item(&item, faults);
    }
}

fn validate_projected(source: &Node<'_>, faults: &mut Faults) {
    validate_mode(&source.get("defaultMode"), faults);
    for part in source.get("sources").items() {
        let mut kinds = part.entries().map(|(kind, _)| kind);
        let Some(kind) = kinds.next() else {
            faults.required(&part, "must specify a volume type");
            continue;
        };
        if let Some(second) = kinds.next() {
            faults.forbidden(&part.get(second), "may not specify more than 1 volume type");
        }
        let node = part.get(kind);
        match kind {
            "secret" | "configMap" => validate_files(&node, "name", faults),
            "downwardAPI" => validate_downward(&node, faults),
            "serviceAccountToken" => {
                validate_relative(&node.get("path"), faults);
                let expiration = node.get("expirationSeconds");
                if expiration.int().is_some_and(|n| n < 600) {
                    faults.invalid(&expiration, "may not specify a duration less than 10 minutes");
                }
                if expiration.int().is_some_and(|n| n > 1 << 32) {
                    faults.invalid(&expiration, "may not specify a duration larger than 2^32 seconds");
                }
            }
            "clusterTrustBundle" | "podCertificate" => {}
            _ => faults.forbidden(&node, "unknown volume type"),
        }
    }
}

pub(super) fn validate_mounts(container: &Node<'_>, volumes: &Volumes<'_>, faults: &mut Faults) {
    let mut paths = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.str().is_empty() {
            faults.required(&name, "");
        } else if !volumes.contains_key(name.str()) {
            faults.push(FieldError::not_found(name.path(), name.str()));
        }
        required_text(&path, faults);
        if !path.str().is_empty() && !paths.insert(path.str()) {
            faults.invalid(&path, "must be unique");
        }
        validate_sub_path(&mount.get("subPath"), faults);
        let expression = mount.get("subPathExpr");
        validate_sub_path(&expression, faults);
        if !mount.get("subPath").str().is_empty() && !expression.str().is_empty() {
            faults.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
        }
        let modes = ["None", "HostToContainer", "Bidirectional"];
        faults.one_of_if_set(&mount.get("mountPropagation"), &modes);
        if mount.get("mountPropagation").str() == "Bidirectional"
            && !container.at("securityContext.privileged").bool()
        {
            faults.forbidden(
                &mount.get("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    for device in container.get("volumeDevices").items() {
        let name = device.get("name");
        required_text(&name, faults);
        required_text(&device.get("devicePath"), faults);
        match volumes.get(name.str()) {
            None => faults.push(FieldError::not_found(name.path(), name.str())),
            Some(&("persistentVolumeClaim" | "ephemeral")) => {}
            Some(_) => faults.invalid(
                &name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
        }
    }
}
