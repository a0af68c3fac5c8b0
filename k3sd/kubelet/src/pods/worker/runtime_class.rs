//! Which of the runtime's handlers a pod wants: its RuntimeClass, read when its sandbox is made.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use tracing::debug;

use super::{SyncError, Worker};

impl Worker {
    /// The handler's name; empty for the runtime's default.
    pub(super) async fn runtime_handler(&self, pod: &Pod) -> Result<String, SyncError> {
        let Some(name) = class_name(pod) else { return Ok(String::new()) };
        match Api::<RuntimeClass>::all(self.agent.client.clone()).get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(SyncError::NoRuntimeClass(name.to_owned())),
            Err(error) => {
                debug!(class = name, %error, "runtime class could not be read");
                Err(SyncError::RuntimeClass(name.to_owned()))
            }
        }
    }
}

/// The name of the class the pod asks for; an empty one counts as none, as upstream has it.
fn class_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.runtime_class_name.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    #[test]
    fn a_pod_without_a_class_or_with_an_empty_one_gets_the_default_handler() {
        let pod = |class: Option<&str>| Pod {
            spec: Some(PodSpec { runtime_class_name: class.map(str::to_owned), ..PodSpec::default() }),
            ..Pod::default()
        };
        assert_eq!(class_name(&Pod::default()), None);
        assert_eq!(class_name(&pod(None)), None);
        assert_eq!(class_name(&pod(Some(""))), None);
        assert_eq!(class_name(&pod(Some("runc"))), Some("runc"));
    }
}
