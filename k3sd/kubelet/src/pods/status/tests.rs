//! Table of what the runtime shows and what the API must say.

use super::*;
use crate::probes::ProbeKind;
use crate::runtime::Sandbox;
use k8s_openapi::api::core::v1::Probe;

fn pod(policy: &str, init: &[&str], containers: &[&str]) -> Pod {
    let spec = |name: &&str| Spec { name: (*name).to_owned(), ..Spec::default() };
    let spec = PodSpec {
        restart_policy: Some(policy.to_owned()),
        init_containers: Some(init.iter().map(spec).collect()),
        containers: containers.iter().map(spec).collect(),
        ..PodSpec::default()
    };
    Pod { spec: Some(spec), ..Pod::default() }
}

fn made(name: &str, state: State, exit_code: i32) -> Container {
    Container { id: format!("id-{name}"), name: name.to_owned(), state, exit_code, ..Container::default() }
}

fn state(containers: Vec<Container>) -> PodState {
    let sandbox = Sandbox { ready: true, ips: vec!["10.42.0.9".to_owned()], ..Sandbox::default() };
    PodState { sandboxes: vec![sandbox], containers }
}

fn status_with(pod: &Pod, state: &PodState, reasons: &HashMap<String, Reason>, ended: bool) -> PodStatus {
    let (health, now) = (Health::default(), Timestamp::from_second(5000).unwrap());
    View { pod, state, health: &health, reasons, verdict: None, ended, node_ips: &[], now }.status()
}

fn status(pod: &Pod, state: &PodState) -> PodStatus {
    status_with(pod, state, &HashMap::new(), false)
}

fn is_true(status: &PodStatus, type_: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[test]
fn the_phase_follows_the_containers_and_the_restart_policy() {
    let exited = |code| made("a", State::Exited, code);
    let cases = [
        ("nothing made yet", "Always", vec![], "Pending"),
        ("running", "Always", vec![made("a", State::Running, 0)], "Running"),
        ("ended, to be restarted", "Always", vec![exited(0)], "Running"),
        ("ended well, restart on failure", "OnFailure", vec![exited(0)], "Succeeded"),
        ("ended badly, restart on failure", "OnFailure", vec![exited(1)], "Running"),
        ("ended well, never restart", "Never", vec![exited(0)], "Succeeded"),
        ("ended badly, never restart", "Never", vec![exited(3)], "Failed"),
    ];
    for (what, policy, containers, phase) in cases {
        assert_eq!(
            status(&pod(policy, &[], &["a"]), &state(containers)).phase.as_deref(),
            Some(phase),
            "{what}"
        );
    }
}

#[test]
fn a_pod_that_was_stopped_ends_by_its_exit_codes() {
    let pod = pod("Always", &[], &["a"]);
    for (code, phase) in [(0, "Succeeded"), (137, "Failed")] {
        let status = status_with(&pod, &state(vec![made("a", State::Exited, code)]), &HashMap::new(), true);
        assert_eq!(status.phase.as_deref(), Some(phase));
    }
}

#[test]
fn containers_wait_for_initialisation() {
    let pod = pod("Always", &["i"], &["a"]);
    let status = status(&pod, &state(vec![made("i", State::Running, 0)]));
    let waiting = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(!is_true(&status, "Initialized"));
}

#[test]
fn a_crash_loop_shows_as_waiting_with_the_last_end_beside() {
    let reasons = HashMap::from([(
        "a".to_owned(),
        Reason { reason: "CrashLoopBackOff", message: "back-off 10s".to_owned() },
    )]);
    let pod = pod("Always", &[], &["a"]);
    let status = status_with(&pod, &state(vec![made("a", State::Exited, 2)]), &reasons, false);
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 2);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_container_with_a_readiness_probe_is_ready_only_after_it_succeeded() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().containers[0].readiness_probe = Some(Probe::default());
    let state = state(vec![made("a", State::Running, 0)]);
    assert!(!is_true(&status(&pod, &state), "Ready"));
    let mut health = Health::default();
    health.set("id-a", ProbeKind::Readiness, true);
    let (reasons, now) = (HashMap::new(), Timestamp::from_second(5000).unwrap());
    let view = View {
        pod: &pod,
        state: &state,
        health: &health,
        reasons: &reasons,
        verdict: None,
        ended: false,
        node_ips: &[],
        now,
    };
    assert!(is_true(&view.status(), "Ready"));
}

#[test]
fn conditions_of_others_are_kept_and_times_change_only_with_the_status() {
    let mut pod = pod("Always", &[], &["a"]);
    let running = state(vec![made("a", State::Running, 0)]);
    let long_ago = Some(Time(Timestamp::from_second(100).unwrap()));
    let condition = |type_: &str| PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_transition_time: long_ago.clone(),
        ..PodCondition::default()
    };
    let conditions = Some(vec![condition("PodScheduled"), condition("Ready"), condition("example.com/gate")]);
    pod.status = Some(PodStatus { conditions, ..PodStatus::default() });
    let status = status(&pod, &running);
    let find = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    assert_eq!(find("example.com/gate").status, "True");
    assert_eq!(find("Ready").last_transition_time, long_ago);
    assert_ne!(find("Initialized").last_transition_time, long_ago);
}
