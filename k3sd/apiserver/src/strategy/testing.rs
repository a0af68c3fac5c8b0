//! What strategy tests need: a context over an empty server, and objects taken through a write as the pipeline does it.

use std::sync::Arc;

use machinery::kinds;
use machinery::status::{FieldError, Status};
use machinery::{meta, schema};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;

use super::{Context, Strategy, lookup};
use crate::allocator::Allocators;
use crate::config::{Config, Identity};
use crate::registry::Registry;
use crate::user::UserInfo;

/// A server's worth of what strategies look at.
pub(crate) struct World {
    config: Config,
    pub(crate) allocators: Allocators,
    registry: Registry,
    user: UserInfo,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_ranges(&["10.43.0.0/16"], 30_000..=32_767)
    }

    pub(crate) fn with_ranges(cidrs: &[&str], node_ports: std::ops::RangeInclusive<u16>) -> Self {
        let identity =
            || Identity { chain: Vec::new(), key: Arc::new(PrivateKeyDer::Pkcs8(Vec::new().into())) };
        let config = Config {
            service_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            node_port_range: node_ports,
            cluster_domain: "cluster.local".to_owned(),
            advertise_address: "192.0.2.1".parse().unwrap(),
            advertise_port: 6443,
            version: "v1.36.2".to_owned(),
            service_account_issuer: String::new(),
            api_audiences: Vec::new(),
            service_account_keys: Vec::new(),
            client_ca: Vec::new(),
            serving: identity(),
            kubelet_client: identity(),
            kubelet_ca: Vec::new(),
            audit: None,
            admission: None,
        };
        Self {
            allocators: Allocators::new(&config.service_cidrs, config.node_port_range.clone()),
            config,
            registry: Registry::builtin(),
            user: UserInfo::new("tester", &["testers"]),
        }
    }

    /// Takes an object through create; what was reserved is kept.
    pub(crate) fn create(&self, group: &str, plural: &str, object: Value) -> Result<Value, Refusal> {
        self.create_as(resource(group, plural), object)
    }

    /// The same through one of several versions.
    pub(crate) fn create_in(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        object: Value,
    ) -> Result<Value, Refusal> {
        self.create_as(kinds::find(group, version, plural).unwrap(), object)
    }

    fn create_as(&self, resource: &kinds::Resource, object: Value) -> Result<Value, Refusal> {
        let strategy = lookup(&resource.group, &resource.plural);
        let cx = self.context(resource, "");
        let mut object = defaulted(&*strategy, resource, object);
        let reservation = strategy.begin_create(&cx, &mut object)?;
        if resource.subresource("status").is_some() && !strategy.keeps_status_on_create() {
            meta::object_mut(&mut object).remove("status");
        }
        strategy.prepare_create(&cx, &mut object);
        let mut faults: Vec<_> = strategy
            .validate_name(meta::name(&object), false)
            .into_iter()
            .map(|detail| FieldError::invalid("metadata.name", meta::name(&object), detail))
            .collect();
        faults.extend(strategy.validate_create(&cx, &object));
        refuse(faults)?;
        reservation.keep();
        Ok(object)
    }

    /// Takes a change through the status subresource.
    pub(crate) fn update_status(
        &self,
        group: &str,
        plural: &str,
        old: &Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        let (strategy, resource) = (lookup(group, plural), resource(group, plural));
        let cx = self.context(resource, "status");
        let mut object = old.clone();
        change(&mut object);
        strategy.prepare_status_update(&cx, &mut object, old);
        refuse(strategy.validate_update(&cx, &object, old))?;
        Ok(object)
    }

    /// Takes a change through update.
    pub(crate) fn update(
        &self,
        group: &str,
        plural: &str,
        old: &Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        self.update_as(resource(group, plural), old, change)
    }

    /// The same through one of several versions.
    pub(crate) fn update_in(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        old: &Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        self.update_as(kinds::find(group, version, plural).unwrap(), old, change)
    }

    fn update_as(
        &self,
        resource: &kinds::Resource,
        old: &Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        let strategy = lookup(&resource.group, &resource.plural);
        let cx = self.context(resource, "");
        let mut object = old.clone();
        change(&mut object);
        let mut object = defaulted(&*strategy, resource, object);
        let reservation = strategy.begin_update(&cx, &mut object, old)?;
        strategy.prepare_update(&cx, &mut object, old);
        refuse(strategy.validate_update(&cx, &object, old))?;
        reservation.keep();
        strategy.after_update(&cx, &object, old);
        Ok(object)
    }

    pub(crate) fn delete(&self, group: &str, plural: &str, old: &Value) {
        lookup(group, plural).after_delete(&self.allocators, old.to_string().as_bytes());
    }

    fn context<'a>(&'a self, resource: &'a kinds::Resource, subresource: &'a str) -> Context<'a> {
        Context {
            resource,
            subresource,
            namespace: if resource.namespaced { "default" } else { "" },
            user: &self.user,
            dry_run: false,
            config: &self.config,
            allocators: &self.allocators,
            objects: &self.registry,
        }
    }
}

/// Why a write was refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    Status(Status),
    Faults(Vec<FieldError>),
}

impl Refusal {
    /// The texts of all faults, in order.
    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::Status(status) => vec![status.message.clone()],
            Self::Faults(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn refuse(faults: Vec<FieldError>) -> Result<(), Refusal> {
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Faults(faults)) }
}

fn resource(group: &str, plural: &str) -> &'static kinds::Resource {
    kinds::builtin().iter().find(|r| r.group == group && r.plural == plural).unwrap()
}

fn defaulted(strategy: &dyn Strategy, resource: &kinds::Resource, mut object: Value) -> Value {
    schema::apply_static_defaults(schema::builtin(), &resource.type_name, &mut object);
    strategy.default(&mut object);
    object
}
