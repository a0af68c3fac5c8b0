//! The whole controller on real directories, against an API in memory that patches as the server does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Config, run};

const LIMIT: Duration = Duration::from_secs(10);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Objects by path, and the requests that changed something.
#[derive(Clone, Default)]
struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    writes: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = api.answer(&parts.method, parts.uri.path(), parts.uri.query(), body);
                let body = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>, body: Value) -> (StatusCode, Value) {
        let mut objects = self.objects.lock().unwrap();
        let status = |code: StatusCode, reason: &str| {
            (
                code,
                json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": format!("{reason} {path}")}),
            )
        };
        if *method == Method::POST && path.ends_with("/events") {
            self.events.lock().unwrap().push(body["reason"].as_str().unwrap().to_owned());
            return (StatusCode::CREATED, body);
        }
        if *method != Method::GET {
            self.writes.lock().unwrap().push(format!("{method} {path}"));
        }
        match (method, objects.get(path).cloned()) {
            (&Method::GET, _) if query.is_some() => {
                let items = objects.iter().filter(|(object, _)| of_collection(object, path));
                let items: Vec<&Value> = items.map(|(_, object)| object).collect();
                (StatusCode::OK, json!({ "items": items }))
            }
            (&Method::GET, Some(object)) => (StatusCode::OK, object),
            (&Method::POST, _) => {
                let namespaced = path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
                let missing = |name: &&str| !objects.contains_key(&format!("/api/v1/namespaces/{name}"));
                if namespaced.filter(|name| *name != "default").filter(missing).is_some() {
                    return status(StatusCode::NOT_FOUND, "NotFound");
                }
                objects
                    .insert(format!("{path}/{}", body["metadata"]["name"].as_str().unwrap()), body.clone());
                (StatusCode::CREATED, body)
            }
            (&Method::PATCH, Some(mut object)) => {
                let schema = machinery::schema::builtin();
                machinery::patch::strategic(schema, "api.core.v1.ConfigMap", &mut object, &body).unwrap();
                objects.insert(path.to_owned(), object.clone());
                (StatusCode::OK, object)
            }
            (&Method::DELETE, Some(_)) => {
                objects.remove(path);
                (StatusCode::OK, json!({}))
            }
            _ => status(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn map(&self, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(&format!("{MAPS}/{name}")).cloned()
    }

    fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut *self.writes.lock().unwrap())
    }

    fn has_event(&self, reason: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event == reason)
    }
}

/// `/api/v1/namespaces/default/configmaps/a` is of collection `/api/v1/configmaps`.
fn of_collection(object: &str, collection: &str) -> bool {
    let (version, plural) = collection.rsplit_once('/').unwrap();
    let parts: Vec<&str> = object.strip_prefix(version).unwrap_or_default().split('/').collect();
    matches!(parts[..], ["", of, _] if of == plural)
        || matches!(parts[..], ["", "namespaces", _, of, _] if of == plural)
}

/// A controller over one directory.
struct Running {
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(api: &Api, directories: &[&Path], disable: &[&str]) -> Self {
        let cancel = CancellationToken::new();
        let config = Config {
            dirs: directories.iter().map(|directory| directory.to_path_buf()).collect(),
            disable: disable.iter().map(ToString::to_string).collect(),
        };
        let informers = client::Informers::new(api.client(), cancel.clone());
        let task = tokio::spawn(run(config, api.client(), informers, cancel.clone()));
        Self { cancel, task }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata: {data}\n---\n")
}

#[tokio::test]
async fn a_file_is_applied_followed_and_pruned() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    let file = directory.path().join("demo.yaml");
    std::fs::write(&file, config_map("a", "{x: '1', y: '1'}") + &config_map("b", "{}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("both are there", || api.map("a").is_some() && api.map("b").is_some()).await;
    let labels = &api.map("a").unwrap()["metadata"]["labels"];
    assert_eq!(labels["objectset.rio.cattle.io/hash"].as_str().unwrap().len(), 40);

    // Somebody adds a key; the file changes another and drops one; object `b` is gone from it.
    api.objects.lock().unwrap().get_mut(&format!("{MAPS}/a")).unwrap()["data"]["theirs"] = json!("1");
    std::fs::write(&file, config_map("a", "{x: '2'}")).unwrap();
    eventually("`b` is deleted", || api.map("b").is_none()).await;
    assert_eq!(api.map("a").unwrap()["data"], json!({"x": "2", "theirs": "1"}));

    // Removing the file deletes nothing.
    api.take_writes();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(directory.path().join("other.yaml"), config_map("c", "{}")).unwrap();
    eventually("the other file is applied", || api.map("c").is_some()).await;
    assert_eq!(api.take_writes(), [format!("POST {MAPS}")]);
    eventually("events tell", || api.has_event("AppliedManifest")).await;
    running.stop().await;
}

#[tokio::test]
async fn what_changed_while_it_was_not_running_is_found_and_nothing_else_is_written() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    let file = directory.path().join("demo.yaml");
    std::fs::write(&file, config_map("a", "{x: '1'}") + &config_map("b", "{}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("both are there", || api.map("b").is_some()).await;
    running.stop().await;
    api.take_writes();

    std::fs::write(&file, config_map("a", "{x: '1'}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("`b` is deleted", || api.map("b").is_none()).await;
    running.stop().await;
    assert_eq!(api.take_writes(), [format!("DELETE {MAPS}/b")]);
}

#[tokio::test]
async fn a_bad_document_stops_neither_the_others_nor_deletes_anything() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    let file = directory.path().join("demo.yaml");
    std::fs::write(&file, config_map("a", "{}") + &config_map("b", "{}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("both are there", || api.map("b").is_some()).await;
    std::fs::write(&file, config_map("a", "{x: '1'}") + "data: [\n---\n" + &config_map("c", "{}")).unwrap();
    eventually("the good ones are applied", || api.map("c").is_some()).await;
    eventually("the bad one is reported", || api.has_event("ParseManifestFailed")).await;
    assert!(api.map("b").is_some());
    running.stop().await;
}

#[tokio::test]
async fn an_object_that_fails_is_tried_again_and_the_others_go_on() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    let elsewhere = config_map("a", "{}").replace("name: a", "name: a\n  namespace: later");
    std::fs::write(directory.path().join("demo.yaml"), elsewhere + &config_map("b", "{}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("the other is there", || api.map("b").is_some()).await;
    eventually("the failure is told", || api.has_event("ApplyManifestFailed")).await;
    api.objects.lock().unwrap().insert("/api/v1/namespaces/later".to_owned(), json!({}));
    let path = "/api/v1/namespaces/later/configmaps/a";
    eventually("it is applied in the end", || api.objects.lock().unwrap().contains_key(path)).await;
    running.stop().await;
}

#[tokio::test]
async fn disabled_addons_are_withdrawn_and_skipped_ones_left_alone() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    for name in ["away", "skipped"] {
        std::fs::write(directory.path().join(format!("{name}.yaml")), config_map(name, "{}")).unwrap();
    }
    let running = Running::start(&api, &[directory.path()], &[]);
    eventually("both are there", || api.map("away").is_some() && api.map("skipped").is_some()).await;
    running.stop().await;

    std::fs::write(directory.path().join("skipped.yaml.skip"), "").unwrap();
    std::fs::write(directory.path().join("skipped.yaml"), config_map("skipped", "{x: '1'}")).unwrap();
    let running = Running::start(&api, &[directory.path()], &["away"]);
    eventually("the disabled one is deleted", || api.map("away").is_none()).await;
    eventually("its file, too", || !directory.path().join("away.yaml").exists()).await;
    assert_eq!(api.map("skipped").unwrap()["data"], json!({}));

    // No longer skipped.
    std::fs::remove_file(directory.path().join("skipped.yaml.skip")).unwrap();
    eventually("it is applied", || api.map("skipped").unwrap()["data"]["x"] == "1").await;
    running.stop().await;
}

#[tokio::test]
async fn directories_that_appear_are_watched_and_users_files_hide_the_images() {
    let (api, directory) = (Api::default(), tempfile::tempdir().unwrap());
    let (user, image) = (directory.path().join("user"), directory.path().join("image"));
    std::fs::create_dir(&image).unwrap();
    std::fs::write(image.join("demo.yaml"), config_map("a", "{from: image}")).unwrap();
    let running = Running::start(&api, &[&user, &image], &[]);
    eventually("the image's is applied", || api.map("a").is_some()).await;
    std::fs::create_dir(user.join("sub")).unwrap();
    std::fs::write(user.join("sub/demo.yaml"), config_map("a", "{from: user}")).unwrap();
    eventually("the user's replaces it", || api.map("a").unwrap()["data"]["from"] == "user").await;
    std::fs::remove_file(user.join("sub/demo.yaml")).unwrap();
    eventually("and gives it back", || api.map("a").unwrap()["data"]["from"] == "image").await;
    running.stop().await;
}
