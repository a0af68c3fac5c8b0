//! Unmodified kubectl writes: made, applied, edited, patched, replaced, labelled, compared and deleted.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Server;

const MAP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: demo}}
data: {colour: blue, size: "1"}
"#;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: "example/web:1", ports: [{containerPort: 80}]}
      - {name: side, image: "example/side:1"}
"#;

fn data(server: &Server, name: &str) -> Value {
    let text = server.kubectl.ok(&["get", "configmap", name, "-o", "jsonpath={.data}"]);
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[test]
fn objects_are_made_by_name_and_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let file = dir.path().join("page.html");
    fs::write(&file, "<p>hello</p>\n").unwrap();
    let from_file = format!("--from-file={}", file.display());
    // (arguments, what kubectl says, what is looked at, what is there)
    let made: [(&[&str], &str, &[&str], &str); 12] = [
        (
            &["namespace", "team"],
            "namespace/team created",
            &["namespace", "team", "{.status.phase}"],
            "Active",
        ),
        (
            &["configmap", "page", &from_file],
            "configmap/page created",
            &["configmap", "page", "{.data.page\\.html}"],
            "<p>hello</p>\n",
        ),
        (
            &["secret", "generic", "key", "--from-literal=password=x"],
            "secret/key created",
            &["secret", "key", "{.data.password}"],
            "eA==",
        ),
        (
            &["deployment", "web", "--image=a/b:1", "--replicas=2", "--port=80"],
            "deployment.apps/web created",
            &["deployment", "web", "{.spec.template.spec.containers[0].name}"],
            "b",
        ),
        (
            &["service", "clusterip", "web", "--tcp=80:8080"],
            "service/web created",
            &["service", "web", "{.spec.ports[0].targetPort}"],
            "8080",
        ),
        (
            &["job", "once", "--image=a", "--", "true"],
            "job.batch/once created",
            &["job", "once", "{.spec.template.spec.restartPolicy}"],
            "Never",
        ),
        (
            &["cronjob", "often", "--image=a", "--schedule=*/5 * * * *"],
            "cronjob.batch/often created",
            &["cronjob", "often", "{.spec.concurrencyPolicy}"],
            "Allow",
        ),
        (
            &["ingress", "in", "--rule=example.com/a*=web:80"],
            "ingress.networking.k8s.io/in created",
            &["ingress", "in", "{.spec.rules[0].http.paths[0].pathType}"],
            "Prefix",
        ),
        (
            &["quota", "few", "--hard=configmaps=30"],
            "resourcequota/few created",
            &["quota", "few", "{.spec.hard.configmaps}"],
            "30",
        ),
        (
            &["priorityclass", "high", "--value=5"],
            "priorityclass.scheduling.k8s.io/high created",
            &["priorityclass", "high", "{.preemptionPolicy}"],
            "PreemptLowerPriority",
        ),
        (
            &["poddisruptionbudget", "web", "--selector=app=web", "--min-available=1"],
            "poddisruptionbudget.policy/web created",
            &["pdb", "web", "{.spec.minAvailable}"],
            "1",
        ),
        (
            &["role", "reader", "--verb=get,list", "--resource=pods,deployments.apps"],
            "role.rbac.authorization.k8s.io/reader created",
            &["role", "reader", "{.rules[1].apiGroups[0]}"],
            "apps",
        ),
    ];
    for (arguments, said, shown, there) in made {
        let output = kubectl.ok(&[&["create"], arguments].concat());
        assert_eq!(output, format!("{said}\n"));
        let [kind, name, path] = shown else { panic!("kind, name and path") };
        assert_eq!(
            kubectl.ok(&["get", kind, name, "-o", &format!("jsonpath={path}")]),
            there,
            "{arguments:?}"
        );
    }
    assert_eq!(kubectl.ok_with(&["create", "-f", "-"], MAP), "configmap/settings created\n");
    let again = kubectl.call_with(&["create", "-f", "-"], MAP);
    assert!(again.stderr.contains("(AlreadyExists)") && !again.success, "{}", again.stderr);
    let dry =
        kubectl.ok(&["create", "configmap", "dry", "--dry-run=server", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(dry.len(), 36, "{dry}");
    assert!(!kubectl.call(&["get", "configmap", "dry"]).success);
    let named = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: some-}\n";
    let output = kubectl.ok_with(&["create", "-f", "-", "-o", "name"], named);
    assert!(
        output.starts_with("configmap/some-") && output.trim_end().len() == "configmap/some-12345".len(),
        "{output}"
    );
    assert_eq!(
        kubectl.ok(&["expose", "deployment", "web", "--port=81", "--name=seen"]),
        "service/seen exposed\n"
    );
    assert_eq!(kubectl.ok(&["run", "one", "--image=a", "--labels=x=y"]), "pod/one created\n");
}

#[test]
fn applying_merges_what_the_file_says_and_removes_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let apply = ["apply", "-f", "-"];
    assert_eq!(kubectl.ok_with(&apply, DEPLOYMENT), "deployment.apps/web created\n");
    assert_eq!(kubectl.ok_with(&apply, DEPLOYMENT), "deployment.apps/web unchanged\n");
    // Somebody else's container and label stay, what the file no longer has goes.
    let foreign = r#"{"metadata":{"labels":{"foreign":"1"}},"spec":{"template":{"spec":{"containers":[{"name":"other","image":"o"}]}}}}"#;
    kubectl.ok(&["patch", "deployment", "web", "-p", foreign]);
    let changed =
        DEPLOYMENT.replace("web:1", "web:2").replace("      - {name: side, image: \"example/side:1\"}\n", "");
    assert_eq!(kubectl.ok_with(&apply, &changed), "deployment.apps/web configured\n");
    let images = "jsonpath={.spec.template.spec.containers[*].image} {.metadata.labels.foreign}";
    let shown = kubectl.ok(&["get", "deployment", "web", "-o", images]);
    let mut shown: Vec<&str> = shown.split(' ').collect();
    shown.sort_unstable();
    assert_eq!(shown, ["1", "example/web:2", "o"]);
    let last = kubectl.ok_with(&["apply", "view-last-applied", "-f", "-"], DEPLOYMENT);
    assert!(last.contains("image: example/web:2") && !last.contains("side"), "{last}");
    let dry = kubectl.ok_with(&["apply", "--dry-run=server", "-f", "-"], DEPLOYMENT);
    assert_eq!(dry, "deployment.apps/web configured (server dry run)\n");
    // With somebody else's container in the list kubectl always sends an order; nothing is written for it.
    let version = || {
        kubectl.ok(&[
            "get",
            "deployment",
            "web",
            "-o",
            "jsonpath={.metadata.resourceVersion} {.metadata.generation}",
        ])
    };
    let before = version();
    kubectl.ok_with(&apply, &changed);
    assert_eq!(version(), before);

    let pruned = ["apply", "-f", "-", "--prune", "-l", "app=demo", "--prune-allowlist=core/v1/ConfigMap"];
    kubectl.ok_with(&pruned, MAP);
    let output = kubectl.ok_with(&pruned, &MAP.replace("settings", "others"));
    assert!(output.contains("configmap/settings pruned"), "{output}");
}

#[test]
fn a_server_side_apply_owns_and_conflicts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let apply = |manager: &str, input: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        kubectl.call_with(&[&["apply", "--server-side", "-f", "-", &manager], more].concat(), input)
    };
    assert_eq!(apply("one", MAP, &[]).stdout, "configmap/settings serverside-applied\n");
    let other = MAP.replace("blue", "red");
    let refused = apply("two", &other, &[]);
    assert!(
        !refused.success && refused.stderr.contains("conflict with \"one\": .data.colour"),
        "{}",
        refused.stderr
    );
    assert!(apply("two", &other, &["--force-conflicts"]).success);
    // What the first no longer owns it cannot remove; what only it owns goes.
    assert!(apply("one", &MAP.replace("colour: blue, ", ""), &[]).success);
    assert_eq!(data(&server, "settings"), serde_json::json!({ "colour": "red", "size": "1" }));
    let dry = apply("two", &other, &["--dry-run=server"]);
    assert_eq!(dry.stdout, "configmap/settings serverside-applied (server dry run)\n");
}

#[test]
fn mistakes_in_a_file_are_caught_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let typo = DEPLOYMENT.replace("replicas", "replicass").replace("ports", "portss");
    for how in [&["apply"][..], &["create"], &["apply", "--server-side"]] {
        let refused = kubectl.call_with(&[how, &["--validate=strict", "-f", "-"]].concat(), &typo);
        assert!(!refused.success, "{how:?}: {}", refused.stdout);
        assert!(
            refused.stderr.contains("replicass") && refused.stderr.contains("portss"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(kubectl.ok(&["get", "deployments", "-o", "name"]), "");
    let warned = kubectl.call_with(&["create", "--validate=warn", "-f", "-"], &typo);
    assert!(
        warned.success && warned.stderr.contains("unknown field \"spec.replicass\""),
        "{}",
        warned.stderr
    );
    let ignored = kubectl.call_with(
        &["apply", "--validate=ignore", "-f", "-"],
        &typo.replace("name: web}\nspec", "name: two}\nspec"),
    );
    assert!(ignored.success && !ignored.stderr.contains("replicass"), "{}", ignored.stderr);
}

#[test]
fn an_object_is_edited_in_the_editor_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["create", "-f", "-"], MAP);
    let edit = |script: &str, more: &[&str]| {
        let arguments = [&["edit", "configmap", "settings"], more].concat();
        let output = kubectl
            .command(&arguments)
            .env("KUBE_EDITOR", script)
            .env("TMPDIR", dir.path())
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (success, said) = edit("sed -i s/blue/green/", &[]);
    assert!(success && said == "configmap/settings edited\n", "{said}");
    assert_eq!(data(&server, "settings")["colour"], "green");
    let (success, said) = edit("true", &["-o", "json"]);
    assert!(success && said == "Edit cancelled, no changes made.\n", "{said}");
    // What the server refuses comes back into the editor with the reason; left as it is, it is kept in a file, and the edit fails.
    let (success, said) = edit("sed -i s/demo/_/", &[]);
    let copy = said.split('"').find(|part| part.starts_with('/') && part.ends_with(".yaml"));
    let copy = fs::read_to_string(copy.unwrap_or_else(|| panic!("{said}"))).unwrap();
    assert!(
        !success && copy.contains("# * metadata.labels: Invalid value: \"_\": a valid label must be"),
        "{said}{copy}"
    );
    assert_eq!(data(&server, "settings")["colour"], "green");
}

#[test]
fn patches_labels_and_annotations_change_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
    let patch =
        |kind: &str, patch: &str| kubectl.call(&["patch", "deployment", "web", "--type", kind, "-p", patch]);
    let image = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s:2"}]}}}}"#;
    assert_eq!(patch("strategic", image).stdout, "deployment.apps/web patched\n");
    // Nothing else writes to a map, so that a second patch finds it as the first has left it.
    kubectl.ok_with(&["create", "-f", "-"], MAP);
    let settings = ["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#];
    assert_eq!(kubectl.ok(&settings), "configmap/settings patched\n");
    assert_eq!(kubectl.ok(&settings), "configmap/settings patched (no change)\n");
    assert!(patch("merge", r#"{"spec":{"paused":true}}"#).success);
    assert!(
        patch(
            "json",
            r#"[{"op":"test","path":"/spec/paused","value":true},{"op":"remove","path":"/spec/paused"}]"#
        )
        .success
    );
    let refused = patch("json", r#"[{"op":"test","path":"/spec/replicas","value":7}]"#);
    assert!(
        !refused.success && refused.stderr.contains("the server rejected our request"),
        "{}",
        refused.stderr
    );
    let images = "jsonpath={.spec.template.spec.containers[*].image}{.spec.paused}";
    assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", images]), "example/web:1 s:2");
    let status = r#"{"status":{"replicas":5}}"#;
    kubectl.ok(&["patch", "deployment", "web", "--type=merge", "-p", status]);
    assert_ne!(
        kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.status.replicas}"]),
        "5",
        "through /status only"
    );

    assert_eq!(kubectl.ok(&["label", "deployment", "web", "tier=front"]), "deployment.apps/web labeled\n");
    assert_eq!(
        kubectl.ok(&["label", "deployment", "web", "tier=front"]),
        "deployment.apps/web not labeled\n"
    );
    let refused = kubectl.call(&["label", "deployment", "web", "tier=back"]);
    assert!(!refused.success && refused.stderr.contains("--overwrite is false"), "{}", refused.stderr);
    kubectl.ok(&["label", "deployment", "web", "tier=back", "--overwrite"]);
    assert_eq!(
        kubectl.ok(&["label", "deployments", "-l", "tier=back", "tier-"]),
        "deployment.apps/web unlabeled\n"
    );
    assert_eq!(
        kubectl.ok(&["annotate", "deployment", "web", "note=two words"]),
        "deployment.apps/web annotated\n"
    );
    let both = "jsonpath={.metadata.labels}{.metadata.annotations.note}";
    assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", both]), "two words");
    let bad = kubectl.call(&["label", "deployment", "web", "tier=not/valid"]);
    assert!(!bad.success && bad.stderr.contains("a valid label must be"), "{}", bad.stderr);
    kubectl.ok(&["set", "image", "deployment/web", "main=example/web:3"]);
    kubectl.ok(&["set", "env", "deployment/web", "A=b"]);
    let set =
        "jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].value}";
    assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", set]), "example/web:3 b");
}

#[test]
fn replacing_and_deleting_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["create", "-f", "-"], MAP);
    let without = MAP.replace(", size: \"1\"", "");
    assert_eq!(kubectl.ok_with(&["replace", "-f", "-"], &without), "configmap/settings replaced\n");
    assert_eq!(data(&server, "settings"), serde_json::json!({ "colour": "blue" }));
    let stale = without.replace("name: settings,", "name: settings, resourceVersion: \"1\",");
    let refused = kubectl.call_with(&["replace", "-f", "-"], &stale);
    assert!(
        refused.stderr.contains("(Conflict)") && refused.stderr.contains("the object has been modified"),
        "{}",
        refused.stderr
    );
    let uid = || kubectl.ok(&["get", "configmap", "settings", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid();
    kubectl.ok_with(&["replace", "--force", "-f", "-"], &without);
    assert_ne!(uid(), before, "another object of the same name");
    let missing = kubectl.call_with(&["replace", "-f", "-"], &MAP.replace("settings", "none"));
    assert!(missing.stderr.contains("(NotFound)"), "{}", missing.stderr);

    let dry = kubectl.ok(&["delete", "configmap", "settings", "--dry-run=server"]);
    assert!(dry.starts_with("configmap \"settings\" deleted") && dry.contains("(server dry run)"), "{dry}");
    uid();
    for name in ["a", "b", "c"] {
        kubectl.ok(&["create", "configmap", name]);
    }
    kubectl.ok(&["label", "configmaps", "a", "b", "go=1"]);
    let gone = kubectl.ok(&["delete", "configmaps", "-l", "go=1"]);
    assert_eq!(gone.lines().count(), 2, "{gone}");
    kubectl.ok_with(&["delete", "-f", "-"], MAP);
    assert_eq!(kubectl.ok(&["delete", "configmap", "settings", "--ignore-not-found"]), "");
    assert!(!kubectl.call(&["delete", "configmap", "settings"]).success);
    let left = kubectl.ok(&["get", "configmaps", "-o", "name"]);
    assert_eq!(
        left.lines().filter(|line| *line != "configmap/kube-root-ca.crt").collect::<Vec<_>>(),
        ["configmap/c"]
    );
    // What has a finalizer waits for it.
    kubectl.ok(&["patch", "configmap", "c", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#]);
    kubectl.ok(&["delete", "configmap", "c", "--wait=false"]);
    assert!(
        !kubectl.ok(&["get", "configmap", "c", "-o", "jsonpath={.metadata.deletionTimestamp}"]).is_empty()
    );
    kubectl.ok(&[
        "patch",
        "configmap",
        "c",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
    ]);
    assert!(!kubectl.call(&["get", "configmap", "c"]).success);
}

#[test]
fn a_diff_shows_what_an_apply_would_change() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    kubectl.ok_with(&["apply", "-f", "-"], MAP);
    assert_eq!(kubectl.ok_with(&["diff", "-f", "-"], MAP), "");
    let diff = kubectl.call_with(&["diff", "-f", "-"], &MAP.replace("blue", "green"));
    assert!(!diff.success && diff.stdout.contains("-  colour: blue\n+  colour: green\n"), "{}", diff.stdout);
    let new = kubectl.call_with(&["diff", "-f", "-"], &MAP.replace("settings", "new"));
    assert!(new.stdout.contains("+  name: new\n"), "{}", new.stdout);
    let diff = kubectl
        .call_with(&["diff", "--server-side", "--force-conflicts", "-f", "-"], &MAP.replace("demo", "other"));
    assert!(diff.stdout.contains("-    app: demo\n+    app: other\n"), "{}{}", diff.stdout, diff.stderr);
    assert_eq!(data(&server, "settings")["colour"], "blue", "nothing was written");
    assert!(!kubectl.call(&["get", "configmap", "new"]).success);
}

/// A base and an overlay, as people keep them.
fn kustomization(dir: &Path) -> std::path::PathBuf {
    let (base, overlay) = (dir.join("base"), dir.join("overlay"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&overlay).unwrap();
    fs::write(base.join("web.yaml"), DEPLOYMENT).unwrap();
    let text = "resources: [web.yaml]\nconfigMapGenerator:\n- {name: page, literals: [title=hello]}\n";
    fs::write(base.join("kustomization.yaml"), text).unwrap();
    let text = "resources: [../base]\nnamespace: team\nnamePrefix: our-\nimages:\n- {name: example/web, newTag: \"9\"}\n\
                patches:\n- patch: |\n    - {op: replace, path: /spec/replicas, value: 1}\n  target: {kind: Deployment}\n";
    fs::write(overlay.join("kustomization.yaml"), text).unwrap();
    overlay
}

#[test]
fn a_kustomize_tree_applies() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let overlay = kustomization(dir.path());
    let overlay = overlay.to_str().unwrap();
    kubectl.ok(&["create", "namespace", "team"]);
    let output = kubectl.ok(&["apply", "-k", overlay]);
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with("configmap/our-page-") && lines[0].ends_with(" created"), "{output}");
    assert_eq!(lines[1..], ["deployment.apps/our-web created"]);
    let shown = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl.ok(&["get", "-n", "team", "deployment", "our-web", "-o", shown]), "1 example/web:9");
    let again = kubectl.ok(&["apply", "-k", overlay]);
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    assert_eq!(kubectl.ok(&["diff", "-k", overlay]), "");
    kubectl.ok(&["delete", "-k", overlay]);
    assert_eq!(kubectl.ok(&["get", "-n", "team", "deployments", "-o", "name"]), "");
}
