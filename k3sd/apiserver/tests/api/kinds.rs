//! What single kinds do, as kubectl sees it: columns, explanations, addresses, phases.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: one, image: a, ports: [{containerPort: 80}]}
      - {name: two, image: b}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_explains_fields_from_either_openapi_version() {
    let server = Server::start().await;
    let v3 = server.ok(&["explain", "deployment.spec.strategy", "--recursive"], "").await;
    for part in [
        "GROUP:      apps",
        "FIELD: strategy <DeploymentStrategy>",
        "rollingUpdate",
        "maxSurge\t<IntOrString>",
    ] {
        assert!(v3.contains(part), "no '{part}' in:\n{v3}");
    }
    let v2 = server.ok(&["explain", "pod.spec.containers", "--output", "plaintext-openapiv2"], "").await;
    for part in ["RESOURCE: containers <[]Object>", "livenessProbe\t<Object>"] {
        assert!(v2.contains(part), "no '{part}' in:\n{v2}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_apply_merges_lists_by_their_keys() {
    let server = Server::start().await;
    server.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    let scaled = DEPLOYMENT.replace("image: b", "image: c").replace("replicas: 2", "replicas: 3");
    let told = server.kubectl_as("admin", &["apply", "-f", "-", "-v=8"], &scaled).await;
    let log = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success(), "{log}");
    // The merge keys came from the OpenAPI document, not from what kubectl has built in.
    assert!(log.contains("/openapi/v3/apis/apps/v1?hash="), "{log}");
    assert!(!log.contains("warning: error calculating patch"), "{log}");
    let images = "jsonpath={.spec.template.spec.containers[*].image} {.spec.replicas}";
    assert_eq!(server.ok(&["get", "deployment", "web", "-o", images], "").await, "a c 3");

    // What another client added to the list stays.
    let sidecar = r#"{"spec":{"template":{"spec":{"containers":[{"name":"three","image":"x"}]}}}}"#;
    server.ok(&["patch", "deployment", "web", "-p", sidecar], "").await;
    server.ok(&["apply", "-f", "-"], &scaled.replace("image: c", "image: d")).await;
    let names = "jsonpath={.spec.template.spec.containers[*].image}";
    let mut kept: Vec<String> = server
        .ok(&["get", "deployment", "web", "-o", names], "")
        .await
        .split(' ')
        .map(str::to_owned)
        .collect();
    kept.sort();
    assert_eq!(kept, ["a", "d", "x"]);
    let unknown =
        server.kubectl_as("admin", &["apply", "-f", "-"], &DEPLOYMENT.replace("replicas", "replica")).await;
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("unknown field \"spec.replica\""), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_ports_and_show_them() {
    let server = Server::start().await;
    server.ok(&["apply", "-f", "-"], SERVICE).await;
    let table = server.ok(&["get", "services", "-o", "wide"], "").await;
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]);
    let row: Vec<&str> =
        table.lines().find(|line| line.starts_with("web")).unwrap().split_whitespace().collect();
    assert_eq!((row[1], row[3], row[6]), ("NodePort", "<none>", "app=web"));
    assert!(row[2].starts_with("10.43.") && row[4].starts_with("80:3"), "{row:?}");

    // Applied again, and changed, it keeps both.
    server.ok(&["apply", "-f", "-"], &SERVICE.replace("app: web", "app: other")).await;
    let again = server.ok(&["get", "services", "web"], "").await;
    assert!(again.contains(row[2]) && again.contains(row[4]), "{again}");
    let low = SERVICE.replace("name: web,", "name: low,").replace("port: 80,", "port: 80, nodePort: 80,");
    let refused = server.kubectl_as("admin", &["create", "-f", "-"], &low).await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    let range = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert!(error.contains(range), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_wait_for_their_finalizer() {
    let server = Server::start().await;
    server.ok(&["create", "-f", "-"], "apiVersion: v1\nkind: Namespace\nmetadata: {name: going}\n").await;
    server.ok(&["delete", "namespace", "going", "--wait=false"], "").await;
    let table = server.ok(&["get", "namespace", "going"], "").await;
    assert!(table.contains("Terminating"), "{table}");
    let finalized =
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"going"},"spec":{"finalizers":[]}}"#;
    server.ok(&["replace", "--raw", "/api/v1/namespaces/going/finalize", "-f", "-"], finalized).await;
    let gone = server.kubectl(&["get", "namespace", "going"]).await;
    assert!(String::from_utf8_lossy(&gone.stderr).contains("namespaces \"going\" not found"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_in_two_versions_are_one_object() {
    let server = Server::start().await;
    let autoscaler = "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: default}\n\
                      spec: {maxReplicas: 4, targetCPUUtilizationPercentage: 55, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}\n";
    server.ok(&["create", "-f", "-"], autoscaler).await;
    let table = server.ok(&["get", "hpa"], "").await;
    assert!(table.contains("Deployment/web") && table.contains("cpu: <unknown>/55%"), "{table}");
    let v1 = server
        .ok(&["get", "horizontalpodautoscalers.v1.autoscaling", "h", "-o", "jsonpath={.spec}"], "")
        .await;
    assert!(v1.contains("\"targetCPUUtilizationPercentage\":55"), "{v1}");

    let event = "apiVersion: v1\nkind: Event\nmetadata: {name: e, namespace: default}\nmessage: hello\nreason: Testing\ntype: Normal\n\
                 involvedObject: {kind: Pod, name: p, namespace: default}\nsource: {component: test}\n";
    server.ok(&["create", "-f", "-"], event).await;
    let note = server
        .ok(&["get", "events.events.k8s.io", "e", "-o", "jsonpath={.note} {.regarding.name}"], "")
        .await;
    assert_eq!(note, "hello p");
    let table = server.ok(&["get", "events", "--field-selector", "involvedObject.name=p"], "").await;
    assert!(table.contains("Testing") && table.contains("pod/p") && table.contains("hello"), "{table}");
    server.stop().await;
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn node_port_service(name: &str, node_port: Option<i64>) -> Value {
    let mut port = json!({ "port": 80 });
    if let Some(node_port) = node_port {
        port["nodePort"] = node_port.into();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": "NodePort", "ports": [port] } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_ports_are_never_shared_also_after_a_restart() {
    let server = Arc::new(Server::start().await);
    let mut creates = tokio::task::JoinSet::new();
    for n in 0..40 {
        let server = server.clone();
        creates.spawn(async move {
            let wanted = (n % 4 == 0).then_some(31_000);
            server.call(Method::POST, SERVICES, node_port_service(&format!("s{n}"), wanted)).await
        });
    }
    let (made, refused): (Vec<_>, Vec<_>) =
        creates.join_all().await.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!((made.len(), refused.len()), (31, 9), "one of ten got the port that all wanted");
    assert!(refused.iter().all(|(status, _)| *status == StatusCode::UNPROCESSABLE_ENTITY));
    let mut addresses: HashSet<Value> = made.iter().map(|(_, s)| s["spec"]["clusterIP"].clone()).collect();
    let ports: HashSet<Value> = made.iter().map(|(_, s)| s["spec"]["ports"][0]["nodePort"].clone()).collect();
    assert_eq!((addresses.len(), ports.len()), (31, 31));

    let server = Arc::into_inner(server).unwrap().restart().await;
    let taken = node_port_service("late", Some(31_000));
    assert_eq!(server.call(Method::POST, SERVICES, taken).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, late) = server.call(Method::POST, SERVICES, node_port_service("late", None)).await;
    assert!(addresses.insert(late["spec"]["clusterIP"].clone()), "a fresh address");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_free_once_its_service_is_seen_gone() {
    let server = Server::start().await;
    let kubernetes = format!("{SERVICES}/kubernetes");
    let (_, before) = server.call(Method::GET, &kubernetes, Value::Null).await;
    let uid = |service: &Value| service["metadata"]["uid"].as_str().map(str::to_owned);
    let mut last = uid(&before);
    // Whoever brings it back is woken by the deletion itself, and would wait after a failure.
    for _ in 0..30 {
        server.call(Method::DELETE, &kubernetes, Value::Null).await;
        let back = async {
            loop {
                let (status, service) = server.call(Method::GET, &kubernetes, Value::Null).await;
                if status == StatusCode::OK && uid(&service) != last {
                    return service;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let back = tokio::time::timeout(Duration::from_secs(5), back).await.expect("it is back at once");
        assert_eq!(back["spec"]["clusterIP"], before["spec"]["clusterIP"]);
        last = uid(&back);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_what_they_do_not_have() {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let server = Server::start().await;
    let role = |kind: &str, name: &str, rules: Value| json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "rules": rules });
    let binding = |kind: &str, name: &str, role: &str| {
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ed" }] })
    };
    let own = json!([
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"], "verbs": ["bind"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
    ]);
    let created = |answer: (StatusCode, Value)| assert_eq!(answer.0, StatusCode::CREATED, "{}", answer.1);
    created(
        server.call(Method::POST, &format!("{RBAC}/clusterroles"), role("ClusterRole", "editor", own)).await,
    );
    created(
        server
            .call(
                Method::POST,
                &format!("{RBAC}/clusterrolebindings"),
                binding("ClusterRoleBinding", "ed", "editor"),
            )
            .await,
    );
    let as_ed = async |plural: &str, object: Value| {
        let path = format!("{RBAC}/namespaces/default/{plural}");
        let user = apiserver::UserInfo::new("ed", &[]);
        server.call_as(user, Method::POST, &path, "application/json", &object.to_string()).await
    };
    let pods = |verb: &str| json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }]);
    created(as_ed("roles", role("Role", "held", pods("get"))).await);
    let (status, body) = as_ed("roles", role("Role", "more", pods("delete"))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"),
        "{message}"
    );
    assert_eq!(
        as_ed("rolebindings", binding("RoleBinding", "all", "cluster-admin")).await.0,
        StatusCode::FORBIDDEN
    );
    created(as_ed("rolebindings", binding("RoleBinding", "same", "editor")).await);
    created(as_ed("rolebindings", binding("RoleBinding", "lent", "view")).await);
    server.stop().await;
}
