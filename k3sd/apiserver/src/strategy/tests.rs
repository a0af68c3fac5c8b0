//! The small kinds: what they are given, and what they refuse, in upstream's words.

use serde_json::{Value, json};

use super::testing::World;

fn create(group: &str, plural: &str, object: Value) -> Value {
    World::new().create(group, plural, object).unwrap_or_else(|refusal| panic!("{:?}", refusal.texts()))
}

fn faults(group: &str, plural: &str, object: Value) -> Vec<String> {
    World::new().create(group, plural, object).unwrap_err().texts()
}

fn update(group: &str, plural: &str, old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    World::new().update(group, plural, old, change).unwrap_err().texts()
}

fn named(mut object: Value) -> Value {
    object["metadata"]["name"] = "x".into();
    object
}

#[test]
fn namespace_is_active_labelled_and_held_by_its_finalizer() {
    let made = create("", "namespaces", named(json!({ "status": { "phase": "Terminating" } })));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    assert_eq!(
        (&made["spec"]["finalizers"], &made["status"]),
        (&json!(["kubernetes"]), &json!({ "phase": "Active" }))
    );
    let strategy = super::lookup("", "namespaces");
    assert!(strategy.holds_deletion(&made));
    let emptied = World::new().update("", "namespaces", &made, |object| object["spec"] = json!({})).unwrap();
    assert!(strategy.holds_deletion(&emptied), "only the finalize subresource takes the finalizer away");
    assert_eq!(
        faults("", "namespaces", named(json!({ "spec": { "finalizers": ["bare"] } }))),
        [
            "spec.finalizers[0]: Invalid value: \"bare\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
}

#[test]
fn node_settles_its_address_range_once() {
    let made = create(
        "",
        "nodes",
        named(json!({ "spec": { "podCIDR": "10.42.0.0/24" }, "status": { "capacity": { "cpu": "2" } } })),
    );
    assert_eq!(made["spec"]["podCIDRs"], json!(["10.42.0.0/24"]));
    assert_eq!(made["status"]["allocatable"]["cpu"], "2");
    assert_eq!(
        update("", "nodes", &made, |object| object["spec"] = json!({ "podCIDR": "10.42.1.0/24" })),
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
}

#[test]
fn secret_encodes_texts_and_keeps_its_type() {
    let made = create("", "secrets", named(json!({ "data": { "a": "MQ==" }, "stringData": { "b": "two" } })));
    assert_eq!((&made["type"], &made["data"]), (&json!("Opaque"), &json!({ "a": "MQ==", "b": "dHdv" })));
    assert!(made.get("stringData").is_none());
    assert_eq!(
        update("", "secrets", &made, |object| object["type"] = "other".into()),
        ["type: Invalid value: \"other\": field is immutable"]
    );
    assert_eq!(
        faults("", "secrets", named(json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } }))),
        ["data[tls.key]: Required value"]
    );
}

#[test]
fn immutable_config_map_stays_as_it_is() {
    let made = create("", "configmaps", named(json!({ "immutable": true, "data": { "a": "1" } })));
    assert_eq!(
        update("", "configmaps", &made, |object| {
            object["immutable"] = false.into();
            object["data"]["a"] = "2".into();
        }),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
}

#[test]
fn config_map_is_at_most_a_mebibyte_with_file_names_for_keys() {
    let big = named(json!({ "data": { "a": "x".repeat(1024 * 1024 + 1) } }));
    assert_eq!(faults("", "configmaps", big), ["Too long: may not be more than 1048576 bytes"]);
    assert!(
        faults("", "configmaps", named(json!({ "data": { "a/b": "" } })))[0]
            .starts_with("data[a/b]: Invalid value: \"a/b\"")
    );
}

#[test]
fn endpoint_slice_ports_get_defaults_and_addresses_match_their_type() {
    let slice = json!({ "addressType": "IPv4", "ports": [{ "port": 80 }], "endpoints": [{ "addresses": ["10.42.0.3"] }] });
    let made = create("discovery.k8s.io", "endpointslices", named(slice.clone()));
    assert_eq!(made["ports"], json!([{ "name": "", "port": 80, "protocol": "TCP" }]));
    let mut wrong = slice;
    wrong["endpoints"][0]["addresses"] = json!(["fd00::1", "127.0.0.1"]);
    assert_eq!(
        faults("discovery.k8s.io", "endpointslices", named(wrong)),
        [
            "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address, (e.g. 10.9.8.7)",
            "endpoints[0].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ]
    );
}

#[test]
fn event_belongs_to_the_namespace_of_what_it_is_about() {
    create("", "events", named(json!({ "involvedObject": { "namespace": "default" } })));
    create("", "events", named(json!({ "involvedObject": { "kind": "Node" } })));
    assert_eq!(
        faults("", "events", named(json!({ "involvedObject": { "namespace": "other" } }))),
        ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
    );
}

#[test]
fn limits_fill_in_from_maximum_and_minimum() {
    let spec =
        json!({ "limits": [{ "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1Mi" } }] });
    let made = create("", "limitranges", named(json!({ "spec": spec })));
    let limit = &made["spec"]["limits"][0];
    assert_eq!(limit["default"], json!({ "cpu": "2" }));
    assert_eq!(limit["defaultRequest"], json!({ "cpu": "2", "memory": "1Mi" }));
}

#[test]
fn claim_changes_only_its_size_and_only_upwards_once_bound() {
    let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
    let mut made = create("", "persistentvolumeclaims", named(json!({ "spec": spec })));
    assert_eq!(
        (&made["status"]["phase"], &made["spec"]["volumeMode"]),
        (&json!("Pending"), &json!("Filesystem"))
    );
    let frozen = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    let resize = |to: &'static str| {
        move |object: &mut Value| object["spec"]["resources"]["requests"]["storage"] = to.into()
    };
    assert_eq!(update("", "persistentvolumeclaims", &made, resize("2Gi")), [frozen]);
    made["status"]["phase"] = "Bound".into();
    World::new().update("", "persistentvolumeclaims", &made, resize("2Gi")).unwrap();
    assert_eq!(
        update("", "persistentvolumeclaims", &made, resize("1Mi")),
        ["spec.resources.requests.storage: Forbidden: field can not be less than previous value"]
    );
}

#[test]
fn storage_class_has_defaults_and_fixed_parameters() {
    let made = create("storage.k8s.io", "storageclasses", named(json!({ "provisioner": "p" })));
    assert_eq!((&made["reclaimPolicy"], &made["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    assert_eq!(
        update("storage.k8s.io", "storageclasses", &made, |object| object["parameters"] =
            json!({ "a": "b" })),
        ["parameters: Forbidden: updates to parameters are forbidden."]
    );
}

#[test]
fn binding_names_its_subjects_groups_and_keeps_its_role() {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let binding = json!({ "roleRef": { "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "kind": "User", "name": "u" }, { "kind": "ServiceAccount", "name": "s", "namespace": "n" }] });
    let made = create(GROUP, "rolebindings", named(binding));
    assert_eq!(
        (&made["roleRef"]["apiGroup"], &made["subjects"][0]["apiGroup"]),
        (&json!(GROUP), &json!(GROUP))
    );
    assert!(made["subjects"][1].get("apiGroup").is_none());
    let refused = update(GROUP, "rolebindings", &made, |object| object["roleRef"]["name"] = "edit".into());
    assert!(refused[0].ends_with("cannot change roleRef"), "{refused:?}");
    assert_eq!(
        faults(GROUP, "clusterrolebindings", named(json!({ "roleRef": { "kind": "Role", "name": "r" } }))),
        ["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]
    );
}

#[test]
fn rules_need_verbs_groups_and_resources() {
    const GROUP: &str = "rbac.authorization.k8s.io";
    assert_eq!(
        faults(GROUP, "roles", named(json!({ "rules": [{}] }))),
        [
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ]
    );
    let urls = json!({ "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz"] }] });
    create(GROUP, "clusterroles", named(urls.clone()));
    assert!(
        faults(GROUP, "roles", named(urls))[0]
            .ends_with("namespaced rules cannot apply to non-resource URLs")
    );
}

#[test]
fn network_policy_is_about_what_it_speaks_of() {
    let make = |spec: Value| create("networking.k8s.io", "networkpolicies", named(json!({ "spec": spec })));
    assert_eq!(make(json!({ "podSelector": {} }))["spec"]["policyTypes"], json!(["Ingress"]));
    let both = make(json!({ "podSelector": {}, "egress": [{ "ports": [{ "port": 53 }] }] }));
    assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(both["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
}

#[test]
fn ingress_paths_have_a_type_and_a_backend() {
    let rules = json!([{ "http": { "paths": [
        { "path": "/", "backend": {} },
        { "path": "a/../b", "pathType": "Exact", "backend": {} },
        { "path": "a", "pathType": "ImplementationSpecific", "backend": { "service": { "name": "s" } } },
        { "pathType": "Any", "backend": { "service": { "name": "s", "port": { "number": 1, "name": "a" } } } },
        { "path": "/", "pathType": "Prefix", "backend": { "resource": { "kind": "K" } } },
    ] } }]);
    assert_eq!(
        faults("networking.k8s.io", "ingresses", named(json!({ "spec": { "rules": rules } }))),
        [
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            "spec.rules[0].http.paths[1].path: Invalid value: \"a/../b\": must be an absolute path",
            "spec.rules[0].http.paths[1].path: Invalid value: \"a/../b\": must not contain '/../'",
            "spec.rules[0].http.paths[1].backend: Invalid value: \"\": resource or service backend is required",
            "spec.rules[0].http.paths[2].path: Invalid value: \"a\": must be an absolute path",
            "spec.rules[0].http.paths[2].backend: Required value: port name or number is required",
            "spec.rules[0].http.paths[3].pathType: Unsupported value: \"Any\": supported values: \"Exact\", \
             \"ImplementationSpecific\", \"Prefix\"",
            "spec.rules[0].http.paths[3].backend: Invalid value: \"\": cannot set both port name & port number",
            "spec.rules[0].http.paths[4].backend.resource.name: Required value",
        ]
    );
}

#[test]
fn secrets_of_registries_hold_json() {
    let secret = |data: Value| named(json!({ "type": "kubernetes.io/dockerconfigjson", "stringData": data }));
    assert!(create("", "secrets", secret(json!({ ".dockerconfigjson": "{}" })))["data"].is_object());
    assert_eq!(
        faults("", "secrets", secret(json!({ ".dockerconfigjson": "{\"auths\":" }))),
        [
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"
        ]
    );
    assert_eq!(
        faults("", "secrets", secret(json!({ ".dockerconfigjson": "\"hunter2\"" }))),
        [
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal string into Go value of \
          type map[string]interface {}"
        ]
    );
    let other = faults("", "secrets", secret(json!({ ".dockerconfigjson": "hunter2" })));
    assert!(other.len() == 1 && !other[0].contains("hunter2"), "{other:?}");
    assert_eq!(faults("", "secrets", secret(json!({}))), ["data[.dockerconfigjson]: Required value"]);
}

#[test]
fn ingress_hosts_and_classes_are_names() {
    let spec = json!({ "ingressClassName": "a", "tls": [{ "hosts": ["*b"], "secretName": "S" }],
        "rules": [{ "host": "10.0.0.1" }, { "host": "*.example.com" }] });
    let mut object = named(json!({ "spec": spec }));
    object["metadata"]["annotations"] = json!({ "kubernetes.io/ingress.class": "b" });
    let refused = faults("networking.k8s.io", "ingresses", object);
    assert_eq!(
        refused[0],
        "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"
    );
    assert!(
        refused[1]
            .starts_with("spec.tls[0].hosts[0]: Invalid value: \"*b\": a wildcard DNS-1123 subdomain must")
    );
    assert!(
        refused[2]
            .starts_with("spec.tls[0].secretName: Invalid value: \"S\": a lowercase RFC 1123 subdomain")
    );
    assert_eq!(
        refused[3],
        "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified"
    );
    let class = |spec: Value| faults("networking.k8s.io", "ingressclasses", named(json!({ "spec": spec })));
    assert_eq!(
        class(json!({ "controller": "a", "parameters": { "kind": "K", "name": "n", "namespace": "x" } })),
        [
            "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
        ]
    );
    let status = World::new().update_status("networking.k8s.io", "ingresses", &named(json!({})), |ingress| {
        ingress["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "a", "hostname": "10.0.0.1" }] } });
    });
    assert_eq!(
        status.unwrap_err().texts(),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ]
    );
}

#[test]
fn network_policy_peers_and_ports_make_sense() {
    let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress", "Sideways"], "ingress": [{
        "ports": [{ "port": 80, "endPort": 70 }, { "endPort": 3 }, { "port": "Http", "endPort": 3 }, { "protocol": "ICMP" }],
        "from": [{}, { "podSelector": {}, "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "11.0.0.0/16", "x"] } }] }] });
    assert_eq!(
        faults("networking.k8s.io", "networkpolicies", named(json!({ "spec": spec }))),
        [
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            "spec.ingress[0].ports[1].port: Required value: must be specified if `endPort` is specified",
            "spec.ingress[0].ports[2].endPort: Invalid value: 3: may not be specified when `port` is non-numeric",
            "spec.ingress[0].ports[2].port: Invalid value: \"Http\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.ingress[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[1].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[1].ipBlock.except[2]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
             2001:db8::/64)",
            "spec.policyTypes[1]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
        ]
    );
}

#[test]
fn volume_is_in_one_place_and_stays_there() {
    let spec = json!({ "accessModes": ["Once", "ReadWriteOncePod", "ReadWriteOnce"], "capacity": { "storage": "0" },
        "local": { "path": "../x" }, "csi": { "driver": "d", "volumeHandle": "h" }, "nodeAffinity": {},
        "volumeAttributesClassName": "" });
    assert_eq!(
        faults("", "persistentvolumes", named(json!({ "spec": spec }))),
        [
            "spec.accessModes: Unsupported value: \"Once\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \
             \"ReadWriteOncePod\"",
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            "spec.nodeAffinity.required: Required value: must specify required node constraints",
            "spec.local.path: Invalid value: \"../x\": must not contain '..'",
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
            "spec.csi: Forbidden: may not specify more than 1 volume type",
            "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
        ]
    );
    let spec = json!({ "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "csi": { "driver": "d",
        "volumeHandle": "h" }, "nodeAffinity": { "required": { "nodeSelectorTerms": [{}] } } });
    let made = create("", "persistentvolumes", named(json!({ "spec": spec })));
    let secret = json!({ "name": "s", "namespace": "n" });
    let grown = World::new().update("", "persistentvolumes", &made, |volume| {
        volume["spec"]["csi"]["controllerExpandSecretRef"] = secret;
    });
    assert!(grown.is_ok(), "a secret may come later");
    assert_eq!(
        update("", "persistentvolumes", &made, |volume| {
            volume["spec"]["csi"]["volumeHandle"] = "i".into();
            volume["spec"]["volumeMode"] = "Block".into();
        }),
        [
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
            "volumeMode: Invalid value: \"Block\": field is immutable",
        ]
    );
}

#[test]
fn claim_asks_for_something_and_from_one_source() {
    let claim = |spec: Value| faults("", "persistentvolumeclaims", named(json!({ "spec": spec })));
    assert_eq!(
        claim(json!({ "resources": { "requests": { "storage": "-1" } } })),
        [
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Invalid value: \"-1\": must be greater than zero",
        ]
    );
    let sized = |source: Value, reference: Value| {
        claim(json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
            "dataSource": source, "dataSourceRef": reference }))
    };
    assert_eq!(
        sized(json!({ "kind": "Pod", "name": "p" }), json!({ "kind": "PersistentVolumeClaim", "name": "p" })),
        [
            "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            "spec: Invalid value: \"spec.dataSource\": must match dataSourceRef",
        ]
    );
}

#[test]
fn storage_class_has_a_provisioner_and_one_way_of_binding() {
    assert_eq!(
        faults(
            "storage.k8s.io",
            "storageclasses",
            named(
                json!({ "provisioner": "", "volumeBindingMode": "Later", "reclaimPolicy": "Recycle", "parameters": { "": "x" },
                "allowedTopologies": [{ "matchLabelExpressions": [{ "key": "a", "values": [] }] }] })
            )
        ),
        [
            "provisioner: Required value",
            "parameters: Invalid value: \"\": field can not be empty.",
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
        ]
    );
}

#[test]
fn disruption_budget_reports_whole_numbers() {
    let old = named(json!({ "spec": { "selector": {} } }));
    let refused = World::new().update_status("policy", "poddisruptionbudgets", &old, |budget| {
        budget["status"] = json!({ "expectedPods": -1, "conditions": [{ "type": "A b", "status": "True" }] });
    });
    let refused = refused.unwrap_err().texts();
    assert!(
        refused[0].starts_with("status.conditions[0].type: Invalid value: \"A b\": name part must consist")
    );
    assert_eq!(
        refused.last().unwrap(),
        "status.expectedPods: Invalid value: -1: must be greater than or equal to 0"
    );
}

#[test]
fn lease_prefers_nobody_without_a_strategy() {
    assert_eq!(
        faults(
            "coordination.k8s.io",
            "leases",
            named(json!({ "spec": { "leaseDurationSeconds": 0, "preferredHolder": "a" } }))
        ),
        [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
        ]
    );
    assert_eq!(
        faults("coordination.k8s.io", "leases", named(json!({ "spec": { "strategy": "Newest" } }))),
        [
            "spec.strategy.strategy: Unsupported value: \"Newest\": supported values: \"OldestEmulationVersion\""
        ]
    );
}

#[test]
fn signing_request_says_who_really_asks() {
    let spec = json!({ "request": "LS0t", "signerName": "a/b", "usages": ["client auth"], "username": "admin", "groups": ["system:masters"] });
    let made = create("certificates.k8s.io", "certificatesigningrequests", named(json!({ "spec": spec })));
    assert_eq!(made["spec"]["username"], "tester");
    assert!(!made["spec"]["groups"].as_array().unwrap().contains(&json!("system:masters")));
}

#[test]
fn priority_above_a_thousand_million_is_the_systems() {
    assert_eq!(
        faults("scheduling.k8s.io", "priorityclasses", named(json!({ "value": 1_000_000_001 }))),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    let mut system = named(json!({ "value": 2_000_001_000 }));
    system["metadata"]["name"] = "system-node-critical".into();
    assert_eq!(
        create("scheduling.k8s.io", "priorityclasses", system)["preemptionPolicy"],
        "PreemptLowerPriority"
    );
}

#[test]
fn disruption_budget_says_one_thing() {
    let spec = json!({ "minAvailable": 1, "maxUnavailable": "101%", "selector": {} });
    let refused = faults("policy", "poddisruptionbudgets", named(json!({ "spec": spec })));
    assert!(refused[0].ends_with("minAvailable and maxUnavailable cannot be both set"), "{refused:?}");
    assert_eq!(refused[1], "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%");
}
