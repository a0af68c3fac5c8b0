//! What a certificate signing request is and says: shared by the controllers that approve, sign and remove them.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::meta;
use serde_json::Value;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, Pem, X509CertificationRequest};

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The API's object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SigningRequest {
    pub(crate) signer: String,
    /// PEM.
    pub(crate) request: Vec<u8>,
    pub(crate) usages: Vec<String>,
    pub(crate) expiration_seconds: Option<i64>,
    pub(crate) user: String,
    /// PEM; empty: not issued.
    pub(crate) certificate: Vec<u8>,
    /// Types of the conditions, each with its last update.
    pub(crate) conditions: Vec<(String, String)>,
}

/// What the PKCS#10 request in it asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) dns_names: usize,
    pub(crate) addresses: usize,
    pub(crate) emails: usize,
    pub(crate) uris: usize,
}

impl SigningRequest {
    pub(crate) fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let items = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let bytes = |pointer: &str| STANDARD.decode(text(pointer)).unwrap_or_default();
        let part = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Self {
            signer: text("/spec/signerName").to_owned(),
            request: bytes("/spec/request"),
            usages: items("/spec/usages").filter_map(Value::as_str).map(str::to_owned).collect(),
            expiration_seconds: object.pointer("/spec/expirationSeconds").and_then(Value::as_i64),
            user: text("/spec/username").to_owned(),
            certificate: bytes("/status/certificate"),
            conditions: items("/status/conditions")
                .map(|condition| (part(condition, "type"), part(condition, "lastUpdateTime")))
                .collect(),
        }
    }

    pub(crate) fn has(&self, condition: &str) -> bool {
        self.conditions.iter().any(|(kind, _)| kind == condition)
    }

    /// None: it is no PKCS#10 request in PEM.
    pub(crate) fn asked(&self) -> Option<Asked> {
        let pem = Pem::iter_from_buffer(&self.request).next()?.ok()?;
        if pem.label != "CERTIFICATE REQUEST" {
            return None;
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let mut asked = Asked {
            common_name: subject
                .iter_common_name()
                .find_map(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            organizations: subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok().map(str::to_owned))
                .collect(),
            ..Asked::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => asked.dns_names += 1,
                    GeneralName::IPAddress(_) => asked.addresses += 1,
                    GeneralName::RFC822Name(_) => asked.emails += 1,
                    GeneralName::URI(_) => asked.uris += 1,
                    _ => {}
                }
            }
        }
        Some(asked)
    }

    /// What is wrong with it by the rules of its signer, in upstream's words (`pkg/apis/certificates/helpers.go`).
    pub(crate) fn fault(&self, asked: &Asked) -> Option<String> {
        match self.signer.as_str() {
            CLIENT => self.client_fault(),
            KUBELET_CLIENT => self.kubelet_client_fault(asked),
            KUBELET_SERVING => self.kubelet_serving_fault(asked),
            _ => None,
        }
    }

    fn client_fault(&self) -> Option<String> {
        let optional = ["digital signature", "key encipherment"];
        if let Some(other) =
            self.usages.iter().find(|usage| *usage != "client auth" && !optional.contains(&usage.as_str()))
        {
            return Some(format!("invalid usage for client certificate: {other}"));
        }
        let usable = self.usages.iter().any(|usage| usage == "client auth");
        (!usable).then(|| "missing required usage for client certificate: client auth".to_owned())
    }

    fn kubelet_client_fault(&self, asked: &Asked) -> Option<String> {
        let fault = if asked.organizations != ["system:nodes"] {
            "subject organization is not system:nodes"
        } else if asked.dns_names > 0 {
            "DNS subjectAltNames are not allowed"
        } else if asked.emails > 0 {
            "Email subjectAltNames are not allowed"
        } else if asked.addresses > 0 {
            "IP subjectAltNames are not allowed"
        } else if asked.uris > 0 {
            "URI subjectAltNames are not allowed"
        } else if !asked.common_name.starts_with("system:node:") {
            "subject common name does not begin with system:node:"
        } else {
            return self.usages_fault("client auth");
        };
        Some(fault.to_owned())
    }

    fn kubelet_serving_fault(&self, asked: &Asked) -> Option<String> {
        let fault = if asked.organizations != ["system:nodes"] {
            "subject organization is not system:nodes"
        } else if asked.dns_names + asked.addresses == 0 {
            "DNS or IP subjectAltName is required"
        } else if asked.emails > 0 {
            "Email subjectAltNames are not allowed"
        } else if asked.uris > 0 {
            "URI subjectAltNames are not allowed"
        } else if let Some(fault) = self.usages_fault("server auth") {
            return Some(fault);
        } else if !asked.common_name.starts_with("system:node:") {
            "subject common name does not begin with system:node:"
        } else {
            return None;
        };
        Some(fault.to_owned())
    }

    /// Keys that cannot encipher are asked for without that.
    fn usages_fault(&self, purpose: &str) -> Option<String> {
        let own: BTreeSet<&str> = self.usages.iter().map(String::as_str).collect();
        let least = BTreeSet::from([purpose, "digital signature"]);
        let mut all = least.clone();
        all.insert("key encipherment");
        let list = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(" ");
        (own != least && own != all)
            .then(|| format!("usages did not match [{}] or [{}]", list(&all), list(&least)))
    }
}

/// A condition to add to a request.
pub(crate) fn add_condition(object: &mut Value, kind: &str, reason: &str, message: &str) {
    let now = meta::now();
    let condition = serde_json::json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    });
    let status = meta::child_mut(meta::object_mut(object), "status");
    let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signer: &str, usages: &[&str]) -> SigningRequest {
        SigningRequest {
            signer: signer.to_owned(),
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            ..SigningRequest::default()
        }
    }

    fn node() -> Asked {
        Asked {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Asked::default()
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let (client, server) = (["digital signature", "client auth"], ["digital signature", "server auth"]);
        let kubelet = request(KUBELET_CLIENT, &client);
        assert_eq!(kubelet.fault(&node()), None);
        let fault = |asked: Asked| kubelet.fault(&asked).unwrap_or_default();
        assert_eq!(
            fault(Asked { organizations: Vec::new(), ..node() }),
            "subject organization is not system:nodes"
        );
        assert_eq!(fault(Asked { dns_names: 1, ..node() }), "DNS subjectAltNames are not allowed");
        let other = Asked { common_name: "n1".to_owned(), ..node() };
        assert_eq!(fault(other.clone()), "subject common name does not begin with system:node:");
        assert_eq!(
            request(KUBELET_CLIENT, &server).fault(&node()).unwrap(),
            "usages did not match [client auth digital signature key encipherment] or [client auth digital signature]"
        );

        let serving = request(KUBELET_SERVING, &server);
        assert_eq!(serving.fault(&node()).unwrap(), "DNS or IP subjectAltName is required");
        assert_eq!(serving.fault(&Asked { addresses: 1, ..node() }), None);
        assert!(serving.fault(&Asked { addresses: 1, ..other.clone() }).is_some());

        assert_eq!(request(CLIENT, &client).fault(&other), None);
        assert_eq!(
            request(CLIENT, &server).fault(&other).unwrap(),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(
            request(CLIENT, &["digital signature"]).fault(&other).unwrap(),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(request(LEGACY_UNKNOWN, &["cert sign"]).fault(&other), None);
    }
}
