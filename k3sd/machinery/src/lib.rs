//! What an API object is: kinds, schema, metadata, selectors, quantities, patches, and the answers about them. No I/O.
//!
//! Objects are [`serde_json::Value`]s here. Nothing in this crate knows a kind by name, apart from the tables: the built-in
//! kinds ([`kinds`]) and the fields of their types ([`schema`]) are data, and everything else walks those.
//!
//! The way of a request body: [`schema::decode_json`] → [`schema::check_types`] → [`schema::prune`] →
//! [`schema::apply_static_defaults`] → the kind's strategy. Faults become a [`status::Status`].

pub mod apply;
pub mod bootstrap_token;
pub mod convert;
pub mod cron;
pub mod kinds;
pub mod meta;
pub mod node_label;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
