//! The one way every component talks to the API.
//!
//! Components in the server process and components on an agent use the same code over a [`kube::Client`]; only the
//! transport below differs (a function call into the API server's router, or TLS). This crate adds what a component
//! needs beyond single requests:
//!
//! - [`Informers`]: shared list-watch caches, one per kind and selector in a process. They hold the objects as the
//!   exact bytes the server sent and decode on demand, since ten thousand pods are 47 MB as bytes and 334 MB as structs.
//! - [`WorkQueue`] and [`run_workers`]: keys to reconcile, never two runs of one key at once, backoff per key.
//! - [`Recorder`]: events about objects, with repeats folded into a count.
//! - [`lease`]: heartbeats and leader election on `coordination.k8s.io/v1` leases.
//! - [`remote`]: the way to servers on other machines.
//! - [`request`]: the few raw calls (patch a status, delete with preconditions) that typed clients make awkward.
//!
//! What it does not do: it holds no policy of any component, and it never reaches into the server.

mod backoff;
mod changes;
mod informer;
mod key;
pub mod lease;
mod recorder;
mod reflector;
pub mod remote;
pub mod request;
mod runner;
mod scan;
mod store;
mod stored;
mod work_queue;

pub use backoff::Backoff;
pub use changes::{Change, Changes};
pub use informer::{Informer, Informers};
pub use key::ObjectKey;
pub use recorder::Recorder;
pub use runner::run_workers;
pub use stored::{DecodeError, Owner, PartialObject, Stored};
pub use work_queue::WorkQueue;
