//! Unmodified kubectl reads: every way it shows, selects, sorts, pages, watches and asks.

use std::time::Duration;

use serde_json::Value;
use tests::{Kubectl, Process, wait_for};

use crate::{START, Server};

/// Three maps and a pod to look at.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: beta, labels: {tier: front}}
data: {rank: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: alpha, labels: {tier: back}}
data: {rank: "3"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: gamma, labels: {tier: front}}
data: {rank: "2"}
---
apiVersion: v1
kind: Pod
metadata: {name: lone}
spec: {automountServiceAccountToken: false, containers: [{name: main, image: example/main}]}
"#;

fn stocked(dir: &std::path::Path) -> Server {
    let server = Server::start(dir);
    server.await_account("default");
    server.kubectl.ok_with(&["create", "-f", "-"], OBJECTS);
    server
}

fn words(kubectl: &Kubectl, arguments: &[&str]) -> Vec<String> {
    kubectl.ok(arguments).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_object_is_shown_in_every_output_format() {
    let dir = tempfile::tempdir().unwrap();
    let server = stocked(dir.path());
    let show = |format: &str| server.kubectl.ok(&["get", "configmap", "beta", "-o", format]);

    let json: Value = serde_json::from_str(&show("json")).unwrap();
    assert_eq!((&json["kind"], &json["data"]["rank"]), (&"ConfigMap".into(), &"1".into()));
    assert_eq!(json["metadata"].get("managedFields"), None, "kubectl hides it");
    let yaml = show("yaml");
    assert!(yaml.starts_with("apiVersion: v1\ndata:\n  rank: \"1\"\nkind: ConfigMap\nmetadata:\n"), "{yaml}");
    assert_eq!(show("name"), "configmap/beta\n");
    assert_eq!(show("jsonpath={.data.rank}/{.metadata.labels['tier']}"), "1/front");
    assert_eq!(show("jsonpath-as-json={.data}"), "[\n    {\n        \"rank\": \"1\"\n    }\n]\n");
    assert_eq!(
        show("go-template={{.metadata.name}} {{range $k, $v := .data}}{{$k}}={{$v}}{{end}}"),
        "beta rank=1"
    );
    assert_eq!(show("custom-columns=NAME:.metadata.name,RANK:.data.rank"), "NAME   RANK\nbeta   1\n");

    let pod = server.kubectl.ok(&["get", "pod", "lone", "-o", "wide"]);
    let header: Vec<&str> = pod.lines().next().unwrap().split_whitespace().collect();
    let wide = "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES";
    assert_eq!(header.join(" "), wide);
    let row: Vec<&str> = pod.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[2], row[5]), ("lone", "0/1", "Pending", "<none>"));
    let labels =
        server.kubectl.ok(&["get", "configmap", "beta", "--show-labels", "--no-headers", "-L", "tier"]);
    assert!(labels.trim_end().ends_with("front   tier=front"), "{labels}");
}

#[test]
fn lists_are_selected_sorted_paged_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = stocked(dir.path());
    let kubectl = &server.kubectl;
    let maps = ["get", "configmaps", "-o", "custom-columns=NAME:.metadata.name", "--no-headers"];
    let get = |more: &[&str]| words(kubectl, &[&maps[..], more].concat());

    assert_eq!(get(&["-l", "tier=front"]), ["beta", "gamma"]);
    assert_eq!(get(&["-l", "tier in (back),tier"]), ["alpha"]);
    assert_eq!(get(&["--field-selector", "metadata.name=alpha"]), ["alpha"]);
    assert_eq!(get(&["-l", "tier", "--sort-by", ".data.rank"]), ["beta", "gamma", "alpha"]);
    assert_eq!(get(&["-l", "tier", "--chunk-size=1"]), ["alpha", "beta", "gamma"]);
    // Each page is a request of its own.
    let told = kubectl.call(&["get", "configmaps", "-l", "tier", "--chunk-size=1", "-v=6"]);
    assert!(told.stderr.matches("limit=1").count() >= 3, "{}", told.stderr);
    assert_eq!(
        words(kubectl, &["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"]),
        [""; 0]
    );
    let pending = ["get", "pods", "--field-selector", "status.phase=Pending", "-o", "name"];
    assert_eq!(words(kubectl, &pending), ["pod/lone"]);
    let refused = kubectl.call(&["get", "configmaps", "--field-selector", "data.rank=1"]);
    assert!(refused.stderr.contains("field label not supported: data.rank"), "{}", refused.stderr);

    let everywhere = kubectl.ok(&["get", "configmaps", "-A"]);
    assert!(everywhere.starts_with("NAMESPACE") && everywhere.contains("kube-root-ca.crt"), "{everywhere}");
    let both = kubectl.ok(&["get", "configmap/alpha", "pod/lone", "-o", "name"]);
    assert_eq!(both, "configmap/alpha\npod/lone\n");
    let missing = kubectl.call(&["get", "configmap", "none"]);
    assert_eq!(missing.stderr, "Error from server (NotFound): configmaps \"none\" not found\n");
    let none = kubectl.call(&["get", "jobs"]);
    assert_eq!(
        (none.stdout.as_str(), none.stderr.as_str()),
        ("", "No resources found in default namespace.\n")
    );
}

#[test]
fn a_watch_shows_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let server = stocked(dir.path());
    let kubectl = &server.kubectl;
    let watching = kubectl.command(&["get", "configmaps", "-l", "tier", "-w", "--output-watch-events"]);
    let watch = Process::start(watching);
    wait_for("the first events", START, || (watch.output().matches("ADDED").count() == 3).then_some(()));
    kubectl.ok(&["create", "configmap", "delta"]);
    // It comes into view with its label, and leaves with it.
    kubectl.ok(&["label", "configmap", "delta", "tier=new"]);
    kubectl.ok(&["patch", "configmap", "delta", "-p", r#"{"data":{"a":"b"}}"#]);
    kubectl.ok(&["label", "configmap", "delta", "tier-"]);
    let story = || {
        let output = watch.output();
        let events = output.lines().filter(|line| line.contains("delta"));
        events.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    wait_for("the end of the story", START, || story().contains(&"DELETED".to_owned()).then_some(()));
    assert_eq!(story(), ["ADDED", "MODIFIED", "DELETED"]);

    let only = kubectl.command(&["get", "configmaps", "--watch-only", "-o", "name"]);
    let only = Process::start(only);
    wait_for("a change", START, || {
        kubectl.ok(&["annotate", "configmap", "alpha", "now=1", "--overwrite"]);
        kubectl.ok(&["annotate", "configmap", "alpha", "now-"]);
        only.output().contains("configmap/alpha").then_some(())
    });
    assert!(!only.output().contains("beta"), "nothing of what was there before: {}", only.output());
}

#[test]
fn objects_are_described_with_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let server = stocked(dir.path());
    let kubectl = &server.kubectl;
    let text = kubectl.ok(&["describe", "configmap", "beta"]);
    for part in ["Name:         beta", "Labels:       tier=front", "rank:\n----\n1\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The scheduler has no node for it, and says so.
    let text = wait_for("an event", START, || {
        let text = kubectl.ok(&["describe", "pod", "lone"]);
        text.contains("FailedScheduling").then_some(text)
    });
    for part in [
        "Status:           Pending",
        "Image:        example/main",
        "PodScheduled",
        "QoS Class:",
        "no nodes available",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let events = kubectl.ok(&["events", "--for", "pod/lone"]);
    assert!(events.contains("Warning") && events.contains("FailedScheduling"), "{events}");
    for kind in ["namespace default", "service kubernetes", "clusterrole view", "serviceaccount default"] {
        let [kind, name] = kind.split(' ').collect::<Vec<_>>()[..] else { unreachable!("two words") };
        let text = kubectl.ok(&["describe", kind, name]);
        assert!(text.starts_with("Name:") && text.contains(name), "{text}");
    }
}

#[test]
fn the_api_describes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;

    let row = |list: &str, name: &str| {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is missing in {list}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let resources = kubectl.ok(&["api-resources"]);
    assert_eq!(row(&resources, "deployments"), "deployments deploy apps/v1 true Deployment");
    assert_eq!(row(&resources, "nodes"), "nodes no v1 false Node");
    let wide = kubectl.ok(&["api-resources", "--api-group=batch", "-o", "wide"]);
    let jobs = "jobs batch/v1 true Job create,delete,deletecollection,get,list,patch,update,watch all";
    assert_eq!(row(&wide, "jobs"), jobs);
    let cluster = kubectl.ok(&["api-resources", "--namespaced=false", "-o", "name"]);
    assert!(
        cluster.contains("clusterroles.rbac.authorization.k8s.io\n") && !cluster.contains("pods\n"),
        "{cluster}"
    );
    let versions = kubectl.ok(&["api-versions"]);
    for version in ["v1", "apps/v1", "autoscaling/v2", "resource.k8s.io/v1", "networking.k8s.io/v1"] {
        assert!(versions.lines().any(|line| line == version), "{version} is missing in {versions}");
    }

    let explained = kubectl.ok(&["explain", "pod.spec.containers.livenessProbe.httpGet"]);
    for part in ["KIND:       Pod", "FIELD: httpGet <HTTPGetAction>", "port\t<IntOrString> -required-"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let recursive = kubectl.ok(&["explain", "networkpolicy.spec", "--recursive"]);
    assert!(recursive.contains("      podSelector\t<LabelSelector>\n"), "{recursive}");
    let unknown = kubectl.call(&["explain", "pod.spec.nothing"]);
    assert!(unknown.stderr.contains("field \"nothing\" does not exist"), "{}", unknown.stderr);

    let version: Value = serde_json::from_str(&kubectl.ok(&["version", "-o", "json"])).unwrap();
    assert!(version["serverVersion"]["gitVersion"].as_str().unwrap().starts_with("v1.36."), "{version}");
    let info = kubectl.ok(&["cluster-info"]);
    assert!(info.contains("control plane") && info.contains("https://127.0.0.1:"), "{info}");
    assert_eq!(kubectl.ok(&["get", "--raw", "/readyz"]), "ok");
    let checks = kubectl.ok(&["get", "--raw", "/livez?verbose"]);
    assert!(checks.contains("[+]ping ok") && checks.ends_with("livez check passed\n"), "{checks}");
    let raw: Value =
        serde_json::from_str(&kubectl.ok(&["get", "--raw", "/api/v1/namespaces/default"])).unwrap();
    assert_eq!(raw["metadata"]["name"], "default");
    for what in ["nodes", "pods"] {
        let top = kubectl.call(&["top", what]);
        assert!(!top.success && top.stderr.contains("Metrics API not available"), "{}", top.stderr);
    }
}

#[test]
fn waiting_ends_with_the_condition_or_with_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = stocked(dir.path());
    let kubectl = &server.kubectl;
    let ready = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    let wait = |what: &[&str]| kubectl.call(&[&["wait", "pod/lone"], what].concat());
    let early = wait(&["--for=condition=Ready", "--timeout=1s"]);
    assert!(!early.success && early.stderr.contains("timed out waiting"), "{}", early.stderr);

    let waiting = kubectl.command(&["wait", "pod/lone", "--for=condition=Ready", "--timeout=60s"]);
    let mut waiting = Process::start(waiting);
    kubectl.ok(&["patch", "pod", "lone", "--subresource=status", "-p", ready]);
    assert!(waiting.wait(Duration::from_secs(60)).success(), "{}", waiting.output());
    assert_eq!(waiting.output(), "pod/lone condition met\n");
    assert!(wait(&["--for=jsonpath={.status.phase}=Running", "--timeout=10s"]).success);

    let waiting = kubectl.command(&["wait", "pod/lone", "--for=delete", "--timeout=60s"]);
    let mut waiting = Process::start(waiting);
    kubectl.ok(&["delete", "pod", "lone", "--force"]);
    assert!(waiting.wait(Duration::from_secs(60)).success(), "{}", waiting.output());
}
