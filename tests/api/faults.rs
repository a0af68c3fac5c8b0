//! What goes wrong around a server, and what it says and keeps.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Process, free_port};

use crate::{START, Server, command};

/// Writers at once, and what they must have had acknowledged before the server is killed.
const WRITERS: u32 = 4;
const ACKNOWLEDGED: u32 = 100;

#[test]
fn every_acknowledged_object_is_there_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let written = AtomicU32::new(0);
    let names: Vec<String> = std::thread::scope(|scope| {
        let writer = |writer: u32| {
            let (kubectl, written) = (&server.kubectl, &written);
            move || {
                let mut acknowledged = Vec::new();
                for index in 0.. {
                    // Five objects a call; kubectl prints a line for each that the server acknowledged.
                    let names: Vec<String> = (0..5).map(|part| format!("w{writer}-{index}-{part}")).collect();
                    let manifest: String = names
                        .iter()
                        .map(|name| {
                            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n")
                        })
                        .collect();
                    let outcome = kubectl.call_with(&["create", "--validate=false", "-f", "-"], &manifest);
                    let lines = outcome.stdout.lines().filter(|line| line.ends_with(" created"));
                    let before = acknowledged.len();
                    acknowledged.extend(
                        lines.filter_map(|line| Some(line.split_once('/')?.1.split_once(' ')?.0.to_owned())),
                    );
                    written.fetch_add((acknowledged.len() - before) as u32, Ordering::Relaxed);
                    if !outcome.success {
                        break;
                    }
                }
                acknowledged
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|index| scope.spawn(writer(index))).collect();
        tests::wait_for("100 acknowledged objects", Duration::from_secs(120), || {
            (written.load(Ordering::Relaxed) >= ACKNOWLEDGED).then_some(())
        });
        server.process.signal(Signal::SIGKILL);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    server.process.wait(START);
    assert!(names.len() >= ACKNOWLEDGED as usize, "{} names", names.len());

    let server = Server::start(dir.path());
    let present = server.kubectl.ok(&["get", "configmaps", "-o", "name"]);
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| !present.lines().any(|line| line == format!("configmap/{name}")))
        .collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), names.len());
}

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
