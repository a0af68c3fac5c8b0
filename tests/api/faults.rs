//! What goes wrong around a server, and what it says and keeps.

use std::fs;

use tests::{Process, free_port};

use crate::{START, Server, command};

#[test]
fn a_taken_port_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut process = Process::start(command(dir.path(), port));
    assert!(!process.wait(START).success());
    let output = process.output();
    assert!(output.contains(&format!("failed to listen on 127.0.0.1:{port}")), "{output}");
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_damaged_database_is_named_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    Server::start(dir.path()).process.stop();
    let path = dir.path().join("data/server/db/state.db");
    let mut bytes = fs::read(&path).unwrap();
    // The header stays, what it speaks of does not: a disk that lost writes.
    let end = bytes.len();
    bytes[1000..end].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let mut process = Process::start(command(dir.path(), free_port()));
    assert!(!process.wait(START).success());
    let output = process.output();
    assert!(output.contains("state.db") && !output.contains("panicked"), "{output}");
    assert_eq!(bytes, fs::read(&path).unwrap(), "the file is as it was");
}

#[test]
fn mistakes_in_the_configuration_are_reported_together() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.yaml"), "cluster-cidr: nonsense\nwrite-kubeconfig-mode: rw\n").unwrap();
    let mut process = Process::start(command(dir.path(), free_port()));
    assert_eq!(process.wait(START).code(), Some(2));
    let output = process.output();
    assert!(output.contains("cluster-cidr") && output.contains("write-kubeconfig-mode"), "{output}");
}
