//! The audit policy: which requests are recorded, and how much of them. The first rule that matches decides; none means nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::request::RequestInfo;
use crate::user::UserInfo;

const API_VERSION: &str = "audit.k8s.io/v1";
const KIND: &str = "Policy";

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file could not be read.
    #[error("failed to read the audit policy '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no policy.
    #[error("the audit policy '{}' cannot be understood", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// It contradicts itself, or says nothing.
    #[error("the audit policy '{}' is invalid: {}", path.display(), faults.join("; "))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        faults: Vec<String>,
    },
}

/// `audit.k8s.io/v1 Policy`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy wants of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

// === impl Policy ===

impl Policy {
    pub(crate) fn read(path: &Path) -> Result<Self, PolicyError> {
        let text =
            std::fs::read(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        let policy: Self = serde_yaml_ng::from_slice(&text)
            .map_err(|source| PolicyError::Parse { path: path.to_owned(), source })?;
        let faults = policy.faults();
        if faults.is_empty() {
            Ok(policy)
        } else {
            Err(PolicyError::Invalid { path: path.to_owned(), faults })
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.api_version != API_VERSION || self.kind != KIND {
            faults.push(format!("not a {KIND} of {API_VERSION}, but {} of {}", self.kind, self.api_version));
        }
        if self.rules.is_empty() {
            faults.push("rules: there are none".to_owned());
        }
        for (index, rule) in self.rules.iter().enumerate() {
            faults.extend(rule.faults().into_iter().map(|fault| format!("rules[{index}]: {fault}")));
        }
        faults
    }

    /// What is wanted of a request; nothing if no rule matches. `user` is none for one that could not prove who it is.
    pub(crate) fn wanted(&self, info: &RequestInfo, user: Option<&UserInfo>) -> Option<Wanted> {
        let rule = self.rules.iter().find(|rule| rule.matches(info, user))?;
        let omit_stages = self.omit_stages.iter().chain(&rule.omit_stages).copied().collect();
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        (rule.level > Level::None).then_some(Wanted { level: rule.level, omit_stages, omit_managed_fields })
    }
}

// === impl Rule ===

impl Rule {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let regular = !self.resources.is_empty() || !self.namespaces.is_empty();
        if regular && !self.non_resource_urls.is_empty() {
            faults.push("rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        for url in &self.non_resource_urls {
            if url != "*" && !url.starts_with('/') {
                faults.push(format!("nonResourceURLs: {url:?} must begin with \"/\""));
            }
            if url.find('*').is_some_and(|at| at + 1 < url.len()) {
                faults.push(format!("nonResourceURLs: {url:?}: \"*\" must be the last character"));
            }
        }
        for resources in &self.resources {
            if resources.group.contains('/') {
                faults.push(format!("resources: {:?} must be a group, without version", resources.group));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                faults.push("resources: resourceNames require at least one resource".to_owned());
            }
        }
        faults
    }

    fn matches(&self, info: &RequestInfo, user: Option<&UserInfo>) -> bool {
        let is = |own: &[String], it: &str| own.is_empty() || own.iter().any(|own| own == it);
        let user_matches = self.users.is_empty() || user.is_some_and(|user| is(&self.users, &user.name));
        let group_matches = self.user_groups.is_empty()
            || user.is_some_and(|user| self.user_groups.iter().any(|group| user.in_group(group)));
        if !user_matches || !group_matches || !is(&self.verbs, info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && is(&self.namespaces, &info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|own| own.matches(info)));
        }
        self.non_resource_urls.is_empty()
            || (!info.is_resource && self.non_resource_urls.iter().any(|url| url_matches(url, &info.path)))
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        self.group == info.group
            && (self.resources.is_empty()
                || (named && self.resources.iter().any(|own| resource_matches(own, info))))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale` and `*`. A subresource is never meant by the resource's name alone.
fn resource_matches(own: &str, info: &RequestInfo) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => info.subresource.is_empty() && own == info.resource,
        Some((resource, "*")) => resource == info.resource,
        Some(("*", subresource)) => !info.subresource.is_empty() && subresource == info.subresource,
        Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
    }
}

fn url_matches(own: &str, path: &str) -> bool {
    own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::Query;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: RequestResponse
  resources: [{group: "", resources: [pods]}]
  omitStages: [ResponseStarted]
- level: Request
  resources: [{group: "", resources: ["pods/*", "*/scale"]}]
  omitManagedFields: false
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Metadata
  namespaces: [kube-system]
- level: Metadata
  resources: [{group: "", resources: [configmaps], resourceNames: [one]}, {group: apps}]
"#;

    fn level(user: &UserInfo, method: Method, path: &str) -> Option<Level> {
        let policy: Policy = serde_yaml_ng::from_str(POLICY).unwrap();
        assert!(policy.faults().is_empty(), "{:?}", policy.faults());
        let info =
            RequestInfo::parse(&method, path, &Query::parse(path.split_once('?').map(|(_, query)| query)));
        policy.wanted(&info, Some(user)).map(|wanted| wanted.level)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let anna = UserInfo::new("anna", &[]);
        let cases = [
            ("/api/v1/namespaces/a/pods", Some(Level::RequestResponse)),
            ("/api/v1/namespaces/a/pods/p/log", Some(Level::Request)),
            ("/api/v1/namespaces/kube-system/secrets", Some(Level::Metadata)),
            ("/api/v1/namespaces/a/secrets", None),
            ("/api/v1/namespaces/a/configmaps/one", Some(Level::Metadata)),
            ("/api/v1/namespaces/a/configmaps/two", None),
            ("/apis/apps/v1/deployments", Some(Level::Metadata)),
            ("/api/v1", None),
            ("/version", None),
            ("/metrics", None),
        ];
        for (path, expected) in cases {
            assert_eq!(level(&anna, Method::GET, path), expected, "{path}");
        }
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        assert_eq!(level(&proxy, Method::GET, "/api/v1/pods?watch=1"), None);
    }

    #[test]
    fn stages_add_up_and_managed_fields_are_the_rules_first() {
        let policy: Policy = serde_yaml_ng::from_str(POLICY).unwrap();
        let wanted = |path: &str| {
            policy.wanted(&RequestInfo::parse(&Method::GET, path, &Query::parse(None)), None).unwrap()
        };
        let pods = wanted("/api/v1/pods");
        assert_eq!(pods.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(pods.omit_managed_fields && !wanted("/api/v1/namespaces/a/pods/p/log").omit_managed_fields);
    }

    #[test]
    fn nonsense_is_refused_with_all_that_is_wrong() {
        let policy: Policy = serde_yaml_ng::from_str(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n  nonResourceURLs: [x, '/a*b']\n  namespaces: [a]\n- level: None\n  resources: [{group: apps/v1, resourceNames: [x]}]\n",
        )
        .unwrap();
        assert_eq!(policy.faults().len(), 5, "{:?}", policy.faults());
        assert!(
            serde_yaml_ng::from_str::<Policy>(
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]"
            )
            .is_err()
        );
    }
}
