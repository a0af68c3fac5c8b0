//! Both sides of the join protocol over TLS, with a real API server behind it.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::remote::{self, Credentials, Endpoint, Servers, Trust};
use client::request;
use http::HeaderValue;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::client::Body;
use supervisor::join::agent::{Error, Join, Joined};
use supervisor::pki::NodeCertificate;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::super::{api_config, open_datastore, prepare_files};
use super::*;
use crate::config::{Config, Role};
use crate::tasks::Tasks;

struct Running {
    dir: TempDir,
    endpoint: Endpoint,
    api: ApiServer,
    tasks: Tasks,
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let arguments = [
            "k3sd",
            "server",
            "--disable-agent",
            "--node-ip=127.0.0.1",
            "--bind-address=127.0.0.1",
            "--node-name=server",
            &format!("--config={}", path("config.yaml")),
            &format!("--data-dir={}", path("data")),
            &format!("--write-kubeconfig={}", path("k3s.yaml")),
            "--agent-token=for-agents",
        ]
        .map(str::to_owned);
        let Role::Server(config) = Config::from_command_line(arguments.into()).unwrap().role else {
            unreachable!()
        };
        let (pki, passwords) = prepare_files(&config).await.unwrap();
        let store = Arc::new(open_datastore(&config.database).await.unwrap());
        let mut tasks = Tasks::new("test");
        let api = api_config(&config, &pki).unwrap();
        let api = ApiServer::start(api, store, tasks.cancel().clone()).await.unwrap();
        let endpoints = endpoints(&config, &pki, passwords, &api);
        let api = api.with_extra_routes(Arc::new(Routes::new(endpoints.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let client = client_as(&api, "system:admin", &[MASTERS]);
        let informers = Informers::in_process(client.clone(), tasks.cancel().clone());
        let keep = keep_node_passwords(endpoints, None, client, informers, tasks.cancel().clone());
        tasks.spawn("node-passwords", keep);
        let (serving, cancel) = (api.clone(), tasks.cancel().clone());
        tasks.spawn("api", async move { Ok(serving.serve(listener, cancel).await?) });
        Self { dir, endpoint, api, tasks }
    }

    fn admin(&self) -> kube::Client {
        client_as(&self.api, "system:admin", &[MASTERS])
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/server/agent-token")).unwrap().trim().to_owned()
    }

    /// How a machine of its own would join.
    fn machine(&self, machine: &str, node: &str, token: &str) -> Join {
        let dir: PathBuf = self.dir.path().join(machine);
        Join {
            servers: Servers::new(self.endpoint.clone()),
            token: token.parse().unwrap(),
            node_name: node.to_owned(),
            node_ips: vec!["127.0.0.1".parse().unwrap()],
            password_file: dir.join("password"),
            data_dir: dir,
        }
    }

    async fn ask(&self, credentials: Option<&str>, request: Request<Body>) -> u16 {
        let credentials = credentials.map_or(Credentials::None, |text| {
            Credentials::Header(HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text))).unwrap())
        });
        let servers = Servers::new(self.endpoint.clone());
        let client = remote::connect(servers, Trust::Anybody, credentials).unwrap();
        match request::send(&client, request).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(error) => panic!("{error}"),
        }
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn code(join: Result<Joined, Error>) -> &'static str {
    match join {
        Ok(_) => "joined",
        Err(Error::WrongToken(_)) => "wrong token",
        Err(Error::WrongAuthority { .. }) => "wrong authority",
        Err(Error::NameTaken { .. }) => "name taken",
        Err(error) => panic!("{:#}", anyhow::Error::new(error)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_certificates_and_acts_as_its_node() {
    let server = Running::start().await;
    let join = server.machine("one", "edge-1", &server.token());
    let joined = join.attempt().await.unwrap();
    assert_eq!(joined.settings.flannel_backend, "host-gw");
    assert_eq!(joined.settings.cluster_ip_ranges[0].0.to_string(), "10.42.0.0/16");
    joined.write_kubeconfigs("https://127.0.0.1:6443").unwrap();
    for name in [
        "client-ca.crt",
        "server-ca.crt",
        "kubelet.kubeconfig",
        "kubeproxy.kubeconfig",
        "k3scontroller.kubeconfig",
    ] {
        assert!(joined.agent_dir.join(name).exists(), "{name}");
    }
    let kubelet = joined.client(join.servers.clone(), NodeCertificate::ClientKubelet).unwrap();
    let nodes: Api<Node> = Api::all(kubelet);
    let node = |name: &str| -> Node {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap()
    };
    assert!(
        nodes.create(&PostParams::default(), &node("edge-2")).await.is_err(),
        "another node is not its to make"
    );
    let created = nodes.create(&PostParams::default(), &node("edge-1")).await.unwrap();

    // The password is recorded as K3s does, and goes with the node.
    let secrets: Api<Secret> = Api::namespaced(server.admin(), "kube-system");
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    let owner = loop {
        let secret = secrets.get("edge-1.node-password.k3s").await.unwrap();
        assert_eq!(secret.type_.as_deref(), Some("k3s.cattle.io/node-password"));
        assert_eq!(secret.immutable, Some(true));
        if let Some(owner) = secret.metadata.owner_references.unwrap_or_default().pop() {
            break owner;
        }
        assert!(tokio::time::Instant::now() < limit, "the secret has no owner");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(Some(owner.uid), created.metadata.uid);

    // A second start: new certificates for the same keys.
    let files = joined.files(NodeCertificate::ServingKubelet);
    let read = || (std::fs::read(&files.cert).unwrap(), std::fs::read(&files.key).unwrap());
    let before = read();
    join.attempt().await.unwrap();
    let after = read();
    assert_eq!(before.1, after.1);
    assert_ne!(before.0, after.0);
    server.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_is_wrong() {
    let server = Running::start().await;
    let token = server.token();
    let short = server.machine("one", "edge-1", "for-agents").attempt().await;
    assert_eq!(code(short).await, "joined");
    let other = server.machine("two", "edge-1", &token).attempt().await;
    assert_eq!(code(other).await, "name taken");
    let wrong = server.machine("three", "edge-3", "wrong").attempt().await;
    assert_eq!(code(wrong).await, "wrong token");
    let stranger = format!("K10{}::node:for-agents", "0".repeat(64));
    let stranger = server.machine("three", "edge-3", &stranger).attempt().await;
    assert_eq!(code(stranger).await, "wrong authority");
    let gone = Join {
        servers: Servers::new("127.0.0.1:1".parse().unwrap()),
        ..server.machine("three", "edge-3", &token)
    };
    assert!(gone.attempt().await.unwrap_err().is_transient());
    server.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_open_to_whom_k3s_opens_them() {
    let server = Running::start().await;
    let agent = Some("node:for-agents");
    for (credentials, path, expected) in [
        (None, "/ping", 200),
        (None, "/cacerts", 200),
        (None, "/v1-k3s/config", 403),
        (Some("node:wrong"), "/v1-k3s/config", 401),
        (Some("nobody:for-agents"), "/v1-k3s/config", 401),
        (agent, "/v1-k3s/config", 200),
        (agent, "/v1-k3s/readyz", 200),
        (agent, "/v1-k3s/apiservers", 200),
        (agent, "/v1-k3s/client-kubelet.crt", 400),
        (agent, "/v1-k3s/nothing", 404),
        (agent, "/api/v1/nodes", 401),
    ] {
        assert_eq!(server.ask(credentials, get(path)).await, expected, "{credentials:?} {path}");
    }
    let post = |path: &str, body: &'static str| {
        Request::post(path).header("k3s-Node-Name", "a").body(Body::from(body.as_bytes().to_vec())).unwrap()
    };
    assert_eq!(server.ask(agent, post("/v1-k3s/client-kube-proxy.crt", "no request")).await, 400);
    assert_eq!(server.ask(agent, post("/v1-k3s/client-kubelet.crt", "no password")).await, 400);
    server.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_token_lets_a_machine_in_until_it_is_deleted() {
    let server = Running::start().await;
    let secrets: Api<Secret> = Api::namespaced(server.admin(), "kube-system");
    let secret = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "bootstrap-token-abcdef" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        },
    }));
    let token = "abcdef.0123456789abcdef";
    let before = server.machine("one", "edge-1", token).attempt().await;
    assert_eq!(code(before).await, "wrong token");
    secrets.create(&PostParams::default(), &secret.unwrap()).await.unwrap();
    let joined = server.machine("one", "edge-1", token).attempt().await;
    assert_eq!(code(joined).await, "joined");
    let wrong = server.machine("two", "edge-2", "abcdef.0123456789abcdee").attempt().await;
    assert_eq!(code(wrong).await, "wrong token");
    secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
    let after = server.machine("two", "edge-2", token).attempt().await;
    assert_eq!(code(after).await, "wrong token");
    // Who is in stays in, by its certificate: as long as there is its Node, and under its own name.
    let nodes: Api<Node> = Api::all(server.admin());
    let without = server.machine("one", "edge-1", token).attempt().await;
    assert_eq!(code(without).await, "wrong token", "its Node is not there yet");
    let node = serde_json::from_value(serde_json::json!({ "metadata": { "name": "edge-1" } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let again = server.machine("one", "edge-1", token).attempt().await;
    assert_eq!(code(again).await, "joined");
    let renamed = server.machine("one", "edge-2", token).attempt().await;
    assert_eq!(code(renamed).await, "wrong token");
    server.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_replaces_the_old_one_at_once_and_for_good() {
    let server = Running::start().await;
    let own = server.dir.path().join("data/server/token");
    let read = || std::fs::read_to_string(&own).unwrap();
    let password = |token: &str| token.trim().rsplit_once(':').unwrap().1.to_owned();
    let before = read();
    let put = |body: &'static str| {
        Request::put("/v1-k3s/token").body(Body::from(body.as_bytes().to_vec())).unwrap()
    };
    let basic = |token: &str| format!("server:{}", password(token));
    assert_eq!(server.ask(Some("node:for-agents"), put("{}")).await, 403);
    assert_eq!(server.ask(Some(&basic(&before)), get("/v1-k3s/token")).await, 405);
    assert_eq!(server.ask(Some(&basic(&before)), put(r#"{"newToken": 1}"#)).await, 400);
    assert_eq!(
        server.ask(Some(&basic(&before)), put(r#"{"newToken": "abcdef.0123456789abcdef"}"#)).await,
        400
    );
    assert_eq!(read(), before, "what is refused changes nothing");
    assert_eq!(server.ask(Some(&basic(&before)), put("{}")).await, 200);
    let random = read();
    assert_ne!(random, before);
    assert_eq!(server.ask(Some(&basic(&before)), put("{}")).await, 401);
    assert_eq!(server.ask(Some(&basic(&random)), put(r#"{"newToken": "chosen"}"#)).await, 200);
    assert_eq!(password(&read()), "chosen");
    // Agents have a token of their own here, which stays.
    let agent = server.machine("one", "edge-1", &server.token()).attempt().await;
    assert_eq!(code(agent).await, "joined");
    let passwd = std::fs::read_to_string(server.dir.path().join("data/server/cred/passwd")).unwrap();
    assert_eq!(passwd, "for-agents,node,node,k3s:agent\nchosen,server,server,k3s:server\n");
    for odd in [r#"{"newToken": "a,b"}"#, r#"{"newToken": "a\nb"}"#, r#"{"newToken": "a\"b"}"#] {
        assert_eq!(server.ask(Some("server:chosen"), put(odd)).await, 400, "{odd}: the file cannot hold it");
    }
    // As the next start reads it.
    let data = server.dir.path().join("data");
    let ca = data.join("server/tls/server-ca.crt");
    let next = supervisor::token::write_server_files(&data, &ca, None, Some("for-agents")).unwrap();
    assert_eq!((next.server.as_str(), next.agent()), ("chosen", "for-agents"));
    server.tasks.stop().await;
}
