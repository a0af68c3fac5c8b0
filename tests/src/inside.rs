//! A look inside a machine that has no shell: a pod that has the machine's files below `/host`, and sees its processes.

use crate::Kubectl;

/// The pod's name, for callers that have commands of their own for it.
pub const POD: &str = "inside";

/// A machine seen from within.
#[derive(Debug)]
pub struct Inside<'a> {
    kubectl: &'a Kubectl,
}

impl<'a> Inside<'a> {
    /// Puts the pod onto `node` and waits until it runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn new(kubectl: &'a Kubectl, node: &str) -> Self {
        kubectl.ok_with(&["create", "-f", "-"], &manifest(node));
        kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{POD}"), "--timeout=240s"]);
        Self { kubectl }
    }

    /// The pod that is there already, from before a restart.
    pub fn again(kubectl: &'a Kubectl) -> Self {
        Self { kubectl }
    }

    /// A file of the machine; `None` if it cannot be read.
    pub fn try_read(&self, path: &str) -> Option<String> {
        let outcome = self.kubectl.call(&["exec", POD, "--", "demo", "cat", &format!("/host{path}")]);
        outcome.success.then_some(outcome.stdout)
    }

    /// The same of a file that must be there.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> String {
        self.kubectl.ok(&["exec", POD, "--", "demo", "cat", &format!("/host{path}")])
    }
}

/// The pod goes by its node's name past the scheduler, which has no say in who is looked into.
fn manifest(node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {POD}}}
spec:
  nodeName: {node}
  hostPID: true
  tolerations: [{{operator: Exists}}]
  containers:
  - name: {POD}
    image: localhost/skerry/demo:1
    imagePullPolicy: Never
    securityContext: {{privileged: true, runAsUser: 0}}
    volumeMounts: [{{name: host, mountPath: /host}}]
  volumes:
  - name: host
    hostPath: {{path: /}}
"#
    )
}
