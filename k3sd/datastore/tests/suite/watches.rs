//! Watches.

use std::sync::Arc;
use std::time::Duration;

use datastore::{Datastore, Error, Event, EventKind, Watch};

type Store = Arc<dyn Datastore>;

/// The next `count` events.
async fn take(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch =
            tokio::time::timeout(Duration::from_secs(30), watch.recv()).await.expect("events in time");
        events.extend(batch.expect("the watch stays open").iter().cloned());
    }
    assert_eq!(events.len(), count, "nothing beyond what was written");
    events
}

pub(crate) async fn watch_replays_then_follows_without_gap_or_repeat(store: &Store) {
    let from = store.revision().await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..100 {
                store.create(&format!("/o/{writer}/{n}"), "x".into(), None).await.unwrap();
            }
        });
    }
    // Opened in the middle of the writing, again and again, each from the start.
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(store.watch(from).await.unwrap());
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    watches.push(store.watch(from).await.unwrap());
    for mut watch in watches {
        let events = take(&mut watch, 400).await;
        assert!(events.iter().all(|e| e.kv.mod_revision > from));
        assert!(events.windows(2).all(|w| w[0].kv.mod_revision < w[1].kv.mod_revision));
    }
}

pub(crate) async fn events_carry_value_previous_and_revisions(store: &Store) {
    let from = store.revision().await.unwrap();
    let mut live = store.watch(from).await.unwrap();
    let created = store.create("/e/a", "1".into(), None).await.unwrap();
    let updated = store.update("/e/a", "2".into(), created, None).await.unwrap();
    let (deleted, _) = store.delete("/e/a", None).await.unwrap();
    let mut replay = store.watch(from).await.unwrap();
    let events = take(&mut live, 3).await;
    assert_eq!(events, take(&mut replay, 3).await, "a replayed event equals the live one");

    assert!(events[0].is_create() && !events[1].is_create() && !events[2].is_create());
    assert_eq!(
        events.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [EventKind::Put, EventKind::Put, EventKind::Delete]
    );
    assert_eq!(events.iter().map(|e| e.kv.mod_revision).collect::<Vec<_>>(), [created, updated, deleted]);
    assert!(events.iter().all(|e| &*e.kv.key == "/e/a" && e.kv.create_revision == created));
    assert_eq!(events.iter().map(|e| e.kv.value.clone()).collect::<Vec<_>>(), ["1", "2", "2"]);
    assert_eq!(
        events.iter().map(|e| e.previous.clone()).collect::<Vec<_>>(),
        [None, Some("1".into()), Some("2".into())]
    );

    let mut rest = store.watch(created).await.unwrap();
    assert_eq!(take(&mut rest, 2).await, events[1..]);
}

pub(crate) async fn watch_from_a_compacted_revision_is_refused(store: &Store) {
    let first = store.create("/e/a", "1".into(), None).await.unwrap();
    let second = store.update("/e/a", "2".into(), first, None).await.unwrap();
    let third = store.update("/e/a", "3".into(), second, None).await.unwrap();
    store.compact(second).await.unwrap();
    assert!(
        matches!(store.watch(first).await, Err(Error::Compacted { compacted, .. }) if compacted == second)
    );
    let mut watch = store.watch(second).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].kv.mod_revision, third);
}

pub(crate) async fn lagging_watch_is_closed_and_others_go_on(store: &Store) {
    let from = store.revision().await.unwrap();
    let mut lagging = store.watch(from).await.unwrap();
    let mut reading = store.watch(from).await.unwrap();
    let mut revision = store.create("/e/a", "0".into(), None).await.unwrap();
    // One commit per update, until the one that does not read has been set aside.
    let mut written = 1;
    while written < 1300 {
        revision = store.update("/e/a", format!("{written}").into(), revision, None).await.unwrap();
        written += 1;
        if written % 100 == 0 {
            take(&mut reading, 100).await;
        }
    }
    let mut received = 0;
    while let Some(batch) = lagging.recv().await {
        received += batch.len();
    }
    assert!(received < 1300, "it was closed before the end");
}

pub(crate) async fn closing_the_store_ends_watches(store: &Store) {
    let from = store.revision().await.unwrap();
    let mut watch = store.watch(from).await.unwrap();
    store.create("/e/a", "1".into(), None).await.unwrap();
    store.close().await;
    assert_eq!(take(&mut watch, 1).await.len(), 1);
    assert!(watch.recv().await.is_none());
}
