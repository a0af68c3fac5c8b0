//! What to create, update and delete so that the slices list the pods. No I/O.
//!
//! Slices are filled by address family and port list, up to a hundred endpoints each. Endpoints stay in the slice they
//! are in, so that a change of one pod writes one slice.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::api::ObjectMeta;

use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::{
    ownership::controller_reference,
    service::{Pod, ResolvedPort, resolve_ports},
};

const MAX_ENDPOINTS: usize = 100;
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What all slices of a service have in common.
pub(super) struct Template {
    metadata: ObjectMeta,
}

#[derive(Debug, Default)]
pub(super) struct Actions {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// Slices of one group have the same family and ports.
type Group = (String, Vec<ResolvedPort>);

impl Template {
    pub(super) fn of(service: &Service) -> Self {
        let name = service.metadata.name.clone().unwrap_or_default();
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.remove(HEADLESS);
        if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        labels.insert(SERVICE_NAME.to_owned(), name.clone());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        let metadata = ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        };
        Self { metadata }
    }

    fn service_name(&self) -> &str {
        let name = self.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        name.map(String::as_str).unwrap_or_default()
    }

    fn slice(&self, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: self.metadata.clone(),
            address_type: group.0.clone(),
            endpoints: Some(endpoints),
            ports: Some(group.1.iter().map(slice_port).collect()),
        }
    }

    /// The slice with the metadata it should have.
    fn renew(&self, mut slice: EndpointSlice) -> EndpointSlice {
        slice.metadata.labels.clone_from(&self.metadata.labels);
        slice.metadata.owner_references.clone_from(&self.metadata.owner_references);
        slice
    }
}

pub(super) fn plan(
    template: &Template,
    spec: &ServiceSpec,
    pods: &[Pod],
    present: Vec<EndpointSlice>,
    zone: impl Fn(&str) -> Option<String>,
) -> Actions {
    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let mut actions = Actions::default();
    let (present, foreign): (Vec<_>, Vec<_>) =
        present.into_iter().partition(|slice| families.contains(&slice.address_type));
    actions.delete = foreign;
    for family in &families {
        let mine = present.iter().filter(|slice| slice.address_type == *family).cloned().collect();
        let mut groups = BTreeMap::<Group, Vec<Endpoint>>::new();
        for pod in pods {
            if let Some(endpoint) = endpoint(pod, family, spec, template.service_name(), &zone) {
                groups.entry((family.clone(), resolve_ports(spec, pod))).or_default().push(endpoint);
            }
        }
        if groups.is_empty() {
            // A service that has no endpoints has one slice that says so.
            groups.insert((family.clone(), Vec::new()), Vec::new());
        }
        plan_family(template, groups, mine, &mut actions);
    }
    actions
}

fn plan_family(
    template: &Template,
    groups: BTreeMap<Group, Vec<Endpoint>>,
    mut present: Vec<EndpointSlice>,
    actions: &mut Actions,
) {
    for (group, endpoints) in groups {
        let ports: Vec<_> = group.1.iter().map(slice_port).collect();
        let of_group = |slice: &EndpointSlice| slice.ports.as_deref().unwrap_or_default() == ports;
        let (mine, rest): (Vec<_>, Vec<_>) = present.into_iter().partition(of_group);
        present = rest;
        plan_group(template, &group, endpoints, mine, actions);
    }
    actions.delete.extend(present);
}

fn plan_group(
    template: &Template,
    group: &Group,
    endpoints: Vec<Endpoint>,
    present: Vec<EndpointSlice>,
    actions: &mut Actions,
) {
    let empty = endpoints.is_empty();
    let mut wanted: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    // First every endpoint that is listed already keeps its place.
    let mut filled: Vec<(EndpointSlice, Vec<Endpoint>)> = present
        .into_iter()
        .map(|slice| {
            let listed = slice.endpoints.iter().flatten().map(identity);
            let kept = listed.filter_map(|identity| wanted.remove(&identity)).collect();
            (slice, kept)
        })
        .collect();
    // Then the others fill up what has room, the fullest first, and the rest goes into new slices.
    filled.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.len()));
    let mut others = wanted.into_values();
    for (_, kept) in &mut filled {
        let room = MAX_ENDPOINTS.saturating_sub(kept.len());
        kept.extend(others.by_ref().take(room));
    }
    let mut kept_any = false;
    for (slice, kept) in filled {
        // Of the empty ones, one is kept if the service has no endpoints at all.
        if kept.is_empty() && (!empty || kept_any) {
            actions.delete.push(slice);
            continue;
        }
        kept_any = true;
        let renewed = template.renew(EndpointSlice { endpoints: Some(kept), ..slice.clone() });
        let unchanged = renewed.metadata == slice.metadata
            && renewed.endpoints.as_deref() == Some(slice.endpoints.as_deref().unwrap_or_default());
        if !unchanged {
            actions.update.push(renewed);
        }
    }
    let others: Vec<_> = others.collect();
    actions.create.extend(others.chunks(MAX_ENDPOINTS).map(|chunk| template.slice(group, chunk.to_vec())));
    if empty && !kept_any {
        actions.create.push(template.slice(group, Vec::new()));
    }
}

/// An endpoint is the same endpoint as long as pod and address are.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.join(","))
}

fn endpoint(
    pod: &Pod,
    family: &str,
    service: &ServiceSpec,
    service_name: &str,
    zone: impl Fn(&str) -> Option<String>,
) -> Option<Endpoint> {
    let address = pod.address(family)?.to_owned();
    let publish = service.publish_not_ready_addresses == Some(true);
    let serving = publish || pod.is_ready();
    let terminating = pod.is_terminating();
    let conditions = EndpointConditions {
        // publishNotReadyAddresses promises addresses even of pods on their way out.
        ready: Some(publish || (serving && !terminating)),
        serving: Some(serving),
        terminating: Some(terminating),
    };
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(conditions),
        hostname: pod.hostname_in(service_name),
        node_name: pod.node_name().map(str::to_owned),
        target_ref: Some(pod.reference()),
        zone: pod.node_name().and_then(zone),
        ..Endpoint::default()
    })
}

fn slice_port(port: &ResolvedPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
            "spec": {"ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
        }))
        .unwrap()
    }

    fn pod(index: usize, change: impl FnOnce(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {"name": format!("p{index}"), "namespace": "n", "uid": format!("u{index}")},
            "spec": {"nodeName": "node", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.0.{}.{}", index / 250, index % 250),
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn run(pods: &[Pod], present: Vec<EndpointSlice>) -> Actions {
        let service = service();
        plan(&Template::of(&service), service.spec.as_ref().unwrap(), pods, present, |_| Some("z".to_owned()))
    }

    fn named(slices: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
        let name = |(index, mut slice): (usize, EndpointSlice)| {
            slice.metadata.name = Some(format!("slice{index}"));
            slice
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect()
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        let unready = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = json!("False");
        let leaving = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let pods = [
            pod(0, |_| ()),
            pod(1, unready),
            pod(2, leaving),
            pod(3, |pod| {
                unready(pod);
                leaving(pod);
            }),
            pod(4, |pod| pod["status"]["podIP"] = json!(null)),
        ];
        let actions = run(&pods, Vec::new());
        let slice = &actions.create[0];
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| endpoint.conditions.clone().unwrap())
            .map(|all| (all.ready.unwrap(), all.serving.unwrap(), all.terminating.unwrap()))
            .collect();
        let expected =
            [(true, true, false), (false, false, false), (false, true, true), (false, false, true)];
        assert_eq!(conditions, expected);
        assert_eq!(
            serde_json::to_value(&slice.endpoints.as_ref().unwrap()[0]).unwrap(),
            json!({"addresses": ["10.0.0.0"], "nodeName": "node", "zone": "z",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "n", "name": "p0", "uid": "u0"}})
        );
        assert_eq!(
            serde_json::to_value(&slice.ports).unwrap(),
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
        );
        let labels = serde_json::to_value(&slice.metadata.labels).unwrap();
        assert_eq!(
            labels,
            json!({"team": "a", "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
        );
    }

    #[test]
    fn slices_hold_a_hundred_and_one_pod_s_change_writes_one_slice() {
        let pods: Vec<_> = (0..230).map(|index| pod(index, |_| ())).collect();
        let created = named(run(&pods, Vec::new()).create);
        assert_eq!(sizes(&created), [100, 100, 30]);
        let nothing = run(&pods, created.clone());
        assert!(nothing.create.is_empty() && nothing.update.is_empty() && nothing.delete.is_empty());

        let mut changed = pods.clone();
        changed[150] = pod(150, |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
        let actions = run(&changed, created.clone());
        assert_eq!((actions.create.len(), actions.update.len(), actions.delete.len()), (0, 1, 0));

        let fewer: Vec<_> = pods.iter().take(199).chain(&[pod(300, |_| ())]).cloned().collect();
        let actions = run(&fewer, created);
        assert!(actions.create.is_empty());
        let total: usize = sizes(&actions.update).iter().sum();
        assert!(total <= 200, "{total}");
    }

    #[test]
    fn a_service_without_endpoints_keeps_one_empty_slice() {
        let first = run(&[], Vec::new());
        assert_eq!(sizes(&first.create), [0]);
        let empty = named(first.create);
        let again = run(&[], empty.clone());
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let filled = run(&[pod(0, |_| ())], empty);
        assert_eq!((sizes(&filled.create), filled.delete.len()), (vec![1], 1));
    }

    #[test]
    fn pods_that_serve_a_named_port_elsewhere_get_a_slice_of_their_own() {
        let other = |pod: &mut Value| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
        let actions = run(&[pod(0, |_| ()), pod(1, other), pod(2, |_| ())], Vec::new());
        assert_eq!(sizes(&actions.create), [2, 1]);
    }
}
