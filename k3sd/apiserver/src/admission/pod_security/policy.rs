//! What a namespace's labels ask for (upstream's `pod-security-admission/api`).

use std::fmt;

use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Whose rules: those of `v1.MINOR`, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

/// `LEVEL:VERSION`; without anything said, what allows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub level: Level,
    pub version: Version,
}

/// A namespace's policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Policies {
    pub enforce: Policy,
    pub audit: Policy,
    pub warn: Policy,
}

impl Default for Policy {
    fn default() -> Self {
        Self { level: Level::Privileged, version: Version::Latest }
    }
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let digits = text.strip_prefix("v1.")?;
        let plain = digits == "0" || !digits.starts_with('0');
        let plain = plain && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten().map(Self::Minor)
    }

    /// For comparison with what checks ask for.
    pub(super) fn minor(self) -> u32 {
        match self {
            Self::Minor(minor) => minor,
            Self::Latest => u32::MAX,
        }
    }
}

impl Policies {
    /// By the labels of a namespace, with what is wrong with them. What they do not say is as in `defaults`. Labels that cannot be
    /// read enforce the strictest policy and warn of nothing.
    pub(super) fn of(namespace: &Value, defaults: &Self) -> (Self, Vec<FieldError>) {
        let mut faults = Vec::new();
        let mut read = |mode: &str, default: Policy, fallback: Level| {
            let mut policy = default;
            let label = format!("{PREFIX}{mode}");
            if let Some(value) = meta::label(namespace, &label) {
                policy.level = Level::parse(value).unwrap_or_else(|| {
                    faults.push(fault(&label, value, "must be one of privileged, baseline, restricted"));
                    fallback
                });
            }
            let label = format!("{PREFIX}{mode}-version");
            if let Some(value) = meta::label(namespace, &label) {
                policy.version = Version::parse(value).unwrap_or_else(|| {
                    faults.push(fault(&label, value, "must be \"latest\" or \"v1.x\""));
                    Version::Latest
                });
            }
            policy
        };
        let enforce = read("enforce", defaults.enforce, Level::Restricted);
        let audit = read("audit", defaults.audit, Level::Privileged);
        let warn = read("warn", defaults.warn, Level::Privileged);
        (Self { enforce, audit, warn }, faults)
    }
}

impl Policies {
    /// Whether pods may do whatever they like and nobody is told.
    pub(super) fn all_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|policy| policy.level == Level::Privileged)
    }

    /// What is not allowed to everybody, such as `enforce=baseline:latest, warn=restricted:latest`.
    pub(super) fn said(&self) -> String {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let strict = modes.iter().filter(|(_, policy)| policy.level != Level::Privileged);
        strict.map(|(mode, policy)| format!("{mode}={policy}")).collect::<Vec<_>>().join(", ")
    }
}

fn fault(label: &str, value: &str, detail: &str) -> FieldError {
    FieldError::invalid(format!("metadata.labels[{label}]"), value, detail)
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}
