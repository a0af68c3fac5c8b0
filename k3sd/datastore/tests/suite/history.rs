//! Compaction.

use std::sync::Arc;

use datastore::{Datastore, Error, Revision};

type Store = Arc<dyn Datastore>;

pub(crate) async fn compaction_keeps_live_values_and_refuses_older_reads(store: &Store) {
    let created = store.create("/h/a", "1".into(), None).await.unwrap();
    let gone = store.create("/h/gone", "1".into(), None).await.unwrap();
    let updated = store.update("/h/a", "2".into(), created, None).await.unwrap();
    store.delete("/h/gone", None).await.unwrap();
    let last = store.create("/h/b", "1".into(), None).await.unwrap();
    store.compact(updated).await.unwrap();

    let too_old = store.get("/h/a", Some(gone)).await;
    assert!(
        matches!(too_old, Err(Error::Compacted { requested, compacted }) if requested == gone && compacted == updated)
    );
    assert!(matches!(store.list("/h/", None, 0, Some(created)).await, Err(Error::Compacted { .. })));
    let at = store.list("/h/", None, 0, Some(updated)).await.unwrap();
    assert_eq!(at.items.iter().map(|kv| kv.value.clone()).collect::<Vec<_>>(), ["2", "1"]);
    store.compact(last).await.unwrap();
    let now = store.list("/h/", None, 0, None).await.unwrap();
    assert_eq!(now.items.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["/h/a", "/h/b"]);
    assert_eq!(now.items[0].create_revision, created);
    store.update("/h/a", "3".into(), updated, None).await.unwrap();
    store.create("/h/gone", "2".into(), None).await.unwrap();
}

pub(crate) async fn compaction_does_not_turn_the_revision_back(store: &Store) {
    store.create("/h/a", "1".into(), None).await.unwrap();
    let (deleted, _) = store.delete("/h/a", None).await.unwrap();
    store.compact(deleted).await.unwrap();
    assert_eq!(store.list("/h/", None, 0, None).await.unwrap().revision, deleted);
    assert!(store.create("/h/a", "2".into(), None).await.unwrap() > deleted);
}

pub(crate) async fn compaction_refuses_what_was_compacted_and_what_is_to_come(store: &Store) {
    let current = store.create("/h/a", "1".into(), None).await.unwrap();
    let next = Revision(current.0 + 1);
    assert!(matches!(store.compact(next).await, Err(Error::Future { .. })));
    store.compact(current).await.unwrap();
    assert!(
        matches!(store.compact(current).await, Err(Error::Compacted { compacted, .. }) if compacted == current)
    );
}
