//! The deploy controller on the real API server and datastore, in one process as in production.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use addons::deploy;
use apiserver::config::{Identity, certificates_from_file};
use apiserver::{ApiServer, Config, UserInfo};
use client::{Informers, request};
use datastore::sqlite::Sqlite;
use serde_json::Value;
use supervisor::pki::{KeyPairFiles, Params, ServerPki};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);
const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: localhost/skerry/demo:1
        ports: [{name: http, containerPort: 8080}]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        resources: {requests: {cpu: 100m, memory: 16Mi}}
        volumeMounts: [{name: config, mountPath: /etc/web}]
      volumes:
      - name: config
        configMap: {name: web, defaultMode: 0644}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: shop}
data: {greeting: hello}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "shop:reader"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"#;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/web";
const ENDPOINTS: &str = "/api/v1/namespaces/shop/endpoints";
const OBJECTS: [&str; 5] = [
    "/api/v1/namespaces/shop",
    "/api/v1/namespaces/shop/services/web",
    "/api/v1/namespaces/shop/configmaps/web",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/shop:reader",
    DEPLOYMENT,
];

struct Server {
    api: ApiServer,
    admin: kube::Client,
    cancel: CancellationToken,
    _state: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let store = Sqlite::open(&state.path().join("state.db")).await.unwrap();
        let api = ApiServer::start(config(state.path()), Arc::new(store), cancel.clone()).await.unwrap();
        let admin = kube::Client::new(api.service_as(UserInfo::new("admin", &["system:masters"])), "default");
        Self { api, admin, cancel, _state: state }
    }

    /// Runs the controller with its own identity until `done`.
    async fn deploy_until(&self, directory: &Path, what: &str, done: impl AsyncFn() -> bool) {
        let cancel = self.cancel.child_token();
        let client =
            kube::Client::new(self.api.service_as(UserInfo::new("system:k3s-supervisor", &[])), "default");
        let informers = Informers::in_process(client.clone(), cancel.clone());
        let config = deploy::Config { dirs: vec![directory.to_owned()], disable: Vec::new() };
        let task = tokio::spawn(deploy::run(config, client, informers, cancel.clone()));
        let wait = async {
            while !done().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
        cancel.cancel();
        task.await.unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> Option<Value> {
        match request::read(&self.admin, path).await {
            Ok(object) => Some(object),
            Err(error) if request::is_not_found(&error) => None,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    async fn all_there(&self) -> bool {
        for path in OBJECTS {
            if self.get(path).await.is_none() {
                return false;
            }
        }
        true
    }

    async fn revisions(&self) -> Vec<String> {
        let mut revisions = Vec::new();
        for path in OBJECTS {
            revisions.push(self.get(path).await.unwrap()["metadata"]["resourceVersion"].to_string());
        }
        revisions
    }

    /// Whether an event says so of the add-on `shop`.
    async fn has_event(&self, reason: &str) -> bool {
        let events = self.get("/api/v1/namespaces/kube-system/events").await.unwrap();
        events["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["involvedObject"]["name"] == "shop" && event["reason"] == reason)
    }

    async fn forget_events(&self) {
        let path = "/api/v1/namespaces/kube-system/events";
        request::delete(&self.admin, path, &serde_json::json!({})).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_application_is_applied_once_updated_and_pruned() {
    let (server, directory) = (Server::start().await, tempfile::tempdir().unwrap());
    let file = directory.path().join("shop.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    server
        .deploy_until(directory.path(), "applied", async || {
            server.all_there().await && server.has_event("AppliedManifest").await
        })
        .await;
    let deployment = server.get(DEPLOYMENT).await.unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);

    // After a restart neither the server's defaults are a reason to write anything, nor is what controllers made with the labels of
    // an object a reason to delete it.
    let service = server.get(OBJECTS[1]).await.unwrap();
    let endpoints = serde_json::json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "web", "labels": service["metadata"]["labels"]}});
    request::create::<Value>(&server.admin, ENDPOINTS, &endpoints).await.unwrap();
    let before = server.revisions().await;
    server.forget_events().await;
    server.deploy_until(directory.path(), "again", async || server.has_event("AppliedManifest").await).await;
    assert_eq!(server.revisions().await, before);
    assert!(server.get(&format!("{ENDPOINTS}/web")).await.is_some());

    // The file changes the image and drops the configuration, while somebody else has scaled.
    let scale = serde_json::json!({"metadata": {"annotations": {"theirs": "1"}}});
    request::patch::<Value>(&server.admin, DEPLOYMENT, request::Patch::Merge, &scale).await.unwrap();
    let changed = MANIFEST
        .replace("demo:1", "demo:2")
        .replace("        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]\n", "");
    let (start, rest) = changed.split_once("---\napiVersion: v1\nkind: ConfigMap").unwrap();
    let (_, end) = rest.split_once("---\n").unwrap();
    std::fs::write(&file, format!("{start}---\n{end}")).unwrap();
    let gone = async || server.get("/api/v1/namespaces/shop/configmaps/web").await.is_none();
    server.deploy_until(directory.path(), "pruned", gone).await;
    let deployment = server.get(DEPLOYMENT).await.unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "localhost/skerry/demo:2");
    assert_eq!(container.get("env"), None);
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(deployment["metadata"]["annotations"]["theirs"], "1");
    server.cancel.cancel();
}

fn config(directory: &Path) -> Config {
    let localhost: IpAddr = [127, 0, 0, 1].into();
    let params = Params {
        node_name: "n".to_owned(),
        node_ips: vec![localhost],
        tls_sans: Vec::new(),
        service_ip: [10, 43, 0, 1].into(),
        cluster_domain: "cluster.local".to_owned(),
    };
    let pki = ServerPki::load_or_create(directory, &params).unwrap();
    let identity = |files: &KeyPairFiles| Identity::from_files(&files.cert, &files.key).unwrap();
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    Config {
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".to_owned(),
        advertise_address: localhost,
        advertise_port: 6443,
        version: "v1.36.2+skerry1".to_owned(),
        service_account_issuer: issuer.clone(),
        api_audiences: vec![issuer],
        service_account_keys: pki.service_account_keys.clone(),
        client_ca: certificates_from_file(&pki.client_ca).unwrap(),
        serving: identity(&pki.serving),
        kubelet_client: identity(&pki.kubelet_client),
        kubelet_ca: certificates_from_file(&pki.server_ca).unwrap(),
        audit: None,
        admission: None,
    }
}
