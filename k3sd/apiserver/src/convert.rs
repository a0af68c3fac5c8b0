//! Versions that are served but not stored: to and from the stored shape.

pub(crate) use machinery::convert::{from_storage, to_storage};
