//! Server-side apply with unmodified kubectl, beside controllers that write to the same objects.

use crate::Server;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example/web}]}
"#;

#[test]
fn appliers_and_controllers_share_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let kubectl = &server.kubectl;
    let apply = ["apply", "--server-side", "-f", "-"];

    assert_eq!(kubectl.ok_with(&apply, DEPLOYMENT), "deployment.apps/web serverside-applied\n");
    // The controller writes the status, as another owner; that is no conflict for who applies the rest.
    tests::wait_for("the deployment's status", crate::START, || {
        let owners = kubectl.ok(&["get", "deployment", "web", "--show-managed-fields", "-o", OWNERS]);
        owners.contains("kube-controller-manager/Update/status").then_some(())
    });
    let without_label = DEPLOYMENT.replace(", labels: {tier: front}", "");
    kubectl.ok_with(&apply, &without_label);
    assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.metadata.labels}"]), "");

    kubectl.ok(&["scale", "deployment", "web", "--replicas=2"]);
    let refused = kubectl.call_with(&apply, &without_label);
    assert!(
        !refused.success
            && refused.stderr.contains("Apply failed with 1 conflict: conflict with \"kubectl\""),
        "{}",
        refused.stderr
    );
    let forced = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl.ok_with(&forced, &without_label);
    // Who leaves the number to others gives it up without changing it.
    kubectl.ok(&["scale", "deployment", "web", "--replicas=2"]);
    kubectl.ok_with(&apply, &without_label.replace("  replicas: 1\n", ""));
    assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]), "2");
}

const OWNERS: &str =
    "jsonpath={range .metadata.managedFields[*]}{.manager}/{.operation}/{.subresource} {end}";
