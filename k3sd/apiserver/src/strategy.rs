//! What a kind needs beyond its schema: one [`Strategy`] per kind, in one file per kind below `strategy/`.
//!
//! The pipeline (see `pipeline.rs` and `verbs/`) does everything that is the same for every kind: decoding, static defaults,
//! metadata rules, optimistic concurrency, finalizers, generations, storing, watching. A strategy only says where a
//! kind differs, so every method has a default that is right for a plain kind.
//!
//! Order on create: static schema defaults, [`Strategy::default`], mutating admission, [`Strategy::begin_create`],
//! [`Strategy::prepare_create`], [`Strategy::validate_create`], validating admission, store.
//! Order on update: the same with `begin_update`, `prepare_update` (or `prepare_status_update`), `validate_update`.
//!
//! To add a kind: write `strategy/KIND.rs` with a unit struct that implements [`Strategy`], and add one line to [`lookup`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use machinery::kinds::Resource;
use machinery::status::{FieldError, Status};
use serde_json::Value;

use crate::allocator::{Allocators, Reservation};
use crate::config::Config;
use crate::registry::Registry;
use crate::user::UserInfo;

mod admission_hooks;
mod admission_policy;
mod api_service;
mod autoscaler;
pub(crate) mod check;
mod config_map;
mod cron_job;
mod csi;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod device;
mod endpoints;
mod event;
mod flow_control;
mod job;
mod lease;
mod match_rules;
mod namespace;
mod networking;
mod node;
mod plain;
mod pod;
mod pod_spec;
mod pod_template;
mod policy;
mod quota;
mod rbac;
mod replica_set;
mod runtime_class;
mod secret;
mod service;
mod service_range;
mod signing_request;
mod stateful_set;
mod storage;
#[cfg(test)]
mod testing;
mod volume_sources;
mod walk;
mod webhook_client;
mod workload;

/// What a strategy may look at while it works on one request.
pub struct Context<'a> {
    /// The resource the request is for.
    pub resource: &'a Resource,
    /// The subresource, or "".
    pub subresource: &'a str,
    /// The request's namespace, or "" for cluster-scoped resources.
    pub namespace: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// True when nothing may be kept (`dryRun=All`).
    pub dry_run: bool,
    /// The server's configuration (service CIDR, node port range, cluster domain, ...).
    pub config: &'a Config,
    /// Service addresses and node ports.
    pub allocators: &'a Allocators,
    /// Read view of every stored object (the watch cache): `objects.object(group, plural, namespace, name)`.
    pub objects: &'a Registry,
}

/// What may be done when an object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Graceful {
    /// Delete at once.
    Immediate,
    /// Set `deletionTimestamp` and `deletionGracePeriodSeconds`; somebody (the kubelet) deletes again with 0.
    Seconds(i64),
}

/// How one kind differs from a plain kind. Every method has a default.
///
/// All methods are synchronous and must not block: they see the watch cache, never the datastore.
#[allow(unused_variables, reason = "default bodies ignore what overriding strategies use")]
pub trait Strategy: Send + Sync + 'static {
    /// Defaults that depend on other fields. Runs after the static ones of the schema, on every write.
    fn default(&self, object: &mut Value) {}

    /// Reserve what the object needs (addresses, ports) and fill it in. Given back if the create fails or is a dry run.
    fn begin_create(&self, cx: &Context<'_>, object: &mut Value) -> Result<Reservation, Status> {
        Ok(Reservation::none())
    }

    /// Reserve what the changed object newly needs. Given back if the update fails or is a dry run.
    fn begin_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) -> Result<Reservation, Status> {
        Ok(Reservation::none())
    }

    /// Bring a new object into its first shape. `status` has been dropped already (see `keeps_status_on_create`).
    fn prepare_create(&self, cx: &Context<'_>, object: &mut Value) {}

    /// Bring an updated object in shape. `status` is the old one already when the kind has a status subresource.
    fn prepare_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {}

    /// The same for the status subresource: `object` is the old object with the new `status` and `metadata`
    /// (labels, annotations, finalizers and owner references of the request).
    fn prepare_status_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {}

    /// Everything that is wrong with a new object, field by field. Metadata is checked by the pipeline.
    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything that is wrong with an update. `cx.subresource` tells a status update from a main one.
    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Texts for `Warning:` headers.
    fn warnings(&self, cx: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// What is wrong with this `metadata.name` (or, with `prefix`, this `generateName`). Default: DNS-1123 subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns1123_subdomain(name, prefix)
    }

    /// True when create keeps the `status` that was sent (nodes).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// True when `metadata.generation` counts changes outside `metadata` and `status`.
    fn has_generation(&self) -> bool {
        false
    }

    /// True when PUT on a name that does not exist creates the object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// True when PUT without a `resourceVersion` overwrites whatever is there.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// How long deletion waits. `requested` is `deleteOptions.gracePeriodSeconds`.
    fn graceful_delete(&self, cx: &Context<'_>, object: &Value, requested: Option<i64>) -> Graceful {
        Graceful::Immediate
    }

    /// Called just before an object is deleted or marked for deletion; an error refuses the deletion.
    fn check_delete(&self, cx: &Context<'_>, object: &Value) -> Result<(), Status> {
        Ok(())
    }

    /// A change that comes with being marked for deletion (a namespace becomes Terminating).
    fn mark_deleted(&self, object: &mut Value) {}

    /// True when the object may not go although `metadata.finalizers` is empty (namespaces: `spec.finalizers`).
    fn holds_deletion(&self, object: &Value) -> bool {
        false
    }

    /// Propagation policy when the request names none: true orphans dependents (upstream: core/v1 replication controllers).
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Called after a successful update, to give back what only the old object used.
    fn after_update(&self, cx: &Context<'_>, object: &Value, old: &Value) {}

    /// Called once for each object that is gone from the datastore, with its last stored bytes and before anybody sees that it is
    /// gone: to give back what it used.
    fn after_delete(&self, allocators: &Allocators, last: &[u8]) {}

    /// Called for each object that was written, once it can be read, with its key (`namespace/name`).
    fn after_write(&self, allocators: &Allocators, key: &str) {}

    /// Cluster addresses of a new object, each of which gets an IPAddress object together with it.
    fn addresses(&self, object: &Value) -> Vec<IpAddr> {
        Vec::new()
    }

    /// Paths, besides `metadata.name` and `metadata.namespace`, that field selectors may use. Each is the selector's own name for the
    /// field and the JSON path it reads ("spec.nodeName" for both, usually).
    fn selectable_fields(&self) -> &'static [SelectableField] {
        &[]
    }

    /// Objects vanish by themselves after this time (events).
    fn ttl(&self, object: &Value) -> Option<Duration> {
        None
    }
}

/// One field that field selectors may use.
#[derive(Debug, Clone, Copy)]
pub struct SelectableField {
    /// Name in the selector, e.g. "spec.nodeName".
    pub name: &'static str,
    /// JSON path below the object, e.g. `["spec", "nodeName"]`. Scalars only; absent is "" (or `absent`).
    pub path: &'static [&'static str],
    /// Text when the field is absent (booleans use "false", numbers "0").
    pub absent: &'static str,
}

impl SelectableField {
    /// A text field.
    pub const fn text(name: &'static str, path: &'static [&'static str]) -> Self {
        Self { name, path, absent: "" }
    }
}

/// The strategy for a kind. Kinds without an own one get the plain strategy.
pub fn lookup(group: &str, plural: &str) -> Arc<dyn Strategy> {
    match (group, plural) {
        // One line per kind, sorted by group and plural.
        ("", "configmaps") => Arc::new(config_map::ConfigMap),
        ("", "endpoints") => Arc::new(endpoints::Endpoints),
        ("", "events") => Arc::new(event::Event),
        ("", "limitranges") => Arc::new(quota::LimitRange),
        ("", "namespaces") => Arc::new(namespace::Namespace),
        ("", "nodes") => Arc::new(node::Node),
        ("", "persistentvolumeclaims") => Arc::new(storage::PersistentVolumeClaim),
        ("", "persistentvolumes") => Arc::new(storage::PersistentVolume),
        ("", "pods") => Arc::new(pod::Pod),
        ("", "podtemplates") => Arc::new(pod_template::PodTemplate),
        ("", "replicationcontrollers") => Arc::new(replica_set::ReplicationController),
        ("", "resourcequotas") => Arc::new(quota::ResourceQuota),
        ("", "secrets") => Arc::new(secret::Secret),
        ("", "services") => Arc::new(service::Service),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            Arc::new(admission_policy::AdmissionPolicy { mutating: true })
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            Arc::new(admission_policy::AdmissionPolicyBinding { mutating: true })
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => {
            Arc::new(admission_hooks::WebhookConfiguration { mutating: true })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            Arc::new(admission_policy::AdmissionPolicy { mutating: false })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            Arc::new(admission_policy::AdmissionPolicyBinding { mutating: false })
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            Arc::new(admission_hooks::WebhookConfiguration { mutating: false })
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            Arc::new(custom_resource_definition::CustomResourceDefinition)
        }
        ("apiregistration.k8s.io", "apiservices") => Arc::new(api_service::ApiService),
        ("apps", "controllerrevisions") => Arc::new(pod_template::ControllerRevision),
        ("apps", "daemonsets") => Arc::new(daemon_set::DaemonSet),
        ("apps", "deployments") => Arc::new(deployment::Deployment),
        ("apps", "replicasets") => Arc::new(replica_set::ReplicaSet),
        ("apps", "statefulsets") => Arc::new(stateful_set::StatefulSet),
        ("autoscaling", "horizontalpodautoscalers") => Arc::new(autoscaler::HorizontalPodAutoscaler),
        ("batch", "cronjobs") => Arc::new(cron_job::CronJob),
        ("batch", "jobs") => Arc::new(job::Job),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            Arc::new(signing_request::CertificateSigningRequest)
        }
        ("coordination.k8s.io", "leases") => Arc::new(lease::Lease),
        ("discovery.k8s.io", "endpointslices") => Arc::new(endpoints::EndpointSlice),
        ("events.k8s.io", "events") => Arc::new(event::Event),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => Arc::new(flow_control::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            Arc::new(flow_control::PriorityLevelConfiguration)
        }
        ("networking.k8s.io", "ingressclasses") => Arc::new(networking::IngressClass),
        ("networking.k8s.io", "ingresses") => Arc::new(networking::Ingress),
        ("networking.k8s.io", "ipaddresses") => Arc::new(service_range::IpAddress),
        ("networking.k8s.io", "networkpolicies") => Arc::new(networking::NetworkPolicy),
        ("networking.k8s.io", "servicecidrs") => Arc::new(service_range::ServiceCidr),
        ("node.k8s.io", "runtimeclasses") => Arc::new(runtime_class::RuntimeClass),
        ("policy", "poddisruptionbudgets") => Arc::new(policy::PodDisruptionBudget),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => Arc::new(rbac::Binding { cluster: true }),
        ("rbac.authorization.k8s.io", "clusterroles") => Arc::new(rbac::Role { cluster: true }),
        ("rbac.authorization.k8s.io", "rolebindings") => Arc::new(rbac::Binding { cluster: false }),
        ("rbac.authorization.k8s.io", "roles") => Arc::new(rbac::Role { cluster: false }),
        ("resource.k8s.io", "deviceclasses") => Arc::new(device::DeviceClass),
        ("resource.k8s.io", "resourceclaims") => Arc::new(device::ResourceClaim { template: false }),
        ("resource.k8s.io", "resourceclaimtemplates") => Arc::new(device::ResourceClaim { template: true }),
        ("resource.k8s.io", "resourceslices") => Arc::new(device::ResourceSlice),
        ("scheduling.k8s.io", "priorityclasses") => Arc::new(policy::PriorityClass),
        ("storage.k8s.io", "csidrivers") => Arc::new(csi::CsiDriver),
        ("storage.k8s.io", "csinodes") => Arc::new(csi::CsiNode),
        ("storage.k8s.io", "csistoragecapacities") => Arc::new(csi::CsiStorageCapacity),
        ("storage.k8s.io", "storageclasses") => Arc::new(storage::StorageClass),
        ("storage.k8s.io", "volumeattachments") => Arc::new(csi::VolumeAttachment),
        ("storage.k8s.io", "volumeattributesclasses") => Arc::new(csi::VolumeAttributesClass),
        _ => Arc::new(plain::Plain),
    }
}

#[cfg(test)]
mod tests;
