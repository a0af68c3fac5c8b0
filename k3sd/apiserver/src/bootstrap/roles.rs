//! The roles and bindings every cluster starts with: upstream's `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`, for the identities
//! that Skerry's components have.
//!
//! Upstream's controllers run under one service account each; ours share `system:kube-controller-manager`, so that role holds what
//! all of them need. Nodes are bound to `system:node` here, where upstream has an authorizer of its own.

use serde_json::{Value, json};

/// A rule: verbs, API groups, resources (all separated by blanks; the core group is `core`).
type Rule = (&'static str, &'static str, &'static str);

/// A cluster role: name, labels it is aggregated by or with, rules.
struct Role {
    name: &'static str,
    rules: &'static [Rule],
    /// Paths that may be read.
    paths: &'static [&'static str],
    /// `rbac.authorization.k8s.io/aggregate-to-NAME`.
    aggregate_to: Option<&'static str>,
    /// The only names that the rules are about; none: all.
    names: &'static [&'static str],
    /// Collects the rules of roles that aggregate to this name.
    aggregates: Option<&'static str>,
}

const fn role(name: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, rules, paths: &[], aggregate_to: None, names: &[], aggregates: None }
}

/// May approve requests for certificates of these signers.
const fn approver(name: &'static str, signers: &'static [&'static str]) -> Role {
    Role { names: signers, ..role(name, &[("approve", "certificates.k8s.io", "signers")]) }
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const EVENTS: Rule = ("create patch update", "core events.k8s.io", "events");

const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

const ROLES: &[Role] = &[
    Role { paths: &["*"], ..role("cluster-admin", &[("*", "*", "*")]) },
    Role { paths: DISCOVERY, ..role("system:discovery", &[]) },
    Role {
        paths: &["/healthz", "/livez", "/readyz", "/version", "/version/"],
        ..role("system:public-info-viewer", &[])
    },
    Role {
        paths: &[
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/metrics",
            "/metrics/slis",
            "/readyz",
            "/readyz/*",
        ],
        ..role("system:monitoring", &[])
    },
    Role {
        paths: &[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ],
        ..role("system:service-account-issuer-discovery", &[])
    },
    role(
        "system:basic-user",
        &[
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            ("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    role(
        "system:auth-delegator",
        &[
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            (READ, "core", "nodes"),
            ("proxy", "core", "nodes"),
            (
                "*",
                "core",
                "nodes/log nodes/metrics nodes/proxy nodes/stats nodes/configz nodes/healthz nodes/pods",
            ),
        ],
    ),
    role("system:node", NODE),
    role(
        "system:node-bootstrapper",
        &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    approver(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["kubernetes.io/kube-apiserver-client"],
    ),
    approver(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    approver("system:certificates.k8s.io:kubelet-serving-approver", &["kubernetes.io/kubelet-serving"]),
    approver("system:certificates.k8s.io:legacy-unknown-approver", &["kubernetes.io/legacy-unknown"]),
    role(
        "system:node-proxier",
        &[
            ("list watch", "core", "services endpoints"),
            (READ, "core", "nodes"),
            ("list watch", "discovery.k8s.io", "endpointslices"),
            ("list watch", "networking.k8s.io", "servicecidrs"),
            EVENTS,
        ],
    ),
    role("system:kube-scheduler", SCHEDULER),
    role(
        "system:volume-scheduler",
        &[
            ("get list patch update watch", "core", "persistentvolumes"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    role("system:kube-controller-manager", CONTROLLER_MANAGER),
    role(
        "system:k3s-controller",
        &[
            (READ, "core", "nodes"),
            ("patch", "core", "nodes/status"),
            ("list watch", "core", "namespaces"),
            ("list watch", "networking.k8s.io", "networkpolicies"),
            (READ, "core", "endpoints pods"),
            (READ, "discovery.k8s.io", "endpointslices"),
        ],
    ),
    Role { aggregates: Some("admin"), ..role("admin", &[]) },
    Role { aggregates: Some("edit"), aggregate_to: Some("admin"), ..role("edit", &[]) },
    Role { aggregates: Some("view"), aggregate_to: Some("edit"), ..role("view", &[]) },
    Role { aggregate_to: Some("admin"), ..role("system:aggregate-to-admin", AGGREGATE_ADMIN) },
    Role { aggregate_to: Some("edit"), ..role("system:aggregate-to-edit", AGGREGATE_EDIT) },
    Role { aggregate_to: Some("view"), ..role("system:aggregate-to-view", AGGREGATE_VIEW) },
];

const NODE: &[Rule] = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    (READ, "core", "services"),
    ("create get list watch", "core", "nodes"),
    ("patch update", "core", "nodes nodes/status"),
    EVENTS,
    ("create delete get list watch", "core", "pods"),
    ("patch update", "core", "pods/status"),
    ("create", "core", "pods/eviction"),
    (READ, "core", "configmaps secrets"),
    ("get", "core", "persistentvolumeclaims persistentvolumes"),
    ("get patch update", "core", "persistentvolumeclaims/status"),
    ("create", "core", "serviceaccounts/token"),
    ("get", "core", "serviceaccounts"),
    ("get", "storage.k8s.io", "volumeattachments"),
    ("create delete get patch update", "coordination.k8s.io", "leases"),
    ("create delete get patch update", "storage.k8s.io", "csinodes"),
    (READ, "storage.k8s.io", "csidrivers"),
    (READ, "node.k8s.io", "runtimeclasses"),
    ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    ("get", "resource.k8s.io", "resourceclaims"),
    ("deletecollection create get list watch patch update delete", "resource.k8s.io", "resourceslices"),
    (READ, "scheduling.k8s.io", "priorityclasses"),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    ("create get list update watch patch", "coordination.k8s.io", "leases"),
    (READ, "core", "nodes namespaces"),
    ("delete get list watch", "core", "pods"),
    ("create", "core", "bindings pods/binding"),
    ("patch update", "core", "pods/status"),
    (READ, "core", "replicationcontrollers services"),
    (READ, "apps", "replicasets statefulsets"),
    (READ, "policy", "poddisruptionbudgets"),
    ("get list patch update watch", "core", "persistentvolumeclaims persistentvolumes"),
    (READ, "storage.k8s.io", "csinodes csidrivers csistoragecapacities storageclasses volumeattachments"),
    (READ, "scheduling.k8s.io", "priorityclasses"),
    (READ, "resource.k8s.io", "deviceclasses resourceslices resourceclaims"),
    ("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    ("create get list update watch patch delete", "coordination.k8s.io", "leases"),
    // Garbage collector, namespace controller, resource quota.
    (READ, "*", "*"),
    ("delete deletecollection patch update", "*", "*"),
    (
        "create",
        "core",
        "configmaps endpoints namespaces nodes persistentvolumes persistentvolumeclaims pods secrets serviceaccounts serviceaccounts/token pods/eviction",
    ),
    ("create", "apps", "controllerrevisions replicasets"),
    ("create", "batch", "jobs"),
    ("create", "discovery.k8s.io", "endpointslices"),
    ("create", "storage.k8s.io", "volumeattachments"),
    ("create", "networking.k8s.io", "ipaddresses servicecidrs"),
    ("create", "resource.k8s.io", "resourceclaims"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
    ("approve sign", "certificates.k8s.io", "signers"),
];

const AGGREGATE_ADMIN: &[Rule] = &[
    ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    (
        "create delete deletecollection get list patch update watch",
        "rbac.authorization.k8s.io",
        "rolebindings roles",
    ),
];

const AGGREGATE_EDIT: &[Rule] = &[
    (READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    ("impersonate", "core", "serviceaccounts"),
    (WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    ("create", "core", "pods/eviction"),
    (
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    ),
    ("create", "core", "serviceaccounts/token"),
    (
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    (WRITE, "autoscaling", "horizontalpodautoscalers"),
    (WRITE, "batch", "cronjobs jobs"),
    (WRITE, "policy", "poddisruptionbudgets"),
    (WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
    (WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
];

const AGGREGATE_VIEW: &[Rule] = &[
    (
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
    ),
    (
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    (READ, "core", "namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

/// Binding name, role, kind and name of the subjects.
type Binding = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const BINDINGS: &[Binding] = &[
    ("cluster-admin", "cluster-admin", &[("Group", "system:masters")]),
    ("system:discovery", "system:discovery", &[("Group", "system:authenticated")]),
    ("system:basic-user", "system:basic-user", &[("Group", "system:authenticated")]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &[("Group", "system:serviceaccounts")],
    ),
    ("system:monitoring", "system:monitoring", &[("Group", "system:monitoring")]),
    // The node authorizer gives nodes what they need; who binds them here gives each node every other's objects.
    ("system:node", "system:node", &[]),
    ("system:node-proxier", "system:node-proxier", &[("User", "system:kube-proxy")]),
    ("system:kube-scheduler", "system:kube-scheduler", &[("User", "system:kube-scheduler")]),
    ("system:volume-scheduler", "system:volume-scheduler", &[("User", "system:kube-scheduler")]),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        &[("User", "system:kube-controller-manager")],
    ),
    ("system:k3s-controller", "system:k3s-controller", &[("User", "system:k3s-controller")]),
    ("system:k3s-supervisor", "cluster-admin", &[("User", "system:k3s-supervisor")]),
    ("kube-apiserver-kubelet-admin", "system:kubelet-api-admin", &[("User", "kube-apiserver")]),
];

const AGGREGATE_LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// What every node may do with objects that do not belong to one node.
pub(crate) fn node_rules() -> Vec<Value> {
    NODE.iter().map(rule).collect()
}

/// Every cluster role, with aggregated rules filled in.
pub(super) fn cluster_roles() -> Vec<Value> {
    ROLES.iter().map(role_object).collect()
}

fn role_object(role: &Role) -> Value {
    let mut rules: Vec<Value> = role.rules.iter().map(rule).collect();
    if !role.names.is_empty() {
        for rule in &mut rules {
            rule["resourceNames"] = json!(role.names);
        }
    }
    if !role.paths.is_empty() {
        let verbs = if role.paths == ["*"] { "*" } else { "get" };
        rules.push(json!({ "verbs": [verbs], "nonResourceURLs": role.paths }));
    }
    if let Some(name) = role.aggregates {
        rules = collected(name);
    }
    let mut labels = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    if let Some(to) = role.aggregate_to {
        labels[format!("{AGGREGATE_LABEL}{to}")] = "true".into();
    }
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": role.name, "labels": labels, "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" } },
        "rules": rules,
    });
    if let Some(name) = role.aggregates {
        let label = json!({ format!("{AGGREGATE_LABEL}{name}"): "true" });
        object["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": label }] });
    }
    object
}

/// The rules of every role that aggregates to this one, directly or through another.
fn collected(name: &str) -> Vec<Value> {
    ROLES
        .iter()
        .filter(|role| role.aggregate_to == Some(name))
        .flat_map(|role| match role.aggregates {
            Some(inner) => collected(inner),
            None => role.rules.iter().map(rule).collect(),
        })
        .collect()
}

fn rule((verbs, groups, resources): &Rule) -> Value {
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let groups: Vec<String> =
        words(groups).into_iter().map(|group| if group == "core" { String::new() } else { group }).collect();
    json!({ "verbs": words(verbs), "apiGroups": groups, "resources": words(resources) })
}

/// Every cluster role binding.
pub(super) fn cluster_role_bindings() -> Vec<Value> {
    BINDINGS
        .iter()
        .map(|(name, role, subjects)| {
            let subjects: Vec<Value> = subjects
                .iter()
                .map(|(kind, name)| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name }))
                .collect();
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": { "name": name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
                "subjects": subjects,
            })
        })
        .collect()
}
