//! What the audit log says of requests.

use std::path::Path;
use std::time::Duration;

use apiserver::UserInfo;
use apiserver::audit::{LogFile, Settings};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::{Server, admin};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  verbs: [create, patch]
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
  verbs: [watch, get]
  resources: [{group: "", resources: [configmaps]}]
  omitStages: [RequestReceived]
- level: Metadata
  verbs: [create]
  resources: [{group: "", resources: [pods]}]
  omitStages: [RequestReceived]
- level: None
"#;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn audited() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let path = dir.path().join("audit.log");
    let log = LogFile { path, max_bytes: 1 << 20, max_backups: 0, max_age: Duration::ZERO };
    Server::start_with(dir, |config| config.audit = Some(Settings { policy, log })).await
}

/// The events of one user so far, each as it is in the file.
fn events(dir: &Path, user: &str) -> Vec<Value> {
    std::fs::read_to_string(dir.join("audit.log"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is an event"))
        .filter(|event: &Value| event["user"]["username"] == user)
        .collect()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["stage"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_write_is_recorded_as_far_as_its_level_goes() {
    let server = audited().await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    assert_eq!(server.call(Method::POST, MAPS, map).await.0, StatusCode::CREATED);
    let recorded = events(server.dir.path(), "system:admin");
    assert_eq!(stages(&recorded), ["RequestReceived", "ResponseComplete"]);
    let last = &recorded[1];
    assert_eq!((&last["kind"], &last["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&last["level"], &last["verb"]), (&json!("RequestResponse"), &json!("create")));
    assert_eq!(last["requestURI"], MAPS);
    let reference =
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"});
    assert_eq!(last["objectRef"], reference);
    assert_eq!(last["user"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(last["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(last["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(last["responseObject"]["data"], json!({"a": "b"}));
    assert!(last["responseObject"]["metadata"]["managedFields"].is_null(), "{last}");
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(last["annotations"]["authorization.k8s.io/reason"], "", "administrators need none");
    assert_eq!(last["auditID"], recorded[0]["auditID"]);
    assert!(last["stageTimestamp"].as_str() > last["requestReceivedTimestamp"].as_str(), "{last}");

    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hidden"}});
    assert_eq!(
        server.call(Method::POST, "/api/v1/namespaces/default/secrets", secret).await.0,
        StatusCode::CREATED
    );
    let text = std::fs::read_to_string(server.dir.path().join("audit.log")).unwrap();
    assert!(
        text.contains("\"name\":\"s\"") && !text.contains("hidden") && !text.contains("aGlkZGVu"),
        "{text}"
    );

    let (path, patch) = (format!("{MAPS}/m"), r#"{"data":{"a":"c"}}"#);
    let (status, _) =
        server.call_as(admin(), Method::PATCH, &path, "application/merge-patch+json", patch).await;
    assert_eq!(status, StatusCode::OK);
    let recorded = events(server.dir.path(), "system:admin");
    assert_eq!(recorded.last().unwrap()["requestObject"], json!({"data": {"a": "c"}}));
    server.stop().await;
}

#[tokio::test]
async fn refusals_are_recorded_and_what_the_policy_leaves_out_is_not() {
    let server = audited().await;
    let nobody = || UserInfo::new("nobody", &[]);
    let map = r#"{"metadata":{"name":"m"}}"#;
    let refused = server.call_as(nobody(), Method::POST, MAPS, "application/json", map).await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN);
    let (_, _) = server.call_as(nobody(), Method::GET, "/version", "application/json", "").await;
    let recorded = events(server.dir.path(), "nobody");
    assert_eq!(stages(&recorded), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(recorded[1]["responseStatus"]["code"], 403);
    assert_eq!(recorded[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(recorded[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_recorded_when_it_begins_and_when_it_ends() {
    let server = audited().await;
    let watch = server.open(admin(), Method::GET, &format!("{MAPS}?watch=1"), "application/json", "").await;
    assert_eq!(stages(&events(server.dir.path(), "system:admin")), ["ResponseStarted"]);
    let id = watch.headers()["audit-id"].to_str().unwrap().to_owned();
    drop(watch.into_body());
    let recorded = events(server.dir.path(), "system:admin");
    assert_eq!(stages(&recorded), ["ResponseStarted", "ResponseComplete"]);
    assert_eq!(recorded[1]["auditID"], id.as_str());
    let missing = server.open(admin(), Method::GET, &format!("{MAPS}/none"), "application/json", "").await;
    let _body = missing.into_body().collect().await.unwrap();
    let recorded = events(server.dir.path(), "system:admin");
    assert_eq!(stages(&recorded[2..]), ["ResponseComplete"], "this rule leaves out the first stage");
    assert_eq!(recorded[2]["responseStatus"]["code"], 404);
    server.stop().await;
}

#[tokio::test]
async fn pod_security_tells_what_it_enforced_and_what_would_break_the_audited_policy() {
    let server = audited().await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted",
        "pod-security.kubernetes.io/audit-version": "v1.18"});
    let namespace = json!({"metadata": {"name": "team", "labels": labels}});
    assert_eq!(server.call(Method::POST, "/api/v1/namespaces", namespace).await.0, StatusCode::CREATED);
    let account = json!({"metadata": {"name": "default"}});
    let path = "/api/v1/namespaces/team/serviceaccounts";
    assert_eq!(server.call(Method::POST, path, account).await.0, StatusCode::CREATED);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(server.call(Method::POST, "/api/v1/namespaces/team/pods", pod).await.0, StatusCode::CREATED);
    let recorded = events(server.dir.path(), "system:admin");
    let notes = &recorded.last().unwrap()["annotations"];
    assert_eq!(notes["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    let violations = notes["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(
        violations
            .starts_with("would violate PodSecurity \"restricted:v1.18\": allowPrivilegeEscalation != false"),
        "{violations}"
    );
    server.stop().await;
}
