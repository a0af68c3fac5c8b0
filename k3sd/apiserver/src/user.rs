//! Who makes a request.

use std::collections::BTreeMap;

/// Group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of everyone who has proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of those who have not proved an identity.
pub const ANONYMOUS: &str = "system:anonymous";

/// An authenticated (or anonymous) identity, as in `authentication.k8s.io/v1 UserInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, e.g. `system:node:alpha`.
    pub name: String,
    /// Unique id, or "".
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further attributes, e.g. `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated user with these groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// True if the user is in this group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// True when some identity was proved.
    pub fn is_authenticated(&self) -> bool {
        self.name != ANONYMOUS
    }
}
