//! Texts with rules of their own that more than one section has.

/// What a host name is, for people.
pub(crate) const HOST_NAME: &str =
    "lower-case letters, digits and dashes, with dots between labels, at most 64 characters";

/// What an interface name is, for people.
pub(crate) const INTERFACE_NAME: &str = "1 to 15 characters without blanks, / and :";

/// Kubernetes takes a lower-case RFC 1123 subdomain as a node name; the kernel takes at most 64 bytes.
#[must_use]
pub fn host_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 64 && text.split('.').all(label_ok)
}

/// What the kernel takes as the name of a link (`dev_valid_name` in net/core/dev.c).
#[must_use]
pub fn interface_name(text: &str) -> bool {
    (1..16).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// A name or an address of a server, without port.
#[must_use]
pub(crate) fn server_name(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253 && text.split('.').all(|label| host_name(&label.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_what_kubernetes_takes_as_a_nodes_name() {
        for good in ["edge-1", "edge.example", "1"] {
            assert!(host_name(good), "{good}");
        }
        for bad in ["", "Edge", "edge_1", "-edge", "edge-", "edge..one", &"a".repeat(65)] {
            assert!(!host_name(bad), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        assert!(interface_name("enp0s31f6.100"));
        for bad in ["", "..", "a b", "a/b", "eth0:1", "sixteen-letters-"] {
            assert!(!interface_name(bad), "{bad}");
        }
    }
}
