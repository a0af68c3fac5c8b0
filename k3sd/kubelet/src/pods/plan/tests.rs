//! Table of situations and the step that must follow.

use super::*;
use crate::runtime::Sandbox;

fn spec(name: &str) -> Spec {
    Spec { name: name.to_owned(), ..Spec::default() }
}

fn sidecar(name: &str) -> Spec {
    Spec { restart_policy: Some("Always".to_owned()), ..spec(name) }
}

fn pod(policy: &str, init: Vec<Spec>, containers: Vec<Spec>) -> Pod {
    let spec = PodSpec {
        restart_policy: Some(policy.to_owned()),
        init_containers: Some(init),
        containers,
        ..PodSpec::default()
    };
    Pod { spec: Some(spec), ..Pod::default() }
}

fn made(name: &str, state: State, exit_code: i32) -> Container {
    let spec = if name.starts_with("side") { sidecar(name) } else { spec(name) };
    Container {
        id: format!("id-{name}"),
        name: name.to_owned(),
        sandbox_id: "s0".to_owned(),
        hash: spec_hash(&spec),
        state,
        exit_code,
        finished_at: (state == State::Exited).then(|| Timestamp::from_second(1000).unwrap()),
        ..Container::default()
    }
}

fn ready(containers: Vec<Container>) -> PodState {
    let sandbox = Sandbox { id: "s0".to_owned(), ready: true, ..Sandbox::default() };
    PodState { sandboxes: vec![sandbox], containers }
}

fn plan(pod: &Pod, state: &PodState) -> Plan {
    plan_with(pod, state, &Health::default(), &Backoff::default())
}

fn plan_with(pod: &Pod, state: &PodState, health: &Health, backoff: &Backoff) -> Plan {
    let now = Timestamp::from_second(1001).unwrap();
    Situation { pod, state, health, backoff, now }.plan()
}

/// The names a plan starts, and the names it stops.
fn changes(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    let Plan::Containers(actions) = plan else { panic!("not a plan for containers: {plan:?}") };
    let start = actions.start.iter().map(|start| start.name.as_str()).collect();
    (start, actions.kill.iter().map(|kill| kill.name.as_str()).collect())
}

#[test]
fn a_new_pod_gets_a_sandbox_first() {
    let pod = pod("Always", vec![], vec![spec("a")]);
    assert_eq!(plan(&pod, &PodState::default()), Plan::NewSandbox { attempt: 0 });
}

#[test]
fn a_dead_sandbox_is_replaced_unless_the_pod_is_not_to_restart() {
    let mut state = ready(vec![made("a", State::Exited, 137)]);
    state.sandboxes[0].ready = false;
    assert_eq!(plan(&pod("Always", vec![], vec![spec("a")]), &state), Plan::NewSandbox { attempt: 1 });
    assert_eq!(plan(&pod("Never", vec![], vec![spec("a")]), &state), Plan::Finished);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod("Always", vec![spec("i1"), spec("i2")], vec![spec("a")]);
    let cases = [
        (vec![], vec!["i1"]),
        (vec![made("i1", State::Running, 0)], vec![]),
        (vec![made("i1", State::Exited, 0)], vec!["i2"]),
        (vec![made("i1", State::Exited, 1)], vec!["i1"]),
        (vec![made("i2", State::Exited, 0), made("i1", State::Exited, 0)], vec!["a"]),
    ];
    for (containers, starts) in cases {
        assert_eq!(changes(&plan(&pod, &ready(containers.clone()))).0, starts, "{containers:?}");
    }
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let pod = pod("Never", vec![spec("i1")], vec![spec("a")]);
    assert_eq!(plan(&pod, &ready(vec![made("i1", State::Exited, 1)])), Plan::Finished);
}

#[test]
fn a_sidecar_lets_the_next_one_go_when_it_has_started_and_restarts_always() {
    let pod = pod("Never", vec![sidecar("side")], vec![spec("a")]);
    assert_eq!(changes(&plan(&pod, &ready(vec![]))).0, ["side"]);
    assert_eq!(changes(&plan(&pod, &ready(vec![made("side", State::Running, 0)]))).0, ["a"]);
    let both = ready(vec![made("a", State::Running, 0), made("side", State::Exited, 0)]);
    assert_eq!(changes(&plan(&pod, &both)).0, ["side"]);
    let done = ready(vec![made("a", State::Exited, 0), made("side", State::Running, 0)]);
    assert_eq!(plan(&pod, &done), Plan::Finished);
}

#[test]
fn restart_policy_decides_about_ended_containers() {
    let cases = [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true)];
    for (policy, code, restarts) in cases {
        let pod = pod(policy, vec![], vec![spec("a"), spec("b")]);
        let state = ready(vec![made("a", State::Exited, code), made("b", State::Running, 0)]);
        assert_eq!(!changes(&plan(&pod, &state)).0.is_empty(), restarts, "{policy} {code}");
    }
}

#[test]
fn a_pod_whose_containers_are_done_is_finished() {
    let state = ready(vec![made("a", State::Exited, 0)]);
    assert_eq!(plan(&pod("OnFailure", vec![], vec![spec("a")]), &state), Plan::Finished);
}

#[test]
fn a_crashing_container_waits_for_its_backoff() {
    let pod = pod("Always", vec![], vec![spec("a")]);
    let state = ready(vec![made("a", State::Exited, 1)]);
    let ended = Timestamp::from_second(1000).unwrap();
    let mut backoff = Backoff::default();
    backoff.next("a", ended, ended);
    let Plan::Containers(actions) = plan_with(&pod, &state, &Health::default(), &backoff) else { panic!() };
    assert!(actions.start.is_empty());
    assert_eq!(actions.backing_off[0].due, Timestamp::from_second(1010).unwrap());
}

#[test]
fn a_failed_liveness_probe_stops_the_container() {
    let pod = pod("Always", vec![], vec![spec("a"), spec("b")]);
    let state = ready(vec![made("a", State::Running, 0), made("b", State::Running, 0)]);
    let mut health = Health::default();
    health.set("id-b", ProbeKind::Liveness, false);
    let plan = plan_with(&pod, &state, &health, &Backoff::default());
    assert_eq!(changes(&plan), (vec![], vec!["b"]));
}

#[test]
fn a_changed_image_replaces_the_container_in_place() {
    let mut pod = pod("Always", vec![], vec![spec("a")]);
    let state = ready(vec![made("a", State::Running, 0)]);
    assert_eq!(changes(&plan(&pod, &state)), (vec![], vec![]));
    pod.spec.as_mut().unwrap().containers[0].image = Some("new:2".to_owned());
    assert_eq!(changes(&plan(&pod, &state)).1, ["a"]);
}

#[test]
fn init_containers_run_again_in_a_new_sandbox_under_a_new_number() {
    let pod = pod("Always", vec![spec("i1")], vec![spec("a")]);
    let mut state = ready(vec![made("a", State::Exited, 255), made("i1", State::Exited, 0)]);
    state.sandboxes[0].id = "s1".to_owned();
    let Plan::Containers(actions) = plan(&pod, &state) else { panic!() };
    assert_eq!((actions.start[0].name.as_str(), actions.start[0].restart_count), ("i1", 1));
    assert_eq!(actions.start.len(), 1);
}
