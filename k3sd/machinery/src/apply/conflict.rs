//! What an apply would take from others, and how it is said.

use super::managed::{Manager, Operation};
use crate::status::{Cause, Status};

/// A field that somebody else owns and that the configuration sets to something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: Manager,
    /// In which version of the object.
    pub api_version: String,
    /// The field, such as `.spec.replicas`.
    pub path: String,
}

impl Conflict {
    fn owner(&self) -> String {
        let Manager { name, operation, subresource } = &self.manager;
        let mut owner = format!("{name:?}");
        if !subresource.is_empty() {
            owner += &format!(" with subresource {subresource:?}");
        }
        if *operation == Operation::Update {
            owner += &format!(" using {}", self.api_version);
        }
        owner
    }
}

/// 409 with a cause for each field, in the words that `kubectl` prints and looks for.
pub(super) fn status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts.iter().map(|conflict| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {}", conflict.owner()),
        field: conflict.path.clone(),
    });
    Status::apply_conflict(causes.collect(), message(conflicts))
}

fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner(), one.path);
    }
    let mut owners: Vec<String> = conflicts.iter().map(Conflict::owner).collect();
    owners.sort();
    owners.dedup();
    let mut lines = Vec::new();
    for owner in owners {
        lines.push(format!("conflicts with {owner}:"));
        lines.extend(conflicts.iter().filter(|c| c.owner() == owner).map(|c| format!("- {}", c.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
