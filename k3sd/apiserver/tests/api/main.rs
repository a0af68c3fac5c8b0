//! The API server from outside: over TLS with kubectl, and in process.

mod access;
mod harness;
mod kinds;
mod kubectl;
mod pods;
