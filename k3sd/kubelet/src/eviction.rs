//! From when a node counts as short of something.
//!
//! The thresholds are written as for the kubelet's `--eviction-hard`, such as `memory.available<100Mi,nodefs.available<5%`
//! (Kubernetes: Node-pressure Eviction). Below one, the node's pressure condition turns true, new pods stay away, and the
//! control plane taints it. Pods that run already are left alone.

use std::fmt;
use std::str::FromStr;

use machinery::quantity::Quantity;

/// Every signal that has a threshold, and what its condition is.
const SIGNALS: [&str; 6] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];

/// A bound on what is free.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// Bytes, inodes or process ids.
    Amount(u64),
    /// Of all there is.
    Percent(f64),
}

impl Bound {
    fn is_crossed(self, free: u64, all: u64) -> bool {
        match self {
            Self::Amount(least) => free < least,
            // Nothing there at all, such as inodes on file systems that make them as needed, is not short.
            Self::Percent(percent) => all > 0 && (free as f64) * 100.0 < (all as f64) * percent,
        }
    }
}

/// Thresholds by signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(Vec<(&'static str, Bound)>);

impl Default for Thresholds {
    /// K3s's for file systems, upstream's for memory, and a tenth of the process ids.
    fn default() -> Self {
        Self(vec![
            ("memory.available", Bound::Amount(100 << 20)),
            ("nodefs.available", Bound::Percent(5.0)),
            ("nodefs.inodesFree", Bound::Percent(5.0)),
            ("imagefs.available", Bound::Percent(5.0)),
            ("pid.available", Bound::Percent(10.0)),
        ])
    }
}

impl Thresholds {
    /// Whether one of `signals` is below its threshold, when `free` of `all` are left.
    pub(crate) fn crossed(&self, signals: &[&str], free: u64, all: u64) -> bool {
        self.0.iter().any(|(signal, bound)| signals.contains(signal) && bound.is_crossed(free, all))
    }
}

/// What is wrong with a list of thresholds.
#[derive(Debug, PartialEq, Eq)]
pub struct ThresholdError(String);

impl fmt::Display for ThresholdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "not a threshold: {:?}; write SIGNAL<AMOUNT or SIGNAL<PERCENT%, joined by commas, where SIGNAL is one of {}",
            self.0,
            SIGNALS.join(", ")
        )
    }
}

impl std::error::Error for ThresholdError {}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    /// Replaces the defaults as a whole, as upstream does: a signal that is not named has no threshold.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |part: &str| {
            let (signal, bound) = part.split_once('<')?;
            let signal = SIGNALS.into_iter().find(|known| *known == signal.trim())?;
            Some((signal, bound_from(bound.trim())?))
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| one(part).ok_or_else(|| ThresholdError(part.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn bound_from(text: &str) -> Option<Bound> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| (0.0..100.0).contains(percent))?;
        return Some(Bound::Percent(percent));
    }
    let quantity: Quantity = text.parse().ok()?;
    u64::try_from(quantity.to_units()).ok().map(Bound::Amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_an_amount_or_a_share_and_replaces_the_defaults() {
        let thresholds: Thresholds = "memory.available<1Mi, nodefs.available<10%".parse().unwrap();
        assert!(thresholds.crossed(&["memory.available"], (1 << 20) - 1, 1 << 30));
        assert!(!thresholds.crossed(&["memory.available"], 1 << 20, 1 << 30));
        assert!(thresholds.crossed(&["imagefs.available", "nodefs.available"], 9, 100));
        assert!(!thresholds.crossed(&["nodefs.available"], 10, 100));
        assert!(!thresholds.crossed(&["pid.available"], 0, 100), "not named, so not watched");
        assert!(Thresholds::default().crossed(&["pid.available"], 9, 100));
        assert!(!Thresholds::default().crossed(&["nodefs.inodesFree"], 0, 0), "a file system without inodes");
    }

    #[test]
    fn what_is_no_threshold_is_named() {
        for wrong in [
            "memory.available",
            "memory<1Mi",
            "nodefs.available<many",
            "nodefs.available<100%",
            "pid.available<-1",
        ] {
            let error = format!("nodefs.inodesFree<1%,{wrong}").parse::<Thresholds>().unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
