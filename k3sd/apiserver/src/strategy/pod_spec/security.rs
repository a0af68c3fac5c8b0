//! Security contexts of pods and of containers: users and groups, profiles, kernel parameters, namespaces of the node.

use std::collections::BTreeSet;

use machinery::status::FieldError;

use crate::strategy::walk::{Faults, Node};

const HIGHEST_ID: i64 = i32::MAX as i64;
const MAX_PROFILE: usize = 4095;
const MAX_SYSCTL: usize = 253;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_RULE: &str = "must have at most 253 characters and match regex \
    ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

/// The context of the whole pod, with what the pod shares with its node.
pub(super) fn validate_pod(spec: &Node<'_>, faults: &mut Faults) {
    let context = spec.get("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        faults.in_range(&context.get(field), 0, HIGHEST_ID);
    }
    context.get("supplementalGroups").items().for_each(|group| faults.in_range(&group, 0, HIGHEST_ID));
    faults.one_of_if_set(&context.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    faults.one_of_if_set(&context.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    seccomp(&context.get("seccompProfile"), faults);
    app_armor(&context.get("appArmorProfile"), faults);
    sysctls(&context.get("sysctls"), faults);
    if spec.get("shareProcessNamespace").bool() && spec.get("hostPID").bool() {
        let node = context.get("shareProcessNamespace");
        faults.push(FieldError::invalid(
            node.path(),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if spec.get("hostUsers").is_set() && !spec.get("hostUsers").bool() {
        // The paths are upstream's.
        for (field, path) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec.get(field).bool() {
                faults.forbidden(&spec.get(path), "when `hostUsers` is false");
            }
        }
    }
}

/// The context of one container.
pub(super) fn validate_container(context: &Node<'_>, host_users: bool, faults: &mut Faults) {
    for field in ["runAsUser", "runAsGroup"] {
        faults.in_range(&context.get(field), 0, HIGHEST_ID);
    }
    let mount = context.get("procMount");
    faults.one_of_if_set(&mount, &["Default", "Unmasked"]);
    if host_users && mount.str() == "Unmasked" {
        faults.invalid(&mount, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(&context.get("seccompProfile"), faults);
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.bool() {
        if context.get("privileged").bool() {
            faults
                .invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.at("capabilities.add").items().any(|c| c.str() == "CAP_SYS_ADMIN") {
            faults.invalid(
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    app_armor(&context.get("appArmorProfile"), faults);
}

fn seccomp(profile: &Node<'_>, faults: &mut Faults) {
    if !profile.is_set() {
        return;
    }
    let (kind, file) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.str() == "Localhost" && !file.is_set() {
        faults.required(&file, "must be set when seccomp type is Localhost");
    } else if kind.str() == "Localhost" {
        if file.str().starts_with('/') {
            faults.invalid(&file, "must be a relative path");
        }
        if file.str().split('/').any(|part| part == "..") {
            faults.invalid(&file, "must not contain '..'");
        }
    } else if file.is_set() {
        faults.invalid(&file, "can only be set when seccomp type is Localhost");
    }
    if kind.str().is_empty() {
        faults.required(&kind, "type is required when seccompProfile is set");
    } else if !PROFILES.contains(&kind.str()) {
        faults.push(FieldError::not_supported(kind.path(), kind.str(), &PROFILES));
    }
}

fn app_armor(profile: &Node<'_>, faults: &mut Faults) {
    if !profile.is_set() {
        return;
    }
    const NEEDED: &str = "must be set when AppArmor type is Localhost";
    let (kind, name) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.str() {
        "Localhost" if !name.is_set() => faults.required(&name, NEEDED),
        "Localhost" => {
            if name.str().trim() != name.str() {
                faults.invalid(&name, "must not be padded with whitespace");
            } else if name.str().is_empty() {
                faults.required(&name, NEEDED);
            }
            if name.str().len() > MAX_PROFILE {
                faults.push(FieldError::too_long(name.path(), MAX_PROFILE));
            }
        }
        "RuntimeDefault" | "Unconfined" if name.is_set() => {
            faults.invalid(&name, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => faults.required(&kind, "type is required when appArmorProfile is set"),
        _ => faults.push(FieldError::not_supported(kind.path(), kind.str(), &PROFILES)),
    }
}

fn sysctls(sysctls: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if name.str().is_empty() {
            faults.required(&name, "");
        } else if !is_sysctl(name.str()) {
            faults.invalid(&name, SYSCTL_RULE);
        } else if !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= MAX_SYSCTL
        && name.split(['.', '/']).all(|part| {
            part.starts_with(end)
                && part.ends_with(end)
                && part.chars().all(|c| end(c) || matches!(c, '-' | '_'))
        })
}
