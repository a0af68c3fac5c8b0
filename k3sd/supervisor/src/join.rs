//! How machines join, by K3s's protocol: [`server`] answers, [`agent`] asks.
//!
//! ```text
//!   agent                                              server
//!   GET /cacerts, unverified, then verified        ->  the server CA; its hash must be the token's
//!   GET /v1-k3s/config            (token)          ->  the cluster's settings
//!   GET /v1-k3s/{client,server}-ca.crt             ->  authorities
//!   GET /v1-k3s/apiservers                         ->  where else servers are
//!   POST /v1-k3s/NAME.crt         (node password)  ->  certificates, one per key the agent made
//! ```

pub mod agent;
mod passwords;
pub mod server;
mod settings;

pub use settings::{Cidr, PortRange, Settings};

/// Header with the node's name.
const NODE_NAME: &str = "k3s-node-name";
/// Header with the node's password.
const NODE_PASSWORD: &str = "k3s-node-password";
/// Header with the node's addresses, separated by commas.
const NODE_IP: &str = "k3s-node-ip";
