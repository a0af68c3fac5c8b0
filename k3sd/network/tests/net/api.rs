//! An API of a few kinds in memory, behind the same client that components use: lists by watch, and changes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};

type Chunk = Result<Frame<Bytes>, Infallible>;

/// Objects by collection (`/api/v1/services`) and name, and who watches.
#[derive(Clone, Default)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Chunk>)>,
}

impl Api {
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = api.watch(request.uri().path(), request.uri().query().unwrap_or_default());
            async move { Ok::<_, Infallible>(answer) }
        });
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object; in namespace `default`, unless the kind has none.
    pub(crate) fn put(&self, collection: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        if collection != "/api/v1/nodes" {
            object["metadata"]["namespace"] = json!("default");
        }
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let key = (collection.to_owned(), object["metadata"]["name"].as_str().unwrap().to_owned());
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.send(collection, kind, &object);
        state.objects.insert(key, object);
    }

    pub(crate) fn remove(&self, collection: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let mut object = state.objects.remove(&(collection.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        state.send(collection, "DELETED", &object);
    }

    fn watch(&self, path: &str, query: &str) -> Response<StreamBody<mpsc::UnboundedReceiver<Chunk>>> {
        assert!(
            query.contains("sendInitialEvents=true"),
            "the tests are too short for a second watch: {query}"
        );
        let mut state = self.state.lock().unwrap();
        let (sender, receiver) = mpsc::unbounded();
        for ((_, _), object) in state.objects.iter().filter(|((collection, _), _)| collection == path) {
            send(&sender, "ADDED", object);
        }
        let end = json!({"resourceVersion": state.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        send(&sender, "BOOKMARK", &json!({ "metadata": end }));
        state.watchers.push((path.to_owned(), sender));
        Response::new(StreamBody::new(receiver))
    }
}

impl State {
    fn send(&self, collection: &str, kind: &str, object: &Value) {
        for (_, watcher) in self.watchers.iter().filter(|(path, _)| path == collection) {
            send(watcher, kind, object);
        }
    }
}

fn send(to: &mpsc::UnboundedSender<Chunk>, kind: &str, object: &Value) {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    let _ = to.unbounded_send(Ok(Frame::data(Bytes::from(line))));
}
