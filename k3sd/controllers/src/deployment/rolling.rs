//! How far a rolling update may go in one step (`rolling.go`, `util/deployment_util.go`).

use k8s_openapi::{api::apps::v1::DeploymentSpec, apimachinery::pkg::util::intstr::IntOrString};

/// How pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Recreate,
    RollingUpdate(Limits),
}

/// How many pods more and fewer than wanted there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

/// The sizes of a deployment's sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) new: Option<Count>,
    /// Oldest first.
    pub(super) old: Vec<Count>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// As its spec says.
    pub(super) replicas: i32,
    pub(super) available: i32,
}

/// The strategy a deployment asks for.
pub(super) fn strategy(spec: &DeploymentSpec) -> Strategy {
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let quarter = IntOrString::String("25%".to_owned());
    let wanted = spec.replicas.unwrap_or(1);
    let surge = share(rolling.max_surge.as_ref().unwrap_or(&quarter), wanted, true);
    let mut unavailable = share(rolling.max_unavailable.as_ref().unwrap_or(&quarter), wanted, false);
    if surge == 0 && unavailable == 0 {
        // Percentages of few pods may both round to none; then nothing could ever move.
        unavailable = 1;
    }
    Strategy::RollingUpdate(Limits { surge, unavailable: unavailable.min(wanted) })
}

/// A number, or a percentage of `whole`, rounded up or down.
pub(crate) fn share(value: &IntOrString, whole: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|percent| percent.parse::<i64>().ok()).unwrap_or(0);
            let scaled = percent * i64::from(whole);
            let rounded = if up { (scaled + 99).div_euclid(100) } else { scaled.div_euclid(100) };
            i32::try_from(rounded.max(0)).unwrap_or(i32::MAX)
        }
    }
}

impl Counts {
    fn total(&self) -> i32 {
        self.old.iter().chain(&self.new).map(|count| count.replicas).sum()
    }
}

impl Limits {
    /// The size the new set may have now.
    pub(super) fn new_set_target(self, wanted: i32, counts: &Counts) -> i32 {
        let new = counts.new.unwrap_or_default().replicas;
        if new >= wanted {
            return wanted;
        }
        let room = (wanted + self.surge - counts.total()).max(0);
        new + room.min(wanted - new)
    }

    /// The sizes the old sets are to have now: first those lose pods that are not available anyway, then the oldest,
    /// so that enough stay available.
    pub(super) fn scale_down_old(self, wanted: i32, counts: &Counts) -> Vec<i32> {
        let mut sizes: Vec<i32> = counts.old.iter().map(|count| count.replicas).collect();
        let minimum = wanted - self.unavailable;
        let new = counts.new.unwrap_or_default();
        let mut removable = counts.total() - minimum - (new.replicas - new.available);
        if removable <= 0 {
            return sizes;
        }
        for (size, count) in sizes.iter_mut().zip(&counts.old) {
            let unhealthy = (count.replicas - count.available).clamp(0, removable.max(0));
            *size -= unhealthy;
            removable -= unhealthy;
        }
        let available: i32 = counts.old.iter().chain(&counts.new).map(|count| count.available).sum();
        let mut removable = available - minimum;
        for size in &mut sizes {
            let fewer = (*size).clamp(0, removable.max(0));
            *size -= fewer;
            removable -= fewer;
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn count(replicas: i32, available: i32) -> Count {
        Count { replicas, available }
    }

    #[test]
    fn surge_rounds_up_unavailable_rounds_down_and_never_both_are_none() {
        let cases: [(Value, i32, Strategy); 6] = [
            (json!({}), 1, Strategy::RollingUpdate(Limits { surge: 1, unavailable: 0 })),
            (json!({}), 10, Strategy::RollingUpdate(Limits { surge: 3, unavailable: 2 })),
            (json!({"type": "Recreate"}), 10, Strategy::Recreate),
            (
                json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}),
                5,
                Strategy::RollingUpdate(Limits { surge: 0, unavailable: 1 }),
            ),
            (
                json!({"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 7}}),
                4,
                Strategy::RollingUpdate(Limits { surge: 4, unavailable: 4 }),
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}),
                3,
                Strategy::RollingUpdate(Limits { surge: 2, unavailable: 0 }),
            ),
        ];
        for (value, replicas, expected) in cases {
            let spec: DeploymentSpec = serde_json::from_value(
                json!({"selector": {}, "template": {}, "replicas": replicas, "strategy": value}),
            )
            .unwrap();
            assert_eq!(strategy(&spec), expected, "{value}");
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge_only() {
        let limits = Limits { surge: 1, unavailable: 0 };
        for (wanted, new, old, expected) in [
            (3, None, vec![], 3),
            (3, None, vec![3], 1),
            (3, Some(1), vec![3], 1),
            (3, Some(1), vec![2], 2),
            (3, Some(5), vec![], 3),
            (3, Some(0), vec![9], 0),
        ] {
            let counts = Counts {
                new: new.map(|replicas| count(replicas, 0)),
                old: old.iter().map(|replicas| count(*replicas, *replicas)).collect(),
            };
            assert_eq!(limits.new_set_target(wanted, &counts), expected, "{wanted} {new:?} {old:?}");
        }
    }

    #[test]
    fn old_sets_shrink_no_further_than_availability_allows() {
        let limits = Limits { surge: 1, unavailable: 1 };
        type Case = (&'static str, i32, Count, Vec<Count>, Vec<i32>);
        let cases: [Case; 5] = [
            ("one may be missing", 3, count(1, 0), vec![count(3, 3)], vec![2]),
            ("an available new pod frees one more", 3, count(1, 1), vec![count(3, 3)], vec![1]),
            ("pods that are down go first", 3, count(1, 0), vec![count(1, 1), count(2, 1)], vec![1, 1]),
            (
                "the oldest goes before the younger",
                4,
                count(2, 2),
                vec![count(1, 1), count(2, 2)],
                vec![0, 1],
            ),
            ("a new set that does not come up stops it", 3, count(2, 0), vec![count(2, 2)], vec![2]),
        ];
        for (case, wanted, new, old, expected) in cases {
            let counts = Counts { new: Some(new), old };
            assert_eq!(limits.scale_down_old(wanted, &counts), expected, "{case}");
        }
    }

    /// Plays a whole rollout in which each pod becomes available one step after it was made.
    #[test]
    fn a_rollout_ends_and_keeps_its_promises_at_every_step() {
        for (wanted, surge, unavailable) in [(1, 1, 0), (5, 1, 0), (5, 0, 1), (10, 3, 2), (4, 4, 4)] {
            let limits = Limits { surge, unavailable };
            let mut counts = Counts { new: Some(count(0, 0)), old: vec![count(wanted, wanted)] };
            for _ in 0..100 {
                let new = limits.new_set_target(wanted, &counts);
                if let Some(count) = &mut counts.new {
                    count.replicas = new;
                }
                let sizes = limits.scale_down_old(wanted, &counts);
                for (count, size) in counts.old.iter_mut().zip(sizes) {
                    *count = Count { replicas: size, available: size };
                }
                let available: i32 = counts.old.iter().chain(&counts.new).map(|count| count.available).sum();
                assert!(available >= wanted - unavailable, "{limits:?} {counts:?}");
                assert!(counts.total() <= wanted + surge, "{limits:?} {counts:?}");
                counts.new = Some(count(new, new));
            }
            assert_eq!((counts.new.unwrap().available, counts.old[0].replicas), (wanted, 0), "{limits:?}");
        }
    }
}
