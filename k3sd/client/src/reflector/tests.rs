//! The state machine against a scripted transport: each test answers the requests the reflector makes, in order.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::channel::mpsc as stream;
use http::{Request, Response};
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{Informer, Informers, ObjectKey};

type Chunks = stream::UnboundedSender<Result<BodyFrame<Bytes>, Infallible>>;
type Answer = Response<StreamBody<stream::UnboundedReceiver<Result<BodyFrame<Bytes>, Infallible>>>>;

/// The server's side: requests as they come.
struct Server {
    requests: mpsc::UnboundedReceiver<(String, oneshot::Sender<Answer>)>,
    cancel: CancellationToken,
}

fn server() -> (Server, Informers) {
    let (sender, requests) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let _ = sender.send((request.uri().to_string(), answer));
            answered.await
        }
    });
    let cancel = CancellationToken::new();
    let client = kube::Client::new(service, "default");
    (Server { requests, cancel: cancel.clone() }, Informers::in_process(client, cancel))
}

impl Server {
    /// The next request's path and query, and a sender of its answer's body.
    async fn next(&mut self, status: u16) -> (String, Chunks) {
        let (uri, answer) =
            tokio::time::timeout(Duration::from_secs(120), self.requests.recv()).await.unwrap().unwrap();
        let (chunks, body) = stream::unbounded();
        let response = Response::builder().status(status).body(StreamBody::new(body)).unwrap();
        answer.send(response).map_err(|_| "the reflector is gone").unwrap();
        (uri, chunks)
    }

    async fn answer(&mut self, status: u16, body: &str) -> String {
        let (uri, chunks) = self.next(status).await;
        send(&chunks, body);
        uri
    }
}

fn send(chunks: &Chunks, text: &str) {
    chunks.unbounded_send(Ok(BodyFrame::data(Bytes::copy_from_slice(text.as_bytes())))).unwrap();
}

fn object(name: &str, revision: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"n","resourceVersion":"{revision}"}},"data":{{"padding":"{}"}}}}"#,
        "x".repeat(300)
    )
}

fn event(kind: &str, name: &str, revision: u32) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object(name, revision))
}

fn bookmark(revision: u32, initial: bool) -> String {
    let end = if initial { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{revision}\"{end}}}}}}}\n"
    )
}

fn status(code: u16) -> String {
    format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},"reason":"R"}}"#)
}

fn versions(informer: &Informer<ConfigMap>) -> Vec<(String, u64)> {
    informer.list().iter().map(|stored| (stored.key().name.clone(), stored.revision())).collect()
}

fn expect(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("n", name)
}

#[tokio::test(start_paused = true)]
async fn streams_initial_events_then_follows_and_resumes_from_the_last_revision() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let mut changes = informer.subscribe();
    let (uri, watch) = server.next(200).await;
    assert!(
        uri.starts_with("/api/v1/configmaps?watch=true&allowWatchBookmarks=true&timeoutSeconds="),
        "{uri}"
    );
    assert!(uri.contains("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), "{uri}");

    send(&watch, &event("ADDED", "a", 3));
    send(&watch, &event("ADDED", "b", 4));
    tokio::task::yield_now().await;
    assert!(!informer.is_synced() && informer.is_empty(), "incomplete lists are not shown");
    send(&watch, &bookmark(7, true));
    informer.synced().await;
    assert_eq!(versions(&informer), expect(&[("a", 3), ("b", 4)]));
    assert_eq!(informer.revision(), 7);
    assert_eq!(changes.next().await, Some(key("a")));
    assert_eq!(changes.next().await, Some(key("b")));

    send(&watch, &event("MODIFIED", "a", 8));
    send(&watch, &event("DELETED", "b", 9));
    assert_eq!(changes.next().await, Some(key("a")));
    let change = changes.next_change().await.unwrap();
    assert_eq!((change.key, change.new.is_none()), (key("b"), true));
    assert_eq!(change.old.unwrap().revision(), 4);
    send(&watch, &bookmark(20, false));
    drop(watch);

    let (uri, watch) = server.next(200).await;
    assert!(uri.contains("&resourceVersion=20") && !uri.contains("sendInitialEvents"), "{uri}");
    send(&watch, &event("ADDED", "c", 21));
    assert_eq!(changes.next().await, Some(key("c")));
    assert_eq!(versions(&informer), expect(&[("a", 8), ("c", 21)]));
}

#[tokio::test(start_paused = true)]
async fn falls_back_to_pages_and_watches_from_the_list_s_revision() {
    let (mut server, informers) = server();
    let informer = informers.filtered::<ConfigMap>("metadata.name!=z");
    let uri = server.answer(422, &status(422)).await;
    assert!(
        uri.contains("sendInitialEvents") && uri.ends_with("&fieldSelector=metadata%2Ename%21%3Dz"),
        "{uri}"
    );

    let page = |next: &str, items: &str| {
        format!(
            r#"{{"kind":"List","metadata":{{"resourceVersion":"9","continue":"{next}"}},"items":[{items}]}}"#
        )
    };
    let uri = server.answer(200, &page("tok/1", &object("a", 1))).await;
    assert!(uri.contains("?limit=500&fieldSelector="), "{uri}");
    let uri = server.answer(200, &page("", &format!("{},{}", object("b", 2), object("c", 3)))).await;
    assert!(uri.contains("continue=tok%2F1"), "{uri}");
    let (uri, _watch) = server.next(200).await;
    assert!(uri.contains("resourceVersion=9"), "{uri}");
    assert_eq!(versions(&informer), expect(&[("a", 1), ("b", 2), ("c", 3)]));
}

#[tokio::test(start_paused = true)]
async fn an_expired_revision_lists_again_and_reports_only_differences() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let mut changes = informer.subscribe();
    let (_, watch) = server.next(200).await;
    for name in ["a", "b", "c"] {
        send(&watch, &event("ADDED", name, 1));
    }
    send(&watch, &bookmark(3, true));
    for _ in 0..3 {
        changes.next().await;
    }
    send(&watch, &format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(410)));
    let (uri, watch) = server.next(200).await;
    assert!(uri.contains("sendInitialEvents"), "{uri}");
    assert_eq!(informer.len(), 3, "the old state is served meanwhile");
    send(&watch, &event("ADDED", "a", 1));
    send(&watch, &event("ADDED", "c", 50));
    send(&watch, &bookmark(60, true));
    let mut changed = vec![changes.next().await.unwrap(), changes.next().await.unwrap()];
    changed.sort();
    assert_eq!(changed, [key("b"), key("c")]);
    assert_eq!(versions(&informer), expect(&[("a", 1), ("c", 50)]));
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_each_time_and_keep_the_state() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let mut waits = Vec::new();
    for _ in 0..3 {
        let before = tokio::time::Instant::now();
        server.answer(503, "not yet").await;
        waits.push(before.elapsed().as_millis());
    }
    assert!((200..=300).contains(&waits[1]) && (400..=600).contains(&waits[2]), "{waits:?}");
    let (_, watch) = server.next(200).await;
    send(&watch, &event("ADDED", "a", 5));
    send(&watch, &bookmark(5, true));
    informer.synced().await;
    // A watch that ends at once must not be repeated at once.
    drop(watch);
    server.next(200).await;
    let before = tokio::time::Instant::now();
    let (uri, _watch) = server.next(200).await;
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(uri.contains("resourceVersion=5"), "{uri}");
    assert_eq!(informer.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up_after_its_time() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let (_, _silent) = server.next(200).await;
    let before = tokio::time::Instant::now();
    let (_, watch) = {
        let next = tokio::time::timeout(Duration::from_secs(700), server.requests.recv());
        let (uri, answer) = next.await.unwrap().unwrap();
        let (chunks, body) = stream::unbounded();
        answer.send(Response::new(StreamBody::new(body))).map_err(|_| "gone").unwrap();
        (uri, chunks)
    };
    assert!(before.elapsed() >= Duration::from_secs(330));
    send(&watch, &bookmark(1, true));
    informer.synced().await;
}

#[tokio::test(start_paused = true)]
async fn objects_share_the_memory_of_frames_that_hold_just_them() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let (_, watch) = server.next(200).await;
    let raw = |bytes: &Bytes| chunks_send(&watch, bytes);
    // One frame for one event.
    let one = Bytes::from(event("ADDED", "one", 1));
    raw(&one);
    // One event in three frames, the object alone in the second, as a server that holds encoded objects sends it.
    let alone = Bytes::from(object("two", 2));
    raw(&Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":"));
    raw(&alone);
    raw(&Bytes::from_static(b"}\n"));
    // Two events in one frame, and one cut in the middle of the object.
    raw(&Bytes::from(event("ADDED", "three", 3) + &event("ADDED", "four", 4)));
    let cut = event("ADDED", "five", 5);
    raw(&Bytes::copy_from_slice(&cut.as_bytes()[..120]));
    raw(&Bytes::copy_from_slice(&cut.as_bytes()[120..]));
    send(&watch, &bookmark(9, true));
    informer.synced().await;
    let within = |outer: &Bytes, name: &str| {
        let stored = informer.get(&key(name)).unwrap();
        assert_eq!(stored.raw(), object(name, u32::try_from(stored.revision()).unwrap()).as_bytes());
        outer.as_ptr_range().contains(&stored.raw().as_ptr())
    };
    assert!(within(&one, "one") && within(&alone, "two"));
    for (name, revision) in [("three", 3), ("four", 4), ("five", 5)] {
        assert_eq!(informer.get(&key(name)).unwrap().raw(), object(name, revision).as_bytes());
    }
}

fn chunks_send(watch: &Chunks, bytes: &Bytes) {
    watch.unbounded_send(Ok(BodyFrame::data(bytes.clone()))).unwrap();
}

#[tokio::test(start_paused = true)]
async fn informers_of_one_kind_share_one_watch_and_indexes_follow_changes() {
    let (mut server, informers) = server();
    let informer = informers.shared::<ConfigMap>();
    let again: Informer<ConfigMap> = informers.at_path("/api/v1/configmaps");
    informer.index("letter", |raw| {
        let text = std::str::from_utf8(raw).unwrap();
        vec![if text.contains("\"name\":\"a") { "a" } else { "other" }.to_owned()]
    });
    let (_, watch) = server.next(200).await;
    for name in ["a1", "a2", "b"] {
        send(&watch, &event("ADDED", name, 1));
    }
    send(&watch, &bookmark(1, true));
    again.synced().await;
    assert_eq!(again.by_index("letter", "a").len(), 2);
    assert_eq!(again.list_namespace("n").len(), 3);
    assert!(again.list_namespace("m").is_empty());
    let mut changes = informer.subscribe();
    send(&watch, &event("DELETED", "a1", 5));
    while informer.get(&key("a1")).is_some() {
        changes.next().await;
    }
    assert_eq!(again.by_index("letter", "a").len(), 1);
    assert!(server.requests.try_recv().is_err(), "no second watch");
    server.cancel.cancel();
    informers.stopped().await;
    assert_eq!(changes.next().await, None);
}
