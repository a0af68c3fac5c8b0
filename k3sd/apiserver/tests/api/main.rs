//! The API server from outside: over TLS with kubectl, and in process.

mod access;
mod addresses;
mod admission;
mod apply;
mod audit;
mod bad_input;
mod clients;
mod encoding;
mod every_kind;
mod harness;
mod kinds;
mod kubectl;
mod lists;
mod nodes;
mod pod_security;
mod pods;
mod protobuf;
mod proxying;
mod secret_tokens;
mod topology;
mod workloads;
