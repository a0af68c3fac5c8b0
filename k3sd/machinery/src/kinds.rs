//! The registry of resources: what the API serves, by which names, with which verbs, and where it is stored.
//!
//! The built-in part is one table of the kinds that are generally available in Kubernetes v1.36. Custom resources are
//! described by the same [`Resource`], built from their definition at run time; nothing downstream can tell them apart.
//! Names, verbs and categories are those of upstream's `api/discovery`; storage prefixes are those of upstream's
//! `pkg/kubeapiserver/default_storage_factory_builder.go`, hence those found in a K3s database.

use std::sync::{Arc, LazyLock};

/// One served resource: a group, a version and a kind, and everything discovery says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Plural name, as in request paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list of objects.
    pub list_kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Short names for command lines.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Verbs, sorted. Kinds that are only answers to a question have `create` alone.
    pub verbs: Vec<String>,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Name of the kind's type in the schema table.
    pub type_name: String,
    /// Datastore prefix, beginning and ending with a slash. Empty when objects of the kind are never stored.
    pub storage_prefix: String,
}

/// A subresource of a [`Resource`], such as `status` or `scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Path element after the object's name.
    pub name: String,
    /// Kind it reads and writes.
    pub kind: String,
    /// Group of that kind.
    pub group: String,
    /// Version of that kind.
    pub version: String,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
}

impl Resource {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> (&str, &str, &str) {
        (&self.group, &self.version, &self.kind)
    }

    /// `plural.group`, or the plural alone for the core group: how messages and CRDs name a resource.
    pub fn qualified(&self) -> String {
        qualified(&self.group, &self.plural)
    }

    /// Datastore key of one object.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}{namespace}/{name}", self.storage_prefix),
            None => format!("{}{name}", self.storage_prefix),
        }
    }

    /// Datastore prefix of all objects, or of those in one namespace.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}{namespace}/", self.storage_prefix),
            None => self.storage_prefix.clone(),
        }
    }

    /// Whether the resource itself answers `verb`.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects of the kind are kept in the datastore.
    pub fn is_stored(&self) -> bool {
        !self.storage_prefix.is_empty()
    }
}

/// `plural.group`, or the plural alone for the core group.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// Every built-in kind, in discovery order of its group.
pub fn builtin() -> &'static [Arc<Resource>] {
    static BUILTIN: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
        TABLE.iter().flat_map(|group| group.rows.iter().map(|row| Arc::new(row.resource(group)))).collect()
    });
    &BUILTIN
}

/// The built-in resource of a group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Resource>> {
    builtin().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The built-in resource of a group, version and kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Resource>> {
    builtin().iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// What the type names of a group and version begin with in the schema table.
pub(crate) fn type_prefix(group: &str, version: &str) -> Option<&'static str> {
    TABLE.iter().find(|g| g.group == group && g.version == version).map(|g| g.types)
}

/// Verbs of an ordinary resource.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

// === the table ===

/// The kinds of one group and version.
struct Group {
    group: &'static str,
    version: &'static str,
    /// Prefix of the type names in the schema table.
    types: &'static str,
    rows: &'static [Row],
}

/// One kind. Lists are separated by blanks.
struct Row {
    plural: &'static str,
    kind: &'static str,
    scope: Scope,
    verbs: Verbs,
    short: &'static str,
    categories: &'static str,
    subresources: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Cluster,
    Namespaced,
}

/// Which verbs a kind has, and with that whether it is stored.
#[derive(Clone, Copy)]
enum Verbs {
    All,
    /// Deleted one at a time only.
    NoCollection,
    /// Computed on each read.
    ReadOnly,
    /// A question: created, answered, never stored.
    Create,
}

use Scope::{Cluster, Namespaced};
use Verbs::{All, Create, NoCollection, ReadOnly};

const fn row(
    plural: &'static str,
    kind: &'static str,
    scope: Scope,
    verbs: Verbs,
    short: &'static str,
    categories: &'static str,
    subresources: &'static str,
) -> Row {
    Row { plural, kind, scope, verbs, short, categories, subresources }
}

const POD_SUBRESOURCES: &str =
    "attach binding ephemeralcontainers eviction exec log portforward proxy resize status";

#[rustfmt::skip]
const TABLE: &[Group] = &[
    Group { group: "", version: "v1", types: "api.core.v1", rows: &[
        row("bindings", "Binding", Namespaced, Create, "", "", ""),
        row("componentstatuses", "ComponentStatus", Cluster, ReadOnly, "cs", "", ""),
        row("configmaps", "ConfigMap", Namespaced, All, "cm", "", ""),
        row("endpoints", "Endpoints", Namespaced, All, "ep", "", ""),
        row("events", "Event", Namespaced, All, "ev", "", ""),
        row("limitranges", "LimitRange", Namespaced, All, "limits", "", ""),
        row("namespaces", "Namespace", Cluster, NoCollection, "ns", "", "finalize status"),
        row("nodes", "Node", Cluster, All, "no", "", "proxy status"),
        row("persistentvolumeclaims", "PersistentVolumeClaim", Namespaced, All, "pvc", "", "status"),
        row("persistentvolumes", "PersistentVolume", Cluster, All, "pv", "", "status"),
        row("pods", "Pod", Namespaced, All, "po", "all", POD_SUBRESOURCES),
        row("podtemplates", "PodTemplate", Namespaced, All, "", "", ""),
        row("replicationcontrollers", "ReplicationController", Namespaced, All, "rc", "all", "scale status"),
        row("resourcequotas", "ResourceQuota", Namespaced, All, "quota", "", "status"),
        row("secrets", "Secret", Namespaced, All, "", "", ""),
        row("serviceaccounts", "ServiceAccount", Namespaced, All, "sa", "", "token"),
        row("services", "Service", Namespaced, All, "svc", "all", "proxy status"),
    ] },
    Group { group: "admissionregistration.k8s.io", version: "v1", types: "api.admissionregistration.v1", rows: &[
        row("mutatingadmissionpolicies", "MutatingAdmissionPolicy", Cluster, All, "", "api-extensions", ""),
        row("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", Cluster, All, "", "api-extensions", ""),
        row("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", Cluster, All, "", "api-extensions", ""),
        row("validatingadmissionpolicies", "ValidatingAdmissionPolicy", Cluster, All, "", "api-extensions", "status"),
        row("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", Cluster, All, "", "api-extensions", ""),
        row("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", Cluster, All, "", "api-extensions", ""),
    ] },
    Group { group: "apiextensions.k8s.io", version: "v1", types: "apiextensions_apiserver.pkg.apis.apiextensions.v1", rows: &[
        row("customresourcedefinitions", "CustomResourceDefinition", Cluster, All, "crd crds", "api-extensions", "status"),
    ] },
    Group { group: "apiregistration.k8s.io", version: "v1", types: "kube_aggregator.pkg.apis.apiregistration.v1", rows: &[
        row("apiservices", "APIService", Cluster, All, "", "api-extensions", "status"),
    ] },
    Group { group: "apps", version: "v1", types: "api.apps.v1", rows: &[
        row("controllerrevisions", "ControllerRevision", Namespaced, All, "", "", ""),
        row("daemonsets", "DaemonSet", Namespaced, All, "ds", "all", "status"),
        row("deployments", "Deployment", Namespaced, All, "deploy", "all", "scale status"),
        row("replicasets", "ReplicaSet", Namespaced, All, "rs", "all", "scale status"),
        row("statefulsets", "StatefulSet", Namespaced, All, "sts", "all", "scale status"),
    ] },
    Group { group: "authentication.k8s.io", version: "v1", types: "api.authentication.v1", rows: &[
        row("selfsubjectreviews", "SelfSubjectReview", Cluster, Create, "", "", ""),
        row("tokenreviews", "TokenReview", Cluster, Create, "", "", ""),
    ] },
    Group { group: "authorization.k8s.io", version: "v1", types: "api.authorization.v1", rows: &[
        row("localsubjectaccessreviews", "LocalSubjectAccessReview", Namespaced, Create, "", "", ""),
        row("selfsubjectaccessreviews", "SelfSubjectAccessReview", Cluster, Create, "", "", ""),
        row("selfsubjectrulesreviews", "SelfSubjectRulesReview", Cluster, Create, "", "", ""),
        row("subjectaccessreviews", "SubjectAccessReview", Cluster, Create, "", "", ""),
    ] },
    Group { group: "autoscaling", version: "v2", types: "api.autoscaling.v2", rows: &[
        row("horizontalpodautoscalers", "HorizontalPodAutoscaler", Namespaced, All, "hpa", "all", "status"),
    ] },
    Group { group: "autoscaling", version: "v1", types: "api.autoscaling.v1", rows: &[
        row("horizontalpodautoscalers", "HorizontalPodAutoscaler", Namespaced, All, "hpa", "all", "status"),
    ] },
    Group { group: "batch", version: "v1", types: "api.batch.v1", rows: &[
        row("cronjobs", "CronJob", Namespaced, All, "cj", "all", "status"),
        row("jobs", "Job", Namespaced, All, "", "all", "status"),
    ] },
    Group { group: "certificates.k8s.io", version: "v1", types: "api.certificates.v1", rows: &[
        row("certificatesigningrequests", "CertificateSigningRequest", Cluster, All, "csr", "", "approval status"),
    ] },
    Group { group: "coordination.k8s.io", version: "v1", types: "api.coordination.v1", rows: &[
        row("leases", "Lease", Namespaced, All, "", "", ""),
    ] },
    Group { group: "discovery.k8s.io", version: "v1", types: "api.discovery.v1", rows: &[
        row("endpointslices", "EndpointSlice", Namespaced, All, "", "", ""),
    ] },
    Group { group: "events.k8s.io", version: "v1", types: "api.events.v1", rows: &[
        row("events", "Event", Namespaced, All, "ev", "", ""),
    ] },
    Group { group: "flowcontrol.apiserver.k8s.io", version: "v1", types: "api.flowcontrol.v1", rows: &[
        row("flowschemas", "FlowSchema", Cluster, All, "", "", "status"),
        row("prioritylevelconfigurations", "PriorityLevelConfiguration", Cluster, All, "", "", "status"),
    ] },
    Group { group: "networking.k8s.io", version: "v1", types: "api.networking.v1", rows: &[
        row("ingressclasses", "IngressClass", Cluster, All, "", "", ""),
        row("ingresses", "Ingress", Namespaced, All, "ing", "", "status"),
        row("ipaddresses", "IPAddress", Cluster, All, "ip", "", ""),
        row("networkpolicies", "NetworkPolicy", Namespaced, All, "netpol", "", ""),
        row("servicecidrs", "ServiceCIDR", Cluster, All, "", "", "status"),
    ] },
    Group { group: "node.k8s.io", version: "v1", types: "api.node.v1", rows: &[
        row("runtimeclasses", "RuntimeClass", Cluster, All, "", "", ""),
    ] },
    Group { group: "policy", version: "v1", types: "api.policy.v1", rows: &[
        row("poddisruptionbudgets", "PodDisruptionBudget", Namespaced, All, "pdb", "", "status"),
    ] },
    Group { group: "rbac.authorization.k8s.io", version: "v1", types: "api.rbac.v1", rows: &[
        row("clusterrolebindings", "ClusterRoleBinding", Cluster, All, "", "", ""),
        row("clusterroles", "ClusterRole", Cluster, All, "", "", ""),
        row("rolebindings", "RoleBinding", Namespaced, All, "", "", ""),
        row("roles", "Role", Namespaced, All, "", "", ""),
    ] },
    Group { group: "resource.k8s.io", version: "v1", types: "api.resource.v1", rows: &[
        row("deviceclasses", "DeviceClass", Cluster, All, "", "", ""),
        row("resourceclaims", "ResourceClaim", Namespaced, All, "", "", "status"),
        row("resourceclaimtemplates", "ResourceClaimTemplate", Namespaced, All, "", "", ""),
        row("resourceslices", "ResourceSlice", Cluster, All, "", "", ""),
    ] },
    Group { group: "scheduling.k8s.io", version: "v1", types: "api.scheduling.v1", rows: &[
        row("priorityclasses", "PriorityClass", Cluster, All, "pc", "", ""),
    ] },
    Group { group: "storage.k8s.io", version: "v1", types: "api.storage.v1", rows: &[
        row("csidrivers", "CSIDriver", Cluster, All, "", "", ""),
        row("csinodes", "CSINode", Cluster, All, "", "", ""),
        row("csistoragecapacities", "CSIStorageCapacity", Namespaced, All, "", "", ""),
        row("storageclasses", "StorageClass", Cluster, All, "sc", "", ""),
        row("volumeattachments", "VolumeAttachment", Cluster, All, "", "", "status"),
        row("volumeattributesclasses", "VolumeAttributesClass", Cluster, All, "vac", "", ""),
    ] },
];

impl Row {
    fn resource(&self, group: &Group) -> Resource {
        Resource {
            group: group.group.to_owned(),
            version: group.version.to_owned(),
            plural: self.plural.to_owned(),
            singular: self.kind.to_ascii_lowercase(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            namespaced: self.scope == Namespaced,
            short_names: words(self.short),
            categories: words(self.categories),
            verbs: self.verbs(),
            subresources: self
                .subresources
                .split_ascii_whitespace()
                .map(|name| subresource(group, self, name))
                .collect(),
            type_name: format!("{}.{}", group.types, self.kind),
            storage_prefix: self.storage_prefix(group.group),
        }
    }

    fn verbs(&self) -> Vec<String> {
        let keep: fn(&str) -> bool = match self.verbs {
            All => |_| true,
            NoCollection => |verb| verb != "deletecollection",
            ReadOnly => |verb| verb == "get" || verb == "list",
            Create => |verb| verb == "create",
        };
        ALL_VERBS.iter().filter(|verb| keep(verb)).map(|&verb| verb.to_owned()).collect()
    }

    fn storage_prefix(&self, group: &str) -> String {
        if matches!(self.verbs, Create | ReadOnly) {
            return String::new();
        }
        match (group, self.plural) {
            ("", "nodes") => "/registry/minions/".to_owned(),
            ("", "services") => "/registry/services/specs/".to_owned(),
            ("", "endpoints") => "/registry/services/endpoints/".to_owned(),
            ("", "replicationcontrollers") => "/registry/controllers/".to_owned(),
            ("networking.k8s.io", "ingresses") => "/registry/ingress/".to_owned(),
            // The two API servers that upstream chains behind the main one keep their group in the key.
            ("apiextensions.k8s.io" | "apiregistration.k8s.io", plural) => {
                format!("/registry/{group}/{plural}/")
            }
            (_, plural) => format!("/registry/{plural}/"),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Kind and verbs of a subresource: those of its parent unless the name stands for a kind of its own.
fn subresource(parent: &Group, row: &Row, name: &str) -> Subresource {
    let own = (row.kind, parent.group, parent.version);
    let ((kind, group, version), verbs) = match name {
        "scale" => (("Scale", "autoscaling", "v1"), "get patch update"),
        "binding" => (("Binding", "", "v1"), "create"),
        "eviction" => (("Eviction", "policy", "v1"), "create"),
        "token" => (("TokenRequest", "authentication.k8s.io", "v1"), "create"),
        "finalize" => (own, "update"),
        "log" => (own, "get"),
        "attach" | "exec" | "portforward" => {
            let options = match name {
                "attach" => "PodAttachOptions",
                "exec" => "PodExecOptions",
                _ => "PodPortForwardOptions",
            };
            ((options, "", "v1"), "create get")
        }
        "proxy" => {
            let options = match row.kind {
                "Node" => "NodeProxyOptions",
                "Pod" => "PodProxyOptions",
                _ => "ServiceProxyOptions",
            };
            ((options, "", "v1"), "create delete get patch update")
        }
        _ => (own, "get patch update"),
    };
    Subresource {
        name: name.to_owned(),
        kind: kind.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        verbs: words(verbs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_kind_has_a_type_in_the_schema_table() {
        for resource in builtin() {
            assert!(schema::builtin().get(&resource.type_name).is_some(), "{}", resource.type_name);
        }
    }

    #[test]
    fn every_stored_type_with_metadata_is_served() {
        // Eviction is reached as a subresource only.
        for ty in schema::builtin().types() {
            let is_object = ty.field("metadata").is_some() && ty.field("apiVersion").is_some();
            let is_template = matches!(
                ty.name(),
                "api.policy.v1.Eviction" | "api.autoscaling.v1.Scale" | "api.authentication.v1.TokenRequest"
            );
            if is_object && !is_template {
                assert!(builtin().iter().any(|r| r.type_name == ty.name()), "{} is not served", ty.name());
            }
        }
    }

    #[test]
    fn storage_keys_are_those_of_a_k3s_database() {
        let key = |group, version, plural, namespace, name| {
            find(group, version, plural).expect("built in").key(namespace, name)
        };
        assert_eq!(key("", "v1", "pods", Some("default"), "web"), "/registry/pods/default/web");
        assert_eq!(key("", "v1", "nodes", None, "n1"), "/registry/minions/n1");
        assert_eq!(key("", "v1", "services", Some("a"), "b"), "/registry/services/specs/a/b");
        assert_eq!(key("", "v1", "endpoints", Some("a"), "b"), "/registry/services/endpoints/a/b");
        assert_eq!(key("networking.k8s.io", "v1", "ingresses", Some("a"), "b"), "/registry/ingress/a/b");
        assert_eq!(key("apps", "v1", "deployments", Some("a"), "b"), "/registry/deployments/a/b");
        assert_eq!(
            key("apiextensions.k8s.io", "v1", "customresourcedefinitions", None, "x.y"),
            "/registry/apiextensions.k8s.io/customresourcedefinitions/x.y"
        );
    }

    #[test]
    fn only_views_of_the_same_objects_share_a_prefix() {
        let mut seen = std::collections::BTreeMap::new();
        for resource in builtin().iter().filter(|r| r.is_stored()) {
            if let Some(other) = seen.insert(resource.storage_prefix.clone(), resource.kind.clone()) {
                assert_eq!(other, resource.kind, "{}", resource.storage_prefix);
            }
        }
    }
}
