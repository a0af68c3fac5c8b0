//! API services: who answers for a group's version (upstream's `kube-aggregator/pkg/apis/apiregistration/validation`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::check::set_default;
use super::walk::{Faults, Node, object_at};
use super::{Context, Strategy};
use crate::names;

pub(super) struct ApiService;

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object_at(object, &["spec", "service"]) {
            set_default(service, "port", 443);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate(object, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource != "status" {
            validate(object, &mut faults);
            return faults.0;
        }
        for condition in Node::root(object).at("status.conditions").items() {
            let status = condition.get("status");
            if !matches!(status.str(), "True" | "False" | "Unknown") {
                let allowed = ["True", "False", "Unknown"];
                faults.push(FieldError::not_supported(status.path(), status.str(), &allowed));
            }
        }
        faults.0
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validate(object: &Value, faults: &mut Faults) {
    let spec = Node::root(object).get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let required = format!("{}.{}", version.str(), group.str());
    let name = meta::name(object);
    if name != required {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        faults.push(FieldError::invalid("metadata.name", name, detail));
    }
    if group.str().is_empty() && version.str() != "v1" {
        faults.required(&group, "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.str().is_empty() {
        faults.name(&group, names::dns1123_subdomain);
    }
    for detail in names::dns1035_label(version.str(), false) {
        faults.push(FieldError::invalid(version.path(), version.str(), detail));
    }
    for (field, limit) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.get(field);
        let number = priority.int().unwrap_or(0);
        if !(1..=limit).contains(&number) {
            let detail = format!("must be positive and less than {limit}");
            faults.push(FieldError::invalid(priority.path(), number, detail));
        }
    }
    backend(&spec, faults);
}

fn backend(spec: &Node<'_>, faults: &mut Faults) {
    let (service, bundle, insecure) =
        (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.str().is_empty() {
            let size = STANDARD.decode(bundle.str()).map_or(0, |bytes| bytes.len());
            let detail = "local APIServices may not have a caBundle";
            faults.push(FieldError::invalid(bundle.path(), format!("{size} bytes"), detail));
        }
        if insecure.bool() {
            faults.invalid(&insecure, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        if service.get(field).str().is_empty() {
            faults.required(&service.get(field), "");
        }
    }
    let port = service.get("port");
    if !port.int().is_some_and(|port| (1..=65_535).contains(&port)) {
        faults.invalid(&port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    if insecure.bool() && !bundle.str().is_empty() {
        faults.invalid(&insecure, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::World;
    use super::*;

    fn create(name: &str, spec: Value) -> Result<Value, Vec<String>> {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        World::new()
            .create("apiregistration.k8s.io", "apiservices", object)
            .map_err(|refusal| refusal.texts())
    }

    #[test]
    fn a_service_is_named_after_what_it_serves() {
        let spec = json!({ "group": "g.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 1,
            "service": { "name": "s", "namespace": "n" } });
        assert_eq!(create("v1.g.example.com", spec.clone()).expect("valid")["spec"]["service"]["port"], 443);
        assert_eq!(
            create("other", spec),
            Err(vec![
                "metadata.name: Invalid value: \"other\": must be `spec.version+\".\"+spec.group`: \"v1.g.example.com\"".to_owned()
            ])
        );
        let core = json!({ "version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1 });
        assert!(create("v1.", core).is_ok());
    }

    #[test]
    fn priorities_and_trust_have_their_bounds() {
        let spec = json!({ "version": "V", "groupPriorityMinimum": 20001, "caBundle": "AAAA", "insecureSkipTLSVerify": true });
        let refused = create("V.", spec).expect_err("refused");
        assert_eq!(
            refused[0],
            "spec.group: Required value: only v1 may have an empty group and it better be legacy kube"
        );
        assert_eq!(
            refused[2..],
            [
                "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ]
        );
    }
}
