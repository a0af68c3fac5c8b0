//! One thing wrong with the configuration, told so that it can be corrected without looking anything up.

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{source_name}: {key}: given {given}; allowed: {allowed}")]
pub struct Mistake {
    /// File and line, or whatever else the setting stands in: `config.toml:3`, `kernel command line`.
    pub source_name: String,
    /// The key from the top of the document, such as `network.interfaces[0].mtu`.
    pub key: String,
    /// What was found there.
    pub given: String,
    /// What would have been right.
    pub allowed: String,
}
