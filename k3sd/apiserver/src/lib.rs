//! The API server: HTTP in front, one pipeline for every kind, a watch cache, the datastore behind.
//!
//! # How a request goes through
//!
//! [`ApiServer`] is entered over TLS ([`ApiServer::serve`]) or in process ([`ApiServer::service_as`]); both lead to `pipeline.rs`:
//! authentication (`authn`), authorization (`authz`), then a verb (`verbs/`, one file each) or a subresource (`subresources/`). A write
//! is decoded (`decode`), defaulted, admitted (`admission/`), validated by the kind's [`strategy`], stored in one datastore
//! transaction, and comes back through the watch cache (`cache/`), from which all reads are served. What is stored is what is
//! served: see `codec`.
//!
//! # Current limitations
//!
//! CRDs and webhooks are not here yet. One server owns a
//! datastore: service addresses and node ports are allocated in its memory.

mod addresses;
mod admission;
pub mod allocator;
pub mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod codec;
mod compactor;
pub mod config;
mod decode;
mod discovery;
mod errors;
mod kubelet;
mod managed_fields;
mod metadata;
mod metrics;
pub mod names;
mod negotiate;
mod nonresource;
mod openapi;
mod options;
mod pipeline;
mod present;
mod registry;
mod request;
mod respond;
mod serve;
mod server;
pub mod strategy;
mod subresources;
mod tls;
mod user;
mod verbs;

pub use admission::ConfigurationError;
pub use body::{Body, BoxError};
pub use config::Config;
pub use registry::Registry;
pub use server::{ApiServer, ExtraFuture, ExtraRoutes, InProcess, StartError};
pub use user::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo};
