//! What `--kube-apiserver-arg` says: the settings of upstream's API server that are acted on here.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::audit::{LogFile, Settings};

use super::Mistakes;

const FLAG: &str = "kube-apiserver-arg";
/// Upstream's limit on a file when none is given.
const LOG_MEBIBYTES: u64 = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the settings come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ApiServer {
    pub(super) audit: Option<Settings>,
    pub(super) admission: Option<PathBuf>,
}

/// Reads `KEY=VALUE` as K3s does: leading dashes may be there, and the last value of a key counts.
pub(super) fn resolve(given: &[String], mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> ApiServer {
    let mut policy = None;
    let mut log = None;
    let mut admission = None;
    let mut limits = (LOG_MEBIBYTES, 0, 0);
    for setting in given {
        let (key, value) = setting.split_once('=').unwrap_or((setting, "true"));
        let key = key.trim_start_matches('-');
        match key {
            "admission-control-config-file" => admission = Some(PathBuf::from(value)),
            "audit-policy-file" => policy = Some(PathBuf::from(value)),
            "audit-log-path" => log = Some(PathBuf::from(value)),
            "audit-log-maxsize" => limits.0 = number(setting, value, mistakes),
            "audit-log-maxbackup" => limits.1 = number(setting, value, mistakes),
            "audit-log-maxage" => limits.2 = number(setting, value, mistakes),
            // What is done anyway.
            "audit-log-format" if value == "json" => {}
            "audit-log-mode" if value == "blocking" => {}
            _ => warnings.push(format!("{FLAG}: {key} is not acted on")),
        }
    }
    let audit = match (policy, log) {
        (Some(policy), Some(path)) => {
            let (mebibytes, backups, days) = limits;
            // Zero is upstream's word for "as usual".
            let mebibytes = if mebibytes == 0 { LOG_MEBIBYTES } else { mebibytes };
            Some(Settings {
                policy,
                log: LogFile {
                    path,
                    max_bytes: mebibytes.saturating_mul(1 << 20),
                    max_backups: usize::try_from(backups).unwrap_or(usize::MAX),
                    max_age: DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX)),
                },
            })
        }
        (None, Some(_)) => {
            warnings.push(format!("{FLAG}: audit-log-path without audit-policy-file records nothing"));
            None
        }
        (Some(_), None) => {
            warnings.push(format!("{FLAG}: audit-policy-file without audit-log-path records nothing"));
            None
        }
        (None, None) => None,
    };
    ApiServer { audit, admission }
}

fn number(setting: &str, value: &str, mistakes: &mut Mistakes) -> u64 {
    value.parse().unwrap_or_else(|_| {
        mistakes.add(format!("{FLAG}: not a number: {setting:?}"));
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(given: &[&str]) -> (ApiServer, String, Vec<String>) {
        let (mut mistakes, mut warnings) = (Mistakes::default(), Vec::new());
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        let resolved = resolve(&given, &mut mistakes, &mut warnings);
        (resolved, mistakes.to_string(), warnings)
    }

    #[test]
    fn an_audit_log_needs_a_policy_and_a_path() {
        let (all, mistakes, warnings) = resolved(&[
            "audit-policy-file=/etc/policy.yaml",
            "--audit-log-path=/var/log/audit.log",
            "audit-log-maxage=30",
            "audit-log-maxbackup=10",
            "audit-log-maxsize=5",
            "anonymous-auth=false",
        ]);
        let log = all.audit.unwrap().log;
        assert_eq!((log.max_bytes, log.max_backups, log.max_age), (5 << 20, 10, 30 * DAY));
        assert_eq!((mistakes.as_str(), warnings.len()), ("", 1), "{warnings:?}");
        for half in ["audit-policy-file=/x", "audit-log-path=/x"] {
            let (none, _, warnings) = resolved(&[half]);
            assert!(none.audit.is_none() && warnings.len() == 1, "{warnings:?}");
        }
        assert!(resolved(&["audit-log-maxsize=much"]).1.contains("audit-log-maxsize=much"));
    }
}
