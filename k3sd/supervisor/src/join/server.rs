//! The endpoints that machines join by, on the port of the API: `/cacerts`, `/ping` and everything below `/v1-k3s/`.
//!
//! Paths, headers, groups and status codes are K3s's (`pkg/server/handlers`). Current limitations: no tunnel
//! (`/v1-k3s/connect`), no joining servers, and certificates only for keys that the caller made.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use machinery::status::Status;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use super::passwords::TokenFiles;
use super::passwords::{Current, SERVER_GROUP};
use super::{NODE_IP, NODE_NAME, NODE_PASSWORD, Settings};
use crate::node_password::{self, Passwords};
use crate::pki::{NodeCertificate, SignError, Signer};
use crate::token;

/// Groups that may read the cluster's settings and ask for a node's certificates.
const AGENT_GROUPS: [&str; 3] = ["k3s:agent", "system:nodes", "system:bootstrappers"];
/// A request for a certificate is a few hundred bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Requests at one time, as in K3s; more are asked to come again.
const AT_ONCE: usize = 20;

/// Who asks, as proved by a client certificate or a bearer token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// User name; of a certificate the common name.
    pub name: String,
    /// Groups; of a certificate the organizations.
    pub groups: Vec<String>,
}

/// The endpoints, and what they answer from.
#[derive(Debug)]
pub struct Endpoints {
    settings: Settings,
    passwords: Arc<Current>,
    signer: Arc<Signer>,
    node_passwords: Passwords,
    slices: Api<EndpointSlice>,
    at_once: Semaphore,
}

/// What `PUT /v1-k3s/token` brings.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewToken {
    /// Empty or absent: one is made up.
    #[serde(default)]
    new_token: String,
}

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What an endpoint has to say.
type Answer = Result<Response<Bytes>, Status>;

impl Endpoints {
    /// `client` keeps node passwords and looks up Nodes and servers; it must be an administrator's.
    pub fn new(
        settings: Settings,
        passwords: token::Passwords,
        files: TokenFiles,
        signer: Arc<Signer>,
        client: &kube::Client,
    ) -> Self {
        Self {
            settings,
            passwords: Arc::new(Current::new(passwords, files)),
            signer,
            node_passwords: Passwords::new(client),
            slices: Api::namespaced(client.clone(), "default"),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    /// Whether a path is answered here.
    pub fn owns(path: &str) -> bool {
        matches!(path, "/cacerts" | "/ping") || path.starts_with("/v1-k3s/")
    }

    /// The node passwords of the cluster.
    pub fn node_passwords(&self) -> &Passwords {
        &self.node_passwords
    }

    /// Answers a request for a path that it [owns](Self::owns).
    pub async fn answer(&self, request: Request<Body>, proved: Option<Caller>) -> Response<Bytes> {
        self.route(request, proved).await.unwrap_or_else(|status| refusal(&status))
    }

    async fn route(&self, request: Request<Body>, proved: Option<Caller>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        match path.as_str() {
            "/cacerts" => return Ok(text(self.signer.server_bundle())),
            "/ping" => return Ok(text("pong")),
            _ => {}
        }
        let caller = self.authenticate(&parts.headers, proved)?;
        if path == "/v1-k3s/token" {
            return self.rotate_token(&caller, &parts.method, body).await;
        }
        if !caller.groups.iter().any(|group| AGENT_GROUPS.contains(&group.as_str())) {
            return Err(forbidden("forbidden"));
        }
        let Ok(_turn) = self.at_once.try_acquire() else {
            return Err(Status::too_many_requests("too many machines join at once", 1));
        };
        let certificate = NodeCertificate::ALL.into_iter().find(|certificate| {
            path.strip_prefix("/v1-k3s/").and_then(|name| name.strip_suffix(".crt"))
                == Some(certificate.stem())
        });
        if let Some(certificate) = certificate {
            if parts.method != Method::POST {
                return Err(Status::bad_request("a certificate request is expected, by POST"));
            }
            let body = read(body).await?;
            return self.issue(certificate, &caller, &parts.headers, &body).await;
        }
        match path.as_str() {
            "/v1-k3s/config" => json(&self.settings),
            "/v1-k3s/readyz" => Ok(text("ok")),
            "/v1-k3s/client-ca.crt" => Ok(text(self.signer.client_bundle())),
            "/v1-k3s/server-ca.crt" => Ok(text(self.signer.server_bundle())),
            "/v1-k3s/apiservers" => json(&self.api_servers().await?),
            _ => Err(Status::unknown_path()),
        }
    }

    /// Who asks: a certificate or a bearer token tells it, else a password does.
    fn authenticate(&self, headers: &HeaderMap, proved: Option<Caller>) -> Result<Caller, Status> {
        if let Some(caller) = proved {
            return Ok(caller);
        }
        let Some(header) = headers.get(AUTHORIZATION) else { return Err(forbidden("forbidden")) };
        let (user, password) = basic(header).ok_or_else(unauthorized)?;
        let group = self.passwords.group_of(&user, &password).ok_or_else(unauthorized)?;
        Ok(Caller { name: user, groups: vec![group.to_owned()] })
    }

    /// Gives the cluster another token: for servers, and for agents that have none of their own.
    async fn rotate_token(&self, caller: &Caller, method: &Method, body: Body) -> Answer {
        if !caller.groups.iter().any(|group| group == SERVER_GROUP) {
            return Err(forbidden("forbidden"));
        }
        if method != Method::PUT {
            return Err(Status::method_not_allowed());
        }
        let wanted: NewToken = serde_json::from_slice(&read(body).await?).map_err(|error| {
            Status::bad_request(format!("the body is not {{\"newToken\": TOKEN}}: {error}"))
        })?;
        let passwords = self.passwords.clone();
        // To its end, even if the client does not wait for it.
        tokio::task::spawn_blocking(move || passwords.rotate(&wanted.new_token))
            .await
            .map_err(Status::internal)?
            .map_err(|error| match error {
                token::Error::Malformed(_) => Status::bad_request(error.to_string()),
                token::Error::File(_) => Status::internal(error),
            })?;
        info!("the token has been rotated");
        Ok(respond(StatusCode::OK, "text/plain", String::new()))
    }

    async fn issue(
        &self,
        certificate: NodeCertificate,
        caller: &Caller,
        headers: &HeaderMap,
        request: &[u8],
    ) -> Answer {
        let (mut node, mut ips) = (String::new(), Vec::new());
        if certificate.names_node() {
            node = self.check_node(caller, headers).await?;
            ips = node_ips(headers)?;
        }
        let signed = self.signer.sign(certificate, request, &node, &ips).map_err(|error| match &error {
            SignError::Malformed(_) | SignError::Usage(_) => Status::bad_request(error.to_string()),
            SignError::Issue(source) => Status::bad_request(format!("{error}: {source}")),
        })?;
        info!(node, certificate = certificate.stem(), "certificate issued to an agent");
        Ok(text(&signed))
    }

    /// The node's name, once it has been shown that the caller may have it.
    async fn check_node(&self, caller: &Caller, headers: &HeaderMap) -> Result<String, Status> {
        let header = |name: &str| -> Result<&str, Status> {
            let value =
                headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
            value.ok_or_else(|| Status::bad_request(format!("header {name} is missing")))
        };
        let node = header(NODE_NAME)?.to_ascii_lowercase();
        let password = header(NODE_PASSWORD)?;
        if let Some(own) = caller.name.strip_prefix("system:node:") {
            if own != node {
                return Err(Status::bad_request(format!("header {NODE_NAME} does not match node {own}")));
            }
            // A machine whose Node was deleted begins anew, with the token.
            if !self.node_passwords.node_exists(&node).await.map_err(unavailable)? {
                return Err(unauthorized());
            }
        }
        match self.node_passwords.verify(&node, password).await {
            Ok(()) => Ok(node),
            Err(error @ (node_password::Error::Mismatch { .. } | node_password::Error::Damaged { .. })) => {
                warn!(node, error = %error, "a machine is refused");
                Err(forbidden(&error.to_string()))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// `address:port` of every server.
    async fn api_servers(&self) -> Result<Vec<String>, Status> {
        let params = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let slices = self.slices.list(&params).await;
        let slices = slices.map_err(|error| Status::service_unavailable(error.to_string()))?;
        let mut servers = Vec::new();
        for slice in slices {
            let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(443);
            for endpoint in slice.endpoints.into_iter().flatten() {
                if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
                    continue;
                }
                for address in endpoint.addresses {
                    let v6 = address.contains(':');
                    servers.push(if v6 {
                        format!("[{address}]:{port}")
                    } else {
                        format!("{address}:{port}")
                    });
                }
            }
        }
        Ok(servers)
    }
}

async fn read(mut body: Body) -> Result<Vec<u8>, Status> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(error.to_string()))?;
        whole.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
        if whole.len() > MAX_BODY_BYTES {
            return Err(Status::too_large(&format!("limit is {MAX_BODY_BYTES}")));
        }
    }
    Ok(whole)
}

fn node_ips(headers: &HeaderMap) -> Result<Vec<IpAddr>, Status> {
    let Some(value) = headers.get(NODE_IP) else { return Ok(Vec::new()) };
    let bad = || Status::bad_request(format!("header {NODE_IP} is not a list of addresses"));
    let texts = value.to_str().map_err(|_| bad())?.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts.map(|text| text.parse().map_err(|_| bad())).collect()
}

/// User and password of an `Authorization: Basic` header.
fn basic(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn unauthorized() -> Status {
    Status { message: "not authorized".to_owned(), ..Status::unauthorized() }
}

fn forbidden(message: &str) -> Status {
    Status { message: message.to_owned(), ..Status::forbidden("", "", "", "") }
}

fn unavailable(error: node_password::Error) -> Status {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Status::service_unavailable(format!("{error}{cause}"))
}

fn text(text: &str) -> Response<Bytes> {
    respond(StatusCode::OK, "text/plain", text.to_owned())
}

fn json(value: &impl serde::Serialize) -> Answer {
    let encoded = serde_json::to_string(value).map_err(Status::internal)?;
    Ok(respond(StatusCode::OK, "application/json", encoded))
}

fn refusal(status: &Status) -> Response<Bytes> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(code, "application/json", status.to_value().to_string());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if code == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn respond(code: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
