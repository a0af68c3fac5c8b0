//! Certificates by request: who approves, who signs, and what is refused.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::cluster::{Cluster, eventually, from, get_until};

/// A request in PEM, with the key it is for.
fn pem(name: &str, group: &str, names: &[&str]) -> (String, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn request(name: &str, signer: &str, pem: &str, usages: &[&str]) -> CertificateSigningRequest {
    from(json!({ "metadata": { "name": name }, "spec": {
        "signerName": format!("kubernetes.io/{signer}"), "usages": usages, "expirationSeconds": 3600,
        "request": k8s_openapi::ByteString(pem.as_bytes().to_vec()),
    } }))
}

async fn approve(cluster: &Cluster, name: &str) {
    let condition = json!({ "type": "Approved", "status": "True", "reason": "Test" });
    let approval = json!({ "status": { "conditions": [condition] } });
    let requests: Api<CertificateSigningRequest> = cluster.cluster_api();
    requests.patch_approval(name, &PatchParams::default(), &Patch::Strategic(approval)).await.unwrap();
}

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a str> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)?.message.as_deref().or(Some(""))
}

/// Waits for the certificate and says subject, issuer and seconds it lasts.
async fn issued(cluster: &Cluster, name: &str) -> (String, String, i64) {
    let requests: Api<CertificateSigningRequest> = cluster.cluster_api();
    let is_issued = |request: &CertificateSigningRequest| {
        request.status.as_ref().is_some_and(|s| s.certificate.is_some())
    };
    let request = get_until(&requests, name, "issued", is_issued).await;
    let pem = request.status.unwrap().certificate.unwrap().0;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    let lasts = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    (certificate.subject().to_string(), certificate.issuer().to_string(), lasts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_request_gets_its_certificate_from_the_right_authority() {
    let cluster = Cluster::start().await;
    let requests: Api<CertificateSigningRequest> = cluster.cluster_api();
    let client = ["digital signature", "client auth"];
    let server = ["digital signature", "server auth"];
    let (ann, _) = pem("ann", "team", &[]);
    let (serving, _) = pem("system:node:n1", "system:nodes", &["n1", "10.0.0.1"]);
    let (legacy, _) = pem("old", "things", &["old.example"]);
    for (name, signer, pem, usages) in [
        ("ann", "kube-apiserver-client", &ann, client),
        ("serving", "kubelet-serving", &serving, server),
        ("legacy", "legacy-unknown", &legacy, server),
        ("bad", "kubelet-serving", &ann, server),
        ("denied", "kube-apiserver-client", &ann, client),
    ] {
        requests.create(&PostParams::default(), &request(name, signer, pem, &usages)).await.unwrap();
    }
    for name in ["ann", "serving", "legacy", "bad"] {
        approve(&cluster, name).await;
    }
    let (subject, issuer, lasts) = issued(&cluster, "ann").await;
    assert_eq!(subject, "CN=ann, O=team");
    assert!(issuer.starts_with("CN=k3s-client-ca@") && (3500..=3600).contains(&lasts), "{issuer} {lasts}");
    for name in ["serving", "legacy"] {
        assert!(issued(&cluster, name).await.1.starts_with("CN=k3s-server-ca@"), "{name}");
    }
    let bad = get_until(&requests, "bad", "failed", |request| condition(request, "Failed").is_some()).await;
    assert_eq!(condition(&bad, "Failed"), Some("subject organization is not system:nodes"));
    assert!(bad.status.unwrap().certificate.is_none());
    // Nobody has said anything of the last one.
    assert_eq!(requests.get("denied").await.unwrap().status.and_then(|status| status.certificate), None);
    // What is decided stays decided.
    let both = json!({ "status": { "conditions": [
        { "type": "Approved", "status": "True" }, { "type": "Denied", "status": "True" }] } });
    let refused =
        requests.patch_approval("ann", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap_err();
    assert!(refused.to_string().contains("mutually exclusive"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubelets_get_client_certificates_without_people_if_they_may() {
    let cluster = Cluster::start().await;
    let bind = |name: &str, role: &str, kind: &str, subject: &str| -> ClusterRoleBinding {
        from(json!({ "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject }] }))
    };
    let role = "system:certificates.k8s.io:certificatesigningrequests";
    let bindings: Api<ClusterRoleBinding> = cluster.cluster_api();
    for binding in [
        bind("ask", "system:node-bootstrapper", "Group", "system:bootstrappers"),
        bind("new", &format!("{role}:nodeclient"), "Group", "system:bootstrappers"),
        bind("again", &format!("{role}:selfnodeclient"), "Group", "system:nodes"),
    ] {
        bindings.create(&PostParams::default(), &binding).await.unwrap();
    }
    let usages = ["digital signature", "client auth"];
    let (own, _) = pem("system:node:n1", "system:nodes", &[]);
    let ask = async |name: &str, user: &str, group: &str| {
        let client = cluster.client_as(user, &[group]);
        let requests: Api<CertificateSigningRequest> = Api::all(client);
        let request = request(name, "kube-apiserver-client-kubelet", &own, &usages);
        requests.create(&PostParams::default(), &request).await
    };
    ask("first", "system:bootstrap:abcdef", "system:bootstrappers").await.unwrap();
    let (subject, issuer, _) = issued(&cluster, "first").await;
    assert_eq!(subject, "CN=system:node:n1, O=system:nodes");
    assert!(issuer.starts_with("CN=k3s-client-ca@"));
    let requests: Api<CertificateSigningRequest> = cluster.cluster_api();
    assert_eq!(
        condition(&requests.get("first").await.unwrap(), "Approved"),
        Some("Auto approving kubelet client certificate after SubjectAccessReview.")
    );
    ask("renewal", "system:node:n1", "system:nodes").await.unwrap();
    issued(&cluster, "renewal").await;
    assert_eq!(
        condition(&requests.get("renewal").await.unwrap(), "Approved"),
        Some("Auto approving self kubelet client certificate after SubjectAccessReview.")
    );
    // Another node may not even ask for it.
    let refused = ask("theft", "system:node:n2", "system:nodes").await.unwrap_err();
    assert!(refused.to_string().contains("can only create a node CSR with CN=system:node:n2"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_tokens_sign_the_cluster_info_and_go_when_they_run_out() {
    let cluster = Cluster::start().await;
    let token = |id: &str, seconds: i64| -> Secret {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        from(
            json!({ "metadata": { "name": format!("bootstrap-token-{id}") }, "type": "bootstrap.kubernetes.io/token",
            "stringData": { "token-id": id, "token-secret": "0123456789abcdef", "expiration": end.to_string(),
                "usage-bootstrap-signing": "true" } }),
        )
    };
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "kube-system");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-public");
    let info: ConfigMap =
        from(json!({ "metadata": { "name": "cluster-info" }, "data": { "kubeconfig": "k" } }));
    maps.create(&PostParams::default(), &info).await.unwrap();
    for (id, seconds) in [("aaaaaa", 3), ("bbbbbb", 3600)] {
        secrets.create(&PostParams::default(), &token(id, seconds)).await.unwrap();
    }
    let keys =
        |map: &ConfigMap| -> Vec<String> { map.data.clone().unwrap_or_default().into_keys().collect() };
    let both = ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-bbbbbb", "kubeconfig"];
    get_until(&maps, "cluster-info", "signed", |map| keys(map) == both).await;
    eventually("removed", || async {
        match secrets.get_opt("bootstrap-token-aaaaaa").await.unwrap() {
            None => Ok(()),
            Some(secret) => Err(secret.metadata.name),
        }
    })
    .await;
    get_until(&maps, "cluster-info", "one signature", |map| keys(map) == both[1..]).await;
    let left: Value = serde_json::to_value(secrets.get("bootstrap-token-bbbbbb").await.unwrap()).unwrap();
    assert_eq!(left["type"], "bootstrap.kubernetes.io/token");
    cluster.stop().await;
}
