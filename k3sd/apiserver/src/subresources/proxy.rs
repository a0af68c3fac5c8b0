//! `nodes/proxy`, `pods/proxy`, `services/proxy`: HTTP passed through to a kubelet, a pod or a service's endpoint.

use machinery::status::Status;
use serde_json::Value;

use crate::kubelet::{self, Passed, Security, Upstream};
use crate::pipeline::Call;
use crate::respond::Response;

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    call.shared.fresh().await?;
    let upstream = upstream(&call)?;
    let passed = Passed {
        method: call.method.clone(),
        headers: call.headers.clone(),
        upgrade: call.upgrade.take(),
        body: call.take_body(),
    };
    kubelet::forward(&call.shared, &upstream, passed).await
}

fn upstream(call: &Call) -> Result<Upstream, Status> {
    let path = if call.info.rest.is_empty() { "/" } else { &call.info.rest };
    let target = match call.target.split_once('?') {
        Some((_, query)) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let parts = Parts::parse(&call.info.name);
    match call.entry.resource.plural.as_str() {
        "nodes" => {
            let mut upstream = kubelet::of_node(&call.shared, parts.name, target)?;
            if let Ok(port) = parts.port.parse()
                && port != upstream.port
            {
                // Something else on the node, which must not get to see the kubelet's client certificate.
                upstream.port = port;
                upstream.security = parts.security();
            }
            Ok(upstream)
        }
        "pods" => pod(call, &parts, target),
        _ => service(call, &parts, target),
    }
}

/// `[scheme:]name[:port]`.
struct Parts<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Self {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [scheme, name, port] => Self { scheme, name, port },
            [name, port] => Self { scheme: "", name, port },
            _ => Self { scheme: "", name: text, port: "" },
        }
    }

    fn security(&self) -> Security {
        if self.scheme == "https" { Security::Unproven } else { Security::None }
    }
}

fn pod(call: &Call, parts: &Parts<'_>, target: String) -> Result<Upstream, Status> {
    let pod = call.shared.registry.object("", "pods", &call.info.namespace, parts.name);
    let pod = pod.ok_or_else(|| Status::not_found("", "pods", parts.name))?;
    let host = pod.pointer("/status/podIP").and_then(Value::as_str).unwrap_or_default();
    if host.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    let first = || pod.pointer("/spec/containers/0/ports/0/containerPort").and_then(Value::as_u64);
    let port = match parts.port {
        "" => first().unwrap_or(80),
        port => port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?,
    };
    let port = u16::try_from(port).map_err(|_| Status::bad_request(format!("invalid port {port}")))?;
    Ok(Upstream { host: host.to_owned(), port, security: parts.security(), target })
}

fn service(call: &Call, parts: &Parts<'_>, target: String) -> Result<Upstream, Status> {
    let namespace = &call.info.namespace;
    let service = call.shared.registry.object("", "services", namespace, parts.name);
    let service = service.ok_or_else(|| Status::not_found("", "services", parts.name))?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = ports.iter().find(|port| {
        parts.port.is_empty()
            || port["name"].as_str() == Some(parts.port)
            || port["port"].as_u64().map(|number| number.to_string()).as_deref() == Some(parts.port)
    });
    let no_port = || {
        Status::service_unavailable(format!(
            "no service port \"{}\" found for service \"{}\"",
            parts.port, parts.name
        ))
    };
    let port_name = wanted.ok_or_else(no_port)?["name"].as_str().unwrap_or_default().to_owned();
    let mut ready: Vec<(String, u16)> = Vec::new();
    call.shared.registry.for_each("discovery.k8s.io", "endpointslices", namespace, |slice| {
        let of = machinery::meta::label(&slice, "kubernetes.io/service-name");
        if of == Some(parts.name) {
            ready.extend(endpoints(&slice, &port_name));
        }
    });
    let index = rand::random_range(0..ready.len().max(1));
    match ready.into_iter().nth(index) {
        Some((host, port)) => Ok(Upstream { host, port, security: parts.security(), target }),
        None => {
            Err(Status::service_unavailable(format!("no endpoints available for service \"{}\"", parts.name)))
        }
    }
}

fn endpoints(slice: &Value, port_name: &str) -> Vec<(String, u16)> {
    let list = |field: &str| slice.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let port = list("ports")
        .iter()
        .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
        .and_then(|port| u16::try_from(port.get("port")?.as_u64()?).ok());
    let Some(port) = port else { return Vec::new() };
    list("endpoints")
        .iter()
        .filter(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)))
        .filter_map(|endpoint| Some((endpoint.pointer("/addresses/0")?.as_str()?.to_owned(), port)))
        .collect()
}
