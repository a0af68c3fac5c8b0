//! From client-side to server-side apply, for kubectl: what the annotation of the former says, the latter may take.

use serde_json::Value;

use super::FieldManager;
use super::compare::compare;
use super::conflict::Conflict;
use super::fields;
use crate::meta;
use crate::schema::TypeRef;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations together may have no more bytes.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// The conflicts that are left when those are settled that kubectl has with itself: over fields that its last client-side apply
/// set, and that still are as it set them.
pub(super) fn unsettled(
    manager: &FieldManager<'_>,
    ty: TypeRef<'_>,
    live: Option<&Value>,
    conflicts: Vec<Conflict>,
) -> Vec<Conflict> {
    let Some((live, last)) = live.and_then(|live| Some((live, last_applied(live)?))) else {
        return conflicts;
    };
    if meta::api_version(&last) != manager.api_version {
        return conflicts;
    }
    let difference = compare(ty, &last, live);
    let settled = fields::of(ty, &last).difference(&difference.changed()).difference(&difference.removed);
    let settled: std::collections::HashSet<String> = settled.paths().into_iter().collect();
    conflicts.into_iter().filter(|conflict| !settled.contains(&conflict.path)).collect()
}

fn last_applied(object: &Value) -> Option<Value> {
    serde_json::from_str(meta::annotation(object, ANNOTATION).filter(|text| !text.is_empty())?).ok()
}

/// Writes the configuration into the annotation, where there is one, so that client-side apply still finds what was applied last.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    meta::set_annotation(object, ANNOTATION, &format!("{config}\n"));
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    let total: usize = meta::annotations(object).into_iter().flatten().map(size).sum();
    if total > ANNOTATIONS_MAX_BYTES
        && let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
}
