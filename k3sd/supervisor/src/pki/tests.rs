use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn params() -> Params {
    Params {
        node_name: "edge-1".into(),
        node_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15))],
        tls_sans: vec!["board.example".into()],
        service_ip: IpAddr::V4(Ipv4Addr::new(10, 43, 0, 1)),
        cluster_domain: "cluster.local".into(),
    }
}

#[test]
fn a_second_start_keeps_every_file() {
    let dir = tempfile::tempdir().unwrap();
    ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let before = snapshot(dir.path());
    ServerPki::load_or_create(dir.path(), &params()).unwrap();
    assert_eq!(before, snapshot(dir.path()));
    assert!(before.len() > 30, "{} files", before.len());
}

#[test]
fn a_new_name_reissues_the_serving_certificate_and_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let (cert, key) = (read(&first.serving.cert), read(&first.serving.key));
    let admin = read(&first.admin.cert);
    let more = Params { tls_sans: vec!["other.example".into()], ..params() };
    let second = ServerPki::load_or_create(dir.path(), &more).unwrap();
    assert_ne!(cert, read(&second.serving.cert));
    assert_eq!(key, read(&second.serving.key));
    assert_eq!(admin, read(&second.admin.cert));
}

#[test]
fn keys_are_private_and_in_the_shape_k3s_writes() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let mode = fs::metadata(&pki.admin.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(read(&pki.admin.key).starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
}

#[test]
fn a_missing_authority_key_is_reported_by_path_and_nothing_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let key = pki.tls_dir.join("server-ca.key");
    let cert = read(&pki.server_ca);
    fs::remove_file(&key).unwrap();
    let error = ServerPki::load_or_create(dir.path(), &params()).unwrap_err().to_string();
    assert!(error.contains(&key.display().to_string()), "{error}");
    assert_eq!(cert, read(&pki.server_ca));
}

#[test]
fn the_service_keys_of_k3s_are_kept_and_the_first_signs() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let path = pki.tls_dir.join("service.key");
    let own = read(&path);
    // K3s's are RSA, and after a rotation there are several; what is in them is for the API server to judge.
    let first = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let both = format!("{parameters}{first}{own}");
    fs::write(&path, &both).unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    assert!(matches!(*pki.service_account_keys[0], PrivateKeyDer::Pkcs1(_)));
    assert!(matches!(*pki.service_account_keys[1], PrivateKeyDer::Sec1(_)));
    assert_eq!((read(&path), read(&pki.tls_dir.join("service.current.key"))), (both, first.to_owned()));
    fs::write(&path, "no key").unwrap();
    let error = ServerPki::load_or_create(dir.path(), &params()).unwrap_err().to_string();
    assert!(error.contains("service.key") && error.contains("private key"), "{error}");
}

#[test]
fn an_authority_that_is_replaced_reissues_what_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let (serving, admin) = (read(&pki.serving.cert), read(&pki.admin.cert));
    for file in ["server-ca.crt", "server-ca.key"] {
        fs::remove_file(pki.tls_dir.join(file)).unwrap();
    }
    ServerPki::load_or_create(dir.path(), &params()).unwrap();
    assert_ne!(serving, read(&pki.serving.cert));
    assert_eq!(admin, read(&pki.admin.cert));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn certificates_that_are_put_aside_are_made_anew_and_others_stay() {
    use inventory::{Service, Validity, check, put_aside};
    let dir = tempfile::tempdir().unwrap();
    let pki = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    let services = Service::all(dir.path());
    let found = check(dir.path(), &services).unwrap();
    // Twelve leaves, each with its authority behind it.
    assert_eq!(found.len(), 24, "{found:?}");
    assert!(found.iter().all(|found| found.validity == Validity::Ok));
    let serving = found.iter().find(|found| found.subject == "kube-apiserver").unwrap();
    assert_eq!((serving.usages.as_slice(), serving.path == pki.serving.cert), (&["ServerAuth"][..], true));

    let (admin, kubelet) = (read(&pki.admin.cert), read(&pki.kubelet_serving.key));
    let aside = put_aside(dir.path(), &["admin".parse().unwrap()]).unwrap();
    assert!(!pki.admin.cert.exists() && !pki.admin.key.exists());
    assert_eq!(read(&aside.join("client-admin.crt")), admin);
    let again = ServerPki::load_or_create(dir.path(), &params()).unwrap();
    assert_ne!(read(&again.admin.cert), admin);
    assert_eq!(read(&again.kubelet_serving.key), kubelet);
    assert!("etcd2".parse::<Service>().unwrap_err().contains("api-server"));
}
