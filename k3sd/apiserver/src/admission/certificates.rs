//! Certificates: who approves or signs must be allowed to, signer by signer, and nobody asks for a certificate that makes an
//! administrator (upstream's `plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}`).

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::status::Status;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, Pem, X509CertificationRequest};

use super::{Operation, Plugin, Review};
use crate::authz::Attributes;
use crate::authz::rbac::Rbac;
use crate::user::MASTERS;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
/// Signs certificates that the API server takes as identities.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct Certificates(pub(super) Arc<Rbac>);

#[async_trait]
impl Plugin for Certificates {
    async fn validate(&self, review: &Review<'_>, request: &Value) -> Result<(), Status> {
        if review.cx.resource.group != GROUP || review.cx.resource.plural != REQUESTS {
            return Ok(());
        }
        match (review.operation, review.cx.subresource) {
            (Operation::Create, "") => subject(review, request),
            (Operation::Update, "approval") => self.check(review, "approve"),
            (Operation::Update, "status") if review.old.is_some_and(|old| is_signed_now(old, request)) => {
                self.check(review, "sign")
            }
            _ => Ok(()),
        }
    }
}

impl Certificates {
    /// May the user do this for the signer, or for all of its domain? The signer is the stored one: nobody changes it on the way.
    fn check(&self, review: &Review<'_>, verb: &str) -> Result<(), Status> {
        let signer = review.old.map(signer_of).unwrap_or_default();
        let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
        let allowed = review.cx.user.in_group(MASTERS)
            || [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
                let attributes = Attributes {
                    verb: verb.to_owned(),
                    is_resource: true,
                    group: GROUP.to_owned(),
                    version: "*".to_owned(),
                    resource: "signers".to_owned(),
                    name,
                    ..Attributes::default()
                };
                self.0.allowed(review.cx.objects, review.cx.user, &attributes)
            });
        if allowed {
            return Ok(());
        }
        Err(review.forbid(&format!("user not permitted to {verb} requests with signerName {signer:?}")))
    }
}

fn signer_of(request: &Value) -> &str {
    request.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default()
}

/// Signing is what sets the certificate, or says that there will be none.
fn is_signed_now(old: &Value, request: &Value) -> bool {
    let certificate = |request: &Value| request.pointer("/status/certificate").cloned();
    let failed = |request: &Value| {
        let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
        conditions.is_some_and(|all| all.iter().any(|condition| condition["type"] == "Failed"))
    };
    certificate(old) != certificate(request) || failed(old) != failed(request)
}

fn subject(review: &Review<'_>, request: &Value) -> Result<(), Status> {
    if signer_of(request) != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = request.pointer("/spec/request").and_then(Value::as_str).unwrap_or_default();
    let parsed = STANDARD.decode(pem).ok().as_deref().and_then(Request::parse);
    let parsed = parsed
        .ok_or_else(|| review.forbid("could not parse the certificate signing request in spec.request"))?;
    if parsed.organizations.iter().any(|name| name == MASTERS) {
        return Err(
            review.forbid(&format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"))
        );
    }
    Ok(())
}

/// Whom a certificate for a request would name.
pub(super) struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

impl Request {
    /// From PEM.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let texts = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().ok().map(str::to_owned)
        };
        Some(Self {
            common_name: subject.iter_common_name().find_map(texts).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(texts).collect(),
        })
    }
}
