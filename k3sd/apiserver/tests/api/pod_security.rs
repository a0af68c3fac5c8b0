//! Pod security by the labels of namespaces.

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{Server, admin};

/// Status, message and warnings of a write.
async fn write(server: &Server, method: Method, path: &str, body: &Value) -> (u16, String, Vec<String>) {
    let media_type =
        if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let response = server.open(admin(), method, path, media_type, &body.to_string()).await;
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|warning| warning.to_str().unwrap().replace("\\\"", "\"")).collect();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    (status, body["message"].as_str().unwrap_or_default().to_owned(), warnings)
}

async fn namespace(server: &Server, name: &str, labels: &Value) {
    let labels = json!({ "metadata": { "name": name, "labels": labels } });
    assert_eq!(write(server, Method::POST, "/api/v1/namespaces", &labels).await.0, 201);
    let account = json!({ "metadata": { "name": "default" } });
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    assert_eq!(write(server, Method::POST, &path, &account).await.0, 201);
}

fn pod(name: &str, context: &Value) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "automountServiceAccountToken": false,
        "containers": [{ "name": "c", "image": "i", "securityContext": context }],
    } })
}

#[tokio::test]
async fn what_is_enforced_is_refused_and_what_is_warned_of_is_told() {
    let server = Server::start().await;
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "v1.22",
    });
    namespace(&server, "team", &labels).await;
    let pods = "/api/v1/namespaces/team/pods";
    let (status, message, warnings) =
        write(&server, Method::POST, pods, &pod("bad", &json!({ "privileged": true }))).await;
    assert_eq!(
        (status, message.as_str()),
        (
            403,
            "pods \"bad\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)"
        )
    );
    assert_eq!(warnings, Vec::<String>::new());
    let (status, message, warnings) = write(&server, Method::POST, pods, &pod("p", &json!({}))).await;
    assert_eq!(status, 201, "{message}");
    let expected = "299 - \"would violate PodSecurity \"restricted:v1.22\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")\"";
    assert_eq!(warnings, [expected]);
    // A change of the image is looked at, one of a label is not.
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    assert_eq!(write(&server, Method::PATCH, &format!("{pods}/p"), &label).await.2.len(), 0);
    let image = json!([{ "op": "replace", "path": "/spec/containers/0/image", "value": "j" }]);
    let response = server
        .open(admin(), Method::PATCH, &format!("{pods}/p"), "application/json-patch+json", &image.to_string())
        .await;
    assert_eq!(response.headers().get_all("warning").iter().count(), 1);
    // Ephemeral containers are held to the same.
    let ephemeral = json!({ "spec": { "ephemeralContainers": [
        { "name": "e", "image": "i", "securityContext": { "privileged": true } }] } });
    let (status, message, _) =
        write(&server, Method::PATCH, &format!("{pods}/p/ephemeralcontainers"), &ephemeral).await;
    assert!(status == 403 && message.contains("privileged (container \"e\" must not"), "{message}");

    // What makes pods is warned of and never refused.
    let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": {
        "hostNetwork": true, "containers": [{ "name": "c", "image": "i" }] } });
    let deployment = json!({ "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template } });
    let (status, message, warnings) =
        write(&server, Method::POST, "/apis/apps/v1/namespaces/team/deployments", &deployment).await;
    assert_eq!(status, 201, "{message}");
    assert!(
        warnings[0].contains("would violate PodSecurity \"restricted:v1.22\": host namespaces (hostNetwork)")
    );
    let mut job = template;
    job["spec"]["restartPolicy"] = json!("Never");
    let cron = json!({ "metadata": { "name": "c" },
        "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": { "template": job } } } });
    let (status, message, warnings) =
        write(&server, Method::POST, "/apis/batch/v1/namespaces/team/cronjobs", &cron).await;
    assert!(
        status == 201 && warnings.iter().any(|one| one.contains("hostNetwork")),
        "{message} {warnings:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_namespace_that_becomes_stricter_names_the_pods_that_break_its_rules() {
    let server = Server::start().await;
    namespace(&server, "team", &json!({})).await;
    let pods = "/api/v1/namespaces/team/pods";
    for (name, context) in
        [("b", json!({ "privileged": true })), ("a", json!({ "privileged": true })), ("c", json!({}))]
    {
        let (status, message, warnings) = write(&server, Method::POST, pods, &pod(name, &context)).await;
        assert_eq!((status, warnings.len()), (201, 0), "{message}");
    }
    let enforce =
        |level: &str| json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
    let path = "/api/v1/namespaces/team";
    let (status, message, warnings) = write(&server, Method::PATCH, path, &enforce("baseline")).await;
    assert_eq!(status, 200, "{message}");
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \"team\" violate the new PodSecurity enforce level \"baseline:latest\"\"",
            "299 - \"a (and 1 other pod): privileged\"",
        ]
    );
    let (_, _, warnings) = write(&server, Method::PATCH, path, &enforce("restricted")).await;
    let rest =
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile";
    assert_eq!(
        warnings[1..],
        [format!("299 - \"a (and 1 other pod): privileged, {rest}\""), format!("299 - \"c: {rest}\"")]
    );
    assert_eq!(write(&server, Method::PATCH, path, &enforce("baseline")).await.2.len(), 0);
    // Pods that are there stay, and their status goes on.
    let status = json!({ "status": { "message": "x" } });
    assert_eq!(write(&server, Method::PATCH, &format!("{pods}/a/status"), &status).await.0, 200);

    let (status, message, _) = write(&server, Method::PATCH, path, &enforce("strict")).await;
    assert_eq!(status, 422);
    assert!(
        message.contains("metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"),
        "{message}"
    );
    let version = json!({ "metadata": { "name": "new", "labels": { "pod-security.kubernetes.io/warn-version": "1.30" } } });
    let (status, message, _) = write(&server, Method::POST, "/api/v1/namespaces", &version).await;
    assert!(status == 422 && message.contains("must be \"latest\" or \"v1.x\""), "{message}");
    let (status, _) = server.call(Method::GET, "/api/v1/namespaces/new", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_file_says_what_holds_without_labels_and_who_is_exempt() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admission.yaml");
    let settings = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  \
                    configuration:\n    apiVersion: pod-security.admission.config.k8s.io/v1\n    \
                    kind: PodSecurityConfiguration\n    defaults: {enforce: baseline}\n    \
                    exemptions: {namespaces: [exempt], runtimeClasses: [sandboxed]}\n";
    std::fs::write(&file, settings).unwrap();
    let server = Server::start_with(dir, |config| config.admission = Some(file)).await;
    let class = json!({ "metadata": { "name": "sandboxed" }, "handler": "sandboxed" });
    write(&server, Method::POST, "/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    namespace(&server, "plain", &json!({})).await;
    namespace(&server, "exempt", &json!({ "pod-security.kubernetes.io/enforce": "restricted" })).await;
    namespace(&server, "free", &json!({ "pod-security.kubernetes.io/enforce": "privileged" })).await;
    let privileged = pod("p", &json!({ "privileged": true }));
    let mut sandboxed = pod("s", &json!({ "privileged": true }));
    sandboxed["spec"]["runtimeClassName"] = "sandboxed".into();
    for (namespace, pod, expected) in [
        ("plain", &privileged, 403),
        ("plain", &sandboxed, 201),
        ("exempt", &privileged, 201),
        ("free", &privileged, 201),
    ] {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let (status, message, _) = write(&server, Method::POST, &path, pod).await;
        assert_eq!(status, expected, "{namespace}: {message}");
    }
    server.stop().await;
}
