//! The checks of the Pod Security Standards (upstream's `pod-security-admission/policy` at v1.36), in the order and words in which
//! upstream reports them.
//!
//! Some behaviour changed without a new policy version and so holds for every one: `image` volumes under restricted, the AppArmor field.

use std::collections::BTreeSet;

use machinery::meta;
use serde_json::Value;

use super::policy::{Level, Policy};

/// What is wrong with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// Short, and the same for all pods with this fault.
    pub reason: &'static str,
    pub detail: String,
}

type Test = fn(&Subject<'_>) -> Option<Violation>;

struct Check {
    id: &'static str,
    level: Level,
    /// Minor version from which each applies, ascending.
    versions: &'static [(u32, Test)],
    /// Baseline checks that this one replaces.
    overrides: Option<&'static str>,
}

const fn baseline(id: &'static str, versions: &'static [(u32, Test)]) -> Check {
    Check { id, level: Level::Baseline, versions, overrides: None }
}

const fn restricted(id: &'static str, versions: &'static [(u32, Test)]) -> Check {
    Check { id, level: Level::Restricted, versions, overrides: None }
}

/// By level, then by id.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, app_armor)]),
    baseline("capabilities_baseline", &[(0, capabilities_baseline)]),
    baseline("hostNamespaces", &[(0, host_namespaces)]),
    baseline("hostPathVolumes", &[(0, host_path)]),
    baseline("hostPorts", &[(0, host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, probe_hosts)]),
    baseline("privileged", &[(0, privileged)]),
    baseline("procMount", &[(0, proc_mount), (35, |pod| pod.unless_own_users(proc_mount))]),
    baseline(
        "seLinuxOptions",
        &[(0, |pod| se_linux(pod, &SELINUX_TYPES[..4])), (31, |pod| se_linux(pod, &SELINUX_TYPES))],
    ),
    baseline("seccompProfile_baseline", &[(0, seccomp_annotations), (19, seccomp_baseline)]),
    baseline(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, &SYSCTLS[..5])),
            (27, |pod| sysctls(pod, &SYSCTLS[..6])),
            (29, |pod| sysctls(pod, &SYSCTLS[..10])),
            (32, |pod| sysctls(pod, &SYSCTLS)),
        ],
    ),
    baseline("windowsHostProcess", &[(0, windows_host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, privilege_escalation), (25, |pod| pod.unless_windows(privilege_escalation))],
    ),
    Check {
        overrides: Some("capabilities_baseline"),
        ..restricted(
            "capabilities_restricted",
            &[(22, capabilities_restricted), (25, |pod| pod.unless_windows(capabilities_restricted))],
        )
    },
    Check { overrides: Some("procMount"), ..restricted("procMount_restricted", &[(35, proc_mount)]) },
    Check { overrides: Some("hostPathVolumes"), ..restricted("restrictedVolumes", &[(0, volumes)]) },
    restricted("runAsNonRoot", &[(0, run_as_non_root), (35, |pod| pod.unless_own_users(run_as_non_root))]),
    restricted("runAsUser", &[(23, run_as_user), (35, |pod| pod.unless_own_users(run_as_user))]),
    Check {
        overrides: Some("seccompProfile_baseline"),
        ..restricted(
            "seccompProfile_restricted",
            &[(19, seccomp_restricted), (25, |pod| pod.unless_windows(seccomp_restricted))],
        )
    },
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SELINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Everything that is wrong with a pod, or a template of one, by a policy.
pub(super) fn violations(policy: Policy, pod: &Value) -> Vec<Violation> {
    let applies =
        |check: &&Check| check.level <= policy.level && check.versions[0].0 <= policy.version.minor();
    let overridden: Vec<&str> = CHECKS.iter().filter(applies).filter_map(|check| check.overrides).collect();
    let subject = Subject(pod);
    CHECKS
        .iter()
        .filter(applies)
        .filter(|check| !overridden.contains(&check.id))
        .filter_map(|check| {
            let test = check.versions.iter().rev().find(|(from, _)| *from <= policy.version.minor());
            test.and_then(|(_, test)| test(&subject))
        })
        .collect()
}

/// A pod or a template of one.
struct Subject<'a>(&'a Value);

impl<'a> Subject<'a> {
    fn field(&self, pointer: &str) -> Option<&'a Value> {
        self.0.pointer(pointer)
    }

    fn flag(&self, pointer: &str) -> bool {
        self.field(pointer) == Some(&Value::Bool(true))
    }

    /// Init containers, containers, ephemeral containers.
    fn containers(&self) -> impl Iterator<Item = Container<'a>> {
        let pod = self.0;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |field| items(pod, &format!("/spec/{field}")))
            .map(Container)
    }

    /// Names of the containers that something is wrong with.
    fn bad(&self, mut test: impl FnMut(Container<'a>) -> bool) -> Vec<String> {
        self.containers().filter(|container| test(*container)).map(|container| container.name()).collect()
    }

    fn unless_windows(&self, test: Test) -> Option<Violation> {
        if self.field("/spec/os/name").is_some_and(|name| name == "windows") { None } else { test(self) }
    }

    fn unless_own_users(&self, test: Test) -> Option<Violation> {
        if self.field("/spec/hostUsers") == Some(&Value::Bool(false)) { None } else { test(self) }
    }
}

#[derive(Clone, Copy)]
struct Container<'a>(&'a Value);

impl<'a> Container<'a> {
    fn name(self) -> String {
        self.0["name"].as_str().unwrap_or_default().to_owned()
    }

    /// A field of its security context.
    fn context(self, field: &str) -> Option<&'a Value> {
        set(self.0.pointer(&format!("/securityContext/{field}")))
    }
}

// === texts ===

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn plural<'t>(count: usize, one: &'t str, many: &'t str) -> &'t str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    quoted.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[String]) -> String {
    format!("{} {}", plural(containers.len(), "container", "containers"), quoted(containers))
}

/// `pod and containers "a", "b"`: who sets something.
fn setters(pod: bool, containers: &[String]) -> Option<String> {
    match (pod, containers) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, _) => Some(named(containers)),
        (true, _) => Some(format!("pod and {}", named(containers))),
    }
}

fn set(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

// === baseline ===

fn app_armor(pod: &Subject<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |profile: Option<&Value>| {
        let Some(profile) = set(profile) else { return false };
        let kind = text(profile.get("type"));
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let whole = is_bad(pod.field("/spec/securityContext/appArmorProfile"));
    let containers = pod.bad(|container| is_bad(container.context("appArmorProfile")));
    let mut annotations: Vec<String> = meta::annotations(pod.0)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(key, value)| {
            let allowed = matches!(*value, "" | "runtime/default") || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR) && !allowed
        })
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    annotations.sort();
    let own = plural(annotations.len(), "annotation", "annotations");
    let who = match (setters(whole, &containers), annotations.is_empty()) {
        (None, true) => return None,
        (Some(who), true) => who,
        (None, false) => own.to_owned(),
        (Some(who), false) => format!("{who} and {own}"),
    };
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural(values.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    violation(reason, format!("{who} must not set AppArmor profile type to {}", quoted(values)))
}

/// Containers that add capabilities which are not allowed, and those capabilities.
fn added(pod: &Subject<'_>, allowed: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let mut found = BTreeSet::new();
    let containers = pod.bad(|container| {
        let before: Vec<_> = items(container.0, "/securityContext/capabilities/add")
            .filter_map(Value::as_str)
            .filter(|name| !allowed.contains(name))
            .map(str::to_owned)
            .collect();
        let bad = !before.is_empty();
        found.extend(before);
        bad
    });
    (containers, found)
}

fn capabilities_baseline(pod: &Subject<'_>) -> Option<Violation> {
    let (containers, found) = added(pod, &CAPABILITIES);
    let who = setters(false, &containers)?;
    let detail = format!("{who} must not include {} in securityContext.capabilities.add", quoted(found));
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Subject<'_>) -> Option<Violation> {
    let used: Vec<&str> = ["hostIPC", "hostNetwork", "hostPID"]
        .into_iter()
        .filter(|field| pod.flag(&format!("/spec/{field}")))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn host_path(pod: &Subject<'_>) -> Option<Violation> {
    let names: Vec<&str> = items(pod.0, "/spec/volumes")
        .filter(|volume| set(volume.get("hostPath")).is_some())
        .map(|volume| text(volume.get("name")))
        .collect();
    if names.is_empty() {
        return None;
    }
    let volumes = plural(names.len(), "volume", "volumes");
    violation("hostPath volumes", format!("{volumes} {}", quoted(names)))
}

fn host_ports(pod: &Subject<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.bad(|container| {
        let own: Vec<String> = items(container.0, "/ports")
            .filter_map(|port| port.get("hostPort").and_then(Value::as_i64))
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect();
        let bad = !own.is_empty();
        ports.extend(own);
        bad
    });
    let who = setters(false, &containers)?;
    let verb = plural(containers.len(), "uses", "use");
    let what = plural(ports.len(), "hostPort", "hostPorts");
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{who} {verb} {what} {ports}"))
}

fn probe_hosts(pod: &Subject<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let containers: BTreeSet<String> = pod
        .bad(|container| {
            let places = [
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
                "lifecycle/postStart",
                "lifecycle/preStop",
            ];
            let own: Vec<String> = places
                .iter()
                .flat_map(|place| ["httpGet", "tcpSocket"].map(|how| format!("/{place}/{how}/host")))
                .map(|pointer| text(container.0.pointer(&pointer)).to_owned())
                .filter(|host| !host.is_empty())
                .collect();
            let bad = !own.is_empty();
            hosts.extend(own);
            bad
        })
        .into_iter()
        .collect();
    let containers: Vec<String> = containers.into_iter().collect();
    let who = setters(false, &containers)?;
    let verb = plural(containers.len(), "uses", "use");
    let what = plural(hosts.len(), "probe or lifecycle host", "probe or lifecycle hosts");
    violation("probe or lifecycle host", format!("{who} {verb} {what} {}", quoted(hosts)))
}

fn privileged(pod: &Subject<'_>) -> Option<Violation> {
    let containers = pod.bad(|container| container.context("privileged") == Some(&Value::Bool(true)));
    let who = setters(false, &containers)?;
    violation("privileged", format!("{who} must not set securityContext.privileged=true"))
}

fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let containers = pod.bad(|container| {
        let bad = container.context("procMount").filter(|mount| *mount != "Default");
        values.extend(bad.map(|mount| text(Some(mount)).to_owned()));
        bad.is_some()
    });
    let who = setters(false, &containers)?;
    violation("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(values)))
}

fn se_linux(pod: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: Option<&Value>| {
        let Some(options) = set(options) else { return false };
        let kind = text(options.get("type"));
        let sets = |field: &str| !text(options.get(field)).is_empty();
        if !allowed.contains(&kind) {
            types.insert(kind.to_owned());
        }
        user |= sets("user");
        role |= sets("role");
        !allowed.contains(&kind) || sets("user") || sets("role")
    };
    let whole = is_bad(pod.field("/spec/securityContext/seLinuxOptions"));
    let containers = pod.bad(|container| is_bad(container.context("seLinuxOptions")));
    let who = setters(whole, &containers)?;
    let mut faults = Vec::new();
    if !types.is_empty() {
        faults.push(format!("{} {}", plural(types.len(), "type", "types"), quoted(&types)));
    }
    if user {
        faults.push("user may not be set".to_owned());
    }
    if role {
        faults.push("role may not be set".to_owned());
    }
    let faults = faults.join("; ");
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {faults}"))
}

/// Before policy version 1.19, profiles were annotations.
fn seccomp_annotations(pod: &Subject<'_>) -> Option<Violation> {
    let keys = pod.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", container.name()));
    let found: BTreeSet<String> = [SECCOMP_POD.to_owned()]
        .into_iter()
        .chain(keys)
        .filter_map(|key| {
            let value = meta::annotation(pod.0, &key)?;
            let allowed =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!allowed).then(|| format!("{key}=\"{value}\""))
        })
        .collect();
    if found.is_empty() {
        return None;
    }
    let what = plural(found.len(), "annotation", "annotations");
    let found = found.into_iter().collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {what} {found}"))
}

fn seccomp_baseline(pod: &Subject<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |profile: Option<&Value>| {
        let Some(profile) = set(profile) else { return false };
        let kind = text(profile.get("type"));
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let whole = is_bad(pod.field("/spec/securityContext/seccompProfile"));
    let containers = pod.bad(|container| is_bad(container.context("seccompProfile")));
    let who = setters(whole, &containers)?;
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values));
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Subject<'_>, allowed: &[&str]) -> Option<Violation> {
    let found: Vec<&str> = items(pod.0, "/spec/securityContext/sysctls")
        .map(|sysctl| text(sysctl.get("name")))
        .filter(|name| !allowed.contains(name))
        .collect();
    if found.is_empty() { None } else { violation("forbidden sysctls", found.join(", ")) }
}

fn windows_host_process(pod: &Subject<'_>) -> Option<Violation> {
    let whole = pod.flag("/spec/securityContext/windowsOptions/hostProcess");
    let containers =
        pod.bad(|container| container.context("windowsOptions/hostProcess") == Some(&Value::Bool(true)));
    let who = setters(whole, &containers)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

// === restricted ===

fn privilege_escalation(pod: &Subject<'_>) -> Option<Violation> {
    let containers =
        pod.bad(|container| container.context("allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    let who = setters(false, &containers)?;
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    violation("allowPrivilegeEscalation != false", detail)
}

fn capabilities_restricted(pod: &Subject<'_>) -> Option<Violation> {
    let keeping = pod
        .bad(|container| !items(container.0, "/securityContext/capabilities/drop").any(|name| name == "ALL"));
    let (adding, found) = added(pod, &["NET_BIND_SERVICE"]);
    let keeping = setters(false, &keeping)
        .map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let adding = setters(false, &adding)
        .map(|who| format!("{who} must not include {} in securityContext.capabilities.add", quoted(found)));
    let details: Vec<String> = keeping.into_iter().chain(adding).collect();
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Subject<'_>) -> Option<Violation> {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in items(pod.0, "/spec/volumes") {
        let Some(volume) = volume.as_object() else { continue };
        let mut sources = volume.iter().filter(|(field, value)| *field != "name" && !value.is_null());
        let source = sources.next().map_or("unknown", |(field, _)| field.as_str());
        if !VOLUMES.contains(&source) {
            names.push(text(volume.get("name")));
            types.insert(source);
        }
    }
    if names.is_empty() {
        return None;
    }
    let (volumes, verb) = (plural(names.len(), "volume", "volumes"), plural(names.len(), "uses", "use"));
    let what = plural(types.len(), "restricted volume type", "restricted volume types");
    let detail = format!("{volumes} {} {verb} {what} {}", quoted(names), quoted(types));
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Subject<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let whole = set(pod.field("/spec/securityContext/runAsNonRoot"));
    let refusing = pod.bad(|container| container.context("runAsNonRoot") == Some(&Value::Bool(false)));
    if let Some(who) = setters(whole == Some(&Value::Bool(false)), &refusing) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if whole == Some(&Value::Bool(true)) {
        return None;
    }
    let silent = pod.bad(|container| container.context("runAsNonRoot").is_none());
    let who = setters(false, &silent)?;
    violation(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Subject<'_>) -> Option<Violation> {
    let is_root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let whole = is_root(pod.field("/spec/securityContext/runAsUser"));
    let containers = pod.bad(|container| is_root(container.context("runAsUser")));
    let who = setters(whole, &containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp_restricted(pod: &Subject<'_>) -> Option<Violation> {
    if let Some(bad) = seccomp_baseline(pod) {
        return Some(bad);
    }
    if set(pod.field("/spec/securityContext/seccompProfile")).is_some() {
        return None;
    }
    let silent = pod.bad(|container| container.context("seccompProfile").is_none());
    let who = setters(false, &silent)?;
    let detail = format!(
        "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
    );
    violation("seccompProfile", detail)
}

#[cfg(test)]
mod tests;
