//! Settings of admission plugins by file (upstream's `--admission-control-config-file`): an `AdmissionConfiguration` of
//! `apiserver.config.k8s.io/v1`, whose plugins say theirs in place or name a file of their own.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use super::pod_security;

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "AdmissionConfiguration";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It could not be read.
    #[error("failed to read the admission configuration '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no configuration.
    #[error("the admission configuration '{}' cannot be understood", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// It says what is not allowed.
    #[error("the admission configuration '{}' is invalid: {}", path.display(), faults.join("; "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        faults: Vec<String>,
    },
}

/// The settings of all plugins that have any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(super) pod_security: pod_security::Configuration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<PluginSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSettings {
    name: String,
    path: Option<PathBuf>,
    configuration: Option<Value>,
}

impl Configuration {
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let document: Document = parse(path)?;
        let invalid = |faults| ConfigurationError::Invalid { path: path.to_owned(), faults };
        if document.api_version != API_VERSION || document.kind != KIND {
            return Err(invalid(vec![format!("apiVersion and kind must be {API_VERSION} and {KIND}")]));
        }
        let mut all = Self::default();
        for (number, plugin) in document.plugins.into_iter().enumerate() {
            let (settings, file) = match (plugin.configuration, plugin.path) {
                (Some(_), Some(_)) => {
                    let both = format!("plugins[{number}]: configuration and path may not both be given");
                    return Err(invalid(vec![both]));
                }
                (Some(settings), None) => (settings, None),
                // A relative path is meant from where the file is.
                (None, Some(other)) => {
                    let other = path.parent().unwrap_or(Path::new("")).join(other);
                    (parse(&other)?, Some(other))
                }
                (None, None) => continue,
            };
            match plugin.name.as_str() {
                "PodSecurity" => {
                    all.pod_security =
                        pod_security::Configuration::of(settings).map_err(|faults| match file {
                            Some(path) => ConfigurationError::Invalid { path, faults },
                            None => {
                                let at = |fault| format!("plugins[{number}].configuration: {fault}");
                                invalid(faults.into_iter().map(at).collect())
                            }
                        })?;
                }
                other => warn!(plugin = other, "settings of an admission plugin that there is not"),
            }
        }
        Ok(all)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ConfigurationError> {
    let text =
        std::fs::read(path).map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
    serde_yaml_ng::from_slice(&text)
        .map_err(|source| ConfigurationError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Configuration, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admission.yaml");
        std::fs::write(&path, text).unwrap();
        let own = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n\
                   defaults: {enforce: baseline}\n";
        std::fs::write(dir.path().join("own.yaml"), own).unwrap();
        std::fs::write(dir.path().join("bad.yaml"), own.replace("baseline", "strict")).unwrap();
        Configuration::read(&path).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error} {cause}")
        })
    }

    fn document(plugin: &str) -> String {
        format!("apiVersion: {API_VERSION}\nkind: {KIND}\nplugins:\n- {plugin}\n")
    }

    #[test]
    fn a_plugin_says_its_settings_in_place_or_in_a_file_beside() {
        let in_place = "{name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, \
                        kind: PodSecurityConfiguration, defaults: {enforce: baseline}}}";
        let found = read(&document(in_place)).unwrap();
        assert_ne!(found, Configuration::default());
        assert_eq!(read(&document("{name: PodSecurity, path: own.yaml}")).unwrap(), found);
        assert_eq!(
            read(&document("{name: EventRateLimit, path: own.yaml}")).unwrap(),
            Configuration::default()
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("kind: Pod", "missing field `apiVersion`"),
            ("apiVersion: v1\nkind: Pod\n", API_VERSION),
            (&document("{name: PodSecurity, path: none.yaml}"), "none.yaml"),
            (
                &document("{name: PodSecurity, configuration: {}, path: own.yaml}"),
                "plugins[0]: configuration and path",
            ),
            (&document("{name: PodSecurity, configuration: {kind: x}}"), "plugins[0].configuration: "),
            (&document("{name: PodSecurity, path: bad.yaml}"), "bad.yaml' is invalid: defaults.enforce"),
            (&document("{name: PodSecurity, colour: red}"), "unknown field `colour`"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
