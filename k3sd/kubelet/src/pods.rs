//! Pods: where they come from (`source`), who runs each of them (`worker`), and the pure parts those decide by.

pub(crate) mod admission;
pub(crate) mod container;
pub(crate) mod dns;
pub(crate) mod env;
pub(crate) mod manager;
pub(crate) mod plan;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod static_pods;
pub(crate) mod status;
pub(crate) mod status_writer;
pub(crate) mod worker;
