//! A short name for a pod template.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// No vowels, so that no words appear; as upstream's names have it.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The same for the same template; `collisions` makes it another one.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_vec(template)?;
    if let Some(count) = collisions {
        text.extend(count.to_le_bytes());
    }
    // FNV-1a, 32 bits.
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = text.iter().fold(0x811c_9dc5, step);
    Ok(hash
        .to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect())
}
