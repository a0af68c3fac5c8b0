//! Server-side apply and the ownership of fields, over HTTP and with kubectl.

use http::{Method, StatusCode};
use machinery::apply::managed::Managed;
use serde_json::{Value, json};

use crate::harness::{Server, admin};

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(server: &Server, target: &str, query: &str, config: &Value) -> (StatusCode, Value) {
    let target = format!("{target}?{query}");
    server.call_as(admin(), Method::PATCH, &target, APPLY, &config.to_string()).await
}

async fn merge(server: &Server, target: &str, patch: Value) -> (StatusCode, Value) {
    server.call_as(admin(), Method::PATCH, target, MERGE, &patch.to_string()).await
}

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data })
}

fn web(replicas: u32) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {
        "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
        "template": { "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })
}

/// `MANAGER OPERATION[/SUBRESOURCE]`, sorted, with the paths that contain `part`.
fn owners(object: &Value, part: &str) -> Vec<String> {
    let managed = Managed::decode(object.pointer("/metadata/managedFields").cloned()).unwrap();
    let mut owners: Vec<String> = managed
        .entries
        .iter()
        .map(|entry| {
            let manager = &entry.manager;
            let on = if manager.subresource.is_empty() {
                String::new()
            } else {
                format!("/{}", manager.subresource)
            };
            let paths = entry.set().paths();
            let paths: Vec<&str> =
                paths.iter().map(String::as_str).filter(|path| path.contains(part)).collect();
            format!("{} {:?}{on} {}", manager.name, manager.operation, paths.join(" "))
        })
        .collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn an_apply_makes_merges_conflicts_and_removes() {
    let server = Server::start().await;
    let one = format!("{MAPS}/m");
    let (status, dry) = apply(&server, &one, "fieldManager=a&dryRun=All", &map(json!({ "one": "1" }))).await;
    assert_eq!((status, &dry["data"]), (StatusCode::CREATED, &json!({ "one": "1" })));
    let (status, made) =
        apply(&server, &one, "fieldManager=a", &map(json!({ "one": "1", "two": "2" }))).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(owners(&made, ".data"), ["a Apply .data.one .data.two"]);

    let (status, again) =
        apply(&server, &one, "fieldManager=a", &map(json!({ "one": "1", "two": "2" }))).await;
    assert_eq!((status, &again), (StatusCode::OK, &made), "nothing changed, so nothing was written");

    let (_, object) =
        merge(&server, &format!("{one}?fieldManager=u"), json!({ "data": { "two": "x" } })).await;
    assert_eq!(owners(&object, ".data"), ["a Apply .data.one", "u Update .data.two"]);
    let (status, refused) =
        apply(&server, &one, "fieldManager=a", &map(json!({ "one": "1", "two": "2" }))).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(refused["message"], "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.two");
    assert_eq!(refused["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let (status, forced) =
        apply(&server, &one, "fieldManager=a&force=true", &map(json!({ "two": "2" }))).await;
    assert_eq!((status, &forced["data"]), (StatusCode::OK, &json!({ "two": "2" })));
    assert_eq!(owners(&forced, ".data"), ["a Apply .data.two"]);

    // It may insist on what it saw.
    let mut stale = map(json!({ "two": "3" }));
    stale["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let (status, refused) = apply(&server, &one, "fieldManager=a", &stale).await;
    assert_eq!((status, &refused["reason"]), (StatusCode::CONFLICT, &json!("Conflict")), "{refused}");
    stale["metadata"] = json!({ "name": "other", "uid": "u" });
    let (status, refused) = apply(&server, &format!("{MAPS}/other"), "fieldManager=a", &stale).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("uid mismatch"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn every_kind_of_write_leaves_its_manager() {
    let server = Server::start().await;
    let one = format!("{DEPLOYMENTS}/web");
    let (_, made) = server.call(Method::POST, &format!("{DEPLOYMENTS}?fieldManager=made"), web(1)).await;
    assert_eq!(owners(&made, ".replicas"), ["made Update .spec.replicas"]);
    let mut object = made.clone();
    object["spec"]["replicas"] = json!(2);
    // Sending back the entries one got is no wish to change them.
    let (_, object) = server.call(Method::PUT, &format!("{one}?fieldManager=put"), object).await;
    assert_eq!(owners(&object, ".replicas"), ["made Update ", "put Update .spec.replicas"]);
    let patches = [
        ("json", "application/json-patch+json", r#"[{"op":"replace","path":"/spec/replicas","value":3}]"#),
        ("merge", MERGE, r#"{"spec":{"replicas":4}}"#),
        ("strategic", "application/strategic-merge-patch+json", r#"{"spec":{"replicas":5}}"#),
    ];
    for (manager, media_type, patch) in patches {
        let target = format!("{one}?fieldManager={manager}");
        let (status, object) = server.call_as(admin(), Method::PATCH, &target, media_type, patch).await;
        assert_eq!(status, StatusCode::OK, "{object}");
        let owners = owners(&object, ".replicas");
        assert!(owners.contains(&format!("{manager} Update .spec.replicas")), "{owners:?}");
        assert_eq!(owners.len(), 2, "the one before has nothing left: {owners:?}");
    }
    let status = json!({ "status": { "replicas": 5 }, "spec": { "replicas": 9 } });
    let (_, object) = merge(&server, &format!("{one}/status?fieldManager=ctl"), status).await;
    assert_eq!(
        owners(&object, "replicas"),
        ["ctl Update/status .status.replicas", "made Update ", "strategic Update .spec.replicas"]
    );
    let (code, scale) =
        merge(&server, &format!("{one}/scale?fieldManager=hpa"), json!({ "spec": { "replicas": 6 } })).await;
    assert_eq!((code, &scale["kind"]), (StatusCode::OK, &json!("Scale")), "{scale}");
    let (_, object) = server.call(Method::GET, &one, Value::Null).await;
    assert_eq!(
        owners(&object, "replicas"),
        ["ctl Update/status .status.replicas", "hpa Update/scale .spec.replicas", "made Update "]
    );
    let config = json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "web" }, "spec": { "replicas": 7 } });
    let (code, refused) = apply(&server, &format!("{one}/scale"), "fieldManager=x", &config).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using autoscaling/v1: .spec.replicas"
    );
    let (code, scale) = apply(&server, &format!("{one}/scale"), "fieldManager=x&force=true", &config).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (StatusCode::OK, &json!(7)), "{scale}");
    let config = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "status": { "replicas": 5, "readyReplicas": 5 } });
    let (code, object) = apply(&server, &format!("{one}/status"), "fieldManager=s", &config).await;
    assert_eq!(code, StatusCode::OK, "{object}");
    assert_eq!(
        owners(&object, "eplicas"),
        [
            "ctl Update/status .status.replicas",
            "made Update ",
            "s Apply/status .status.readyReplicas .status.replicas",
            "x Apply/scale .spec.replicas"
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn clients_may_correct_and_forget_owners_but_not_make_nonsense_of_them() {
    let server = Server::start().await;
    let one = format!("{MAPS}/m");
    let (_, made) =
        server.call(Method::POST, &format!("{MAPS}?fieldManager=a"), map(json!({ "one": "1" }))).await;
    // kubectl's migration from client-side apply: another operation for the same fields.
    let mut entries = made["metadata"]["managedFields"].clone();
    entries[0]["operation"] = json!("Apply");
    let patch = json!([{ "op": "replace", "path": "/metadata/managedFields", "value": entries },
        { "op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"] }]);
    let json_patch = "application/json-patch+json";
    let (status, object) = server.call_as(admin(), Method::PATCH, &one, json_patch, &patch.to_string()).await;
    assert_eq!(
        (status, owners(&object, ".data")),
        (StatusCode::OK, vec!["a Apply .data .data.one".to_owned()])
    );

    let long = json!({ "manager": "x".repeat(129), "operation": "Update", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:data": { "f:one": {} } } });
    let (status, refused) = merge(&server, &one, json!({ "metadata": { "managedFields": [long] } })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused["message"].as_str().unwrap().contains("metadata.managedFields[0].manager: Too long"),
        "{refused}"
    );
    let nonsense = json!({ "metadata": { "managedFields": [{ "manager": "n", "operation": "Nothing" }] } });
    let (status, kept) = merge(&server, &one, nonsense).await;
    assert_eq!((status, owners(&kept, "")), (StatusCode::OK, owners(&object, "")), "{kept}");
    let (_, kept) = merge(&server, &one, json!({ "metadata": { "managedFields": null } })).await;
    assert_eq!(owners(&kept, ""), owners(&object, ""));

    for reset in [json!([]), json!([{}])] {
        let (status, object) = merge(&server, &one, json!({ "metadata": { "managedFields": reset } })).await;
        assert_eq!((status, object["metadata"].get("managedFields")), (StatusCode::OK, None), "{object}");
        let (_, object) = merge(&server, &one, json!({ "data": { "two": reset.to_string() } })).await;
        assert_eq!(
            object["metadata"].get("managedFields"),
            None,
            "nobody is remembered until somebody applies"
        );
        let (_, object) = apply(&server, &one, "fieldManager=b", &map(json!({ "one": "1" }))).await;
        assert_eq!(owners(&object, ".one"), ["b Apply .data.one", "before-first-apply Update .data.one"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_applies_get_upstreams_code_and_reason() {
    let server = Server::start().await;
    server.call(Method::POST, MAPS, map(json!({ "one": "1" }))).await;
    let one = format!("{MAPS}/m");
    let good = map(json!({ "one": "1" })).to_string();
    let with = |from: &str, to: &str| good.replace(from, to);
    // (query, media type, body, code, part of the message)
    let cases = [
        (
            "",
            APPLY,
            good.clone(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        ("fieldManager=%07", APPLY, good.clone(), 422, "invalid character U+0007 (at position 0)"),
        (
            "fieldManager=a&dryRun=Some",
            APPLY,
            good.clone(),
            422,
            "dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
        (
            "fieldManager=a&force=true",
            MERGE,
            good.clone(),
            422,
            "force: Forbidden: may not be specified for non-apply patch",
        ),
        ("fieldManager=a", "application/apply-patch+cbor", good.clone(), 415, APPLY),
        ("fieldManager=a", APPLY, "{".to_owned(), 400, "error decoding patch"),
        ("fieldManager=a", APPLY, "[]".to_owned(), 400, "error decoding patch"),
        ("fieldManager=a", APPLY, with("ConfigMap", "Secret"), 400, "invalid object type: /v1, Kind=Secret"),
        ("fieldManager=a", APPLY, with("\"v1\"", "\"v2\""), 400, "invalid object type: /v2, Kind=ConfigMap"),
        (
            "fieldManager=a",
            APPLY,
            with("\"m\"", "\"n\""),
            400,
            "the name of the object (n) does not match the name on the URL (m)",
        ),
        (
            "fieldManager=a",
            APPLY,
            with("\"name\":\"m\"", "\"name\":\"m\",\"managedFields\":[{}]"),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "fieldManager=a",
            APPLY,
            with("\"name\":\"m\"", "\"name\":\"m\",\"namespace\":\"other\""),
            400,
            "does not match the namespace",
        ),
        (
            "fieldManager=a",
            APPLY,
            with("\"data\"", "\"date\""),
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .date: field not declared in schema",
        ),
        ("fieldManager=a", APPLY, with("\"1\"", "1"), 500, ".data.one: expected string, got 1"),
        (
            "fieldManager=a&fieldValidation=Strict",
            APPLY,
            with("\"one\":\"1\"", "\"one\":\"2\",\"one\":\"1\""),
            400,
            "error strict decoding patch: duplicate field \"data.one\"",
        ),
    ];
    for (query, media_type, body, code, part) in cases {
        let (status, answer) =
            server.call_as(admin(), Method::PATCH, &format!("{one}?{query}"), media_type, &body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status.as_u16() == code && message.contains(part), "{query} {body}: {status} {answer}");
    }
    let nowhere = format!("{MAPS}/none/status?fieldManager=a");
    let (status, _) = server.call_as(admin(), Method::PATCH, &nowhere, APPLY, &good).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn who_may_only_patch_makes_nothing_by_applying() {
    let server = Server::start().await;
    let role = json!({ "metadata": { "name": "patcher" }, "rules": [
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"] }] });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.call(Method::POST, &format!("{rbac}/roles"), role).await;
    let binding = json!({ "metadata": { "name": "patcher" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane" }] });
    server.call(Method::POST, &format!("{rbac}/rolebindings"), binding).await;
    let jane = apiserver::UserInfo::new("jane", &[]);
    let target = format!("{MAPS}/m?fieldManager=jane");
    let body = map(json!({ "one": "1" })).to_string();
    let (status, refused) = server.call_as(jane.clone(), Method::PATCH, &target, APPLY, &body).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("cannot create resource \"configmaps\""),
        "{refused}"
    );
    server.call(Method::POST, MAPS, map(json!({}))).await;
    let (status, _) = server.call_as(jane, Method::PATCH, &target, APPLY, &body).await;
    assert_eq!(status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn ownership_holds_across_the_versions_of_a_kind() {
    let server = Server::start().await;
    let of = |version: &str, spec: Value| {
        json!({ "apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "h" }, "spec": spec })
    };
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" });
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let config = of(
        "v1",
        json!({ "scaleTargetRef": target, "maxReplicas": 5, "minReplicas": 2, "targetCPUUtilizationPercentage": 50 }),
    );
    let (status, made) = apply(&server, &path("v1"), "fieldManager=a", &config).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let config = of("v2", json!({ "maxReplicas": 9 }));
    let (status, refused) = apply(&server, &path("v2"), "fieldManager=b", &config).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        refused["message"].as_str().unwrap().ends_with("conflict with \"a\": .spec.maxReplicas"),
        "{refused}"
    );
    // The same applier in another version: what it says no longer goes.
    let config = of("v2", json!({ "scaleTargetRef": target, "maxReplicas": 9 }));
    let (status, object) = apply(&server, &path("v2"), "fieldManager=a", &config).await;
    assert_eq!(status, StatusCode::OK, "{object}");
    assert_eq!(
        (&object["spec"]["maxReplicas"], &object["spec"]["minReplicas"]),
        (&json!(9), &json!(1)),
        "{object}"
    );
    assert_eq!(owners(&object, ".maxReplicas"), ["a Apply .spec.maxReplicas"]);
    server.stop().await;
}

#[tokio::test]
async fn a_manager_is_named_after_its_program_and_components_after_themselves() {
    let server = Server::start().await;
    let output = server
        .ok(&["create", "configmap", "k", "--from-literal=a=b", "-o", "json", "--show-managed-fields"], "")
        .await;
    let object: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(owners(&object, ".a"), ["kubectl-create Update .data.a"]);
    let output = server.ok(&["get", "--raw", &format!("{MAPS}/k")], "").await;
    let object: Value = serde_json::from_str(&output).unwrap();
    assert!(object["metadata"]["managedFields"][0]["time"].is_string(), "{object}");
    let controller = apiserver::UserInfo::new("system:kube-controller-manager", &["system:masters"]);
    let body = map(json!({ "one": "1" })).to_string();
    let (_, object) = server.call_as(controller, Method::POST, MAPS, "application/json", &body).await;
    assert_eq!(owners(&object, ".one"), ["kube-controller-manager Update .data.one"]);
    let (_, role) = server
        .call(Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin", Value::Null)
        .await;
    assert_eq!(owners(&role, ".rules"), ["kube-apiserver Update .rules"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_on_the_server() {
    let server = Server::start().await;
    let manifest = web(1).to_string();
    let apply = ["apply", "--server-side", "-f", "-"];
    assert_eq!(server.ok(&apply, &manifest).await, "deployment.apps/web serverside-applied\n");
    assert_eq!(server.ok(&apply, &manifest).await, "deployment.apps/web serverside-applied\n");
    server.ok(&["scale", "deployment", "web", "--replicas=4"], "").await;
    let refused = server.kubectl_as("admin", &apply, &manifest).await;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{errors}");
    assert!(
        errors.contains("conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{errors}"
    );
    let diff = server
        .kubectl_as("admin", &["diff", "--server-side", "--force-conflicts", "-f", "-"], &manifest)
        .await;
    let shown = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(shown.contains("-  replicas: 4") && shown.contains("+  replicas: 1"), "{shown}");
    let forced = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    server.ok(&forced, &manifest).await;
    assert_eq!(server.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"], "").await, "1");
    let shown = server.ok(&["get", "deployment", "web", "-o", "yaml"], "").await;
    assert!(!shown.contains("managedFields"), "{shown}");
    let typo = manifest.replace("\"replicas\"", "\"replicass\"");
    let refused = server.kubectl_as("admin", &apply, &typo).await;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains(".spec.replicass: field not declared in schema"), "{errors}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_moves_from_client_side_to_server_side_apply() {
    let server = Server::start().await;
    server.ok(&["apply", "-f", "-"], &web(1).to_string()).await;
    let output = server.ok(&["apply", "--server-side", "-f", "-"], &web(3).to_string()).await;
    assert_eq!(output, "deployment.apps/web serverside-applied\n");
    let object = server.ok(&["get", "deployment", "web", "-o", "json", "--show-managed-fields"], "").await;
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["spec"]["replicas"], 3);
    // The annotation gets an owner of its own, so that dropping it later is possible.
    assert_eq!(
        owners(&object, ".spec.replicas"),
        ["kubectl Apply .spec.replicas", "kubectl-last-applied Apply "],
        "{object}"
    );
    server.stop().await;
}
