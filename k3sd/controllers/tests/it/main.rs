//! The controllers and the scheduler on the real API server and datastore, in one process as in production. Only the
//! kubelet is missing: the tests write the pods' statuses in its place.

mod batch;
mod certificates;
mod cluster;
mod coordination;
mod daemons;
mod deletion;
mod nodes;
mod quota;
mod service_ranges;
mod stateful;
mod tokens;
mod workloads;
