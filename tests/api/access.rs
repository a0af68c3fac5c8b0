//! Who may what, asked with unmodified kubectl: rights, names, tokens, signed certificates.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, KeyPair};
use tests::{Kubectl, wait_for};

use crate::{START, Server, kubeconfig};

/// A role that reads pods, for jane.
fn grant(kubectl: &Kubectl) {
    kubectl.ok(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]);
    kubectl.ok(&[
        "create",
        "rolebinding",
        "readers",
        "--role=reader",
        "--user=jane",
        "--serviceaccount=default:robot",
    ]);
}

/// The kubeconfig again, with another user's credentials instead.
fn kubeconfig_of(dir: &Path, name: &str, user: &str) -> PathBuf {
    let text = fs::read_to_string(kubeconfig(dir)).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("client-")).collect();
    let (with, path) = (format!("{}\n", kept.join("\n")), dir.join(format!("{name}.yaml")));
    // K3s writes the user last, with its fields below `user:`.
    let text = with
        .replace("  user:\n", &format!("  user:\n    {user}\n"))
        .replace("  user: {}\n", &format!("  user:\n    {user}\n"));
    assert!(text.contains(user), "{text}");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn rights_are_told_and_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    grant(kubectl);
    let can =
        |arguments: &[&str]| kubectl.call(&[&["auth", "can-i"], arguments].concat()).stdout.trim().to_owned();
    assert_eq!(can(&["*", "*", "--all-namespaces"]), "yes");
    assert_eq!(can(&["list", "pods", "--as=jane"]), "yes");
    assert_eq!(can(&["delete", "pods", "--as=jane"]), "no");
    assert_eq!(can(&["list", "pods", "--as=jane", "-n", "kube-system"]), "no");
    assert_eq!(can(&["get", "pods", "--as=system:serviceaccount:default:robot"]), "yes");
    assert_eq!(can(&["get", "/version", "--as=jane", "--as-group=system:authenticated"]), "yes");
    let list = can(&["--list", "--as=jane", "--as-group=system:authenticated"]);
    let row = list.lines().find(|line| line.starts_with("pods ")).unwrap_or_else(|| panic!("{list}"));
    assert!(row.trim_end().ends_with("[get list]"), "{row}");
    assert!(list.contains("selfsubjectaccessreviews.authorization.k8s.io"), "{list}");

    assert!(kubectl.call(&["get", "pods", "--as=jane"]).success);
    let refused = kubectl.call(&["get", "secrets", "--as=jane"]);
    let message = "Error from server (Forbidden): secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"\n";
    assert_eq!(refused.stderr, message);
    let who = kubectl.ok(&[
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username} {.status.userInfo.groups}",
    ]);
    assert_eq!(who, "system:admin [\"system:masters\",\"system:authenticated\"]");
    let who = kubectl.ok(&["auth", "whoami", "--as=jane", "--as-group=team"]);
    let who: Vec<&str> = who.split_whitespace().collect();
    assert_eq!(who.join(" "), "ATTRIBUTE VALUE Username jane Groups [team system:authenticated]");
    let reconciled = kubectl.ok_with(&["auth", "reconcile", "-f", "-"], "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\nrules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [get]}]\n");
    assert!(reconciled.contains("reconciled"), "{reconciled}");
    assert_eq!(can(&["get", "configmaps", "--as=jane"]), "yes");
}

#[test]
fn to_speak_for_others_is_a_right_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok(&["create", "serviceaccount", "robot"]);
    grant(kubectl);
    let all = ["get", "pods", "--as=jane", "--as-group=system:masters", "--as-uid=7"];
    // The administrator may be anybody.
    assert!(kubectl.call(&all).success);
    let token = kubectl.ok(&["create", "token", "robot"]).trim().to_owned();
    let robot = Kubectl::new(&kubeconfig_of(dir.path(), "robot", &format!("token: {token}")));
    assert!(robot.call(&["get", "pods"]).success, "for itself it may");
    let refused = |arguments: &[&str], what: &str| {
        let answer = robot.call(arguments);
        let message = format!(
            "Error from server (Forbidden): {what} is forbidden: User \"system:serviceaccount:default:robot\" cannot impersonate"
        );
        assert!(!answer.success && answer.stderr.starts_with(&message), "{}", answer.stderr);
    };
    let as_jane = ["get", "pods", "--as=jane"];
    refused(&as_jane, "users \"jane\"");
    refused(&["get", "pods", "--as=system:serviceaccount:default:default"], "serviceaccounts \"default\"");
    let rights = ["--verb=impersonate", "--resource=users", "--resource-name=jane"];
    kubectl.ok(&[&["create", "clusterrole", "speaker"], &rights[..]].concat());
    let bound = ["--clusterrole=speaker", "--serviceaccount=default:robot"];
    kubectl.ok(&[&["create", "clusterrolebinding", "speaker"], &bound[..]].concat());
    // Of the whole identity it now has the name, and no other's.
    assert!(robot.call(&as_jane).success);
    refused(&["get", "pods", "--as=john"], "users \"john\"");
    refused(&all, "groups \"system:masters\"");
}

#[test]
fn a_token_is_its_service_account() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok(&["create", "serviceaccount", "robot"]);
    grant(kubectl);
    let token = kubectl.ok(&["create", "token", "robot", "--duration=20m"]).trim().to_owned();
    assert_eq!(token.split('.').count(), 3, "a signed token");
    let robot = Kubectl::new(&kubeconfig_of(dir.path(), "robot", &format!("token: {token}")));
    let who = robot.ok(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    assert_eq!(who, "system:serviceaccount:default:robot");
    assert_eq!(robot.ok(&["get", "pods", "-o", "name"]), "");
    let refused = robot.call(&["get", "pods", "-n", "kube-system"]);
    assert!(refused.stderr.contains("(Forbidden)"), "{}", refused.stderr);
    let short = kubectl.call(&["create", "token", "robot", "--duration=1m"]);
    assert!(short.stderr.contains("may not specify a duration less than 10 minutes"), "{}", short.stderr);
    let missing = kubectl.call(&["create", "token", "nobody"]);
    assert!(missing.stderr.contains("serviceaccounts \"nobody\" not found"), "{}", missing.stderr);
    // With the account its tokens end.
    kubectl.ok(&["delete", "serviceaccount", "robot"]);
    let ended = robot.call(&["get", "pods"]);
    assert!(!ended.success && ended.stderr.contains("Unauthorized"), "{}", ended.stderr);
}

#[test]
fn an_approved_request_becomes_a_certificate_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    grant(kubectl);
    let key = KeyPair::generate().unwrap();
    let request = |name: &str| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let text = base64(pem.as_bytes());
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: {text}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n"
        )
    };
    kubectl.ok_with(&["create", "-f", "-"], &request("jane"));
    kubectl.ok_with(&["create", "-f", "-"], &request("other"));
    let condition = |name: &str| {
        kubectl.ok(&["get", "csr", name, "--no-headers"]).split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(condition("jane"), "Pending");
    let approved = kubectl.ok(&["certificate", "approve", "jane"]);
    assert_eq!(approved, "certificatesigningrequest.certificates.k8s.io/jane approved\n");
    let denied = kubectl.ok(&["certificate", "deny", "other"]);
    assert_eq!(denied, "certificatesigningrequest.certificates.k8s.io/other denied\n");
    assert_eq!(condition("other"), "Denied");
    let certificate = wait_for("a certificate", START, || {
        let text = kubectl.ok(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"]);
        (!text.is_empty()).then_some(text)
    });
    assert_eq!(condition("jane"), "Approved,Issued");

    let key = base64(key.serialize_pem().as_bytes());
    let user = format!("client-certificate-data: {certificate}\n    client-key-data: {key}");
    let jane = Kubectl::new(&kubeconfig_of(dir.path(), "jane", &user));
    assert_eq!(jane.ok(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]), "jane");
    assert!(jane.call(&["get", "pods"]).success);
    assert!(jane.call(&["get", "secrets"]).stderr.contains("User \"jane\" cannot list"));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
