//! What only the inside of the driver can provoke: a full disk.

use std::sync::Arc;

use bytes::Bytes;

use super::*;

/// A store on a file that may grow to `pages` pages; SQLite then fails just as on a full disk.
fn limited(path: &Path, pages: i64) -> Sqlite {
    let lock = schema::lock(path).unwrap();
    let connection = schema::open(path).unwrap();
    connection.pragma_update(None, "max_page_count", pages).unwrap();
    let hub = Arc::new(Hub::new(log::current_revision(&connection).unwrap()));
    Sqlite {
        writer: Writer::start(path, connection, lock, hub.clone()).unwrap(),
        readers: Arc::new(Readers::new(path)),
        hub,
    }
}

#[tokio::test]
async fn full_disk_refuses_writes_and_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = limited(&path, 40);
    let mut acknowledged = 0;
    let failure = loop {
        let value = Bytes::from(vec![b'x'; 3000]);
        match store.create(&format!("/full/{acknowledged:03}"), value, None).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&failure, Error::Full { path: p } if *p == path), "{failure}");
    assert!(acknowledged > 0);
    assert_eq!(store.count("/full/").await.unwrap(), acknowledged);
    store.close().await;
    drop(store);

    let roomy = Sqlite::open(&path).await.unwrap();
    assert_eq!(roomy.count("/full/").await.unwrap(), acknowledged);
    roomy.create("/full/again", Bytes::new(), None).await.unwrap();
}
