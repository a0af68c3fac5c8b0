//! Volumes, claims and classes.

use jiff::Timestamp;
use serde_json::Value;

use super::field::{
    age, flag, join, join_texts, list, map, name, scalar, size, text as get, text_or, title_flag,
};
use super::{AGE, NAME, Printer, boolean, integer, text, wide};

/// Where the class was before it became a field; it still wins.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) static PRINTERS: &[Printer] = &[
    Printer::new(
        "",
        "PersistentVolume",
        &[
            NAME,
            text("Capacity"),
            text("Access Modes"),
            text("Reclaim Policy"),
            text("Status"),
            text("Claim"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            text("Reason"),
            AGE,
            wide("VolumeMode"),
        ],
        volume,
    ),
    Printer::new(
        "",
        "PersistentVolumeClaim",
        &[
            NAME,
            text("Status"),
            text("Volume"),
            text("Capacity"),
            text("Access Modes"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            AGE,
            wide("VolumeMode"),
        ],
        claim,
    ),
    Printer::new(
        "storage.k8s.io",
        "StorageClass",
        &[
            NAME,
            text("Provisioner"),
            text("ReclaimPolicy"),
            text("VolumeBindingMode"),
            boolean("AllowVolumeExpansion"),
            AGE,
        ],
        storage_class,
    ),
    Printer::new("storage.k8s.io", "VolumeAttributesClass", &[NAME, text("DriverName"), AGE], |o, now| {
        vec![default_marked(o), get(o, "/driverName").into(), age(o, now)]
    }),
    Printer::new(
        "storage.k8s.io",
        "VolumeAttachment",
        &[NAME, text("Attacher"), text("PV"), text("Node"), boolean("Attached"), AGE],
        |o, now| {
            vec![
                name(o),
                get(o, "/spec/attacher").into(),
                get(o, "/spec/source/persistentVolumeName").into(),
                get(o, "/spec/nodeName").into(),
                flag(o, "/status/attached").into(),
                age(o, now),
            ]
        },
    ),
    Printer::new("storage.k8s.io", "CSINode", &[NAME, integer("Drivers"), AGE], |o, now| {
        vec![name(o), list(o, "/spec/drivers").len().into(), age(o, now)]
    }),
    Printer::new(
        "storage.k8s.io",
        "CSIDriver",
        &[
            NAME,
            boolean("AttachRequired"),
            boolean("PodInfoOnMount"),
            boolean("StorageCapacity"),
            text("TokenRequests"),
            boolean("RequiresRepublish"),
            text("Modes"),
            AGE,
        ],
        csi_driver,
    ),
];

fn volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match o.pointer("/spec/claimRef") {
        Some(claim) if claim.is_object() => format!("{}/{}", get(claim, "/namespace"), get(claim, "/name")),
        _ => String::new(),
    };
    vec![
        name(o),
        scalar(o, "/spec/capacity/storage", "0").into(),
        access_modes(o, "/spec/accessModes").into(),
        get(o, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(o).into(),
        claim.into(),
        class(o).into(),
        text_or(o, "/spec/volumeAttributesClassName", "<unset>").into(),
        get(o, "/status/reason").into(),
        age(o, now),
        text_or(o, "/spec/volumeMode", "<unset>").into(),
    ]
}

fn claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = get(o, "/spec/volumeName");
    let (capacity, modes) = match bound {
        "" => (String::new(), String::new()),
        _ => (scalar(o, "/status/capacity/storage", "0"), access_modes(o, "/status/accessModes")),
    };
    vec![
        name(o),
        phase(o).into(),
        bound.into(),
        capacity.into(),
        modes.into(),
        class(o).into(),
        text_or(o, "/spec/volumeAttributesClassName", "<unset>").into(),
        age(o, now),
        text_or(o, "/spec/volumeMode", "<unset>").into(),
    ]
}

fn phase(o: &Value) -> &str {
    if get(o, "/metadata/deletionTimestamp").is_empty() { get(o, "/status/phase") } else { "Terminating" }
}

fn class(o: &Value) -> &str {
    let annotated = map(o, "/metadata/annotations").and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.and_then(Value::as_str).unwrap_or_else(|| get(o, "/spec/storageClassName"))
}

/// In upstream's fixed order, without repeats.
fn access_modes(o: &Value, pointer: &str) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = list(o, pointer);
    let shown = SHORT.into_iter().filter(|(long, _)| given.iter().any(|mode| mode == long));
    shown.map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

fn storage_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        default_marked(o),
        get(o, "/provisioner").into(),
        text_or(o, "/reclaimPolicy", "Delete").into(),
        text_or(o, "/volumeBindingMode", "Immediate").into(),
        flag(o, "/allowVolumeExpansion").into(),
        age(o, now),
    ]
}

/// The name, marked when an annotation makes the class the default one.
fn default_marked(o: &Value) -> Value {
    let name = get(o, "/metadata/name");
    let is_default = map(o, "/metadata/annotations").is_some_and(|annotations| {
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| annotations.get(*key).is_some_and(|value| value == "true"))
    });
    if is_default { format!("{name} (default)").into() } else { name.into() }
}

fn csi_driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let attach = o.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    let tokens = match size(o, "/spec/tokenRequests") + list(o, "/spec/tokenRequests").len() {
        0 => "<unset>".to_owned(),
        _ => join(list(o, "/spec/tokenRequests"), "/audience"),
    };
    let modes = match list(o, "/spec/volumeLifecycleModes") {
        [] => "<none>".to_owned(),
        modes => join_texts(modes, ","),
    };
    vec![
        name(o),
        attach.into(),
        flag(o, "/spec/podInfoOnMount").into(),
        flag(o, "/spec/storageCapacity").into(),
        tokens.into(),
        (title_flag(o, "/spec/requiresRepublish") == "True").into(),
        modes.into(),
        age(o, now),
    ]
}
