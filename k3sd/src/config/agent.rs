//! What `k3sd agent` is told.

use std::path::PathBuf;

use client::remote::Endpoint;
use supervisor::token::Token;

use super::node::{Identity, Node};
use super::{Mistakes, data_dir, secret};
use crate::cli::AgentFlags;

/// Where a server is when its address names no port: the scheme's, as K3s has it.
const HTTPS_PORT: u16 = 443;

/// Everything `k3sd agent` needs to know, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) data_dir: PathBuf,
    /// The server to join.
    pub(crate) server: Endpoint,
    pub(crate) token: Token,
    pub(crate) identity: Identity,
    pub(crate) node: Node,
}

impl Agent {
    /// `None` when there is a mistake that leaves nothing to go on with.
    pub(super) fn resolve(
        flags: AgentFlags,
        mistakes: &mut Mistakes,
        warnings: &mut Vec<String>,
    ) -> Option<Self> {
        let server = match flags.server.as_deref().map(str::trim) {
            None | Some("") => {
                mistakes.add("server: not given; it is the server to join, such as https://10.0.0.1:6443");
                None
            }
            Some(url) => endpoint(url).or_else(|| {
                mistakes.add(format!("server: not https://HOST:PORT: {url:?}"));
                None
            }),
        };
        let token = secret("token", flags.token.token, flags.token.token_file, mistakes);
        let token = match token.as_deref().map(str::parse::<Token>) {
            Some(Ok(token)) => Some(token),
            Some(Err(error)) => {
                mistakes.add(format!("token: {error}"));
                None
            }
            None => {
                mistakes
                    .add("token: not given; it is in /var/lib/rancher/k3s/server/node-token on the server");
                None
            }
        };
        let identity = Identity::resolve(&flags.node, mistakes);
        let node = Node::resolve(&flags.node, &identity, mistakes, warnings);
        Some(Self { data_dir: data_dir(&flags.common), server: server?, token: token?, identity, node })
    }
}

/// Host and port of a URL that says nothing else.
fn endpoint(url: &str) -> Option<Endpoint> {
    let rest = url.strip_prefix("https://")?.trim_end_matches('/');
    if rest.contains(['/', '?', '#', '@']) {
        return None;
    }
    rest.parse().or_else(|_| format!("{rest}:{HTTPS_PORT}").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_is_a_host_and_a_port() {
        for (url, expected) in [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("https://server.example/", Some("server.example:443")),
            ("https://[fd00::1]:6443", Some("[fd00::1]:6443")),
            ("https://[fd00::1]", Some("[fd00::1]:443")),
            ("http://10.0.0.1:6443", None),
            ("10.0.0.1:6443", None),
            ("https://10.0.0.1:6443/path", None),
            ("https://", None),
        ] {
            assert_eq!(endpoint(url).map(|endpoint| endpoint.to_string()).as_deref(), expected, "{url}");
        }
    }
}
