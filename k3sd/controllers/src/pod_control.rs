//! Creating and deleting the pods of a controller's objects, with what both entail: an event on the owner, and the
//! expectation that the cache shows it before the owner's pods are counted again.

use std::time::Duration;

use client::{Informer, ObjectKey, Recorder, request};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Resource,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{context::Context, expectations::Expectations, recorder, service_account::is_terminating};

/// Pods created or deleted in one run at most.
pub(crate) const BURST: usize = 500;
/// Requests under way at once for one owner: enough to fill the datastore's groups, and no more than memory is good for.
const AT_ONCE: usize = 32;
/// A run whose cache is behind comes back after this if no event brings it back sooner.
pub(crate) const BEHIND: Duration = Duration::from_secs(1);

pub(crate) struct PodControl {
    context: Context,
    recorder: Recorder,
    expectations: Expectations<ObjectKey>,
}

impl PodControl {
    /// `component` is the source of the events.
    pub(crate) fn new(context: &Context, component: &str) -> Self {
        Self {
            context: context.clone(),
            recorder: recorder(context, component),
            expectations: Expectations::new(),
        }
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Whether the cache shows everything done for an owner.
    pub(crate) fn is_settled(&self, owner: &ObjectKey, pods: &Informer<Pod>) -> bool {
        self.expectations.satisfied(owner, pods)
    }

    /// Forgets an owner that is gone.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.expectations.forget(owner);
    }

    /// Creates pods in batches of 1, 2, 4, … up to [`AT_ONCE`], so that a refusal that will meet every pod (a quota) is met few times.
    pub(crate) async fn create_all<K>(
        &self,
        owner: &K,
        pods: impl IntoIterator<Item = Pod>,
    ) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let (mut pods, mut batch) = (pods.into_iter(), 1);
        loop {
            let some: Vec<Pod> = pods.by_ref().take(batch).collect();
            if some.is_empty() {
                return Ok(());
            }
            let results = join_all(some.iter().map(|pod| self.create(owner, pod))).await;
            results.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
            batch = (batch * 2).min(AT_ONCE);
        }
    }

    async fn create<K: Resource<DynamicType = ()>>(&self, owner: &K, pod: &Pod) -> anyhow::Result<()> {
        let key = ObjectKey::of(owner);
        match self.context.api::<Pod>(key.namespace()).create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.expectations.expect_revision(key, created.metadata.resource_version.as_deref());
                let message = format!("Created pod: {}", created.metadata.name.unwrap_or_default());
                self.recorder.event_for(owner, "Normal", "SuccessfulCreate", message);
                Ok(())
            }
            // The namespace's end will bring the owner's own.
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", api_message(&error));
                self.recorder.event_for(owner, "Warning", "FailedCreate", message);
                Err(error.into())
            }
        }
    }

    /// Deletes pods.
    pub(crate) async fn delete_all<K>(
        &self,
        owner: &K,
        pods: impl IntoIterator<Item = &Pod>,
    ) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let pods: Vec<&Pod> = pods.into_iter().collect();
        for some in pods.chunks(AT_ONCE) {
            let results = join_all(some.iter().map(|pod| self.delete(owner, pod))).await;
            results.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        }
        Ok(())
    }

    async fn delete<K: Resource<DynamicType = ()>>(&self, owner: &K, pod: &Pod) -> anyhow::Result<()> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = ObjectKey::of(pod);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.context.api::<Pod>(key.namespace()).delete(&key.name, &params).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", key.name);
                self.recorder.event_for(owner, "Normal", "SuccessfulDelete", message);
                self.expectations.expect_deletion(ObjectKey::of(owner), key, uid);
                Ok(())
            }
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", api_message(&error));
                self.recorder.event_for(owner, "Warning", "FailedDelete", message);
                Err(error.into())
            }
        }
    }
}

/// What the API said, without the client's framing.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
