//! A real API server on a loopback port, over a real SQLite file, with its own certificates; and kubectl pointed at it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use apiserver::config::{Config, Identity};
use apiserver::{ApiServer, Body, UserInfo};
use bytes::Bytes;
use datastore::Datastore;
use datastore::sqlite::Sqlite;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::encoding::{Encoding, Events};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A running server.
pub(crate) struct Server {
    pub api: ApiServer,
    pub address: SocketAddr,
    pub ca: Authority,
    pub dir: TempDir,
    /// How [`Server::call_as`] and [`Server::watch`] speak.
    encoding: Encoding,
    pub store: Arc<Sqlite>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test-ca");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A leaf for `name` in `group`, usable on both ends.
pub(crate) fn leaf(ca: &Authority, name: &str, group: Option<&str>) -> (String, KeyPair) {
    leaf_until(ca, name, group, 4000)
}

/// The same, good until the first day of a year.
pub(crate) fn leaf_until(ca: &Authority, name: &str, group: Option<&str>, year: i32) -> (String, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.pem(), key)
}

pub(crate) fn identity(ca: &Authority, name: &str, group: Option<&str>) -> Identity {
    use rustls_pki_types::pem::PemObject;
    let (pem, key) = leaf(ca, name, group);
    Identity {
        chain: vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
        key: Arc::new(der(&key)),
    }
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

pub(crate) fn config(ca: &Authority, port: u16) -> Config {
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    Config {
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".to_owned(),
        advertise_address: "192.0.2.10".parse().unwrap(),
        advertise_port: port,
        version: "v1.36.2+skerry1".to_owned(),
        service_account_issuer: issuer.clone(),
        api_audiences: vec![issuer, "k3s".to_owned()],
        service_account_keys: vec![Arc::new(der(&KeyPair::generate().unwrap()))],
        client_ca: vec![ca.der().clone()],
        serving: identity(ca, "kube-apiserver", None),
        kubelet_client: identity(ca, "system:apiserver", Some("system:masters")),
        kubelet_ca: vec![ca.der().clone()],
        audit: None,
        admission: None,
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let _logging =
            tracing_subscriber::fmt().with_env_filter("apiserver=info").with_test_writer().try_init();
        Self::start_in(TempDir::new().unwrap()).await
    }

    /// Start over what an earlier server left in this directory.
    async fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, |_| {}).await
    }

    /// Start in this directory, with something changed of the configuration.
    pub(crate) async fn start_with(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ca = authority();
        let store = Arc::new(Sqlite::open(&dir.path().join("state.db")).await.unwrap());
        let cancel = CancellationToken::new();
        let mut config = config(&ca, address.port());
        change(&mut config);
        let api = ApiServer::start(config, store.clone(), cancel.clone()).await.unwrap();
        let mut tasks = JoinSet::new();
        let (served, stop) = (api.clone(), cancel.clone());
        tasks.spawn(async move { served.serve(listener, stop).await.unwrap() });
        let encoding = Encoding::of_this_run();
        let server = Self { api, address, ca, dir, encoding, store, cancel, tasks };
        server.write_kubeconfig("admin", "system:admin", Some("system:masters"));
        server
    }

    pub(crate) async fn stop(mut self) {
        self.finish().await;
    }

    /// Stop, and start again over the same datastore.
    pub(crate) async fn restart(mut self) -> Self {
        self.finish().await;
        Self::start_in(self.dir).await
    }

    async fn finish(&mut self) {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.store.close().await;
    }

    /// A kubeconfig for a user, as `FILE.kubeconfig`.
    pub(crate) fn write_kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> PathBuf {
        use base64::Engine;
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let (certificate, key) = leaf(&self.ca, user, group);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\nclusters: [{{name: t, cluster: {{server: 'https://{}', certificate-authority-data: {}}}}}]\nusers: [{{name: t, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\ncontexts: [{{name: t, context: {{cluster: t, user: t}}}}]\n",
            self.address,
            base64(&self.ca.pem()),
            base64(&certificate),
            base64(&key.serialize_pem()),
        );
        let path = self.dir.path().join(format!("{file}.kubeconfig"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Run kubectl as the administrator.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_as("admin", arguments, "").await
    }

    pub(crate) async fn kubectl_as(&self, file: &str, arguments: &[&str], input: &str) -> Output {
        use tokio::io::AsyncWriteExt;
        let mut child =
            tokio::process::Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()))
                .arg(format!("--kubeconfig={}", self.dir.path().join(format!("{file}.kubeconfig")).display()))
                .args(arguments)
                .env("HOME", self.dir.path())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("kubectl is installed");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        child.wait_with_output().await.unwrap()
    }

    /// Run kubectl with this on its standard input, and expect success.
    pub(crate) async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl_as("admin", arguments, input).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {text}{errors}");
        text
    }

    /// A request in process, as this user.
    pub(crate) async fn call_as(
        &self,
        user: UserInfo,
        method: Method,
        target: &str,
        media_type: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let (media_type, body) = self.encoding.request(&method, target, media_type, body);
        let response = self.send(user, method, target, &media_type, self.encoding.accept(), body).await;
        (response.status(), self.encoding.read(target, response).await)
    }

    /// The events of a watch as the administrator sees them.
    pub(crate) async fn watch(&self, target: &str) -> Events<Body> {
        let accept = self.encoding.accept();
        let response = self.send(admin(), Method::GET, target, "", accept, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        Events::of(response)
    }

    /// A request in process whose answer is looked at as it comes; always in JSON.
    pub(crate) async fn open(
        &self,
        user: UserInfo,
        method: Method,
        target: &str,
        media_type: &str,
        body: &str,
    ) -> http::Response<Body> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.send(user, method, target, media_type, None, body).await
    }

    /// Bytes as they are.
    pub(crate) async fn send(
        &self,
        user: UserInfo,
        method: Method,
        target: &str,
        media_type: &str,
        accept: Option<&str>,
        body: Bytes,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(target).header(CONTENT_TYPE, media_type);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        self.api.service_as(user).oneshot(request.body(Full::new(body)).unwrap()).await.unwrap()
    }

    /// A token of a service account that is made for it.
    pub(crate) async fn token(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let made = self.call(Method::POST, &path, serde_json::json!({"metadata": {"name": account}})).await;
        assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
        let request =
            serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let (status, answer) = self.call(Method::POST, &format!("{path}/{account}/token"), request).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    pub(crate) async fn call(&self, method: Method, target: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call_as(admin(), method, target, "application/json", &body).await
    }
}

pub(crate) fn admin() -> UserInfo {
    UserInfo::new("system:admin", &["system:masters"])
}
