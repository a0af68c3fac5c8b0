//! Admission: what the cluster's policies add to objects and refuse. A chain of plugins, first all that change the object, then,
//! after validation, all that only look.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use machinery::status::Status;
use serde_json::Value;

use crate::audit::Trail;
use crate::authz::rbac::Rbac;
use crate::server::Shared;
use crate::strategy::Context;

mod certificates;
mod claim_resize;
mod configuration;
mod default_class;
mod default_tolerations;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod pod_topology;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_new_nodes;

pub(crate) use self::configuration::Configuration;
pub use self::configuration::ConfigurationError;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach and port-forward.
    Connect,
}

/// One request for admission.
pub(crate) struct Review<'a> {
    pub cx: &'a Context<'a>,
    pub operation: Operation,
    /// Name from the path, or of the object.
    pub name: &'a str,
    /// The object before, for updates and deletes.
    pub old: Option<&'a Value>,
    pub shared: &'a Shared,
    pub notes: &'a Notes,
    /// The audit log's record of the request.
    pub trail: Option<&'a Trail>,
}

/// What plugins leave behind besides their answer.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Texts for `Warning:` headers.
    warnings: Mutex<Vec<String>>,
    /// What was taken from quotas, to be given back if the object is not stored after all.
    charges: Mutex<Vec<resource_quota::Charge>>,
}

impl Notes {
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    fn charged(&self, charge: resource_quota::Charge) {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner).push(charge);
    }

    /// Undo what admission has done for a write that then failed.
    pub(crate) async fn undo(&self, shared: &Shared) {
        let charges = std::mem::take(&mut *self.charges.lock().unwrap_or_else(PoisonError::into_inner));
        for charge in charges {
            charge.give_back(shared).await;
        }
    }
}

impl Review<'_> {
    /// True for the resource itself or one of its subresources.
    pub(crate) fn is(&self, group: &str, plural: &str, subresource: &str) -> bool {
        self.cx.resource.group == group
            && self.cx.resource.plural == plural
            && self.cx.subresource == subresource
    }

    /// Tell the audit log.
    fn annotate(&self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(trail) = self.trail {
            trail.note(key, value());
        }
    }

    /// A refusal in upstream's words.
    pub(crate) fn forbid(&self, detail: &str) -> Status {
        Status::forbidden(&self.cx.resource.group, &self.cx.resource.plural, self.name, detail)
    }
}

/// One admission plugin. Both steps may wait (webhooks do), so they are async.
#[async_trait]
pub(crate) trait Plugin: Send + Sync {
    /// Change the object, or refuse.
    async fn mutate(&self, _review: &Review<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Look at the final object, or refuse. For deletes `object` is null.
    async fn validate(&self, _review: &Review<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

/// The chain.
pub(crate) struct Admission(Vec<Box<dyn Plugin>>);

impl Admission {
    /// The plugins that are always on, in upstream's order.
    pub(crate) fn builtin(rbac: Arc<Rbac>, settings: Configuration) -> Self {
        Self(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(taint_new_nodes::TaintNewNodes),
            Box::new(pod_security::PodSecurity(settings.pod_security)),
            Box::new(priority::Priority),
            Box::new(default_tolerations::DefaultTolerations),
            Box::new(default_class::DefaultClass::STORAGE),
            Box::new(storage_protection::StorageProtection),
            Box::new(claim_resize::ClaimResize),
            Box::new(runtime_class::RuntimeClass),
            Box::new(certificates::Certificates(rbac.clone())),
            Box::new(default_class::DefaultClass::INGRESS),
            Box::new(pod_topology::PodTopologyLabels),
            Box::new(rbac_escalation::RbacEscalation(rbac)),
            // The last word, so that nothing is charged for what another plugin refuses.
            Box::new(resource_quota::ResourceQuota::default()),
        ])
    }

    pub(crate) async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        for plugin in &self.0 {
            plugin.mutate(review, object).await?;
        }
        Ok(())
    }

    pub(crate) async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        for plugin in &self.0 {
            plugin.validate(review, object).await?;
        }
        Ok(())
    }
}
