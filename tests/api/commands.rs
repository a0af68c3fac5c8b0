//! The program under K3s's other names, and the commands that end by themselves.

use std::env;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use tests::binary;

use crate::{Server, kubeconfig};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn kubectl_is_reached_by_name_and_by_word() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path());
    // The real one, as K3s would have unpacked it; and ourselves under its name, first in the path.
    let (tools, names) = (dir.path().join("data/data/current/bin"), dir.path().join("names"));
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::create_dir(&names).unwrap();
    let kubectl = env::var_os("KUBECTL").expect("KUBECTL is set by `./just test`");
    let real = Command::new("sh").args(["-c", "command -v \"$0\""]).arg(&kubectl).output().unwrap();
    symlink(String::from_utf8_lossy(&real.stdout).trim(), tools.join("kubectl")).unwrap();
    symlink(binary("k3sd"), names.join("kubectl")).unwrap();
    symlink(binary("k3sd"), names.join("k3s")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(names.join(program))
            .args(arguments)
            .env("PATH", &names)
            .env("K3S_DATA_DIR", dir.path().join("data"))
            .env("KUBECONFIG", kubeconfig(dir.path()))
            .env("HOME", dir.path())
            .output()
            .unwrap()
    };
    for (program, arguments) in
        [("kubectl", &["get", "--raw", "/readyz"][..]), ("k3s", &["kubectl", "get", "--raw", "/readyz"])]
    {
        let output = run(program, arguments);
        assert_eq!(text(&output), "ok", "{program}");
    }
    std::fs::remove_file(tools.join("kubectl")).unwrap();
    let missing = run("kubectl", &["version"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing).contains("kubectl is not on this machine"), "{}", text(&missing));
    assert!(text(&missing).contains("data/current/bin"), "{}", text(&missing));
}

#[test]
fn certificates_are_checked_and_made_anew_after_rotation() {
    let dir = tempfile::tempdir().unwrap();
    Server::start(dir.path()).process.stop();
    let data = dir.path().join("data");
    let certificate = |arguments: &[&str]| {
        let output = Command::new(binary("k3sd"))
            .arg("certificate")
            .args(arguments)
            .arg("--data-dir")
            .arg(&data)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let ends = |service: &str| {
        let json = certificate(&["check", "-o", "json", "-s", service]);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["Certificates"][0]["Status"], "OK", "{value}");
        value["Certificates"][0]["Filename"].as_str().unwrap().to_owned()
    };
    assert_eq!(ends("admin"), "client-admin.crt");
    assert!(
        certificate(&["check"])
            .contains("serving-kube-apiserver.crt: certificate kube-apiserver (ServerAuth) is ok")
    );
    let before = std::fs::read(data.join("server/tls/client-admin.crt")).unwrap();
    let said = certificate(&["rotate", "--service", "admin,scheduler"]);
    assert!(said.contains("server/tls-"), "{said}");
    assert!(!data.join("server/tls/client-admin.crt").exists());
    // The new kubeconfig has the new certificate, or kubectl would not get through.
    let _server = Server::start(dir.path());
    assert_ne!(std::fs::read(data.join("server/tls/client-admin.crt")).unwrap(), before);
}

#[test]
fn bootstrap_tokens_are_made_listed_and_deleted_and_the_own_one_is_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let port = tests::free_port();
    let _server = Server::start_on(dir.path(), port);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary("k3sd"));
        command.arg("token").args(arguments).env("KUBECONFIG", kubeconfig(dir.path())).output().unwrap()
    };
    let ok = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let own = || std::fs::read_to_string(dir.path().join("data/server/token")).unwrap();
    let generated = ok(&["generate"]);
    let full = ok(&["create", generated.trim(), "--description", "a door", "--ttl", "2h"]);
    let hash = own().split("::").next().unwrap().to_owned();
    assert_eq!(full, format!("{hash}::{generated}"));
    let taken = run(&["create", generated.trim()]);
    assert!(
        !taken.status.success() && text(&taken).contains("there is a token with the ID"),
        "{}",
        text(&taken)
    );
    ok(&["create", "--ttl", "0"]);

    let list = ok(&["list"]);
    let id = generated.split('.').next().unwrap();
    let line = list.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(
        line.contains("authentication,signing") && line.contains("a door") && line.contains("1h"),
        "{list}"
    );
    let json: serde_json::Value = serde_json::from_str(&ok(&["list", "-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2, "{json}");
    assert_eq!(ok(&["delete", full.trim()]), format!("bootstrap token \"{id}\" deleted\n"));
    assert!(!ok(&["list"]).contains(id));
    assert!(text(&run(&["delete", id])).contains("there is no bootstrap token"));

    let before = own();
    let data = dir.path().join("data").display().to_string();
    let url = format!("https://127.0.0.1:{port}");
    ok(&["rotate", "--data-dir", &data, "--server", &url, "--new-token", "chosen"]);
    assert!(own().trim().ends_with("::server:chosen"), "{}", own());
    let stale = run(&["rotate", "--token", before.trim(), "--server", &url]);
    assert!(!stale.status.success() && text(&stale).contains("not authorized"), "{}", text(&stale));
}
