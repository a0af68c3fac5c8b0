//! Machines that become one cluster: a server and the agents that join it.
//!
//! Each machine has two network cards: one that leads to the host, as every machine has, and one on a network that only the
//! machines of this cluster share. Kubernetes uses the second, where each has an address of its own. Everything a node has
//! to know, the token among it, reaches it as the credential `skerry.config`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;

use crate::builder::Builder;
use crate::command_line::{Lan, lan_address, user_address};
use crate::error::Error;
use crate::vm::API_PORT;

/// Bytes of a token that is made here.
const TOKEN_BYTES: usize = 16;
/// The last number whose address fits the shared network.
const MOST_NODES: u8 = 250;

/// What the machines of one cluster have in common.
#[derive(Debug, Clone)]
pub struct Cluster {
    token: String,
    port: u16,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster with a token of its own, on a network of its own.
    ///
    /// # Errors
    /// When the host has no port or no random numbers to give.
    pub fn new() -> Result<Self, Error> {
        Self::with_token(&random_token().map_err(Error::host("make a token"))?)
    }

    /// A cluster with this token: machines whose state is kept know it already.
    ///
    /// # Errors
    /// When the host has no port to give.
    pub fn with_token(token: &str) -> Result<Self, Error> {
        Ok(Self { token: token.to_owned(), port: Lan::free(1)?.port })
    }

    /// The secret by which agents join.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Makes a machine the node with this number: the first is the server, the others are its agents.
    ///
    /// # Panics
    /// For a number beyond 250, or 0.
    pub fn node(&self, machine: Builder, number: u8) -> Builder {
        assert!((1..=MOST_NODES).contains(&number), "nodes have numbers from 1 to {MOST_NODES}");
        machine
            .name(&Self::name(number))
            .lan(Lan { port: self.port, number })
            .credential("skerry.config", self.config(number))
    }

    /// The node's name, which is also its host name.
    pub fn name(number: u8) -> String {
        format!("node{number}")
    }

    /// The node's address on the shared network.
    pub fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 53, 0, number)
    }

    fn config(&self, number: u8) -> String {
        let mut text = String::from("[node]\n");
        // Writing to a string does not fail.
        let _ = writeln!(text, "hostname = \"{}\"", Self::name(number));
        let _ = writeln!(text, "token = \"{}\"", self.token);
        if number == 1 {
            text.push_str("role = \"server\"\n");
        } else {
            let _ = writeln!(text, "role = \"agent\"\nserver = \"https://{}:{API_PORT}\"", Self::address(1));
        }
        let address = Self::address(number);
        let _ = write!(
            text,
            "\n[[network.interfaces]]\nmatch = {{ mac = \"{}\" }}\ndhcp = true\n\
             \n[[network.interfaces]]\nmatch = {{ mac = \"{}\" }}\naddresses = [\"{address}/24\"]\n\
             \n[k3s]\nnode-ip = \"{address}\"\n",
            user_address(number),
            lan_address(number),
        );
        text
    }
}

/// In hexadecimal digits, from the kernel.
pub fn random_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_is_the_server_and_the_others_join_it() {
        let cluster = Cluster::with_token("secret").unwrap();
        let (first, second) = (cluster.config(1), cluster.config(2));
        assert!(first.contains("role = \"server\"") && !first.contains("server = \"https"), "{first}");
        assert!(second.contains("server = \"https://10.53.0.1:6443\""), "{second}");
        assert!(second.contains("hostname = \"node2\"") && second.contains("token = \"secret\""), "{second}");
        assert!(second.contains("addresses = [\"10.53.0.2/24\"]"), "{second}");
    }

    #[test]
    fn clusters_have_tokens_of_their_own() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert_eq!(one.len(), 2 * TOKEN_BYTES);
        assert_ne!(one, other);
    }
}
