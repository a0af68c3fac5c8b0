//! Gets, lists and counts, now and at a revision.

use std::sync::Arc;

use datastore::{Datastore, Error, ListPage, Revision};

type Store = Arc<dyn Datastore>;

fn keys(page: &ListPage) -> Vec<&str> {
    page.items.iter().map(|kv| &*kv.key).collect()
}

async fn create_all(store: &Store, keys: &[&str]) -> Revision {
    let mut last = Revision(0);
    for key in keys {
        last = store.create(key, (*key).to_owned().into(), None).await.unwrap();
    }
    last
}

pub(crate) async fn list_takes_exactly_the_prefix_in_byte_order(store: &Store) {
    create_all(store, &["/p/b", "/p/a-b", "/p/a/b", "/p", "/p/é", "/p0", "/q/a", "/p/Z", "/p/a"]).await;
    store.delete("/p/b", None).await.unwrap();
    let page = store.list("/p/", None, 0, None).await.unwrap();
    assert_eq!(keys(&page), ["/p/Z", "/p/a", "/p/a-b", "/p/a/b", "/p/é"]);
    assert!(!page.more);
    let everything = store.list("", None, 0, None).await.unwrap();
    let ours: Vec<_> = keys(&everything).into_iter().filter(|k| !k.starts_with("/registry/")).collect();
    assert_eq!(ours, ["/p", "/p/Z", "/p/a", "/p/a-b", "/p/a/b", "/p/é", "/p0", "/q/a"]);
}

pub(crate) async fn list_pages_at_one_revision_see_one_snapshot(store: &Store) {
    create_all(store, &["/l/1", "/l/2", "/l/3", "/l/4", "/l/5"]).await;
    let first = store.list("/l/", None, 2, None).await.unwrap();
    assert_eq!((keys(&first), first.more), (vec!["/l/1", "/l/2"], true));

    create_all(store, &["/l/25", "/l/6"]).await;
    store.delete("/l/4", None).await.unwrap();
    let second = store.list("/l/", Some("/l/2"), 2, Some(first.revision)).await.unwrap();
    assert_eq!((keys(&second), second.more), (vec!["/l/3", "/l/4"], true));
    let third = store.list("/l/", Some("/l/4"), 2, Some(first.revision)).await.unwrap();
    assert_eq!((keys(&third), third.more), (vec!["/l/5"], false));
    let now = store.list("/l/", Some("/l/2"), 5, None).await.unwrap();
    assert_eq!((keys(&now), now.more), (vec!["/l/25", "/l/3", "/l/5", "/l/6"], false));
}

pub(crate) async fn reads_at_a_revision_see_that_moment(store: &Store) {
    let before = store.revision().await.unwrap();
    let created = store.create("/g/a", "1".into(), None).await.unwrap();
    let updated = store.update("/g/a", "2".into(), created, None).await.unwrap();
    let (deleted, _) = store.delete("/g/a", None).await.unwrap();
    let value = async |at| {
        let (revision, found) = store.get("/g/a", Some(at)).await.unwrap();
        assert_eq!(revision, at);
        let page = store.list("/g/", None, 0, Some(at)).await.unwrap();
        assert_eq!(page.revision, at);
        assert_eq!(page.items, found.iter().cloned().collect::<Vec<_>>());
        found.map(|kv| (kv.value, kv.create_revision))
    };
    assert_eq!(value(before).await, None);
    assert_eq!(value(created).await, Some(("1".into(), created)));
    assert_eq!(value(updated).await, Some(("2".into(), created)));
    assert_eq!(value(deleted).await, None);
}

pub(crate) async fn future_revision_is_refused(store: &Store) {
    let current = create_all(store, &["/f/a"]).await;
    let next = Revision(current.0 + 1);
    assert!(
        matches!(store.get("/f/a", Some(next)).await, Err(Error::Future { requested, .. }) if requested == next)
    );
    assert!(matches!(store.list("/f/", None, 0, Some(next)).await, Err(Error::Future { .. })));
}

pub(crate) async fn count_counts_live_keys(store: &Store) {
    create_all(store, &["/c/a", "/c/b", "/c/c", "/d/a"]).await;
    store.delete("/c/b", None).await.unwrap();
    let a = store.get("/c/a", None).await.unwrap().1.unwrap();
    store.update("/c/a", "2".into(), a.mod_revision, None).await.unwrap();
    assert_eq!(store.count("/c/").await.unwrap(), 2);
    assert_eq!(store.count("/nothing/").await.unwrap(), 0);
}
