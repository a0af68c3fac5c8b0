//! Services through create, update and delete.

use serde_json::{Value, json};

use crate::strategy::testing::{Refusal, World};

fn service(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" }, "spec": spec })
}

fn create(world: &World, spec: Value) -> Result<Value, Refusal> {
    world.create("", "services", service(spec))
}

fn update(world: &World, old: &Value, change: impl FnOnce(&mut Value)) -> Result<Value, Refusal> {
    world.update("", "services", old, change)
}

#[test]
fn plain_service_gets_an_address_and_every_default() {
    let world = World::new();
    let made = create(&world, json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] })).unwrap();
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.43."), "{ip}");
    assert_eq!(
        made["spec"],
        json!({
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
            "selector": { "app": "web" },
            "sessionAffinity": "None",
            "type": "ClusterIP",
        })
    );
}

#[test]
fn headless_service_takes_no_address() {
    let world = World::with_ranges(&["10.43.0.0/30"], 30_000..=30_000);
    for _ in 0..5 {
        let made = create(&world, json!({ "clusterIP": "None", "selector": { "a": "b" } })).unwrap();
        assert_eq!(
            (&made["spec"]["clusterIP"], &made["spec"]["clusterIPs"]),
            (&json!("None"), &json!(["None"]))
        );
        assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    }
    let without_selector = create(&world, json!({ "clusterIP": "None" })).unwrap();
    assert_eq!(without_selector["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(without_selector["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[test]
fn chosen_address_must_be_free_and_in_range() {
    let world = World::new();
    let spec = json!({ "clusterIP": "10.43.0.10", "ports": [{ "port": 53 }] });
    let first = create(&world, spec.clone()).unwrap();
    let taken = create(&world, spec.clone()).unwrap_err();
    assert_eq!(
        taken.texts(),
        ["Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.10\"]: \
          failed to allocate IP 10.43.0.10: provided IP is already allocated"]
    );
    let outside = create(&world, json!({ "clusterIP": "192.0.2.9", "ports": [{ "port": 53 }] })).unwrap_err();
    assert!(
        outside.texts()[0].ends_with(
            "failed to allocate IP 192.0.2.9: the provided network does not match the current range"
        ),
        "{:?}",
        outside.texts()
    );
    let network = create(&world, json!({ "clusterIP": "10.43.0.0", "ports": [{ "port": 53 }] })).unwrap_err();
    assert!(
        network.texts()[0].ends_with(
            "failed to allocate IP 10.43.0.0: the provided IP (10.43.0.0) is not in the valid range. \
             The range of valid IPs is 10.43.0.0/16"
        ),
        "{:?}",
        network.texts()
    );
    world.delete("", "services", &first);
    create(&world, spec).unwrap();
}

#[test]
fn refused_service_gives_back_what_it_took() {
    let world = World::with_ranges(&["10.43.0.0/30"], 30_000..=30_000);
    let wrong = json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "tcp" }] });
    for _ in 0..3 {
        create(&world, wrong.clone()).unwrap_err();
    }
    create(&world, json!({ "type": "NodePort", "ports": [{ "port": 80 }] })).unwrap();
}

#[test]
fn node_ports_are_allocated_shared_between_protocols_and_exclusive_between_services() {
    let world = World::new();
    let ports = json!([{ "name": "a", "port": 53, "protocol": "TCP" }, { "name": "b", "port": 53, "protocol": "UDP" }]);
    let made = create(&world, json!({ "type": "NodePort", "ports": ports })).unwrap();
    let node_port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&node_port));
    assert_eq!(made["spec"]["ports"][1]["nodePort"], node_port);
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");

    let same = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": node_port }] });
    assert_eq!(
        create(&world, same).unwrap_err().texts(),
        [format!(
            "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: {node_port}: provided port is already allocated"
        )]
    );
    let low = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] });
    assert!(create(&world, low).unwrap_err().texts()[0].ends_with(
        "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. \
         The range of valid ports is 30000-32767"
    ));
}

#[test]
fn update_keeps_address_and_node_ports_that_it_does_not_name() {
    let world = World::new();
    let made = create(&world, json!({ "type": "NodePort", "ports": [{ "port": 80 }] })).unwrap();
    let changed = update(&world, &made, |object| {
        object["spec"] = json!({ "type": "NodePort", "ports": [{ "port": 81 }], "selector": { "a": "b" } });
    })
    .unwrap();
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(changed["spec"]["ports"][0]["nodePort"], made["spec"]["ports"][0]["nodePort"]);
}

#[test]
fn address_does_not_change_once_set() {
    let world = World::new();
    let made = create(&world, json!({ "clusterIP": "10.43.0.20", "ports": [{ "port": 80 }] })).unwrap();
    let refused =
        update(&world, &made, |object| object["spec"]["clusterIP"] = json!("10.43.0.21")).unwrap_err();
    assert_eq!(
        refused.texts(),
        ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.21\"]: may not change once set"]
    );
}

#[test]
fn changes_of_type_take_and_give_back_what_the_type_needs() {
    let world = World::with_ranges(&["10.43.0.0/30"], 30_000..=30_000);
    let plain = create(&world, json!({ "clusterIP": "10.43.0.1", "ports": [{ "port": 80 }] })).unwrap();
    let node_port = update(&world, &plain, |object| object["spec"]["type"] = json!("NodePort")).unwrap();
    assert_eq!(node_port["spec"]["ports"][0]["nodePort"], 30_000);

    let back = update(&world, &node_port, |object| object["spec"]["type"] = json!("ClusterIP")).unwrap();
    assert!(back["spec"]["ports"][0].get("nodePort").is_none());
    assert!(back["spec"].get("externalTrafficPolicy").is_none());
    assert!(world.allocators.node_ports.allocate(30_000).is_ok(), "the node port is free again");

    let external = update(&world, &back, |object| {
        object["spec"]["type"] = json!("ExternalName");
        object["spec"]["externalName"] = json!("example.com");
    })
    .unwrap();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
        assert!(external["spec"].get(field).is_none(), "{field}");
    }
    let again = create(&world, json!({ "clusterIP": "10.43.0.1", "ports": [{ "port": 80 }] }));
    assert!(again.is_ok(), "the address is free again");
}

#[test]
fn load_balancer_may_go_without_node_ports_and_gets_a_health_check_port() {
    let world = World::new();
    let spec = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }] });
    let made = create(&world, spec).unwrap();
    assert!(made["spec"]["ports"][0].get("nodePort").is_none());
    assert!(made["spec"]["healthCheckNodePort"].is_number());
}

#[test]
fn faults_read_as_upstream_writes_them() {
    let world = World::new();
    let texts = |spec| create(&world, spec).unwrap_err().texts();
    assert_eq!(texts(json!({})), ["spec.ports: Required value"]);
    assert_eq!(
        texts(json!({ "ports": [{ "port": 80 }, { "port": 81 }] })),
        ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]
    );
    assert_eq!(
        texts(json!({ "ports": [{ "port": 80, "nodePort": 30000 }] })),
        ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
    );
    assert_eq!(
        texts(json!({ "ports": [{ "port": 0 }] })),
        ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"; 1]
            .into_iter()
            .map(str::to_owned)
            .chain(["spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive"
                .to_owned()])
            .collect::<Vec<_>>()
    );
    assert_eq!(
        texts(json!({ "type": "Weird", "ports": [{ "port": 80 }] })),
        [
            "spec.type: Unsupported value: \"Weird\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
        ]
    );
    assert_eq!(
        texts(json!({ "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 80 }] })),
        ["Service \"web\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": \
          this cluster is not configured for dual-stack services"]
    );
}

#[test]
fn dual_stack_cluster_gives_an_address_of_each_family() {
    let world = World::with_ranges(&["10.43.0.0/16", "fd00:43::/112"], 30_000..=32_767);
    let made =
        create(&world, json!({ "ipFamilyPolicy": "PreferDualStack", "ports": [{ "port": 80 }] })).unwrap();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(made["spec"]["clusterIPs"][1].as_str().unwrap().starts_with("fd00:43::"));
    let single = create(&world, json!({ "ipFamilies": ["IPv6"], "ports": [{ "port": 80 }] })).unwrap();
    assert!(single["spec"]["clusterIP"].as_str().unwrap().starts_with("fd00:43::"));
}
