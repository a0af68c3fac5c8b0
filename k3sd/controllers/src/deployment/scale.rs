//! Following a change of a deployment's size in the midst of a rollout (`sync.go`, `scale`).

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{revision, rolling::Limits, template};

/// The sizes of `sets` (in their order). One active set takes the whole size. Of several, in a rolling update, each gets
/// its share of the change, so that a rollout goes on with the proportions it had.
pub(super) fn plan(
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    wanted: i32,
    limits: Option<Limits>,
) -> Vec<i32> {
    let mut sizes: Vec<i32> = sets.iter().map(template::replicas).collect();
    let is_new = |set: &ReplicaSet| new.is_some_and(|new| new.metadata.uid == set.metadata.uid);
    let active: Vec<usize> = (0..sets.len()).filter(|at| sizes[*at] > 0).collect();
    // The only active set, or if none is, the new one, or else the youngest.
    let single = match active.as_slice() {
        [] => sets.iter().position(is_new).or(sets.len().checked_sub(1)),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(at) = single {
        sizes[at] = wanted;
        return sizes;
    }
    // A saturated new set needs no old ones any more.
    if let Some(new) = new.filter(|new| is_saturated(new, wanted)) {
        for (size, set) in sizes.iter_mut().zip(sets) {
            if set.metadata.uid != new.metadata.uid {
                *size = 0;
            }
        }
        return sizes;
    }
    match limits {
        Some(limits) => proportional(sets, sizes, &active, wanted, limits),
        None => sizes,
    }
}

fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    template::replicas(set) == wanted
        && revision::noted_size(&set.metadata) == Some(wanted)
        && template::available(set) == wanted
}

fn proportional(
    sets: &[ReplicaSet],
    mut sizes: Vec<i32>,
    active: &[usize],
    wanted: i32,
    limits: Limits,
) -> Vec<i32> {
    let total: i32 = sizes.iter().sum();
    let allowed = if wanted > 0 { wanted + limits.surge } else { 0 };
    let change = allowed - total;
    // The largest gets its share first; of equal ones the youngest when growing, the oldest when shrinking.
    let mut order = active.to_vec();
    if change > 0 {
        order.reverse();
    }
    order.sort_by_key(|at| std::cmp::Reverse(sizes[*at]));
    let mut left = change;
    for at in &order {
        let share = share(&sets[*at], sizes[*at], allowed, total);
        let part = if change > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        sizes[*at] += part;
        left -= part;
    }
    if let Some(first) = order.first() {
        sizes[*first] = (sizes[*first] + left).max(0);
    }
    sizes
}

/// A set's part of the change: its size times the ratio of the new limit to the one it was last sized for.
fn share(set: &ReplicaSet, size: i32, allowed: i32, total: i32) -> i32 {
    if allowed == 0 {
        return -size;
    }
    let before = revision::noted_max(&set.metadata).filter(|max| *max > 0).unwrap_or(total);
    let scaled = (f64::from(size) * f64::from(allowed) / f64::from(before)).round();
    scaled as i32 - size
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(uid: &str, replicas: i32, max: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"uid": uid, "annotations": {
                "deployment.kubernetes.io/max-replicas": max.to_string(),
                "deployment.kubernetes.io/desired-replicas": (max - 2).to_string(),
            }},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "availableReplicas": replicas},
        }))
        .unwrap()
    }

    #[test]
    fn shares_follow_the_sizes_and_add_up_to_the_limit() {
        let limits = Some(Limits { surge: 2, unavailable: 2 });
        type Case = (&'static str, Vec<(i32, i32)>, i32, Vec<i32>);
        let cases: [Case; 6] = [
            ("the only active set takes it all", vec![(0, 12), (5, 7)], 9, vec![0, 9]),
            ("none active: the new one", vec![(0, 12), (0, 7)], 3, vec![0, 3]),
            ("twice the size", vec![(8, 12), (4, 12)], 20, vec![15, 7]),
            ("half the size", vec![(8, 12), (4, 12)], 4, vec![4, 2]),
            ("to nothing", vec![(8, 12), (4, 12)], 0, vec![0, 0]),
            ("a full new set ends the old ones", vec![(3, 12), (10, 12)], 10, vec![0, 10]),
        ];
        for (case, sizes, wanted, expected) in cases {
            let sets: Vec<_> =
                sizes.iter().zip(["a", "b"]).map(|((size, max), uid)| set(uid, *size, *max)).collect();
            assert_eq!(plan(&sets, sets.last(), wanted, limits), expected, "{case}");
        }
    }
}
