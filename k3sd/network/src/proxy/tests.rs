//! Golden tests: whole scripts for a few clusters. `SKERRY_BLESS=1 cargo test -p network` rewrites the files.

use std::path::PathBuf;

use client::ObjectKey;
use serde_json::{Value, json};

use super::model::{Family, Model, Service, Slice};
use super::rules::{Rules, Site, rules};
use super::script;

fn site() -> Site {
    let cluster_cidrs = ["10.42.0.0/16", "fd00:42::/56"].map(|cidr| cidr.parse().unwrap()).to_vec();
    Site { node: "here".to_owned(), cluster_cidrs }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: Some("default".to_owned()), name: name.to_owned() }
}

fn add_service(model: &mut Model, name: &str, spec: Value, balancer: &[&str]) {
    let ingress: Vec<Value> = balancer.iter().map(|ip| json!({ "ip": ip })).collect();
    let object = json!({
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    model.set_service(key(name), Service::project(&serde_json::from_value(object).unwrap()));
}

/// `endpoints`: address, node, ready.
fn add_slice(model: &mut Model, service: &str, port: Value, endpoints: &[(&str, &str, bool)]) {
    let family = if endpoints.iter().any(|(address, ..)| address.contains(':')) { "IPv6" } else { "IPv4" };
    let list: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready)| {
            // What is not ready is on its way out here.
            let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let object = json!({
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": list, "ports": [port],
    });
    let name = key(&format!("{service}-{family}"));
    model.set_slice(name, Slice::project(&serde_json::from_value(object).unwrap()));
}

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SKERRY_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs; wanted:\n{expected}\ngot:\n{text}", path.display());
}

fn web(cluster_ips: &[&str]) -> Value {
    json!({
        "type": "NodePort", "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips,
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
    })
}

fn http() -> Value {
    json!({"name": "http", "port": 8080})
}

#[test]
fn a_node_port_service_with_two_families() {
    let mut model = Model::default();
    add_service(&mut model, "web", web(&["10.43.0.5", "fd00:43::5"]), &[]);
    add_slice(&mut model, "web", http(), &[("10.42.0.5", "here", true), ("10.42.1.7", "there", true)]);
    add_slice(&mut model, "web", http(), &[("fd00:42::5", "here", true)]);
    golden("node-port-4.nft", &script::whole(&rules(&model, Family::V4, &site()), Family::V4));
    golden("node-port-6.nft", &script::whole(&rules(&model, Family::V6, &site()), Family::V6));
}

#[test]
fn a_load_balancer_with_local_traffic_sticky_clients_and_source_ranges() {
    let mut model = Model::default();
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.6", "clusterIPs": ["10.43.0.6"],
        "externalIPs": ["198.51.100.1"], "loadBalancerSourceRanges": ["192.0.2.0/24", "192.0.2.128/25"],
        "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}],
    });
    add_service(&mut model, "dns", spec, &["203.0.113.9"]);
    let port = json!({"name": "", "port": 53, "protocol": "UDP"});
    add_slice(&mut model, "dns", port, &[("10.42.0.6", "here", true), ("10.42.1.6", "there", true)]);
    golden("load-balancer.nft", &script::whole(&rules(&model, Family::V4, &site()), Family::V4));
}

#[test]
fn services_without_endpoints_are_rejected_and_others_left_out() {
    let mut model = Model::default();
    add_service(&mut model, "web", web(&["10.43.0.5"]), &[]);
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]});
    add_service(&mut model, "headless", headless, &[]);
    add_service(&mut model, "elsewhere", json!({"type": "ExternalName", "externalName": "example.org"}), &[]);
    let wanted = rules(&model, Family::V4, &site());
    let keys: Vec<_> = wanted.elements.keys().map(|(set, key)| format!("{set} {key}")).collect();
    assert_eq!(keys, ["no-endpoint-ips 10.43.0.5 . tcp . 80", "no-endpoint-ports tcp . 30080"]);
    assert!(wanted.chains.is_empty());
}

#[test]
fn an_endpoint_that_goes_changes_only_its_service() {
    let mut model = Model::default();
    add_service(
        &mut model,
        "other",
        json!({"clusterIP": "10.43.0.7", "ports": [{"port": 80, "name": "http"}]}),
        &[],
    );
    add_slice(&mut model, "other", http(), &[("10.42.0.9", "here", true)]);
    add_service(&mut model, "web", web(&["10.43.0.5"]), &[]);
    add_slice(&mut model, "web", http(), &[("10.42.0.5", "here", true), ("10.42.1.7", "there", true)]);
    let before = rules(&model, Family::V4, &site());
    add_slice(&mut model, "web", http(), &[("10.42.1.7", "there", true)]);
    let after = rules(&model, Family::V4, &site());
    let expected = "\
delete element ip skerry-services hairpin { 10.42.0.5 . 10.42.0.5 }
flush chain ip skerry-services all/default/web/tcp/80
add rule ip skerry-services all/default/web/tcp/80 meta l4proto tcp dnat to 10.42.1.7:8080
";
    assert_eq!(script::change(&before, &after, Family::V4).unwrap(), expected);
    assert_eq!(script::change(&after, &after, Family::V4), None);
    golden("last-service-goes.nft", &script::change(&after, &Rules::default(), Family::V4).unwrap());
}

#[test]
fn terminating_endpoints_serve_only_while_nothing_else_does() {
    let mut model = Model::default();
    add_service(&mut model, "web", web(&["10.43.0.5"]), &[]);
    let target = |model: &Model| rules(model, Family::V4, &site()).chains["all/default/web/tcp/80"].concat();
    add_slice(&mut model, "web", http(), &[("10.42.0.5", "here", false), ("10.42.1.7", "there", true)]);
    assert_eq!(target(&model), "meta l4proto tcp dnat to 10.42.1.7:8080");
    add_slice(&mut model, "web", http(), &[("10.42.0.5", "here", false)]);
    assert_eq!(target(&model), "meta l4proto tcp dnat to 10.42.0.5:8080");
}

#[test]
fn local_traffic_without_local_endpoints_is_dropped() {
    let mut model = Model::default();
    let mut spec = web(&["10.43.0.5"]);
    spec["internalTrafficPolicy"] = json!("Local");
    spec["externalTrafficPolicy"] = json!("Local");
    add_service(&mut model, "web", spec, &[]);
    add_slice(&mut model, "web", http(), &[("10.42.1.7", "there", true)]);
    let chains = rules(&model, Family::V4, &site()).chains;
    assert_eq!(chains["internal/default/web/tcp/80"].last().unwrap(), "drop");
    assert_eq!(chains["external/default/web/tcp/80"].last().unwrap(), "drop");
}

#[test]
fn a_change_that_makes_no_difference_is_none() {
    let mut model = Model::default();
    add_service(&mut model, "web", web(&["10.43.0.5"]), &[]);
    let again = json!({"metadata": {"name": "web", "labels": {"new": "label"}}, "spec": web(&["10.43.0.5"])});
    let again = Service::project(&serde_json::from_value(again).unwrap());
    assert!(!model.set_service(key("web"), again));
    assert!(model.set_service(key("web"), None));
    assert!(!model.set_slice(key("unknown"), None));
}
