//! What holds for namespaces without labels, and who is exempt: `PodSecurityConfiguration` of
//! `pod-security.admission.config.k8s.io` (upstream's `pod-security-admission/admission/api`).

use serde::Deserialize;
use serde_json::Value;

use super::policy::{Level, Policies, Policy, Version};
use crate::names;

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];
const KIND: &str = "PodSecurityConfiguration";

/// The settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::admission) struct Configuration {
    /// Of namespaces whose labels do not say it.
    pub(super) defaults: Policies,
    /// Whose pods nobody looks at.
    pub(super) exemptions: Exemptions,
}

/// Who is exempt.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

impl Configuration {
    /// By the document, or everything that is wrong with it.
    pub(in crate::admission) fn of(settings: Value) -> Result<Self, Vec<String>> {
        let document: Document = serde_json::from_value(settings).map_err(|error| vec![error.to_string()])?;
        let mut faults = Vec::new();
        if !VERSIONS.contains(&document.api_version.as_str()) || document.kind != KIND {
            faults.push(format!("apiVersion and kind must be {} and {KIND}", VERSIONS[0]));
        }
        let Defaults { enforce, enforce_version, audit, audit_version, warn, warn_version } =
            document.defaults;
        let mut policy = |mode: &str, level: Option<String>, version: Option<String>| {
            let mut policy = Policy::default();
            if let Some(text) = level.filter(|text| !text.is_empty()) {
                policy.level = Level::parse(&text).unwrap_or_else(|| {
                    faults.push(format!(
                        "defaults.{mode}: {text:?}: must be one of privileged, baseline, restricted"
                    ));
                    Level::Restricted
                });
            }
            if let Some(text) = version.filter(|text| !text.is_empty()) {
                policy.version = Version::parse(&text).unwrap_or_else(|| {
                    faults.push(format!("defaults.{mode}-version: {text:?}: must be \"latest\" or \"v1.x\""));
                    Version::Latest
                });
            }
            policy
        };
        let defaults = Policies {
            enforce: policy("enforce", enforce, enforce_version),
            audit: policy("audit", audit, audit_version),
            warn: policy("warn", warn, warn_version),
        };
        document.exemptions.check(&mut faults);
        if faults.is_empty() { Ok(Self { defaults, exemptions: document.exemptions }) } else { Err(faults) }
    }
}

impl Exemptions {
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.iter().any(|known| known == name)
    }

    pub(super) fn has_user(&self, name: &str) -> bool {
        self.usernames.iter().any(|known| known == name)
    }

    pub(super) fn has_runtime_class(&self, pod: &Value) -> bool {
        let class = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str);
        class.is_some_and(|class| self.runtime_classes.iter().any(|known| known == class))
    }

    fn check(&self, faults: &mut Vec<String>) {
        let mut list = |field: &str, list: &[String], wrong: &dyn Fn(&str) -> Vec<String>| {
            for (number, entry) in list.iter().enumerate() {
                let at = format!("exemptions.{field}[{number}]: {entry:?}");
                faults.extend(wrong(entry).into_iter().map(|fault| format!("{at}: {fault}")));
                if list[..number].contains(entry) {
                    faults.push(format!("{at}: duplicate"));
                }
            }
        };
        list("namespaces", &self.namespaces, &|name| names::dns1123_label(name, false));
        list("runtimeClasses", &self.runtime_classes, &|name| names::dns1123_subdomain(name, false));
        list("usernames", &self.usernames, &|name| {
            if name.is_empty() { vec!["must not be empty".to_owned()] } else { Vec::new() }
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_mistakes_are_told() {
        let faults = Configuration::of(json!({
            "apiVersion": "v1", "kind": "PodSecurityConfiguration",
            "defaults": { "enforce": "strict", "warn-version": "1.30" },
            "exemptions": { "namespaces": ["a", "a", "A"], "usernames": [""], "runtimeClasses": ["x/y"] },
        }))
        .unwrap_err();
        assert_eq!(faults.len(), 7, "{faults:#?}");
        for expected in
            ["defaults.enforce:", "defaults.warn-version:", "exemptions.namespaces[1]: \"a\": duplicate"]
        {
            assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{expected}: {faults:#?}");
        }
        assert!(
            Configuration::of(json!({ "defaults": { "colour": "red" } })).unwrap_err()[0].contains("colour")
        );
    }

    #[test]
    fn what_is_said_counts_and_the_rest_allows_everything() {
        let document = json!({
            "apiVersion": VERSIONS[0], "kind": KIND,
            "defaults": { "enforce": "baseline", "enforce-version": "v1.30" },
            "exemptions": { "namespaces": ["kube-system"], "runtimeClasses": ["sandboxed"] },
        });
        let found = Configuration::of(document).unwrap();
        assert_eq!(found.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(found.defaults.warn, Policy::default());
        assert!(found.exemptions.has_namespace("kube-system") && !found.exemptions.has_namespace("default"));
        assert!(found.exemptions.has_runtime_class(&json!({ "spec": { "runtimeClassName": "sandboxed" } })));
        assert!(
            !found.exemptions.has_runtime_class(&json!({ "spec": {} })) && !found.exemptions.has_user("bob")
        );
    }
}
