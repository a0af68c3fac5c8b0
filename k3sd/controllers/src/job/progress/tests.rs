//! Jobs played through, step by step.

use serde_json::{Value, json};

use super::*;

const FAR: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(spec: Value, status: JobStatus) -> Job {
    let mut whole = json!({"parallelism": 2, "completions": 3, "backoffLimit": 1, "template": {"spec": {"containers": []}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": whole})).unwrap();
    job.status = Some(status);
    job
}

fn pod(uid: &str, phase: &str, tracked: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"uid": uid, "name": uid, "creationTimestamp": "1970-01-01T00:00:00Z",
            "finalizers": if tracked { vec![FINALIZER] } else { vec![] },
            "annotations": {"batch.kubernetes.io/job-completion-index": uid.trim_start_matches(char::is_alphabetic)}},
        "status": {"phase": phase},
    }))
    .unwrap()
}

/// One step; the status, how many pods to create, and the names of those to delete.
fn step(spec: &Value, status: JobStatus, pods: &[Pod], now: i64) -> (JobStatus, usize, Vec<String>) {
    let job = job(spec.clone(), status);
    let (status, next) = advance(&job, job.spec.as_ref().unwrap(), &Pods::sort(pods), at(now));
    let deleted = next.delete.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    (status, next.create, deleted)
}

fn said(status: &JobStatus) -> Vec<String> {
    conditions(Some(status)).iter().filter(|one| one.status == "True").map(|one| one.type_.clone()).collect()
}

#[test]
fn each_success_counts_once_and_the_last_one_ends_the_job() {
    let spec = json!({});
    let (status, create, _) = step(&spec, JobStatus::default(), &[], 0);
    assert_eq!((create, status.active, status.start_time.clone()), (2, Some(2), Some(Time(at(0)))));
    // One succeeds: it is listed, and its finalizer must stay until that is written.
    let pods = [pod("a0", "Succeeded", true), pod("b1", "Running", true)];
    let (status, create, _) = step(&spec, status, &pods, 5);
    assert_eq!((status.succeeded, listed(&status).len(), create), (None, 1, 1));
    // Its finalizer is off: it is counted. Once more changes nothing.
    let pods = [pod("a0", "Succeeded", false), pod("b1", "Running", true), pod("c2", "Running", true)];
    let (status, create, _) = step(&spec, status, &pods, 6);
    assert_eq!((status.succeeded, listed(&status).len(), create), (Some(1), 0, 0));
    assert_eq!(step(&spec, status.clone(), &pods, 7).0, status);
    // The others succeed too: the job ends when they are counted.
    let pods = [pod("b1", "Succeeded", true), pod("c2", "Succeeded", true)];
    let (status, create, _) = step(&spec, status, &pods, 8);
    assert_eq!((create, said(&status)), (0, vec!["SuccessCriteriaMet".to_owned()]));
    let (status, ..) = step(&spec, status, &[], 9);
    assert_eq!((status.succeeded, said(&status).pop().unwrap()), (Some(3), "Complete".to_owned()));
    assert_eq!((status.active, status.completion_time), (None, Some(Time(at(9)))));
}

#[test]
fn failures_wait_longer_and_longer_and_end_the_job_beyond_the_limit() {
    let spec = json!({"parallelism": 1});
    let failed = [pod("a0", "Failed", true)];
    let (status, create, _) = step(&spec, JobStatus::default(), &failed, 4);
    assert_eq!(create, 0, "backing off");
    let (status, create, _) = step(&spec, status, &failed, 10);
    assert_eq!((create, said(&status).len()), (1, 0));
    let pods = [pod("a0", "Failed", false), pod("b0", "Failed", true), pod("c0", "Running", true)];
    let (status, create, deleted) = step(&spec, status, &pods, FAR);
    assert_eq!((create, deleted), (0, vec!["c0".to_owned()]));
    assert_eq!(said(&status), ["FailureTarget"]);
    let (status, ..) = step(&spec, status, &[], FAR);
    assert_eq!(
        (status.failed, said(&status)),
        (Some(2), vec!["FailureTarget".to_owned(), "Failed".to_owned()])
    );
    assert_eq!(conditions(Some(&status))[1].reason.as_deref(), Some("BackoffLimitExceeded"));
    assert!(status.completion_time.is_none());
}

#[test]
fn deadlines_suspension_and_work_queues() {
    let running = [pod("a0", "Running", true), pod("b1", "Running", true)];
    let late = json!({"activeDeadlineSeconds": 10});
    let (status, ..) = step(&late, JobStatus::default(), &running, 0);
    let (status, _, deleted) = step(&late, status, &running, 10);
    assert_eq!(
        (deleted.len(), conditions(Some(&status))[0].reason.as_deref()),
        (2, Some("DeadlineExceeded"))
    );

    let (status, create, deleted) = step(&json!({"suspend": true}), JobStatus::default(), &running, 0);
    assert_eq!((create, deleted.len(), status.start_time.clone(), status.active), (0, 2, None, None));
    let (status, create, _) = step(&json!({}), status, &[], 7);
    assert_eq!((create, status.start_time.clone(), said(&status).len()), (2, Some(Time(at(7))), 0));

    let queue = json!({"completions": null});
    let pods = [pod("a0", "Succeeded", true), pod("b1", "Running", true)];
    let (status, create, deleted) = step(&queue, JobStatus::default(), &pods, 0);
    assert_eq!((create, deleted.len(), said(&status).len()), (0, 0, 0), "the others finish");
    let (status, ..) = step(&queue, status, &[pod("a0", "Succeeded", false)], 1);
    assert_eq!(said(&status), ["SuccessCriteriaMet", "Complete"]);
}

#[test]
fn an_indexed_job_counts_indexes_not_pods() {
    let spec = json!({"completionMode": "Indexed"});
    let pods = [pod("a0", "Succeeded", true), pod("b0", "Succeeded", true), pod("c2", "Running", true)];
    let (status, create, _) = step(&spec, JobStatus::default(), &pods, FAR);
    assert_eq!((status.completed_indexes.as_deref(), create), (Some("0"), 1));
    let pods = [pod("c2", "Succeeded", true), pod("d1", "Succeeded", true)];
    let (status, create, _) = step(&spec, status, &pods, FAR);
    assert_eq!(
        (status.completed_indexes.as_deref(), create, said(&status)),
        (Some("0-2"), 0, vec!["SuccessCriteriaMet".to_owned()])
    );
}

#[test]
fn a_pod_that_is_deleted_counts_as_failed_and_is_replaced() {
    let spec = json!({"parallelism": 1});
    let mut leaving = pod("a0", "Running", true);
    leaving.metadata.deletion_timestamp = Some(Time(at(1)));
    let (status, create, _) = step(&spec, JobStatus::default(), std::slice::from_ref(&leaving), FAR);
    assert_eq!((listed(&status).len(), create, status.terminating), (1, 1, Some(1)));
    leaving.metadata.finalizers = None;
    let (status, ..) = step(&spec, status, &[leaving.clone(), pod("b0", "Running", true)], FAR);
    assert_eq!((status.failed, listed(&status).len()), (Some(1), 0));
    // With the other policy only what has failed for good counts, and is replaced.
    leaving.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let patient = json!({"parallelism": 1, "podReplacementPolicy": "Failed"});
    let (status, create, _) = step(&patient, JobStatus::default(), &[leaving], FAR);
    assert_eq!((listed(&status).len(), create), (0, 0));
}
