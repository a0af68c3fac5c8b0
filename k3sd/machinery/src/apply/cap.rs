//! An object keeps at most so many entries of updaters; the oldest become one, `ancient-changes`, for each version.

use std::collections::HashMap;

use super::managed::{Entry, Managed, Manager, Operation};

/// Entries of updaters that an object keeps.
const MAX_UPDATERS: usize = 10;
const BUCKET: &str = "ancient-changes";

pub(super) fn cap(managed: &mut Managed) {
    cap_at(managed, MAX_UPDATERS);
}

fn cap_at(managed: &mut Managed, max: usize) {
    let is_updater = |entry: &&Entry| entry.manager.operation == Operation::Update;
    let mut count = managed.entries.iter().filter(is_updater).count();
    if count <= max {
        return;
    }
    let mut oldest: Vec<Entry> = managed.entries.iter().filter(is_updater).cloned().collect();
    let bucket = Manager::update(BUCKET, "");
    oldest.sort_by_key(|entry| (entry.manager != bucket, entry.time.clone(), entry.manager.name.clone()));
    // The first of a version starts its bucket, but keeps its name as long as it is alone.
    let mut first: HashMap<String, Entry> = HashMap::new();
    for entry in oldest {
        if count <= max {
            return;
        }
        let version = entry.api_version.clone();
        let Some(start) = first.get(&version) else {
            first.insert(version, entry);
            continue;
        };
        let held = managed.find(&bucket, &version).cloned().or_else(|| {
            let held = managed.take(&start.manager, &version)?;
            Some(Entry { manager: bucket.clone(), ..held })
        });
        managed.take(&entry.manager, &version);
        if let Some(mut held) = held {
            held.set_paths(&held.set().union(&entry.set()));
            // The one that came in is the newer one.
            held.time = entry.time;
            managed.put(held);
        }
        count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::set::Set;
    use super::*;

    #[test]
    fn the_oldest_updaters_of_a_version_share_one_entry() {
        let entry = |name: &str, time: &str| {
            let mut entry = Entry::new(Manager::update(name, ""), "v1", &Set::of_fields(&[&[name]]));
            entry.time = time.to_owned();
            entry
        };
        let mut managed = Managed { entries: vec![entry("c", "3"), entry("a", "1"), entry("b", "2")] };
        managed.entries.push(Entry::new(Manager::apply("applier", ""), "v1", &Set::of_fields(&[&["x"]])));
        cap_at(&mut managed, 3);
        assert_eq!(managed.entries.len(), 4, "nothing is over the limit");
        cap_at(&mut managed, 2);
        let bucket = managed.find(&Manager::update(BUCKET, ""), "v1").expect("a bucket");
        assert_eq!(
            (bucket.set().paths(), bucket.time.as_str()),
            (vec![".a".to_owned(), ".b".to_owned()], "2")
        );
        managed.entries.push(entry("d", "4"));
        cap_at(&mut managed, 2);
        let bucket = managed.find(&Manager::update(BUCKET, ""), "v1").expect("a bucket");
        assert_eq!(bucket.set().paths(), [".a", ".b", ".c"]);
        assert!(managed.find(&Manager::apply("applier", ""), "v1").is_some());
    }
}
