//! Creates, updates, deletes, expiry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datastore::{Datastore, Error, EventKind, Revision};

type Store = Arc<dyn Datastore>;

pub(crate) async fn create_refuses_a_live_key_and_revives_a_deleted_one(store: &Store) {
    let first = store.create("/w/a", "1".into(), None).await.unwrap();
    assert!(
        matches!(store.create("/w/a", "2".into(), None).await, Err(Error::Exists { key }) if key == "/w/a")
    );
    store.delete("/w/a", None).await.unwrap();
    let second = store.create("/w/a", "3".into(), None).await.unwrap();
    let found = store.get("/w/a", None).await.unwrap().1.unwrap();
    assert!(second > first);
    assert_eq!((found.value, found.create_revision, found.mod_revision), ("3".into(), second, second));
}

pub(crate) async fn update_needs_the_current_revision(store: &Store) {
    let missing = store.update("/w/none", "x".into(), Revision(1), None).await;
    assert!(matches!(missing, Err(Error::NotFound { key }) if key == "/w/none"));

    let created = store.create("/w/a", "1".into(), None).await.unwrap();
    let updated = store.update("/w/a", "2".into(), created, None).await.unwrap();
    let Err(Error::Conflict { current: Some(current), .. }) =
        store.update("/w/a", "3".into(), created, None).await
    else {
        panic!("an update at a stale revision must conflict")
    };
    assert_eq!(current.value, "2");
    assert_eq!((current.create_revision, current.mod_revision), (created, updated));
}

pub(crate) async fn delete_needs_a_live_key_at_the_expected_revision(store: &Store) {
    let created = store.create("/w/a", "1".into(), None).await.unwrap();
    let updated = store.update("/w/a", "2".into(), created, None).await.unwrap();
    assert!(matches!(store.delete("/w/a", Some(created)).await, Err(Error::Conflict { .. })));
    let (revision, deleted) = store.delete("/w/a", Some(updated)).await.unwrap();
    assert!(revision > updated);
    assert_eq!((deleted.value, deleted.mod_revision), ("2".into(), updated));
    assert_eq!(store.get("/w/a", None).await.unwrap(), (revision, None));
    assert!(matches!(store.delete("/w/a", None).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.update("/w/a", "3".into(), updated, None).await, Err(Error::NotFound { .. })));
}

pub(crate) async fn of_many_updates_at_one_revision_exactly_one_wins(store: &Store) {
    let created = store.create("/w/a", "start".into(), None).await.unwrap();
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..32 {
        let store = store.clone();
        racers.spawn(async move { store.update("/w/a", format!("{racer}").into(), created, None).await });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::Conflict { .. }))));
}

pub(crate) async fn concurrent_writes_get_distinct_growing_revisions(store: &Store) {
    let before = store.revision().await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..20 {
                revisions.push(store.create(&format!("/w/{writer}/{n}"), "x".into(), None).await.unwrap());
            }
            assert!(revisions.is_sorted());
            revisions
        });
    }
    let all: BTreeSet<Revision> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 320);
    assert!(*all.first().unwrap() > before);
    assert_eq!(*all.last().unwrap(), store.revision().await.unwrap());
    assert_eq!(store.list("/w/", None, 0, None).await.unwrap().items.len(), 320);
}

pub(crate) async fn keys_with_a_time_to_live_expire_unless_written_again(store: &Store) {
    let from = store.revision().await.unwrap();
    let mut watch = store.watch(from).await.unwrap();
    let second = Some(Duration::from_secs(1));
    let kept = store.create("/ttl/kept", "1".into(), second).await.unwrap();
    store.update("/ttl/kept", "2".into(), kept, None).await.unwrap();
    let created = store.create("/ttl/gone", "1".into(), second).await.unwrap();
    let written = tokio::time::Instant::now();
    let deletion = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let events = watch.recv().await.unwrap();
            if let Some(event) = events.iter().find(|e| e.kind == EventKind::Delete) {
                return event.clone();
            }
        }
    })
    .await
    .expect("the key expires");
    assert!(written.elapsed() > Duration::from_millis(900));
    assert_eq!((&*deletion.kv.key, deletion.kv.create_revision), ("/ttl/gone", created));
    assert_eq!(store.count("/ttl/").await.unwrap(), 1);
}

pub(crate) async fn closed_store_refuses_everything(store: &Store) {
    let created = store.create("/w/a", "1".into(), None).await.unwrap();
    store.close().await;
    store.close().await;
    assert!(matches!(store.create("/w/b", Bytes::new(), None).await, Err(Error::Closed)));
    assert!(matches!(store.update("/w/a", Bytes::new(), created, None).await, Err(Error::Closed)));
    assert!(matches!(store.get("/w/a", None).await, Err(Error::Closed)));
    assert!(matches!(store.watch(created).await, Err(Error::Closed)));
    assert!(matches!(store.revision().await, Err(Error::Closed)));
}
