//! What the client crate writes to the API itself: leases and events.

use std::time::Duration;

use client::{
    Recorder,
    lease::{self, LeaseSettings},
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event},
};
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, eventually, from, get_until, list_until};

fn settings(holder: &str) -> LeaseSettings {
    LeaseSettings {
        namespace: "default".to_owned(),
        name: "l".to_owned(),
        holder: holder.to_owned(),
        duration: Duration::from_secs(2),
        renew_every: Duration::from_millis(100),
        owner: None,
    }
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holds_the_lease_until_it_gives_it_up_or_falls_silent() {
    let cluster = Cluster::start().await;
    let leases = cluster.api::<Lease>();
    let stop = CancellationToken::new();
    let (held, keep) = lease::acquire(cluster.client.clone(), settings("a"), stop.clone()).await.unwrap();
    let first = tokio::spawn(keep);
    let other = CancellationToken::new();
    let second = tokio::spawn(lease::acquire(cluster.client.clone(), settings("b"), other.clone()));
    let renewed = |lease: &Lease| lease.spec.as_ref().unwrap().renew_time.clone();
    let before = renewed(&leases.get("l").await.unwrap());
    get_until(&leases, "l", "renewed", |lease| renewed(lease) > before).await;
    assert!(!second.is_finished() && !held.is_cancelled());

    // Given up: the other has it without waiting for the end of its term.
    stop.cancel();
    first.await.unwrap();
    assert!(held.is_cancelled());
    let (held, keep) = second.await.unwrap().unwrap();
    let lease = leases.get("l").await.unwrap();
    assert_eq!((holder(&lease).as_deref(), lease.spec.unwrap().lease_transitions), (Some("b"), Some(1)));
    // Nobody renews it any more: after its term it can be taken, and the former holder notices.
    let third = lease::acquire(cluster.client.clone(), settings("c"), CancellationToken::new());
    let (_held, _keep) = third.await.unwrap();
    keep.await;
    assert!(held.is_cancelled());
    assert_eq!(holder(&leases.get("l").await.unwrap()).as_deref(), Some("c"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_goes_on_when_its_lease_is_deleted() {
    let cluster = Cluster::start().await;
    let leases = cluster.api::<Lease>();
    let stop = CancellationToken::new();
    let beat = tokio::spawn(lease::heartbeat(cluster.client.clone(), settings("n"), stop.clone()));
    let first = get_until(&leases, "l", "a lease", |_| true).await;
    leases.delete("l", &DeleteParams::default()).await.unwrap();
    let second =
        get_until(&leases, "l", "a new lease", |lease| lease.metadata.uid != first.metadata.uid).await;
    assert_eq!(holder(&second).as_deref(), Some("n"));
    stop.cancel();
    beat.await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_events_are_counted_similar_ones_combined_and_floods_cut() {
    let cluster = Cluster::start().await;
    let map: ConfigMap = from(json!({"metadata": {"name": "m", "namespace": "default"}}));
    let map = cluster.api().create(&PostParams::default(), &map).await.unwrap();
    let stop = CancellationToken::new();
    let recorder = Recorder::new(cluster.client.clone(), "test", "", stop.clone());
    let events = cluster.api::<Event>();
    let mine = || ListParams::default().fields("involvedObject.name=m");
    for _ in 0..3 {
        recorder.event_for(&map, "Warning", "Same", "again");
    }
    let counted = |events: &[Event]| {
        events.iter().any(|event| event.reason.as_deref() == Some("Same") && event.count == Some(3))
    };
    list_until(&events, "counted", counted).await;
    for index in 0..40 {
        recorder.event_for(&map, "Normal", "Many", format!("number {index}"));
    }
    // 25 in a row on one object, three of which are spent: 22 are left, the first 9 apart, the others together.
    eventually("cut", || async {
        let all = events.list(&mine()).await.unwrap().items;
        let many: Vec<_> = all.iter().filter(|event| event.reason.as_deref() == Some("Many")).collect();
        let combined = many.iter().find(|event| event.message.as_deref().unwrap().starts_with("(combined"));
        let sum: i32 = many.iter().filter_map(|event| event.count).sum();
        if many.len() == 10 && combined.is_some() && sum == 22 { Ok(()) } else { Err(all) }
    })
    .await;
    stop.cancel();
    recorder.stopped().await;
    cluster.stop().await;
}
