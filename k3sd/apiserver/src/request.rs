//! What a request is about: upstream's request info, read from method, path and query alone.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

/// Query parameters, decoded, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| {
            let plus = text.replace('+', " ");
            percent_decode_str(&plus).decode_utf8_lossy().into_owned()
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// First value of a parameter; empty counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter: present without value, "1" and "true" are true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        let value = self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str());
        value.is_some_and(|value| !matches!(value, "false" | "0"))
    }
}

/// A request's target and verb, in authorization's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// get, list, watch, create, update, patch, delete, deletecollection; for other paths the method in lower case.
    pub verb: &'static str,
    /// False for paths outside `/api` and `/apis`, and for discovery.
    pub is_resource: bool,
    pub path: String,
    pub group: String,
    pub version: String,
    /// "" when cluster-scoped or across all namespaces.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource (proxied paths), with its leading slash.
    pub rest: String,
}

impl RequestInfo {
    /// Read a request's line.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { verb: plain_verb(method), path: path.to_owned(), ..Self::default() };
        let parts: Vec<Cow<'_, str>> = path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8_lossy())
            .collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let mut rest: &[&str] = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        // The legacy prefix form: /api/v1/watch/...
        let legacy_watch = rest.first() == Some(&"watch") && rest.len() > 1;
        if legacy_watch {
            rest = &rest[1..];
        }
        rest = info.take_namespace(rest);
        let mut rest = rest.iter();
        info.resource = rest.next().copied().unwrap_or_default().to_owned();
        info.name = rest.next().copied().unwrap_or_default().to_owned();
        info.subresource = rest.next().copied().unwrap_or_default().to_owned();
        info.rest = raw_rest(path, &info, legacy_watch);
        info.verb = resource_verb(method, &info, query, legacy_watch);
        info
    }

    /// `namespaces/NS/RESOURCE...` names a namespace; `namespaces/NS`, `namespaces/NS/status` and `namespaces/NS/finalize` are
    /// about the namespace itself.
    fn take_namespace<'p, 's>(&mut self, parts: &'p [&'s str]) -> &'p [&'s str] {
        if parts.first() != Some(&"namespaces") || parts.len() < 2 {
            return parts;
        }
        self.namespace = parts[1].to_owned();
        match parts.get(2) {
            None | Some(&"status" | &"finalize") => parts,
            Some(_) => &parts[2..],
        }
    }

    /// True for streams, that last as long as those at both ends want: watches, logs and connections to containers.
    pub(crate) fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }

    /// `metadata.name` given by a field selector or the path.
    pub(crate) fn has_name(&self) -> bool {
        !self.name.is_empty()
    }
}

/// The undecoded path behind the subresource, so that proxied paths arrive as they were sent.
fn raw_rest(path: &str, info: &RequestInfo, legacy_watch: bool) -> String {
    if info.subresource.is_empty() {
        return String::new();
    }
    let mut skip = if info.group.is_empty() { 2 } else { 3 };
    skip += usize::from(legacy_watch);
    let on_namespace = info.resource == "namespaces";
    skip += if info.namespace.is_empty() || on_namespace { 0 } else { 2 };
    skip += 3;
    let mut at = 0;
    for _ in 0..skip {
        match path[at + 1..].find('/') {
            Some(next) => at += 1 + next,
            None => return String::new(),
        }
    }
    path[at..].to_owned()
}

fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "unknown",
    }
}

fn resource_verb(method: &Method, info: &RequestInfo, query: &Query, legacy_watch: bool) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" if legacy_watch => "watch",
        "GET" | "HEAD" if info.has_name() => "get",
        "GET" | "HEAD" if query.flag("watch") => "watch",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if info.has_name() => "delete",
        "DELETE" => "deletecollection",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, target: &str) -> RequestInfo {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        RequestInfo::parse(&method, path, &Query::parse(Some(query)))
    }

    #[test]
    fn paths_name_group_namespace_resource_and_subresource() {
        // (method, path, verb, group, namespace, resource, name, subresource, rest)
        let cases = [
            (Method::GET, "/api/v1/pods", "list", "", "", "pods", "", "", ""),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch", "", "a", "pods", "", "", ""),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch", "", "a", "pods", "x", "", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "", "a", "namespaces", "a", "", ""),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update",
                "",
                "a",
                "namespaces",
                "a",
                "finalize",
                "",
            ),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "apps",
                "a",
                "deployments",
                "",
                "",
                "",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/x/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "x",
                "scale",
                "",
            ),
            (Method::DELETE, "/api/v1/nodes", "deletecollection", "", "", "nodes", "", "", ""),
            (
                Method::GET,
                "/api/v1/nodes/n/proxy/logs/a%2Fb",
                "get",
                "",
                "",
                "nodes",
                "n",
                "proxy",
                "/logs/a%2Fb",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/services/https:s:1/proxy/",
                "get",
                "",
                "a",
                "services",
                "https:s:1",
                "proxy",
                "/",
            ),
        ];
        for (method, target, verb, group, namespace, resource, name, subresource, rest) in cases {
            let info = info(method, target);
            let got = (
                info.verb,
                &*info.group,
                &*info.namespace,
                &*info.resource,
                &*info.name,
                &*info.subresource,
                &*info.rest,
            );
            assert_eq!(got, (verb, group, namespace, resource, name, subresource, rest), "{target}");
            assert!(info.is_resource);
        }
    }

    #[test]
    fn discovery_and_health_are_not_resources() {
        for path in
            ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1", "/"]
        {
            assert!(!info(Method::GET, path).is_resource, "{path}");
        }
    }

    #[test]
    fn query_values_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc+in&watch&command=x&command=y"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in"));
        assert!(query.flag("watch"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["x", "y"]);
    }
}
