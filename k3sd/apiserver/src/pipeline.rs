//! The one way through the server, for every request over every transport:
//!
//! ```text
//! extra routes ─ authentication ─ audit ─ authorization ─ verb (decode ─ defaults ─ admission ─ validation ─ store ─ encode)
//! ```
//!
//! Everything up to the verb happens here; each verb is a file below `verbs/`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::upgrade::OnUpgrade;
use machinery::status::Status;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tracing::{debug, info, trace};

use crate::audit::Trail;
use crate::authn::{self, Peer};
use crate::body::BoxError;
use crate::registry::Entry;
use crate::request::{Query, RequestInfo};
use crate::respond::{self, Response};
use crate::server::{ApiRequest, Shared};
use crate::strategy::Context;
use crate::user::{MASTERS, UserInfo};
use crate::{authz, negotiate, nonresource, verbs};

/// Upstream's limit on request bodies.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// How long a request body may take, as it holds a place among the requests in flight: upstream's limit on whole requests.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that takes longer until its answer begins is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);

/// One request for a resource, past authentication and authorization.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub entry: Arc<Entry>,
    pub info: RequestInfo,
    pub query: Query,
    pub user: UserInfo,
    pub method: Method,
    pub headers: HeaderMap,
    /// Path and query as they were sent.
    pub target: String,
    pub upgrade: Option<OnUpgrade>,
    /// In a mutex only to make the call `Sync`: the one reader has it exclusively.
    pub body: Mutex<UnsyncBoxBody<Bytes, BoxError>>,
    /// The audit log's record of it.
    pub trail: Option<Trail>,
}

impl Call {
    /// The whole body.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes, Status> {
        let body = read(self.take_body()).await?;
        if let Some(trail) = &self.trail {
            let resource = &self.entry.resource;
            let media_type = negotiate::content_type(&self.headers);
            trail.saw_request(&body, &media_type, (&resource.api_version(), &resource.kind));
        }
        Ok(body)
    }

    /// The body, unread.
    pub(crate) fn take_body(&mut self) -> UnsyncBoxBody<Bytes, BoxError> {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// What strategies and admission look at.
    pub(crate) fn context(&self, dry_run: bool) -> Context<'_> {
        self.shared.context(&self.entry, &self.user, &self.info.namespace, &self.info.subresource, dry_run)
    }

    /// Prefix of this request's objects in the cache.
    pub(crate) fn cache_prefix(&self) -> String {
        if self.info.namespace.is_empty() { String::new() } else { format!("{}/", self.info.namespace) }
    }
}

/// A request body, within the limits.
async fn read(body: UnsyncBoxBody<Bytes, BoxError>) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_TIMEOUT, read_whole(body)).await {
        Ok(read) => read,
        Err(_) => Err(Status::timeout("request body did not arrive within the allotted time")),
    }
}

async fn read_whole(mut body: UnsyncBoxBody<Bytes, BoxError>) -> Result<Bytes, Status> {
    let mut whole = Bytes::new();
    let mut parts = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        // A second chunk: now it has to be put together.
        parts.extend_from_slice(&std::mem::take(&mut whole));
        parts.extend_from_slice(&data);
        if parts.len() > MAX_BODY_BYTES {
            break;
        }
    }
    if !parts.is_empty() {
        whole = parts.into();
    }
    if whole.len() > MAX_BODY_BYTES {
        return Err(Status::too_large(&format!("limit is {MAX_BODY_BYTES}")));
    }
    Ok(whole)
}

impl Shared {
    /// What strategies and admission look at.
    pub(crate) fn context<'a>(
        &'a self,
        entry: &'a Entry,
        user: &'a UserInfo,
        namespace: &'a str,
        subresource: &'a str,
        dry_run: bool,
    ) -> Context<'a> {
        Context {
            resource: &entry.resource,
            subresource,
            namespace: if entry.resource.namespaced { namespace } else { "" },
            user,
            dry_run,
            config: &self.config,
            allocators: &self.allocators,
            objects: &self.registry,
        }
    }

    /// Wait until the caches show everything that was written before now.
    pub(crate) async fn fresh(&self) -> Result<(), Status> {
        let revision = self
            .datastore
            .revision()
            .await
            .map_err(|error| Status::internal(crate::errors::chain(&error)))?;
        self.feed.wait(revision.0).await.map_err(crate::errors::not_fresh)
    }
}

/// Answer one request.
pub(crate) async fn handle(shared: Arc<Shared>, peer: Peer, request: ApiRequest) -> Response {
    if let Some(extra) = shared.extra.get()
        && extra.owns(request.uri().path())
    {
        let client = authn::proved(&peer, request.headers(), &shared.tokens, &shared.registry);
        let answer = extra.answer(request, client.ok().flatten()).await;
        return answer.unwrap_or_else(|| respond::status(&Status::unknown_path()));
    }
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let errors = negotiate::errors(&parts.headers);
    let query = Query::parse(parts.uri.query());
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let known = shared.registry.tables().find(&info.group, &info.version, &info.resource).is_some();
    let labels = (info.verb, if known { info.resource.clone() } else { String::new() });
    let log = RequestLog { started, verb: info.verb, target: parts.uri.clone() };
    let user = authn::authenticate(&peer, &parts.headers, &shared.tokens, &shared.registry);
    let audit = shared.audit.as_ref();
    let trail = audit.and_then(|audit| audit.begin(&parts, &info, &peer, user.as_ref().ok()));
    let response = match user {
        Ok(user) => {
            let request = Received { parts, body, info, query, trail: trail.clone() };
            let answer = answer(&shared, &peer, user, request).await;
            let response = answer.unwrap_or_else(|status| {
                trail.iter().for_each(|trail| trail.failed(&status));
                respond::status_in(errors, &status)
            });
            match trail {
                Some(trail) => trail.finish(response),
                None => response,
            }
        }
        Err(status) => {
            let mut response = respond::status_in(errors, &status);
            trail.iter().for_each(|trail| trail.unauthenticated(&mut response));
            response
        }
    };
    shared.metrics.record(labels.0, &labels.1, response.status().as_u16(), started.elapsed());
    log.write(&peer, response.status());
    response
}

/// What is said of each request once its answer begins: of slow ones to everybody, as upstream's traces are.
struct RequestLog {
    started: Instant,
    verb: &'static str,
    target: Uri,
}

impl RequestLog {
    fn write(self, peer: &Peer, code: StatusCode) {
        let (elapsed, target) = (self.started.elapsed(), &self.target);
        let (verb, code) = (self.verb, code.as_u16());
        if elapsed > SLOW {
            info!(verb, %target, code, ?elapsed, client = %peer.address(), "slow request");
        } else {
            debug!(verb, %target, code, ?elapsed, client = %peer.address(), "request");
        }
    }
}

/// A place among the requests in flight. Administrators, components in process and streams need none; for others, none free means
/// "try again": the server stays quick for those it answers.
fn permit<'a>(
    shared: &'a Shared,
    peer: &Peer,
    user: &UserInfo,
    info: &RequestInfo,
) -> Result<Option<SemaphorePermit<'a>>, Status> {
    if info.is_long_running() || matches!(peer, Peer::Trusted(_)) || user.in_group(MASTERS) {
        return Ok(None);
    }
    let refused = |_| Status::too_many_requests("Too many requests, please try again later.", 1);
    shared.in_flight.try_acquire().map(Some).map_err(refused)
}

/// A request as it came, and what has been found out of it.
struct Received {
    parts: Parts,
    body: UnsyncBoxBody<Bytes, BoxError>,
    info: RequestInfo,
    query: Query,
    trail: Option<Trail>,
}

/// Who the request is answered for, if they may have what it asks for.
async fn allowed(
    shared: &Arc<Shared>,
    user: UserInfo,
    headers: &HeaderMap,
    (info, query): (&RequestInfo, &Query),
    trail: Option<&Trail>,
) -> Result<UserInfo, Status> {
    let acting = authz::impersonate(shared, user.clone(), headers)?;
    let decision = authz::authorize_request(shared, &acting, info, query).await;
    if let Some(trail) = trail {
        if acting != user {
            trail.acts_as(&acting);
        }
        trail.decided(&decision);
    }
    if decision.allowed { Ok(acting) } else { Err(authz::refusal(&decision, &acting, info, query)) }
}

async fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    user: UserInfo,
    request: Received,
) -> Result<Response, Status> {
    let Received { mut parts, body, info, query, trail } = request;
    let user = allowed(shared, user, &parts.headers, (&info, &query), trail.as_ref()).await?;
    let _permit = permit(shared, peer, &user, &info)?;
    trace!(verb = info.verb, path = info.path, user = user.name, "request allowed");
    if !info.is_resource {
        return nonresource::answer(shared, &parts, &info, &query, &user).await;
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let tables = shared.registry.tables();
    let entry = tables.find(&info.group, &info.version, &info.resource).ok_or_else(Status::unknown_path)?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let call = Call {
        shared: shared.clone(),
        entry: entry.clone(),
        info,
        query,
        user,
        method: parts.method,
        headers: parts.headers,
        target,
        upgrade,
        body: Mutex::new(body),
        trail,
    };
    // Rules and bindings are enforced from the caches: once a change is answered, it holds for the next request.
    let enforced = call.entry.resource.group == authz::rbac::GROUP && !call.method.is_safe();
    let response = verbs::dispatch(call).await?;
    if enforced {
        // The write is done, and will hold soon even if it does not yet.
        let _late = shared.fresh().await;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let first = futures::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"{")))]);
        let slow = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
        let refused = read(UnsyncBoxBody::new(slow)).await.expect_err("too slow");
        assert_eq!(refused.code, 504);
    }
}
