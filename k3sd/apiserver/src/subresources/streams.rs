//! `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward`: answered by the kubelet of the pod's node.

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use machinery::meta;
use machinery::status::Status;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::admission::{Notes, Operation, Review};
use crate::kubelet::{self, Passed};
use crate::pipeline::Call;
use crate::respond::Response;
use crate::verbs::update::{Current, Target};

/// Options of a log that the kubelet understands under the same names.
const LOG_OPTIONS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Streams of exec and attach: the API's name, the kubelet's name, and what they are unless said otherwise.
const STREAMS: [(&str, &str, bool); 4] =
    [("stdin", "input", false), ("stdout", "output", true), ("stderr", "error", true), ("tty", "tty", false)];

/// Most of a refusal that is passed on; upstream's limit.
const MAX_REFUSAL: usize = 50_000;

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let target = Target { subresource: "", ..Target::of(&call) };
    let pod = Current::read(&call.shared, &target).await?.object;
    if call.info.subresource != "log" {
        let cx = call.context(false);
        let review = Review {
            cx: &cx,
            operation: Operation::Connect,
            name: &call.info.name,
            old: Some(&pod),
            shared: &call.shared,
            notes: &Notes::default(),
            trail: call.trail.as_ref(),
        };
        call.shared.admission.validate(&review, &Value::Null).await?;
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
    }
    let place = kubelet_target(&call, &pod)?;
    let upstream = kubelet::of_node(&call.shared, node, place)?;
    let passed = Passed {
        method: call.method.clone(),
        headers: call.headers.clone(),
        upgrade: call.upgrade.take(),
        body: call.take_body(),
    };
    let response = kubelet::forward(&call.shared, &upstream, passed).await?;
    if call.info.subresource == "log" { explained(response, &call.info.name).await } else { Ok(response) }
}

/// A kubelet refuses a log in plain text; clients are told in a Status (upstream's `GenericHttpResponseChecker`).
async fn explained(response: Response, pod: &str) -> Result<Response, Status> {
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status();
    let text = match Limited::new(response.into_body(), MAX_REFUSAL).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => code.to_string(),
    };
    Err(match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status { message: text, ..Status::not_found("", "pods", pod) },
        _ => Status::internal(text),
    })
}

fn kubelet_target(call: &Call, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let mut query = Vec::new();
    let mut add = |key: &str, value: &str| query.push(format!("{key}={}", escape(value)));
    let path = match call.info.subresource.as_str() {
        "portforward" => {
            call.query.all("ports").flat_map(|ports| ports.split(',')).for_each(|port| add("port", port));
            format!("/portForward/{namespace}/{name}")
        }
        "log" => {
            for option in LOG_OPTIONS {
                if let Some(value) = call.query.get(option) {
                    add(option, value);
                }
            }
            format!("/containerLogs/{namespace}/{name}/{}", container(call, pod)?)
        }
        kind => {
            for (ours, theirs, unless_said) in STREAMS {
                let given = call.query.get(ours).map_or(unless_said, |value| !matches!(value, "false" | "0"));
                if given {
                    add(theirs, "1");
                }
            }
            call.query.all("command").for_each(|word| add("command", word));
            format!("/{kind}/{namespace}/{name}/{}", container(call, pod)?)
        }
    };
    Ok(if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The container that is meant (upstream's `podutils.ContainerLogs` and `streamLocation`).
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container.get("name")?.as_str()).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = meta::name(pod);
    match call.query.get("container") {
        Some(wanted) if [&main, &init, &ephemeral].iter().any(|list| list.contains(&wanted)) => {
            Ok(wanted.to_owned())
        }
        Some(wanted) => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None if main.is_empty() => {
            Err(Status::bad_request(format!("a container name must be specified for pod {name}")))
        }
        None => {
            let mut text = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}
