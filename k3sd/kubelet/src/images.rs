//! Images: tarballs imported at start, and what a container's `imagePullPolicy` asks for.

pub(crate) mod archive;
pub(crate) mod import;
pub(crate) mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::cri::Cri;
use crate::events::Events;
use crate::pods::status::Reason;

/// Gets images for containers, pausing longer after each failed pull of the same image.
#[derive(Clone)]
pub(crate) struct Images {
    cri: Cri,
    events: Events,
    pulls: Arc<Mutex<Pulls>>,
}

#[derive(Default)]
struct Pulls {
    backoff: Backoff,
    failures: HashMap<String, Failure>,
}

/// The last pull of an image.
#[derive(Clone)]
struct Failure {
    at: Timestamp,
    message: String,
}

/// An image is not there; the container waits.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub(crate) reason: Reason,
    /// When another attempt makes sense, if it does by time alone.
    pub(crate) retry_at: Option<Timestamp>,
}

/// The policy, with upstream's default: `Always` for a tag that moves.
fn pull_policy(container: &Container, image: &str) -> &'static str {
    match container.image_pull_policy.as_deref() {
        Some("Always") => "Always",
        Some("Never") => "Never",
        Some("IfNotPresent") => "IfNotPresent",
        _ if archive::full_name(image).ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    }
}

impl Images {
    pub(crate) fn new(cri: Cri, events: Events) -> Self {
        Self { cri, events, pulls: Arc::default() }
    }

    /// The image of a container, pulled when its policy says so.
    pub(crate) async fn ensure(&self, pod: &Pod, container: &Container) -> Result<cri::Image, NoImage> {
        let image = container.image.clone().unwrap_or_default();
        let present = match self.cri.image_status(&image).await {
            Ok(present) => present,
            Err(error) => return Err(waiting("ImageInspectError", error.to_string())),
        };
        let policy = pull_policy(container, &image);
        match present {
            Some(present) if policy != "Always" => {
                let text = format!("Container image \"{image}\" already present on machine");
                self.events.container_event(pod, &container.name, "Normal", "Pulled", text);
                Ok(present)
            }
            None if policy == "Never" => {
                let text = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.events.container_event(
                    pod,
                    &container.name,
                    "Warning",
                    "ErrImageNeverPull",
                    text.clone(),
                );
                Err(waiting("ErrImageNeverPull", text))
            }
            _ => self.pull(pod, container, &image).await,
        }
    }

    async fn pull(&self, pod: &Pod, container: &Container, image: &str) -> Result<cri::Image, NoImage> {
        if let Some((retry_at, last)) = self.backing_off(image) {
            let text = format!("Back-off pulling image \"{image}\"");
            let message = format!("{text}: ErrImagePull: {last}");
            self.events.container_event(pod, &container.name, "Normal", "BackOff", text);
            let reason = Reason { reason: "ImagePullBackOff", message };
            return Err(NoImage { reason, retry_at: Some(retry_at) });
        }
        let text = format!("Pulling image \"{image}\"");
        self.events.container_event(pod, &container.name, "Normal", "Pulling", text);
        let began = Instant::now();
        match self.cri.pull_image(image, None, None).await {
            Ok(reference) => {
                self.pulls.lock().unwrap_or_else(PoisonError::into_inner).succeeded(image);
                let status = self.cri.image_status(&reference).await;
                let pulled = status
                    .ok()
                    .flatten()
                    .ok_or_else(|| waiting("ImageInspectError", "pulled image is gone".into()))?;
                let text = format!(
                    "Successfully pulled image \"{image}\" in {}ms. Image size: {} bytes.",
                    began.elapsed().as_millis(),
                    pulled.size
                );
                self.events.container_event(pod, &container.name, "Normal", "Pulled", text);
                Ok(pulled)
            }
            Err(error) => {
                let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
                let retry_at = pulls.failed(image, &error.message);
                drop(pulls);
                let text = format!("Failed to pull image \"{image}\": {}", error.message);
                self.events.container_event(pod, &container.name, "Warning", "Failed", text);
                self.events.container_event(pod, &container.name, "Warning", "Failed", "Error: ErrImagePull");
                let reason = Reason { reason: "ErrImagePull", message: error.message };
                Err(NoImage { reason, retry_at })
            }
        }
    }

    /// When the next pull is due, if that is to come, and why the last failed.
    fn backing_off(&self, image: &str) -> Option<(Timestamp, String)> {
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        let last = pulls.failures.get(image)?;
        let (due, _) = pulls.backoff.pending(image, last.at, Timestamp::now())?;
        Some((due, last.message.clone()))
    }
}

impl Pulls {
    fn succeeded(&mut self, image: &str) {
        self.backoff.forget(image);
        self.failures.remove(image);
    }

    fn failed(&mut self, image: &str, message: &str) -> Option<Timestamp> {
        let now = Timestamp::now();
        self.backoff.next(image, now, now);
        self.failures.insert(image.to_owned(), Failure { at: now, message: message.to_owned() });
        self.backoff.pending(image, now, now).map(|(due, _)| due)
    }
}

fn waiting(reason: &'static str, message: String) -> NoImage {
    NoImage { reason: Reason { reason, message }, retry_at: None }
}
