//! The status and conditions of a deployment (`sync.go`, `progress.go`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    Rollout,
    rolling::{self, Strategy},
    template,
};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const REASON_DONE: &str = "NewReplicaSetAvailable";
const REASON_TIMED_OUT: &str = "ProgressDeadlineExceeded";
const REASON_PAUSED: &str = "DeploymentPaused";
const REASON_RESUMED: &str = "DeploymentResumed";
/// Upstream's stand-in for "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

/// What a run did about the new replica set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Created(String),
    Found(String),
    FailedCreate(String),
}

/// Sums over a deployment's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

pub(super) fn totals(rollout: &Rollout) -> Totals {
    let mut totals = Totals::default();
    for set in rollout.old.iter().chain(&rollout.new) {
        let status = set.status.clone().unwrap_or_default();
        totals.replicas += status.replicas;
        totals.ready += status.ready_replicas.unwrap_or(0);
        totals.available += status.available_replicas.unwrap_or(0);
        totals.terminating += status.terminating_replicas.unwrap_or(0);
    }
    let updated = rollout.new.as_ref().and_then(|set| set.status.as_ref()).map(|status| status.replicas);
    totals.updated = updated.unwrap_or(0);
    totals
}

/// All pods are of the new template, and available.
pub(super) fn is_complete(wanted: i32, totals: &Totals) -> bool {
    totals.updated == wanted && totals.replicas == wanted && totals.available == wanted
}

/// What the status is to be.
pub(super) fn calculate(rollout: &Rollout, now: Timestamp) -> DeploymentStatus {
    let totals = totals(rollout);
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    set(&mut conditions, availability(rollout, &totals), now);
    progress(rollout, &old, &totals, &mut conditions, now);
    replica_failure(rollout, &mut conditions, now);
    let sets = rollout.old.iter().chain(&rollout.new);
    let wanted_in_sets: i32 = sets.map(template::replicas).sum();
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: some(totals.replicas),
        updated_replicas: some(totals.updated),
        ready_replicas: some(totals.ready),
        available_replicas: some(totals.available),
        unavailable_replicas: some((wanted_in_sets - totals.available).max(0)),
        terminating_replicas: Some(totals.terminating),
        collision_count: old.collision_count,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
    }
}

/// When the rollout will be late if it does not move, so that it can be said then.
pub(super) fn deadline(rollout: &Rollout, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let limit = progress_deadline(rollout)?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = find(conditions, PROGRESSING)?;
    let waiting = condition.status == "True" && condition.reason.as_deref() != Some(REASON_DONE);
    if !waiting || rollout.spec.paused == Some(true) {
        return None;
    }
    let since = condition.last_update_time.as_ref().map(|time| time.0)?;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    // A second more, since times are written in whole seconds.
    Some(limit.saturating_sub(passed) + Duration::from_secs(1))
}

fn progress_deadline(rollout: &Rollout) -> Option<Duration> {
    let seconds = rollout.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

fn availability(rollout: &Rollout, totals: &Totals) -> DeploymentCondition {
    let unavailable = match rolling::strategy(&rollout.spec) {
        Strategy::Recreate => 0,
        Strategy::RollingUpdate(limits) => limits.unavailable,
    };
    if totals.available >= rollout.wanted() - unavailable {
        let message = "Deployment has minimum availability.";
        return condition(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    }
    let message = "Deployment does not have minimum availability.";
    condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
}

fn progress(
    rollout: &Rollout,
    old: &DeploymentStatus,
    totals: &Totals,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let Some(limit) = progress_deadline(rollout) else {
        return conditions.retain(|condition| condition.type_ != PROGRESSING);
    };
    if paused(rollout, conditions, now) {
        return;
    }
    match &rollout.progress {
        Some(Progress::FailedCreate(message)) => {
            return set(conditions, condition(PROGRESSING, "False", "ReplicaSetCreateError", message), now);
        }
        Some(Progress::Created(name)) => {
            let message = format!("Created new replica set \"{name}\"");
            set(conditions, condition(PROGRESSING, "True", "NewReplicaSetCreated", &message), now);
        }
        Some(Progress::Found(name)) if find(conditions, PROGRESSING).is_none() => {
            let message = format!("Found new replica set \"{name}\"");
            set(conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", &message), now);
        }
        _ => {}
    }
    let current = find(conditions, PROGRESSING).cloned();
    let was_done = current.as_ref().and_then(|condition| condition.reason.as_deref()) == Some(REASON_DONE);
    if totals.replicas == totals.updated && was_done {
        return;
    }
    let name = match rollout.new.as_ref().and_then(|set| set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => {
            format!("Deployment \"{}\"", rollout.deployment.metadata.name.as_deref().unwrap_or_default())
        }
    };
    if is_complete(rollout.wanted(), totals) && is_observed(rollout) {
        let message = format!("{name} has successfully progressed.");
        set(conditions, condition(PROGRESSING, "True", REASON_DONE, &message), now);
    } else if moved(old, totals) {
        let message = format!("{name} is progressing.");
        let mut moving = condition(PROGRESSING, "True", "ReplicaSetUpdated", &message);
        // Moving on is an update even if the words stay the same: the deadline counts from here.
        if let Some(current) = current.filter(|current| current.status == "True") {
            moving.last_transition_time = current.last_transition_time;
            moving.last_update_time = Some(Time(now));
            conditions.retain(|condition| condition.type_ != PROGRESSING);
            conditions.push(moving);
        } else {
            set(conditions, moving, now);
        }
    } else if current.is_some_and(|current| is_late(&current, limit, now)) {
        let message = format!("{name} has timed out progressing.");
        set(conditions, condition(PROGRESSING, "False", REASON_TIMED_OUT, &message), now);
    }
}

/// A paused deployment makes no progress and is not late either.
fn paused(rollout: &Rollout, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) -> bool {
    let reason = find(conditions, PROGRESSING).and_then(|condition| condition.reason.clone());
    let paused = rollout.spec.paused == Some(true);
    if reason.as_deref() == Some(REASON_TIMED_OUT) {
        return paused;
    }
    if paused && reason.as_deref() != Some(REASON_PAUSED) {
        set(conditions, condition(PROGRESSING, "Unknown", REASON_PAUSED, "Deployment is paused"), now);
    } else if !paused && reason.as_deref() == Some(REASON_PAUSED) {
        set(conditions, condition(PROGRESSING, "Unknown", REASON_RESUMED, "Deployment is resumed"), now);
    }
    paused
}

/// The set's controller has seen the size it is to have.
fn is_observed(rollout: &Rollout) -> bool {
    rollout.new.as_ref().is_some_and(|set| {
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        set.metadata.generation <= observed
    })
}

/// There are more new pods, fewer old ones, or more that are ready or available, than the status says.
fn moved(old: &DeploymentStatus, totals: &Totals) -> bool {
    let was = |count: Option<i32>| count.unwrap_or(0);
    let old_pods = was(old.replicas) - was(old.updated_replicas);
    totals.updated > was(old.updated_replicas)
        || totals.replicas - totals.updated < old_pods
        || totals.ready > was(old.ready_replicas)
        || totals.available > was(old.available_replicas)
}

fn is_late(current: &DeploymentCondition, limit: Duration, now: Timestamp) -> bool {
    match current.reason.as_deref() {
        Some(REASON_DONE) => return false,
        Some(REASON_TIMED_OUT) => return true,
        _ => {}
    }
    let Some(since) = &current.last_update_time else { return false };
    Duration::try_from(now.duration_since(since.0)).is_ok_and(|passed| passed > limit)
}

/// The deployment says what keeps its sets from making pods.
fn replica_failure(rollout: &Rollout, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let failure = |set: &ReplicaSet| -> Option<ReplicaSetCondition> {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    let failed = rollout.new.iter().chain(&rollout.old).find_map(failure);
    match failed {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failed) => {
            let (reason, message) = (failed.reason.unwrap_or_default(), failed.message.unwrap_or_default());
            set(conditions, condition(REPLICA_FAILURE, &failed.status, &reason, &message), now);
        }
    }
}

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: None,
        last_update_time: None,
    }
}

/// Puts a condition in the place of the one there is, unless that says the same; the transition time is that of the last
/// change of the status itself.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition, now: Timestamp) {
    new.last_transition_time = Some(Time(now));
    new.last_update_time = Some(Time(now));
    let Some(current) = conditions.iter().find(|condition| condition.type_ == new.type_) else {
        return conditions.push(new);
    };
    if current.status == new.status && current.reason == new.reason {
        return;
    }
    if current.status == new.status {
        new.last_transition_time = current.last_transition_time.clone();
    }
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
}

#[cfg(test)]
mod tests;
