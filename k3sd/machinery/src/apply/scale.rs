//! Ownership of `spec.replicas` between an object and its `scale` subresource: one field, under two types.

use super::managed::{Entry, Managed};
use super::set::Set;

/// The version of `Scale`.
const SCALE: &str = "autoscaling/v1";
const REPLICAS: &[&[&str]] = &[&["spec", "replicas"]];

/// The entries of the scale: those that own the replicas of the object.
pub fn to_scale(parent: &Managed) -> Managed {
    let replicas = Set::of_fields(REPLICAS);
    let owners = parent.entries.iter().filter(|entry| replicas.within(&entry.fields));
    let entries = owners.map(|entry| Entry {
        time: entry.time.clone(),
        ..Entry::new(entry.manager.clone(), SCALE, &replicas)
    });
    Managed { entries: entries.collect() }
}

/// The entries of the object after its scale, which had the entries of [`to_scale`], was written.
pub fn to_parent(mut parent: Managed, scale: &Managed, api_version: &str) -> Managed {
    let replicas = Set::of_fields(REPLICAS);
    for entry in &mut parent.entries {
        let owns = replicas.within(&entry.fields);
        if owns && !scale.entries.iter().any(|owner| owner.manager == entry.manager) {
            entry.set_paths(&entry.set().difference(&replicas));
        }
    }
    for owner in &scale.entries {
        // An owner from before keeps the entry it has, whatever the version.
        let known = parent.entries.iter().find(|entry| entry.manager == owner.manager);
        let version = known.map_or(api_version, |entry| &entry.api_version).to_owned();
        let mut entry = parent
            .take(&owner.manager, &version)
            .unwrap_or_else(|| Entry::new(owner.manager.clone(), &version, &Set::default()));
        if !replicas.within(&entry.fields) || entry.time.is_empty() {
            entry.set_paths(&entry.set().union(&replicas));
        }
        entry.time.clone_from(&owner.time);
        parent.put(entry);
    }
    parent.drop_empty();
    parent
}
