use serde_json::json;

use super::super::policy::Version;
use super::*;

fn policy(level: Level, minor: Option<u32>) -> Policy {
    Policy { level, version: minor.map_or(Version::Latest, Version::Minor) }
}

fn texts(level: Level, minor: Option<u32>, pod: &Value) -> Vec<String> {
    let found = violations(policy(level, minor), pod);
    found.into_iter().map(|one| format!("{} ({})", one.reason, one.detail)).collect()
}

/// A pod that breaks nothing, with changes to its container and its spec.
fn pod(container: &Value, spec: &Value) -> Value {
    let mut pod = json!({ "metadata": { "name": "p" }, "spec": {
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
    } });
    merge(&mut pod["spec"]["containers"][0], container);
    merge(&mut pod["spec"], spec);
    pod
}

fn merge(into: &mut Value, from: &Value) {
    let Some(fields) = from.as_object() else { return };
    for (name, value) in fields {
        if value.is_object() && into.get(name).is_some_and(Value::is_object) {
            merge(&mut into[name], value);
        } else {
            into[name] = value.clone();
        }
    }
}

#[test]
fn a_careful_pod_breaks_nothing_and_a_careless_one_what_upstream_says() {
    assert_eq!(texts(Level::Restricted, None, &pod(&json!({}), &json!({}))), Vec::<String>::new());
    let careless = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }] } });
    assert_eq!(texts(Level::Baseline, None, &careless), Vec::<String>::new());
    assert_eq!(
        texts(Level::Restricted, None, &careless),
        [
            r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
            r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"])"#,
            r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#,
            r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
        ]
    );
}

#[test]
fn each_baseline_check_finds_its_fault() {
    let context = |context: Value| pod(&json!({ "securityContext": context }), &json!({}));
    let spec = |spec: Value| pod(&json!({}), &spec);
    let mut annotated = pod(&json!({}), &json!({}));
    annotated["metadata"]["annotations"] =
        json!({ "container.apparmor.security.beta.kubernetes.io/c": "unconfined" });
    let cases = [
        (
            annotated,
            r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/c="unconfined"")"#,
        ),
        (
            spec(json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined" } } })),
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            context(json!({ "capabilities": { "add": ["SYS_ADMIN", "CHOWN", "NET_RAW"] } })),
            r#"non-default capabilities (container "c" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (spec(json!({ "hostPID": true, "hostNetwork": true })), "host namespaces (hostNetwork, hostPID)"),
        (
            spec(json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] })),
            r#"hostPath volumes (volume "v")"#,
        ),
        (
            pod(
                &json!({ "ports": [{ "hostPort": 80 }, { "hostPort": 443 }, { "containerPort": 1 }] }),
                &json!({}),
            ),
            r#"hostPort (container "c" uses hostPorts 443, 80)"#,
        ),
        (
            pod(&json!({ "livenessProbe": { "httpGet": { "host": "10.0.0.1" } } }), &json!({})),
            r#"probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")"#,
        ),
        (
            context(json!({ "privileged": true })),
            r#"privileged (container "c" must not set securityContext.privileged=true)"#,
        ),
        (
            context(json!({ "procMount": "Unmasked" })),
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            context(json!({ "seLinuxOptions": { "type": "spc_t", "user": "u" } })),
            r#"seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
        ),
        (
            spec(json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } })),
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            spec(
                json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }, { "name": "net.ipv4.tcp_wmem" }] } }),
            ),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            spec(json!({ "securityContext": { "windowsOptions": { "hostProcess": true } } })),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (pod, expected) in cases {
        assert_eq!(texts(Level::Baseline, None, &pod), [expected]);
        assert_eq!(texts(Level::Privileged, None, &pod), Vec::<String>::new());
    }
}

#[test]
fn each_restricted_check_finds_its_fault() {
    let context = |context: Value| pod(&json!({ "securityContext": context }), &json!({}));
    let cases = [
        (
            context(json!({ "capabilities": { "add": ["NET_BIND_SERVICE", "CHOWN"], "drop": ["ALL"] } })),
            r#"unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)"#,
        ),
        (
            pod(
                &json!({}),
                &json!({ "volumes": [{ "name": "v", "hostPath": {} }, { "name": "n", "nfs": {} }, { "name": "i", "image": {} }] }),
            ),
            r#"restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#,
        ),
        (
            context(json!({ "runAsNonRoot": false })),
            r#"runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false)"#,
        ),
        (context(json!({ "runAsUser": 0 })), r#"runAsUser=0 (container "c" must not set runAsUser=0)"#),
        (
            context(json!({ "seccompProfile": { "type": "Unconfined" } })),
            r#"seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
    ];
    for (pod, expected) in cases {
        assert_eq!(texts(Level::Restricted, None, &pod), [expected]);
    }
}

#[test]
fn a_version_has_the_rules_of_its_time() {
    let context = |context: Value| pod(&json!({ "securityContext": context }), &json!({}));
    let count = |level, minor, pod: &Value| texts(level, Some(minor), pod).len();
    let probe = pod(&json!({ "readinessProbe": { "tcpSocket": { "host": "h" } } }), &json!({}));
    assert_eq!((count(Level::Baseline, 33, &probe), count(Level::Baseline, 34, &probe)), (0, 1));
    let sysctl =
        pod(&json!({}), &json!({ "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } }));
    assert_eq!((count(Level::Baseline, 31, &sysctl), count(Level::Baseline, 32, &sysctl)), (1, 0));
    let engine = context(json!({ "seLinuxOptions": { "type": "container_engine_t" } }));
    assert_eq!((count(Level::Baseline, 30, &engine), count(Level::Baseline, 31, &engine)), (1, 0));
    let root = context(json!({ "runAsUser": 0 }));
    assert_eq!((count(Level::Restricted, 22, &root), count(Level::Restricted, 23, &root)), (0, 1));
    let mut own_users = context(json!({ "runAsUser": 0, "runAsNonRoot": false, "procMount": "Unmasked" }));
    own_users["spec"]["hostUsers"] = json!(false);
    assert_eq!((count(Level::Restricted, 34, &own_users), count(Level::Restricted, 35, &own_users)), (3, 1));
    assert_eq!((count(Level::Baseline, 34, &own_users), count(Level::Baseline, 35, &own_users)), (1, 0));
    let mut windows = json!({ "spec": { "os": { "name": "windows" }, "containers": [{ "name": "c" }] } });
    assert_eq!((count(Level::Restricted, 24, &windows), count(Level::Restricted, 25, &windows)), (4, 1));
    windows["spec"]["os"]["name"] = json!("linux");
    assert_eq!(count(Level::Restricted, 25, &windows), 4);
    let mut old =
        pod(&json!({}), &json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }));
    old["metadata"]["annotations"] = json!({ "seccomp.security.alpha.kubernetes.io/pod": "unconfined" });
    let expected =
        r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#;
    assert_eq!(texts(Level::Baseline, Some(18), &old), [expected]);
}
