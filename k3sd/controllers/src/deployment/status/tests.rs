//! Conditions over the life of a rollout.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::*;

const START: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
}

fn set_of(name: &str, replicas: i32, ready: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "generation": 1},
        "spec": {"replicas": replicas, "selector": {}},
        "status": {"replicas": replicas, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": 1},
    }))
    .unwrap()
}

fn rollout(spec: Value, status: DeploymentStatus) -> Rollout {
    let mut whole = json!({"selector": {}, "template": {}, "replicas": 2, "progressDeadlineSeconds": 60});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let spec: k8s_openapi::api::apps::v1::DeploymentSpec = serde_json::from_value(whole).unwrap();
    let mut deployment =
        Deployment { status: Some(status), spec: Some(spec.clone()), ..Deployment::default() };
    deployment.metadata.name = Some("d".to_owned());
    Rollout { deployment, spec, old: Vec::new(), new: None, progress: None }
}

fn said(status: &DeploymentStatus) -> Vec<String> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .map(|one| format!("{}={} {}", one.type_, one.status, one.reason.as_deref().unwrap_or_default()))
        .collect()
}

#[test]
fn a_rollout_says_created_then_updated_then_available() {
    let mut first = rollout(json!({}), DeploymentStatus::default());
    first.progress = Some(Progress::Created("d-1".to_owned()));
    first.new = Some(set_of("d-1", 0, 0));
    let status = calculate(&first, at(0));
    assert_eq!(
        said(&status),
        ["Available=False MinimumReplicasUnavailable", "Progressing=True NewReplicaSetCreated"]
    );

    let mut second = rollout(json!({}), status);
    second.new = Some(set_of("d-1", 2, 1));
    let status = calculate(&second, at(10));
    assert_eq!(said(&status)[1], "Progressing=True ReplicaSetUpdated");
    assert_eq!(status.unavailable_replicas, Some(1));
    assert_eq!(deadline(&second, &status, at(20)).unwrap().as_secs(), 51);

    let mut third = rollout(json!({}), status);
    third.new = Some(set_of("d-1", 2, 2));
    let status = calculate(&third, at(30));
    assert_eq!(
        said(&status),
        ["Available=True MinimumReplicasAvailable", "Progressing=True NewReplicaSetAvailable"]
    );
    let conditions = status.conditions.clone().unwrap();
    assert_eq!(conditions[1].message.as_deref(), Some("ReplicaSet \"d-1\" has successfully progressed."));
    assert_eq!(conditions[1].last_transition_time, Some(Time(at(0))), "it was True all the time");
    assert_eq!(deadline(&third, &status, at(30)), None);
    let mut again = rollout(json!({}), status.clone());
    again.new = Some(set_of("d-1", 2, 2));
    assert_eq!(calculate(&again, at(99)), status, "nothing changes by time alone");
}

#[test]
fn a_rollout_that_does_not_move_is_late_after_its_deadline() {
    let mut start = rollout(json!({}), DeploymentStatus::default());
    start.progress = Some(Progress::Created("d-1".to_owned()));
    start.new = Some(set_of("d-1", 0, 0));
    let status = calculate(&start, at(0));
    let mut stuck = rollout(json!({}), status);
    stuck.new = Some(set_of("d-1", 2, 0));
    let status = calculate(&stuck, at(5));
    let mut stuck = rollout(json!({}), status);
    stuck.new = Some(set_of("d-1", 2, 0));
    let status = calculate(&stuck, at(65));
    assert_eq!(said(&status).last().unwrap(), "Progressing=True ReplicaSetUpdated");
    let status = calculate(&stuck, at(66));
    assert_eq!(said(&status).last().unwrap(), "Progressing=False ProgressDeadlineExceeded");
}

#[test]
fn a_paused_rollout_is_not_late_and_goes_on_when_resumed() {
    let mut start = rollout(json!({"paused": true}), DeploymentStatus::default());
    start.new = Some(set_of("d-1", 2, 0));
    let status = calculate(&start, at(0));
    assert_eq!(said(&status).last().unwrap(), "Progressing=Unknown DeploymentPaused");
    assert_eq!(deadline(&start, &status, at(500)), None);
    let mut resumed = rollout(json!({}), status);
    resumed.new = Some(set_of("d-1", 2, 2));
    let status = calculate(&resumed, at(500));
    assert_eq!(said(&status).last().unwrap(), "Progressing=True NewReplicaSetAvailable");
}

#[test]
fn a_set_that_cannot_make_pods_shows_in_the_deployment() {
    let mut failing = rollout(json!({}), DeploymentStatus::default());
    let mut set = set_of("d-1", 0, 0);
    set.status.as_mut().unwrap().conditions = Some(vec![ReplicaSetCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some("quota".to_owned()),
        last_transition_time: None,
    }]);
    failing.new = Some(set);
    let status = calculate(&failing, at(0));
    assert!(said(&status).contains(&"ReplicaFailure=True FailedCreate".to_owned()), "{:?}", said(&status));
    let mut healed = rollout(json!({}), status);
    healed.new = Some(set_of("d-1", 2, 2));
    assert!(!said(&calculate(&healed, at(1))).iter().any(|said| said.starts_with("ReplicaFailure")));
}
