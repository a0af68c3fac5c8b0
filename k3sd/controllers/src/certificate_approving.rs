//! Approves the requests of kubelets for their client certificates, if those who ask may have them.
//!
//! Reads: certificate signing requests. Owns: their approval, for the signer `kubernetes.io/kube-apiserver-client-kubelet`. Follows
//! `pkg/controller/certificates/approver` of v1.36: access reviews say whether somebody may ask for nodes' certificates
//! (`certificatesigningrequests/nodeclient`) or for its own anew (`selfnodeclient`). Serving certificates are for people to approve.

use std::sync::Arc;

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};
use tracing::{debug, info};

use crate::context::{Context, feed, own_key, path};
use crate::signing_request::{KUBELET_CLIENT, SigningRequest, add_condition};

const SELF: (&str, &str) =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const ANY: (&str, &str) =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

pub(crate) async fn run(context: Context) {
    let requests = context.informers.shared::<CertificateSigningRequest>();
    requests.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let work = Arc::new((context.clone(), requests.clone()));
    let reconcile = move |key: ObjectKey| {
        let work = work.clone();
        async move { approve(&work.0, &work.1, &key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&requests, &queue, own_key),
        run_workers("certificate_approving", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

async fn approve(
    context: &Context,
    requests: &Informer<CertificateSigningRequest>,
    key: &ObjectKey,
) -> anyhow::Result<()> {
    let Some(stored) = requests.get(key) else { return Ok(()) };
    let mut object: Value = stored.project()?;
    let request = SigningRequest::of(&object);
    let decided = request.has("Approved") || request.has("Denied") || !request.certificate.is_empty();
    if decided || request.signer != KUBELET_CLIENT {
        return Ok(());
    }
    let Some(asked) = request.asked().filter(|asked| request.fault(asked).is_none()) else { return Ok(()) };
    let mut ways = vec![ANY];
    if request.user == asked.common_name {
        ways.insert(0, SELF);
    }
    for (subresource, message) in ways {
        if may(context, &object, subresource).await? {
            add_condition(&mut object, "Approved", "AutoApproved", message);
            let approval = format!("{}/approval", path::<CertificateSigningRequest>(key));
            match request::replace::<Value>(&context.client, &approval, &object).await {
                Err(error) if request::is_not_found(&error) => {}
                result => drop(result?),
            }
            info!(name = %key.name, user = %request.user, "certificate request approved");
            return Ok(());
        }
    }
    debug!(name = %key.name, user = %request.user, "certificate request left for people to approve");
    Ok(())
}

/// Whether who made the request may ask for such certificates.
async fn may(context: &Context, request: &Value, subresource: &str) -> Result<bool, kube::Error> {
    let spec = &request["spec"];
    let mut review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": spec["username"],
            "resourceAttributes": {
                "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                "subresource": subresource, "verb": "create",
            },
        },
    });
    for field in ["uid", "groups", "extra"] {
        if let Some(value) = spec.get(field) {
            review["spec"][field] = value.clone();
        }
    }
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer: Value = request::create(&context.client, path, &review).await?;
    Ok(answer["status"]["allowed"] == true)
}
