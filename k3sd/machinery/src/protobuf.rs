//! Kubernetes' protobuf encoding of the built-in kinds: `application/vnd.kubernetes.protobuf`.
//!
//! Objects are [`Value`]s on this side and protobuf messages on the other; the embedded table (`data/`) has the field numbers.
//! A document is the prefix `k8s\0` and a `runtime.Unknown`, which names the kind and holds the message of the object.
//!
//! Structs that Go embeds are fields of their own in protobuf and flat in JSON. A few types have a JSON form of their own.
//! Go's encoders write strings, numbers and booleans even when they are zero and JSON would leave them out; decoded objects have
//! these zeroes, and [`crate::schema::prune`] drops those that say nothing.
//!
//! Not here: kinds that are not in the table (custom resources); upstream does not have them in protobuf either.

mod decode;
mod encode;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::Value;

pub use wire::Fault;

/// Media type of a document.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Media type of a stream of watch events.
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8] = b"k8s\0";

/// Why bytes are not an object, or an object has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prefix is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotProtobuf,
    /// The kind has no message in the table.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in protobuf")]
    UnknownKind {
        /// As the object says.
        api_version: String,
        /// As the object says.
        kind: String,
    },
    /// The bytes are no such message.
    #[error("cannot decode {message} from protobuf")]
    Malformed {
        /// The innermost message at fault.
        message: &'static str,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
    /// A value does not fit the field's type.
    #[error("cannot encode field {field} of {message} in protobuf")]
    Mismatch {
        /// The message that has the field.
        message: &'static str,
        /// Its name in JSON.
        field: &'static str,
    },
}

/// Whether objects of this kind have a protobuf encoding.
pub fn knows(api_version: &str, kind: &str) -> bool {
    table::builtin().of_kind(api_version, kind).is_some()
}

/// Decode a document, zeroes and all. `expected` is the (`apiVersion`, `kind`) of documents that do not say theirs.
pub fn decode(document: &[u8], expected: (&str, &str)) -> Result<Value, Error> {
    decode::document(document, expected, 0)
}

/// Encode an object whose `apiVersion` and `kind` say what it is. Fields that its type does not have are left out.
pub fn encode(object: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(1024);
    encode::document(object, &mut out)?;
    Ok(out)
}

/// Encode one frame of a watch: the length in four bytes, then a `WatchEvent` around the object's document.
pub fn watch_frame(event: &str, object: &Value) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; 4];
    encode::watch_event(event, object, &mut out)?;
    let length = u32::try_from(out.len() - 4).expect("objects are limited to a few MiB");
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}
