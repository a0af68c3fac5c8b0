//! Decisions of the whole framework over small clusters, from the JSON that the API server serves.

use serde_json::{Value, json};

use crate::{
    cache::Cache,
    views::{Node, Pod},
};

fn node(name: &str, change: impl FnOnce(&mut Value)) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": "ssd", "cores": "4"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut value = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"schedulerName": "default-scheduler", "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        ]},
    });
    change(&mut value["spec"]);
    serde_json::from_value(value).unwrap()
}

fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cache {
    let mut cache = Cache::default();
    for node in nodes {
        cache.set_node(node);
    }
    cache
}

fn choose(cache: &Cache, pod: &Pod) -> Result<String, String> {
    super::default().choose(pod, cache).map_err(|error| error.message)
}

#[test]
fn each_plugin_says_upstream_s_words_when_it_refuses() {
    let affinity = |key: &str, operator: &str, values: &[&str]| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]},
        ]}}})
    };
    let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect}]);
    type Edit = Box<dyn Fn(&mut Value)>;
    let cases: Vec<(Edit, Edit, Option<&str>)> = vec![
        (Box::new(|_| ()), Box::new(|_| ()), None),
        (
            Box::new(|n| n["spec"]["unschedulable"] = json!(true)),
            Box::new(|_| ()),
            Some("node(s) were unschedulable"),
        ),
        (
            Box::new(|n| n["spec"]["unschedulable"] = json!(true)),
            Box::new(|p| p["tolerations"] = json!([{"operator": "Exists"}])),
            None,
        ),
        (
            Box::new(move |n| n["spec"]["taints"] = taint("NoSchedule")),
            Box::new(|p| p["tolerations"] = json!([{"key": "k", "value": "other", "effect": "NoSchedule"}])),
            Some("node(s) had untolerated taint(s)"),
        ),
        (
            Box::new(move |n| n["spec"]["taints"] = taint("NoExecute")),
            Box::new(|p| p["tolerations"] = json!([{"key": "k", "value": "v"}])),
            None,
        ),
        (Box::new(move |n| n["spec"]["taints"] = taint("PreferNoSchedule")), Box::new(|_| ()), None),
        (
            Box::new(|_| ()),
            Box::new(|p| p["nodeSelector"] = json!({"disk": "tape"})),
            Some("node(s) didn't match Pod's node affinity/selector"),
        ),
        (Box::new(|_| ()), Box::new(move |p| p["affinity"] = affinity("cores", "Gt", &["3"])), None),
        (
            Box::new(|_| ()),
            Box::new(move |p| p["affinity"] = affinity("cores", "Lt", &["4"])),
            Some("node(s) didn't match Pod's node affinity/selector"),
        ),
        (Box::new(|_| ()), Box::new(move |p| p["affinity"] = affinity("gpu", "NotIn", &["x"])), None),
        (
            Box::new(|_| ()),
            Box::new(move |p| p["affinity"] = affinity("gpu", "Exists", &[])),
            Some("node(s) didn't match Pod's node affinity/selector"),
        ),
        (
            Box::new(|_| ()),
            Box::new(|p| p["containers"][0]["resources"]["requests"]["cpu"] = json!("2500m")),
            Some("Insufficient cpu"),
        ),
        (
            Box::new(|_| ()),
            Box::new(|p| p["containers"][0]["resources"]["requests"]["example.com/gpu"] = json!("1")),
            Some("Insufficient example.com/gpu"),
        ),
        (
            Box::new(|n| n["status"]["allocatable"]["pods"] = json!("0")),
            Box::new(|_| ()),
            Some("Too many pods"),
        ),
    ];
    for (index, (edit_node, edit_pod, expected)) in cases.iter().enumerate() {
        let outcome = choose(&cluster([node("a", edit_node)]), &pod(edit_pod));
        let expected = match expected {
            None => Ok("a".to_owned()),
            Some(reason) => Err(format!("0/1 nodes are available: 1 {reason}.")),
        };
        assert_eq!(outcome, expected, "case {index}");
    }
}

#[test]
fn reasons_of_several_nodes_are_counted_and_ordered() {
    let taints = |n: &mut Value| n["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    let small = |n: &mut Value| n["status"]["allocatable"] = json!({"cpu": "1m", "memory": "1", "pods": "1"});
    let cache = cluster([node("a", taints), node("b", taints), node("c", small)]);
    assert_eq!(
        choose(&cache, &pod(|_| ())).unwrap_err(),
        "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 2 node(s) had untolerated taint(s)."
    );
    assert_eq!(choose(&Cache::default(), &pod(|_| ())).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn host_ports_conflict_by_address_and_protocol() {
    let with_port = |uid: &str, port: Value| {
        let mut pod = pod(|spec| spec["containers"][0]["ports"] = json!([port]));
        pod.uid = uid.to_owned();
        pod
    };
    let mut cache = cluster([node("a", |_| ())]);
    cache.assume(&with_port("1", json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"})), "a");
    for (port, fits) in [
        (json!({"containerPort": 80, "hostPort": 80}), false),
        (json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}), false),
        (json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.2"}), true),
        (json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}), true),
        (json!({"containerPort": 80, "hostPort": 81}), true),
        (json!({"containerPort": 80}), true),
    ] {
        assert_eq!(choose(&cache, &with_port("2", port.clone())).is_ok(), fits, "{port}");
    }
}

#[test]
fn the_emptier_the_preferred_and_the_untainted_node_wins() {
    let mut cache = cluster([node("busy", |_| ()), node("idle", |_| ())]);
    let mut other = pod(|_| ());
    other.uid = "other".to_owned();
    cache.assume(&other, "busy");
    assert_eq!(choose(&cache, &pod(|_| ())).unwrap(), "idle");
    let prefers = pod(|spec| {
        spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["busy"]}]}},
        ]}});
    });
    assert_eq!(choose(&cache, &prefers).unwrap(), "busy");
    cache.set_node(node("busy", |n| {
        n["spec"]["taints"] = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
    }));
    assert_eq!(choose(&cache, &prefers).unwrap(), "idle");
}

#[test]
fn a_pod_that_names_its_node_by_affinity_considers_only_that() {
    let cache = cluster(["a", "b", "c"].map(|name| node(name, |_| ())));
    let daemon = |name: &str| {
        pod(|spec| {
            spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchFields":
                    [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}});
        })
    };
    assert_eq!(choose(&cache, &daemon("b")).unwrap(), "b");
    assert_eq!(
        choose(&cache, &daemon("z")).unwrap_err(),
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
}
