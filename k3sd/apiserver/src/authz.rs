//! May they: cluster administrators may everything, everybody else what RBAC's roles and bindings say.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use machinery::status::Status;

use crate::request::{Query, RequestInfo};
use crate::server::Shared;
use crate::user::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo};

pub(crate) mod rbac;

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
}

impl Attributes {
    fn of(info: &RequestInfo, query: &Query) -> Self {
        let mut name = info.name.clone();
        // A list or watch of one named object is about that object.
        if name.is_empty() && matches!(info.verb, "list" | "watch" | "deletecollection") {
            let selector = query.get("fieldSelector").unwrap_or_default();
            if let Ok(selector) = machinery::selector::FieldSelector::parse(selector) {
                name = selector.required_value("metadata.name").unwrap_or_default().to_owned();
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
        }
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
    pub(crate) fn refused(&self, user: &UserInfo) -> Status {
        if !self.is_resource {
            let detail = format!("User \"{}\" cannot {} path \"{}\"", user.name, self.verb, self.path);
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
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
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

/// The user to act as, if the headers ask for another one and the caller may impersonate it.
pub(crate) fn impersonate(
    shared: &Arc<Shared>,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wanted = text("impersonate-user");
    let groups: Vec<&str> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).collect();
    if wanted.is_empty() {
        if groups.is_empty() && text("impersonate-uid").is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request("requested impersonation without impersonating a user"));
    }
    let may = |group: &str, resource: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".to_owned(),
            is_resource: true,
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        if allowed(shared, &user, &attributes) { Ok(()) } else { Err(attributes.refused(&user)) }
    };
    let account = wanted.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", namespace, name)?,
        None => may("", "users", "", wanted)?,
    }
    for group in &groups {
        may("", "groups", "", group)?;
    }
    let mut acting = UserInfo { name: wanted.to_owned(), ..UserInfo::default() };
    acting.groups = groups.iter().map(|group| (*group).to_owned()).collect();
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        acting.groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    if !acting.in_group(UNAUTHENTICATED) && !acting.in_group(AUTHENTICATED) {
        acting.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(acting)
}

/// Allow or refuse a request.
pub(crate) fn authorize_request(
    shared: &Arc<Shared>,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<(), Status> {
    if user.in_group(MASTERS) || is_public(&info.path) {
        return Ok(());
    }
    if !user.is_authenticated() {
        return Err(Status::unauthorized());
    }
    let attributes = Attributes::of(info, query);
    if allowed(shared, user, &attributes) { Ok(()) } else { Err(attributes.refused(user)) }
}

/// True if the user may.
pub(crate) fn allowed(shared: &Shared, user: &UserInfo, attributes: &Attributes) -> bool {
    user.in_group(MASTERS) || shared.rbac.allowed(&shared.registry, user, attributes)
}

fn is_public(path: &str) -> bool {
    path == "/version"
        || PUBLIC.iter().any(|public| {
            path.strip_prefix(public).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}
