//! What a job's pods mean for it: counts, conditions, and what to do next. No I/O.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{FINALIZER, index_of, indexes, indexes_of};
use crate::pod;

/// The wait after a pod failed: twice as long with each failure in a row, up to the second.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(600);
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// A job's pods by what they are doing.
#[derive(Debug, Default)]
pub(super) struct Pods<'a> {
    active: Vec<&'a Pod>,
    terminating: Vec<&'a Pod>,
    succeeded: Vec<&'a Pod>,
    failed: Vec<&'a Pod>,
}

/// What is to be done after the status has been written.
#[derive(Debug, Default)]
pub(super) struct Next<'a> {
    pub(super) create: usize,
    pub(super) delete: Vec<&'a Pod>,
    /// The deleted ones are not failures: the job is suspended, or has more pods than it wants.
    pub(super) uncounted: bool,
    pub(super) again: Option<Duration>,
    /// Of an indexed job.
    pub(super) succeeded_indexes: BTreeSet<i32>,
}

/// How the job ends.
struct Verdict {
    failed: bool,
    reason: &'static str,
    message: String,
}

impl<'a> Pods<'a> {
    pub(super) fn sort(pods: &'a [Pod]) -> Self {
        let mut sorted = Self::default();
        for pod in pods {
            let list = match pod::phase(pod) {
                "Succeeded" => &mut sorted.succeeded,
                "Failed" => &mut sorted.failed,
                _ if pod.metadata.deletion_timestamp.is_some() => &mut sorted.terminating,
                _ => &mut sorted.active,
            };
            list.push(pod);
        }
        sorted
    }

    pub(super) fn active_indexes(&self) -> BTreeSet<i32> {
        indexes_of(self.active.iter().chain(&self.terminating).copied())
    }
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(pod::phase(pod), "Succeeded" | "Failed")
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn conditions(status: Option<&JobStatus>) -> &[JobCondition] {
    status.and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn holds<'a>(status: Option<&'a JobStatus>, kind: &str) -> Option<&'a JobCondition> {
    conditions(status).iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

pub(super) fn is_finished(status: Option<&JobStatus>) -> bool {
    holds(status, "Complete").or_else(|| holds(status, "Failed")).is_some()
}

pub(super) fn finished_at(status: Option<&JobStatus>) -> Option<Timestamp> {
    let condition = holds(status, "Complete").or_else(|| holds(status, "Failed"))?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// The uids that the status lists as ended and not yet in its numbers.
pub(super) fn listed(status: &JobStatus) -> HashSet<&str> {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let lists = uncounted.into_iter().flat_map(|lists| lists.succeeded.iter().chain(&lists.failed));
    lists.flatten().map(String::as_str).collect()
}

/// The status as it should be now, and what follows from it.
pub(super) fn advance<'a>(
    job: &Job,
    spec: &JobSpec,
    pods: &Pods<'a>,
    now: Timestamp,
) -> (JobStatus, Next<'a>) {
    let mut status = job.status.clone().unwrap_or_default();
    let mut done = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions(spec));
    count(&mut status, pods, spec);
    if is_indexed(spec) {
        done.extend(indexes_of(pods.succeeded.iter().copied()));
        done.retain(|index| *index < completions(spec));
        status.completed_indexes = Some(indexes::format(&done)).filter(|text| !text.is_empty());
    }
    let (succeeded, failed) = totals(&status, &done, spec);
    let mut next = Next { succeeded_indexes: done, ..Next::default() };
    let suspended = spec.suspend == Some(true);
    start_or_suspend(&mut status, suspended, now);
    match verdict(&status, spec, pods, succeeded, failed, now) {
        Some(verdict) => end(&mut status, &verdict, pods, &mut next, now),
        None if suspended => {
            next.delete.clone_from(&pods.active);
            next.uncounted = true;
        }
        None => work(&status, spec, pods, succeeded, &mut next, now),
    }
    // Pods that are about to be deleted are not active any more.
    let active = pods.active.len() - next.delete.iter().filter(|pod| !has_ended(pod)).count() + next.create;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    status.active = Some(number(active)).filter(|count| *count > 0);
    status.ready = Some(number(pods.active.iter().filter(|pod| pod::is_ready(pod)).count()));
    status.terminating = Some(number(pods.terminating.len()));
    (status, next)
}

/// Ended pods: those not listed yet are listed; those listed whose finalizer is off are counted. One that is being deleted
/// counts as failed, since it may never come to say so, unless the job replaces only what has failed for good.
fn count(status: &mut JobStatus, pods: &Pods<'_>, spec: &JobSpec) {
    let mut failed = pods.failed.clone();
    if !replaces_only_failed(spec) {
        failed.extend(&pods.terminating);
    }
    let tracked: HashSet<&str> = pods
        .succeeded
        .iter()
        .chain(&failed)
        .filter(|pod| is_tracked(pod))
        .filter_map(|pod| uid(pod))
        .collect();
    let old = status.uncounted_terminated_pods.take().unwrap_or_default();
    let settle = |list: Option<Vec<String>>, number: &mut Option<i32>, ended: &[&Pod]| {
        let (mut open, counted): (Vec<_>, Vec<_>) =
            list.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
        if !counted.is_empty() {
            *number = Some(number.unwrap_or(0) + i32::try_from(counted.len()).unwrap_or(i32::MAX));
        }
        for pod in ended.iter().filter(|pod| is_tracked(pod)) {
            let uid = uid(pod).unwrap_or_default();
            if !open.iter().any(|one| one == uid) {
                open.push(uid.to_owned());
            }
        }
        Some(open).filter(|open| !open.is_empty())
    };
    let succeeded = settle(old.succeeded, &mut status.succeeded, &pods.succeeded);
    let failed = settle(old.failed, &mut status.failed, &failed);
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods { failed, succeeded });
}

fn uid(pod: &Pod) -> Option<&str> {
    pod.metadata.uid.as_deref()
}

fn totals(status: &JobStatus, done: &BTreeSet<i32>, spec: &JobSpec) -> (usize, usize) {
    let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let sum = |number: Option<i32>, list: Option<Vec<String>>| {
        usize::try_from(number.unwrap_or(0)).unwrap_or(0) + list.map_or(0, |list| list.len())
    };
    let succeeded = sum(status.succeeded, lists.succeeded);
    let succeeded = if is_indexed(spec) { done.len() } else { succeeded };
    (succeeded, sum(status.failed, lists.failed))
}

fn completions(spec: &JobSpec) -> i32 {
    spec.completions.unwrap_or(i32::MAX)
}

fn start_or_suspend(status: &mut JobStatus, suspended: bool, now: Timestamp) {
    let known = conditions(Some(status)).iter().any(|condition| condition.type_ == "Suspended");
    if suspended {
        set(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        status.start_time = None;
        return;
    }
    if known {
        set(status, "Suspended", "False", "JobResumed", "Job resumed", now);
    }
    status.start_time.get_or_insert(Time(now));
}

/// Whether the job is decided, and how. A decision once written stays.
fn verdict(
    status: &JobStatus,
    spec: &JobSpec,
    pods: &Pods<'_>,
    succeeded: usize,
    failed: usize,
    now: Timestamp,
) -> Option<Verdict> {
    if let Some(condition) = holds(Some(status), "FailureTarget") {
        let reason = if condition.reason.as_deref() == Some("DeadlineExceeded") {
            "DeadlineExceeded"
        } else {
            "BackoffLimitExceeded"
        };
        return Some(Verdict {
            failed: true,
            reason,
            message: condition.message.clone().unwrap_or_default(),
        });
    }
    if failures(spec, pods, failed) > spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT) {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(Verdict { failed: true, reason: "BackoffLimitExceeded", message });
    }
    if deadline(status, spec, now).is_some_and(|left| left.is_zero()) {
        let message = "Job was active longer than specified deadline".to_owned();
        return Some(Verdict { failed: true, reason: "DeadlineExceeded", message });
    }
    let complete = match spec.completions {
        // A work queue: one success ends it, once all pods are done.
        None => succeeded > 0 && pods.active.is_empty() && pods.terminating.is_empty(),
        Some(wanted) => i32::try_from(succeeded).unwrap_or(i32::MAX) >= wanted,
    };
    let message = "Reached expected number of succeeded pods".to_owned();
    complete.then_some(Verdict { failed: false, reason: "CompletionsReached", message })
}

/// Failed pods, and with `restartPolicy: OnFailure` the restarts of those at work.
fn failures(spec: &JobSpec, pods: &Pods<'_>, failed: usize) -> i32 {
    let mut failures = i32::try_from(failed).unwrap_or(i32::MAX);
    let template = spec.template.spec.as_ref();
    if template.and_then(|template| template.restart_policy.as_deref()) == Some("OnFailure") {
        let statuses = pods.active.iter().filter_map(|pod| pod.status.as_ref());
        let containers = statuses.flat_map(|status| {
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
        });
        let restarts: i32 = containers.map(|container| container.restart_count).sum();
        // Upstream fails such a job as soon as the restarts reach the limit.
        let limit = spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
        let reached = if limit == 0 { restarts > 0 } else { restarts >= limit };
        if reached {
            failures = failures.max(limit + 1);
        }
    }
    failures
}

fn deadline(status: &JobStatus, spec: &JobSpec, now: Timestamp) -> Option<Duration> {
    let limit = u64::try_from(spec.active_deadline_seconds?).ok()?;
    let since = status.start_time.as_ref()?.0;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(Duration::from_secs(limit).saturating_sub(passed))
}

/// Deletes what still runs; once nothing does and all is counted, the job is over.
fn end<'a>(status: &mut JobStatus, verdict: &Verdict, pods: &Pods<'a>, next: &mut Next<'a>, now: Timestamp) {
    let (target, last) =
        if verdict.failed { ("FailureTarget", "Failed") } else { ("SuccessCriteriaMet", "Complete") };
    set(status, target, "True", verdict.reason, &verdict.message, now);
    next.delete.clone_from(&pods.active);
    if pods.active.is_empty() && pods.terminating.is_empty() && listed(status).is_empty() {
        set(status, last, "True", verdict.reason, &verdict.message, now);
        if !verdict.failed {
            status.completion_time = Some(Time(now));
        }
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    }
}

/// Decides how many pods more or fewer there should be.
fn work<'a>(
    status: &JobStatus,
    spec: &JobSpec,
    pods: &Pods<'a>,
    succeeded: usize,
    next: &mut Next<'a>,
    now: Timestamp,
) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec.completions {
        None if succeeded > 0 => pods.active.len(),
        None => parallelism,
        Some(completions) => {
            parallelism.min(usize::try_from(completions).unwrap_or(0).saturating_sub(succeeded))
        }
    };
    // With this policy a pod is replaced only when it has ended for good.
    let waits = replaces_only_failed(spec) || is_indexed(spec);
    let present = pods.active.len() + if waits { pods.terminating.len() } else { 0 };
    next.again = deadline(status, spec, now);
    if pods.active.len() > wanted {
        next.delete = surplus(pods, pods.active.len() - wanted);
        next.uncounted = true;
        return;
    }
    let missing = wanted.saturating_sub(present);
    if missing == 0 {
        return;
    }
    let wait = backoff(pods, now);
    if wait.is_zero() {
        next.create = missing;
    } else {
        next.again = Some(next.again.map_or(wait, |again| again.min(wait)));
    }
}

/// The least advanced pods; of an indexed job also those whose index has another pod.
fn surplus<'a>(pods: &Pods<'a>, count: usize) -> Vec<&'a Pod> {
    let mut order = pods.active.clone();
    order.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            pod::is_ready(pod),
            pod::phase(pod) == "Running",
            std::cmp::Reverse(index_of(pod)),
            std::cmp::Reverse(created),
        )
    });
    order.truncate(count);
    order
}

/// How long to wait after the failures since the last success.
fn backoff(pods: &Pods<'_>, now: Timestamp) -> Duration {
    let ended = |pod: &&Pod| ended_at(pod);
    let last_success = pods.succeeded.iter().filter_map(ended).max();
    let failures: Vec<_> = pods
        .failed
        .iter()
        .filter_map(ended)
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    let wait = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    let passed = Duration::try_from(now.duration_since(*last)).unwrap_or_default();
    wait.saturating_sub(passed)
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let ends = statuses.filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    let transition = pod::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let created = pod.metadata.creation_timestamp.as_ref();
    ends.max().or_else(|| transition.or(created).map(|time| time.0))
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let present = conditions.iter().position(|condition| condition.type_ == kind);
    if present.is_some_and(|at| conditions[at].status == value) {
        return;
    }
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match present {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests;
