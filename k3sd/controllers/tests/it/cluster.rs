//! A cluster in this process, in a fresh directory.

use std::{net::IpAddr, sync::Arc, time::Duration};

use apiserver::{
    ApiServer, Config, UserInfo,
    config::{Identity, certificates_from_file},
};
use client::Informers;
use datastore::sqlite::Sqlite;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use supervisor::pki::{Ca, Params, ServerPki, Signer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a condition may take; generous, since tests share the machine with builds.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    /// The administrator's client.
    pub(crate) client: Client,
    api: ApiServer,
    cancel: CancellationToken,
    components: JoinSet<anyhow::Result<()>>,
    informers: Vec<Informers>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        // `RUST_LOG=debug cargo test -- --nocapture` tells what the components do.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _already_set = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let directory = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let store = Sqlite::open(&directory.path().join("state.db")).await.unwrap();
        let (config, signer) = config(directory.path());
        let api = ApiServer::start(config, Arc::new(store), cancel.clone()).await.unwrap();
        let client_as = |name: &str, groups: &[&str]| client_of(&api, name, groups);

        let mut components = JoinSet::new();
        let manager = client_as("system:kube-controller-manager", &[]);
        let manager_informers = Informers::in_process(manager.clone(), cancel.clone());
        components.spawn(controllers::run(
            controllers::Config {
                cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
                node_cidr_mask_ipv4: 24,
                node_cidr_mask_ipv6: 64,
                root_ca: "the root".to_owned(),
            },
            Arc::new(Issuer(signer, api.clone())),
            manager,
            manager_informers.clone(),
            cancel.clone(),
        ));
        let scheduler = client_as("system:kube-scheduler", &[]);
        let scheduler_informers = Informers::in_process(scheduler.clone(), cancel.clone());
        components.spawn(scheduler::run(
            scheduler::Config::default(),
            scheduler,
            scheduler_informers.clone(),
            cancel.clone(),
        ));
        let cluster = Self {
            client: client_as("admin", &["system:masters"]),
            api: api.clone(),
            cancel,
            components,
            informers: vec![manager_informers, scheduler_informers],
            _directory: directory,
        };
        // Admission refuses pods before their service account is there.
        get_until(&cluster.api::<ServiceAccount>(), "default", "service account", |_| true).await;
        cluster
    }

    /// A client that acts as this user.
    pub(crate) fn client_as(&self, name: &str, groups: &[&str]) -> Client {
        client_of(&self.api, name, groups)
    }

    /// Ends everything and waits for it: a component that failed or a task that does not end fails the test.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        let ended = async {
            while let Some(result) = self.components.join_next().await {
                result.unwrap().unwrap();
            }
            for informers in &self.informers {
                informers.stopped().await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("all components end");
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn cluster_api<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Registers a ready node as a kubelet does.
    pub(crate) async fn add_node(&self, name: &str) {
        let node: Node =
            from(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
        let nodes = self.cluster_api::<Node>();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let now = machinery::meta::now();
        let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {
            "capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }

    /// Says of a pod what its kubelet would say once it runs.
    pub(crate) async fn run_pod(&self, name: &str, ip: &str, ready: bool) {
        let now = machinery::meta::now();
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}, "lastTransitionTime": now}],
        }});
        let pods = self.api::<k8s_openapi::api::core::v1::Pod>();
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }
}

/// The authorities, as the daemon gives them to the controllers.
#[derive(Debug)]
struct Issuer(Arc<Signer>, ApiServer);

impl controllers::Issuer for Issuer {
    fn issue(
        &self,
        authority: controllers::Authority,
        request: &[u8],
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, controllers::IssueError> {
        let ca = match authority {
            controllers::Authority::Clients => Ca::Client,
            controllers::Authority::Servers => Ca::Server,
        };
        let signed = self.0.fulfil(ca, request, usages, lifetime);
        signed.map_err(|error| controllers::IssueError::Unsuitable(error.to_string()))
    }

    fn token(&self, token: &controllers::SecretToken<'_>) -> Result<String, controllers::IssueError> {
        let signed =
            self.1.sign_secret_token(token.namespace, token.secret, token.account, token.account_uid);
        signed.ok_or_else(|| controllers::IssueError::Failed("not signed".into()))
    }
}

fn client_of(api: &ApiServer, name: &str, groups: &[&str]) -> Client {
    Client::new(api.service_as(UserInfo::new(name, groups)), "default")
}

/// Decodes a literal.
pub(crate) fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Waits until `check` gives something, and fails with what it last saw after the limit.
pub(crate) async fn eventually<T, S, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    S: std::fmt::Debug,
    F: Future<Output = Result<T, S>>,
{
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() >= deadline => {
                panic!("{what}: never came; last seen {seen:#?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until the objects of a kind satisfy `check`.
pub(crate) async fn list_until<K>(api: &Api<K>, what: &str, check: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Clone + DeserializeOwned + std::fmt::Debug + Serialize,
{
    eventually(what, || async {
        let items = api.list(&kube::api::ListParams::default()).await.unwrap().items;
        if check(&items) { Ok(items) } else { Err(items) }
    })
    .await
}

/// Waits until one object satisfies `check`.
pub(crate) async fn get_until<K>(api: &Api<K>, name: &str, what: &str, check: impl Fn(&K) -> bool) -> K
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    eventually(what, || async {
        match api.get_opt(name).await.unwrap() {
            Some(object) if check(&object) => Ok(object),
            other => Err(other),
        }
    })
    .await
}

fn config(directory: &std::path::Path) -> (Config, Arc<Signer>) {
    // Nobody listens there; published endpoints may not be loopback addresses.
    let address: IpAddr = [192, 0, 2, 1].into();
    let pki = ServerPki::load_or_create(
        directory,
        &Params {
            node_name: "n".to_owned(),
            node_ips: vec![address],
            tls_sans: Vec::new(),
            service_ip: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".to_owned(),
        },
    )
    .unwrap();
    let identity =
        |files: &supervisor::pki::KeyPairFiles| Identity::from_files(&files.cert, &files.key).unwrap();
    let config = Config {
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".to_owned(),
        advertise_address: address,
        advertise_port: 6443,
        version: "v1.36.2+skerry1".to_owned(),
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        api_audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
        service_account_keys: pki.service_account_keys.clone(),
        client_ca: certificates_from_file(&pki.client_ca).unwrap(),
        serving: identity(&pki.serving),
        kubelet_client: identity(&pki.kubelet_client),
        kubelet_ca: certificates_from_file(&pki.server_ca).unwrap(),
        audit: None,
        admission: None,
    };
    (config, pki.signer)
}
