//! Patches of the three kinds that carry no field ownership: JSON patch, JSON merge patch, strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::schema::Schema;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The document is not a patch of its kind.
    #[error("{0}")]
    Malformed(String),
    /// A `test` of a JSON patch failed, or a path of it does not exist.
    #[error("the server rejected our request due to an error in our request")]
    NotApplicable(#[source] json_patch::PatchError),
}

/// Most operations a JSON patch may have; upstream's limit.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Applies an RFC 6902 JSON patch: all of it, or nothing.
///
/// # Errors
/// The patch is malformed, a path does not exist, or a test failed.
pub fn json(doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch =
        serde::Deserialize::deserialize(patch).map_err(|err| PatchError::Malformed(err.to_string()))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    json_patch::patch(doc, &operations).map_err(PatchError::NotApplicable)
}

/// Applies an RFC 7386 JSON merge patch.
pub fn merge(doc: &mut Value, patch: &Value) {
    json_patch::merge(doc, patch);
}

/// Applies a strategic merge patch: lists merge by the keys of the schema, `$patch`, `$setElementOrder/…`,
/// `$deleteFromPrimitiveList/…` and `$retainKeys` steer.
///
/// # Errors
/// A directive is malformed, or a list element lacks its merge key.
pub fn strategic(schema: &Schema, type_name: &str, doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    strategic::apply(schema.get(type_name), doc, patch)
}
