//! Raw requests through a [`kube::Client`], for what the typed client makes awkward or wasteful.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::{Serialize, de::DeserializeOwned};

/// The three patch formats that need no field manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, which merges lists by key.
    Strategic,
}

/// A `GET` of `uri` (a path with an optional query).
pub(crate) fn get(uri: &str) -> Result<Request<Body>, kube::Error> {
    build(Method::GET, uri, "", Bytes::new())
}

/// Reads the body of a failed response as a `Status`; one is made up from the HTTP status if the body is none.
pub(crate) async fn status_of(response: Response<Body>) -> Result<Box<kube::core::Status>, kube::Error> {
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let mut status = serde_json::from_slice::<kube::core::Status>(&body).unwrap_or_else(|_| {
        kube::core::Status::failure(&String::from_utf8_lossy(&body), code.canonical_reason().unwrap_or(""))
    });
    status.code = code.as_u16();
    Ok(Box::new(status))
}

/// Sends a request and returns the body of a successful response.
pub async fn send(client: &kube::Client, request: Request<Body>) -> Result<Bytes, kube::Error> {
    let response = client.send(request).await?;
    if !response.status().is_success() {
        return Err(kube::Error::Api(status_of(response).await?));
    }
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Patches the object (or subresource) at `path` and returns what it is afterwards.
pub async fn patch<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    kind: Patch,
    body: &impl Serialize,
) -> Result<T, kube::Error> {
    let content_type = match kind {
        Patch::Json => "application/json-patch+json",
        Patch::Merge => "application/merge-patch+json",
        Patch::Strategic => "application/strategic-merge-patch+json",
    };
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    decode(&send(client, build(Method::PATCH, path, content_type, body.into())?).await?)
}

/// Creates an object: a `POST` to the collection (or subresource) at `path`.
pub async fn create<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    body: &impl Serialize,
) -> Result<T, kube::Error> {
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    decode(&send(client, build(Method::POST, path, "application/json", body.into())?).await?)
}

/// Replaces the object (or subresource) at `path`.
pub async fn replace<T: DeserializeOwned>(
    client: &kube::Client,
    path: &str,
    body: &impl Serialize,
) -> Result<T, kube::Error> {
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    decode(&send(client, build(Method::PUT, path, "application/json", body.into())?).await?)
}

/// Reads the object or list at `path` (a query is allowed).
pub async fn read<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T, kube::Error> {
    decode(&send(client, get(path)?).await?)
}

/// Deletes the object or collection at `path`; `options` is a `DeleteOptions`. An object that is gone already counts as
/// deleted: the answer is whether there was one.
pub async fn delete(
    client: &kube::Client,
    path: &str,
    options: &impl Serialize,
) -> Result<bool, kube::Error> {
    let body = serde_json::to_vec(options).map_err(kube::Error::SerdeError)?;
    match send(client, build(Method::DELETE, path, "application/json", body.into())?).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the server said that the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the server said that the object exists already.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the server said that the object has changed since it was read.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && !status.is_already_exists())
}

fn build(method: Method, uri: &str, content_type: &str, body: Bytes) -> Result<Request<Body>, kube::Error> {
    let mut builder = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
    if !content_type.is_empty() {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    builder.body(Body::from(body)).map_err(kube::Error::HttpError)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, kube::Error> {
    serde_json::from_slice(body).map_err(kube::Error::SerdeError)
}
