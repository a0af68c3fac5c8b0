//! May they: cluster administrators may everything, nodes what their pods need, everybody what RBAC's roles and bindings say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use machinery::selector::FieldSelector;
use machinery::status::Status;
use percent_encoding::percent_decode_str;

use crate::pipeline::Call;
use crate::request::{Query, RequestInfo};
use crate::server::Shared;
use crate::user::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo};

pub(crate) mod node;
pub(crate) mod rbac;

/// Group of what identities are made of, besides users and groups.
const AUTHENTICATION: &str = "authentication.k8s.io";
/// Paths that need no identity.
const PUBLIC: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// What somebody wants to do, in authorization's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub verb: String,
    /// False for paths that are not resources.
    pub is_resource: bool,
    pub path: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// Of a list, watch or deletecollection.
    pub fields: FieldSelector,
}

/// Whether somebody may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub allowed: bool,
    /// Why, or why not; may be empty.
    pub reason: String,
}

impl Attributes {
    fn of(info: &RequestInfo, query: &Query) -> Self {
        let mut name = info.name.clone();
        let mut fields = FieldSelector::default();
        if matches!(info.verb, "list" | "watch" | "deletecollection") {
            // One that cannot be read selects nothing here, and is refused by the verb.
            fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).unwrap_or_default();
            // A list or watch of one named object is about that object.
            if name.is_empty() {
                name = fields.required_value("metadata.name").unwrap_or_default().to_owned();
            }
        }
        Self {
            verb: info.verb.to_owned(),
            is_resource: info.is_resource,
            path: info.path.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name,
            fields,
        }
    }

    /// True if the request is about nothing but objects whose field has this value.
    pub(crate) fn selects(&self, field: &str, value: &str) -> bool {
        self.fields.required_value(field) == Some(value)
    }

    /// `resource/subresource` as rules write it.
    pub(crate) fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal, in upstream's words.
    pub(crate) fn refused(&self, user: &UserInfo, reason: &str) -> Status {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        if !self.is_resource {
            let detail =
                format!("User \"{}\" cannot {} path \"{}\"{reason}", user.name, self.verb, self.path);
            let mut status = Status::forbidden("", "", "", &detail);
            status.message = format!("forbidden: {detail}");
            return status;
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let detail = format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}{reason}",
            user.name,
            self.verb,
            self.resource_path(),
            self.group
        );
        Status::forbidden(&self.group, &self.resource, &self.name, &detail)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, if self.is_resource { self.resource_path() } else { self.path.clone() })
    }
}

/// What the impersonation headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    /// A value that cannot be read is refused: without it, the request would run as somebody else.
    fn parse(headers: &HeaderMap) -> Result<Self, Status> {
        let mut wanted = Self::default();
        for (name, value) in headers {
            let Some(part) = name.as_str().strip_prefix("impersonate-") else { continue };
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| Status::bad_request(format!("header {name} is not UTF-8")))?;
            match part {
                "user" => value.clone_into(&mut wanted.user),
                "uid" => value.clone_into(&mut wanted.uid),
                "group" => wanted.groups.push(value.to_owned()),
                _ => {
                    if let Some(key) = part.strip_prefix("extra-") {
                        let decoded = percent_decode_str(key).decode_utf8();
                        let key = decoded.map_or_else(|_| key.to_owned(), |key| key.to_lowercase());
                        wanted.extra.entry(key).or_default().push(value.to_owned());
                    }
                }
            }
        }
        Ok(wanted)
    }
}

/// The user to act as, if the headers ask for another one and the caller may impersonate all of it.
pub(crate) fn impersonate(
    shared: &Arc<Shared>,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let wanted = Wanted::parse(headers)?;
    if wanted == Wanted::default() {
        return Ok(user);
    }
    if wanted.user.is_empty() {
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    let account = wanted.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    for attributes in impersonated(&wanted, account) {
        require(shared, &user, &attributes)?;
    }
    let mut groups = wanted.groups;
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let mut acting = UserInfo { groups, uid: wanted.uid, extra: wanted.extra, ..UserInfo::default() };
    if wanted.user == ANONYMOUS {
        if !acting.in_group(UNAUTHENTICATED) {
            acting.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !acting.in_group(UNAUTHENTICATED) && !acting.in_group(AUTHENTICATED) {
        acting.groups.push(AUTHENTICATED.to_owned());
    }
    acting.name = wanted.user;
    Ok(acting)
}

/// Everything that has to be allowed for this.
fn impersonated(wanted: &Wanted, account: Option<(&str, &str)>) -> Vec<Attributes> {
    let of = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        is_resource: true,
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let mut all = vec![match account {
        Some((namespace, name)) => {
            Attributes { namespace: namespace.to_owned(), ..of("", "serviceaccounts", name) }
        }
        None => of("", "users", &wanted.user),
    }];
    all.extend(wanted.groups.iter().map(|group| of("", "groups", group)));
    if !wanted.uid.is_empty() {
        all.push(of(AUTHENTICATION, "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        let extra = |value: &String| Attributes {
            subresource: key.clone(),
            ..of(AUTHENTICATION, "userextras", value)
        };
        all.extend(values.iter().map(extra));
    }
    all
}

/// Allow or refuse a request.
pub(crate) async fn authorize_request(
    shared: &Arc<Shared>,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Decision {
    let plainly = |allowed| Decision { allowed, reason: String::new() };
    if user.in_group(MASTERS) || is_public(&info.path) {
        return plainly(true);
    }
    if !user.is_authenticated() {
        return plainly(false);
    }
    let attributes = Attributes::of(info, query);
    let decision = decide(shared, user, &attributes);
    if decision.allowed || node::node_of(user).is_none() {
        return decision;
    }
    // The pod that gives the right may be stored, and not in the cache yet.
    match shared.fresh().await {
        Ok(()) => decide(shared, user, &attributes),
        Err(_) => decision,
    }
}

/// What a request is told that may not.
pub(crate) fn refusal(decision: &Decision, user: &UserInfo, info: &RequestInfo, query: &Query) -> Status {
    if user.is_authenticated() {
        Attributes::of(info, query).refused(user, &decision.reason)
    } else {
        Status::unauthorized()
    }
}

/// Requests that make an object where they could have changed one need leave to create, too.
pub(crate) fn authorize_creation(call: &Call) -> Result<(), Status> {
    let creation = Attributes { verb: "create".to_owned(), ..Attributes::of(&call.info, &call.query) };
    require(&call.shared, &call.user, &creation)
}

fn require(shared: &Shared, user: &UserInfo, attributes: &Attributes) -> Result<(), Status> {
    let decision = decide(shared, user, attributes);
    if decision.allowed { Ok(()) } else { Err(attributes.refused(user, &decision.reason)) }
}

/// Whether the user may: the first authorizer that says yes decides (upstream's `--authorization-mode=Node,RBAC`).
pub(crate) fn decide(shared: &Shared, user: &UserInfo, attributes: &Attributes) -> Decision {
    let yes = |reason| Decision { allowed: true, reason };
    if user.in_group(MASTERS) {
        return yes(String::new());
    }
    let mut reason = String::new();
    match shared.nodes.decide(&shared.registry, user, attributes) {
        Some(Ok(())) => return yes(String::new()),
        Some(Err(why)) => reason = why,
        None => {}
    }
    match shared.rbac.allowing(&shared.registry, user, attributes) {
        Some(source) => yes(format!("RBAC: allowed by {source}")),
        None => Decision { allowed: false, reason },
    }
}

fn is_public(path: &str) -> bool {
    path == "/version"
        || PUBLIC.iter().any(|public| {
            path.strip_prefix(public).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}
