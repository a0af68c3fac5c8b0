//! Versions that are served but not stored: to and from the stored shape.

use machinery::kinds::Resource;
use serde_json::Value;

/// From the served to the stored shape.
pub(crate) fn to_storage(_resource: &Resource, _object: &mut Value) {}

/// From the stored to the served shape.
pub(crate) fn from_storage(_resource: &Resource, _object: &mut Value) {}
