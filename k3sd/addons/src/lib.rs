//! What the server brings along beyond Kubernetes itself.
//!
//! So far this is the [`deploy`] controller, which keeps the objects in manifest files applied. Current limitations: no
//! service load balancer, ingress, storage provisioner, metrics or Helm controller yet.

pub mod deploy;
