//! Containers of the three kinds: init, ordinary, ephemeral.

use std::collections::BTreeSet;

use machinery::status::FieldError;

use super::probes::{
    data_key, validate_lifecycle, validate_port_number, validate_probes, validate_reference_name,
    variable_name,
};
use super::volumes::Volumes;
use super::{resources, security, volumes};
use crate::names;
use crate::strategy::walk::{Faults, Node};

/// Fields of the pod that an environment variable may hold; labels and annotations only by key.
const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const VARIABLE_RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    Ordinary,
    Ephemeral,
}

/// What containers may refer to in their pod.
struct Known<'a, 'v> {
    volumes: &'a Volumes<'v>,
    claims: &'a BTreeSet<&'a str>,
    /// Whether users of the pod are those of the node.
    host_users: bool,
}

/// Everything about the containers of a pod spec.
pub(super) fn validate_all(spec: &Node<'_>, volumes: &Volumes<'_>, faults: &mut Faults) {
    let containers = spec.get("containers");
    if containers.len() == 0 {
        faults.required(&containers, "");
    }
    let claims: BTreeSet<&str> = spec.get("resourceClaims").items().map(|c| c.get("name").str()).collect();
    let host_users = !spec.get("hostUsers").is_set() || spec.get("hostUsers").bool();
    let known = Known { volumes, claims: &claims, host_users };
    let mut seen = BTreeSet::new();
    let lists = [
        ("containers", Role::Ordinary),
        ("initContainers", Role::Init),
        ("ephemeralContainers", Role::Ephemeral),
    ];
    for (list, role) in lists {
        for container in spec.get(list).items() {
            let name = container.get("name");
            if !name.str().is_empty() && !seen.insert(name.str()) {
                faults.duplicate(&name);
            }
            validate(&container, role, &known, faults);
        }
    }
    validate_host_ports(spec, faults);
    for container in spec.get("ephemeralContainers").items() {
        let target = container.get("targetContainerName");
        let exists = |list: &str| spec.get(list).items().any(|c| c.get("name").str() == target.str());
        if !target.str().is_empty() && !exists("containers") && !exists("initContainers") {
            faults.push(FieldError::not_found(target.path(), target.str()));
        }
    }
}

fn validate(container: &Node<'_>, role: Role, known: &Known<'_, '_>, faults: &mut Faults) {
    faults.required_name(&container.get("name"), names::dns1123_label);
    validate_image(&container.get("image"), faults);
    faults.one_of(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    validate_ports(&container.get("ports"), faults);
    validate_env(container, faults);
    volumes::validate_mounts(container, known.volumes, faults);
    faults.one_of(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::validate(&container.get("resources"), faults);
    resources::validate_claims(&container.at("resources.claims"), known.claims, faults);
    validate_resize_policy(&container.get("resizePolicy"), faults);
    security::validate_container(&container.get("securityContext"), known.host_users, faults);
    validate_role(container, role, faults);
}

fn validate_role(container: &Node<'_>, role: Role, faults: &mut Faults) {
    let policy = container.get("restartPolicy");
    let sidecar = role == Role::Init && policy.str() == "Always";
    match role {
        Role::Ephemeral => {
            for field in
                ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"]
            {
                let node = container.get(field);
                if node.is_set() {
                    faults.forbidden(&node, "cannot be set for an Ephemeral Container");
                }
            }
        }
        Role::Init if !sidecar => {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let node = container.get(field);
                if node.is_set() {
                    faults
                        .forbidden(&node, "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
        Role::Init | Role::Ordinary => {
            validate_lifecycle(container, faults);
            validate_probes(container, faults);
        }
    }
    faults.one_of_if_set(&policy, &["Always", "Never", "OnFailure"]);
}

/// What a container does when its resources change while it runs.
fn validate_resize_policy(policies: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        faults.one_of(&resource, &["cpu", "memory"]);
        if !resource.str().is_empty() && !seen.insert(resource.str()) {
            faults.push(FieldError::duplicate(policy.path(), resource.str()));
        }
        faults.one_of(&restart, &["NotRequired", "RestartContainer"]);
    }
}

pub(super) fn validate_image(image: &Node<'_>, faults: &mut Faults) {
    if image.str().is_empty() {
        faults.required(image, "");
    } else if image.str().trim() != image.str() {
        faults.invalid(image, "must not have leading or trailing whitespace");
    }
}

fn validate_ports(ports: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.str().is_empty() {
            let details = names::port_name(name.str(), false);
            if details.is_empty() && !seen.insert(name.str()) {
                faults.duplicate(&name);
            }
            for detail in details {
                faults.invalid(&name, detail);
            }
        }
        let number = port.get("containerPort");
        if number.int().unwrap_or(0) == 0 {
            faults.required(&number, "");
        } else {
            validate_port_number(&number, faults);
        }
        if port.get("hostPort").int().is_some_and(|n| n != 0) {
            validate_port_number(&port.get("hostPort"), faults);
        }
        faults.one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// No two containers may take one port of the node, and on the node's network both numbers are the same.
fn validate_host_ports(spec: &Node<'_>, faults: &mut Faults) {
    let mut taken = BTreeSet::new();
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|n| *n != 0) else { continue };
            if spec.get("hostNetwork").bool() && port.get("containerPort").int() != Some(number) {
                faults
                    .invalid(&port.get("containerPort"), "must match `hostPort` when `hostNetwork` is true");
            }
            let key = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
            if !taken.insert(key.clone()) {
                faults.push(FieldError::duplicate(host.path(), key));
            }
        }
    }
}

fn validate_env(container: &Node<'_>, faults: &mut Faults) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        if name.str().is_empty() {
            faults.required(&name, "");
        }
        for detail in variable_name(name.str()) {
            faults.invalid(&name, detail);
        }
        validate_value_from(&variable, faults);
    }
    for source in container.get("envFrom").items() {
        let prefix = source.get("prefix");
        for detail in variable_name(prefix.str()) {
            faults.invalid(&prefix, detail);
        }
        let kinds: Vec<_> =
            ["configMapRef", "secretRef"].iter().map(|k| source.get(k)).filter(Node::is_set).collect();
        match kinds.as_slice() {
            [reference] => validate_reference_name(reference, faults),
            [] => faults.push(FieldError::invalid(
                source.path(),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            _ => faults.push(FieldError::invalid(
                source.path(),
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}

fn validate_value_from(variable: &Node<'_>, faults: &mut Faults) {
    let from = variable.get("valueFrom");
    if !from.is_set() {
        return;
    }
    let kinds: Vec<(&str, _)> = from.entries().map(|(kind, _)| (kind, from.get(kind))).collect();
    if !variable.get("value").str().is_empty() && !kinds.is_empty() {
        faults.push(FieldError::invalid(from.path(), "", "may not be specified when `value` is not empty"));
    } else if kinds.is_empty() {
        faults.push(FieldError::invalid(
            from.path(),
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef`, or `fileKeyRef`",
        ));
    } else if kinds.len() > 1 {
        faults.push(FieldError::invalid(
            from.path(),
            "",
            "may not have more than one field specified at a time",
        ));
    }
    for (kind, node) in kinds {
        match kind {
            "fieldRef" => validate_field_ref(&node, faults),
            "resourceFieldRef" => {
                let resource = node.get("resource");
                if resource.str().is_empty() {
                    faults.required(&resource, "");
                } else if !resource.str().contains(".hugepages-") {
                    faults.one_of(&resource, &VARIABLE_RESOURCES);
                }
            }
            "configMapKeyRef" | "secretKeyRef" => {
                validate_reference_name(&node, faults);
                let key = node.get("key");
                if key.str().is_empty() {
                    faults.required(&key, "");
                } else {
                    for detail in data_key(key.str()) {
                        faults.invalid(&key, detail);
                    }
                }
            }
            _ => {}
        }
    }
}

fn validate_field_ref(field: &Node<'_>, faults: &mut Faults) {
    let path = field.get("fieldPath");
    if path.str().is_empty() {
        faults.required(&path, "");
        return;
    }
    match path.str().split_once("['") {
        Some(("metadata.labels" | "metadata.annotations", key)) if key.ends_with("']") => {
            let key = key.trim_end_matches("']");
            for detail in names::qualified_name(key) {
                faults.push(FieldError::invalid(path.path(), key, detail));
            }
        }
        _ if VARIABLE_FIELDS.contains(&path.str()) => {}
        _ => {
            let mut supported = VARIABLE_FIELDS.to_vec();
            supported.extend(["metadata.annotations", "metadata.labels"]);
            supported.sort_unstable();
            faults.push(FieldError::not_supported(path.path(), path.str(), &supported));
        }
    }
}
