use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn usage(plural: &str, object: &Value) -> String {
    Kind::core(plural).usage(object, now()).to_string()
}

fn pod(resources: Value) -> Value {
    json!({ "spec": { "containers": [{ "name": "c", "resources": resources }] } })
}

#[test]
fn a_pod_takes_what_it_asks_for_until_it_is_over() {
    let asked = json!({ "requests": { "cpu": "100m", "acme.com/gpu": "1", "hugepages-2Mi": "4Mi" },
        "limits": { "cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi" } });
    let mut running = pod(asked);
    assert_eq!(
        usage("pods", &running),
        "count/pods=1,cpu=100m,hugepages-2Mi=4Mi,limits.cpu=1,limits.ephemeral-storage=1Gi,limits.memory=1Gi,\
         pods=1,requests.acme.com/gpu=1,requests.cpu=100m,requests.hugepages-2Mi=4Mi"
    );
    running["metadata"] =
        json!({ "deletionTimestamp": "2025-12-31T23:59:50Z", "deletionGracePeriodSeconds": 30 });
    assert!(usage("pods", &running).contains(",pods=1,"), "still within its grace period");
    running["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    assert_eq!(usage("pods", &running), "count/pods=1");
    let mut over = pod(json!({}));
    over["status"] = json!({ "phase": "Succeeded" });
    assert_eq!(usage("pods", &over), "count/pods=1");
}

#[test]
fn a_claim_counts_for_its_class_as_well() {
    let claim = json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1Gi" } } },
        "status": { "allocatedResources": { "storage": "2Gi" } } });
    assert_eq!(
        usage("persistentvolumeclaims", &claim),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
         gold.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi"
    );
    assert!(Kind::core("persistentvolumeclaims").takes("gold.storageclass.storage.k8s.io/requests.storage"));
}

#[test]
fn services_count_the_node_ports_they_will_get() {
    let service = |extra: Value| {
        let mut spec = json!({ "ports": [{ "port": 1, "nodePort": 30001 }, { "port": 2 }] });
        for (name, value) in extra.as_object().unwrap() {
            spec[name] = value.clone();
        }
        usage("services", &json!({ "spec": spec }))
    };
    let expected = |balancers: u8, ports: u8| {
        format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={ports}")
    };
    assert_eq!(service(json!({ "type": "ClusterIP" })), expected(0, 0));
    assert_eq!(service(json!({ "type": "NodePort" })), expected(0, 2));
    assert_eq!(service(json!({ "type": "LoadBalancer" })), expected(1, 2));
    let without = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false });
    assert_eq!(service(without), expected(1, 1));
}

#[test]
fn any_kind_is_counted_by_its_full_name() {
    let deployments = Kind { group: "apps", plural: "deployments" };
    assert_eq!(deployments.usage(&json!({}), now()).to_string(), "count/deployments.apps=1");
    assert_eq!(Kind::counted("count/deployments.apps"), Some(deployments));
    assert_eq!(usage("secrets", &json!({})), "count/secrets=1,secrets=1");
    assert_eq!(Kind::counted("secrets"), Some(Kind::core("secrets")));
    assert_eq!(Kind::counted("pods"), None);
    assert!(!deployments.takes("count/deployments.other.io") && !deployments.takes("deployments"));
}

#[test]
fn each_container_must_ask_for_what_is_bounded() {
    let pod = json!({ "spec": {
        "initContainers": [{ "name": "b" }],
        "containers": [{ "name": "a", "resources": { "requests": { "cpu": "1" } } }],
    } });
    let bounds = ["requests.cpu", "limits.memory", "pods", "requests.acme.com/gpu"];
    assert_eq!(missing(&bounds, &pod).unwrap(), "must specify limits.memory for: a,b; requests.cpu for: b");
    assert_eq!(missing(&["pods"], &pod), None);
}

#[test]
fn a_charge_beyond_a_bound_says_what_is_left() {
    let mut quota = Quota::of(&json!({ "metadata": { "name": "q" },
        "status": { "hard": { "pods": "2", "cpu": "1" }, "used": { "pods": "1", "cpu": "900m" } } }));
    let refused =
        quota.charge(&Kind::core("pods").usage(&pod(json!({ "requests": { "cpu": "200m" } })), now()));
    assert_eq!(
        refused.unwrap_err(),
        "exceeded quota: q, requested: cpu=200m, used: cpu=900m, limited: cpu=1"
    );
    quota.charge(&Kind::core("pods").usage(&pod(json!({ "requests": { "cpu": "100m" } })), now())).unwrap();
    assert_eq!(quota.used.to_string(), "cpu=1,pods=2");
}

#[test]
fn scopes_choose_which_pods_count() {
    let quota = |spec: Value| Quota::of(&json!({ "spec": spec }));
    let has = |quota: &Quota, pod: &Value| quota.has(Kind::core("pods"), pod);
    let (idle, busy) = (pod(json!({})), pod(json!({ "requests": { "cpu": "1" } })));
    let best_effort = quota(json!({ "scopes": ["BestEffort"] }));
    assert!(has(&best_effort, &idle) && !has(&best_effort, &busy));
    assert!(!best_effort.has(Kind::core("services"), &json!({})));
    let terminating = quota(json!({ "scopes": ["Terminating"] }));
    let mut limited = idle.clone();
    limited["spec"]["activeDeadlineSeconds"] = json!(5);
    assert!(has(&terminating, &limited) && !has(&terminating, &idle));
    let select = |operator: &str, values: Value| {
        let expression = json!({ "scopeName": "PriorityClass", "operator": operator, "values": values });
        quota(json!({ "scopeSelector": { "matchExpressions": [expression] } }))
    };
    let mut high = idle.clone();
    high["spec"]["priorityClassName"] = json!("high");
    assert!(has(&select("In", json!(["high"])), &high) && !has(&select("In", json!(["high"])), &idle));
    assert!(has(&select("Exists", json!([])), &high) && !has(&select("Exists", json!([])), &idle));
    assert!(has(&select("NotIn", json!(["high"])), &idle) && !has(&select("NotIn", json!(["high"])), &high));
    let mut across = idle.clone();
    across["spec"]["affinity"] = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution":
        [{ "podAffinityTerm": { "namespaceSelector": {} } }] } });
    let crossing = quota(json!({ "scopes": ["CrossNamespacePodAffinity"] }));
    assert!(has(&crossing, &across) && !has(&crossing, &idle));
}
