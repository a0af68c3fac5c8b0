//! Rules for a whole pod spec, and for templates that hold one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use machinery::status::FieldError;
use serde_json::Value;

use super::{containers, resources, security, volumes};
use crate::names;
use crate::strategy::walk::{Faults, Node};

/// Upstream's `MaxDNSSearchPaths` and `MaxDNSSearchListChars`.
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// Everything that is wrong with a pod spec.
pub(in crate::strategy) fn validate_pod_spec(spec: &Node<'_>, faults: &mut Faults) {
    let known = volumes::validate(&spec.get("volumes"), faults);
    containers::validate_all(spec, &known, faults);
    faults.one_of(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    validate_dns(spec, faults);
    faults.labels(&spec.get("nodeSelector"));
    security::validate_pod(spec, faults);
    for reference in spec.get("imagePullSecrets").items() {
        if reference.get("name").str().is_empty() {
            faults.required(&reference.get("name"), "");
        }
    }
    validate_affinity(&spec.get("affinity"), faults);
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str, bool) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        let node = spec.get(field);
        if !node.str().is_empty() {
            faults.name(&node, rule);
        }
    }
    faults.in_range(&spec.get("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    validate_tolerations(&spec.get("tolerations"), faults);
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        if ip.str().parse::<IpAddr>().is_err() {
            faults.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        alias.get("hostnames").items().for_each(|name| faults.name(&name, names::dns1123_subdomain));
    }
    faults.one_of_if_set(&spec.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    validate_spread(&spec.get("topologySpreadConstraints"), faults);
    validate_gates(&spec.get("schedulingGates"), faults);
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        for detail in names::qualified_name(kind.str()) {
            faults.push(FieldError::invalid(kind.path(), kind.str(), detail));
        }
    }
    let overhead = spec.get("overhead");
    resources::validate_limits(&overhead, &format!("{}.limits", overhead.path()), faults);
    let system = spec.get("os");
    if system.is_set() {
        if system.get("name").str().is_empty() {
            faults.required(&system.get("name"), "cannot be empty");
        } else if !matches!(system.get("name").str(), "linux" | "windows") {
            let allowed = ["linux", "windows"];
            faults.push(FieldError::not_supported(system.path(), system.get("name").str(), &allowed));
        }
    }
    validate_claims(&spec.get("resourceClaims"), faults);
}

/// Claims of devices that the pod has names for.
fn validate_claims(claims: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        faults.required_name(&name, names::dns1123_label);
        if !name.str().is_empty() && !seen.insert(name.str()) {
            faults.duplicate(&name);
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        let detail = match (own.is_set(), template.is_set()) {
            (true, true) => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            (false, false) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !detail.is_empty() {
            faults.invalid(&claim, detail);
        }
        for reference in [own, template].into_iter().filter(Node::is_set) {
            faults.name(&reference, names::dns1123_subdomain);
        }
    }
}

/// A template's metadata and spec.
pub(in crate::strategy) fn validate_template(template: &Node<'_>, faults: &mut Faults) {
    faults.template_metadata(template);
    validate_pod_spec(&template.get("spec"), faults);
    let debug = template.at("spec.ephemeralContainers");
    if debug.len() > 0 {
        faults.forbidden(&debug, "ephemeral containers not allowed in pod template");
    }
}

fn validate_dns(spec: &Node<'_>, faults: &mut Faults) {
    let policy = spec.get("dnsPolicy");
    faults.one_of(&policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    let servers = spec.at("dnsConfig.nameservers");
    if policy.str() == "None" {
        if !spec.get("dnsConfig").is_set() {
            faults.required(&spec.get("dnsConfig"), "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.len() == 0 {
            faults.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > 3 {
        faults.push(FieldError::invalid(
            servers.path(),
            servers.value().clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for server in servers.items() {
        if server.str().parse::<IpAddr>().is_err() {
            faults.invalid(&server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    validate_searches(&spec.at("dnsConfig.searches"), faults);
    for option in spec.at("dnsConfig.options").items() {
        if option.get("name").str().is_empty() {
            faults.required(&option, "must not be empty");
        }
    }
}

fn validate_searches(searches: &Node<'_>, faults: &mut Faults) {
    if searches.len() > MAX_SEARCHES {
        faults.invalid(searches, format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    let joined = searches.items().map(|search| search.str().len() + 1).sum::<usize>();
    if joined > MAX_SEARCH_CHARS + 1 {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        );
        faults.invalid(searches, detail);
    }
    for search in searches.items().filter(|search| search.str() != ".") {
        // Names of services may begin with an underscore.
        let name = search.str().strip_suffix('.').unwrap_or(search.str()).replace('_', "a");
        for detail in names::dns1123_subdomain(&name, false) {
            faults.invalid(&search, detail);
        }
    }
}

/// Tolerations, of pods and of runtime classes.
pub(in crate::strategy) fn validate_tolerations(tolerations: &Node<'_>, faults: &mut Faults) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        if !key.str().is_empty() {
            for detail in names::qualified_name(key.str()) {
                faults.invalid(&key, detail);
            }
        } else if operator.str() != "Exists" {
            faults.invalid(
                &operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            faults.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                for detail in names::label_value(value.str()) {
                    faults.push(FieldError::invalid(operator.path(), value.str(), detail));
                }
            }
            "Exists" if !value.str().is_empty() => {
                faults.push(FieldError::invalid(
                    operator.path(),
                    toleration.value().clone(),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            _ => faults.one_of(&operator, &["Equal", "Exists"]),
        }
        faults.one_of_if_set(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn validate_affinity(affinity: &Node<'_>, faults: &mut Faults) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        validate_node_selector(&required, faults);
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        validate_weight(&preferred.get("weight"), faults);
        validate_node_term(&preferred.get("preference"), faults);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            validate_pod_term(&term, faults);
        }
        for preferred in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            validate_weight(&preferred.get("weight"), faults);
            validate_pod_term(&preferred.get("podAffinityTerm"), faults);
        }
    }
}

/// Terms that nodes are chosen by, of pods and of volumes.
pub(in crate::strategy) fn validate_node_selector(selector: &Node<'_>, faults: &mut Faults) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.len() == 0 {
        faults.required(&terms, "must have at least one node selector term");
    }
    terms.items().for_each(|term| validate_node_term(&term, faults));
}

fn validate_weight(weight: &Node<'_>, faults: &mut Faults) {
    if !weight.int().is_some_and(|n| (1..=100).contains(&n)) {
        faults.invalid(weight, "must be in the range 1-100");
    }
}

fn validate_node_term(term: &Node<'_>, faults: &mut Faults) {
    for expression in term.get("matchExpressions").items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.str() {
            "In" | "NotIn" if values.len() == 0 => {
                faults.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                faults
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                faults.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => faults.invalid(&operator, "not a valid selector operator"),
        }
        let key = expression.get("key");
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
    }
    term.get("matchFields").items().for_each(|field| validate_node_field(&field, faults));
}

/// Of a node's fields, terms may name its name.
fn validate_node_field(requirement: &Node<'_>, faults: &mut Faults) {
    let (key, operator, values) =
        (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
    if !matches!(operator.str(), "In" | "NotIn") {
        faults.invalid(&operator, "not a valid selector operator");
    } else if values.len() != 1 {
        let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        faults.required(&values, detail);
    }
    if key.str() == "metadata.name" {
        values.items().for_each(|name| faults.name(&name, names::dns1123_subdomain));
    } else {
        faults.invalid(&key, "not a valid field selector key");
    }
}

fn validate_pod_term(term: &Node<'_>, faults: &mut Faults) {
    let namespaces = term.get("namespaces");
    for namespace in namespaces.items() {
        for detail in names::dns1123_label(namespace.str(), false) {
            faults.push(FieldError::invalid(namespaces.path(), namespace.str(), detail));
        }
    }
    faults.label_selector(&term.get("labelSelector"));
    faults.label_selector(&term.get("namespaceSelector"));
    let key = term.get("topologyKey");
    if key.str().is_empty() {
        faults.required(&key, "can not be empty");
    } else {
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
    }
}

fn validate_spread(constraints: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            faults.invalid(&skew, "must be greater than zero");
        }
        let (key, when) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.str().is_empty() {
            faults.required(&key, "can not be empty");
        }
        faults.one_of(&when, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key.str(), when.str())) {
            faults.push(FieldError::duplicate(
                format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path()),
                format!("{{{}, {}}}", key.str(), when.str()),
            ));
        }
        let domains = constraint.get("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            faults.invalid(&domains, "must be greater than zero");
        }
        if domains.is_set() && when.str() == "ScheduleAnyway" {
            faults.invalid(
                &domains,
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
            );
        }
        faults.label_selector(&constraint.get("labelSelector"));
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            faults.one_of_if_set(&constraint.get(field), &["Honor", "Ignore"]);
        }
        validate_label_keys(&constraint, faults);
    }
}

/// Labels of the pod itself that a constraint counts by, besides its selector.
fn validate_label_keys(constraint: &Node<'_>, faults: &mut Faults) {
    let (keys, selector) = (constraint.get("matchLabelKeys"), constraint.get("labelSelector"));
    if keys.len() > 0 && !selector.is_set() {
        faults.forbidden(&keys, "must not be specified when labelSelector is not set");
        return;
    }
    let selected = |key: &str| {
        selector.get("matchLabels").entries().any(|(name, _)| name == key)
            || selector.get("matchExpressions").items().any(|one| one.get("key").str() == key)
    };
    for key in keys.items() {
        for detail in names::qualified_name(key.str()) {
            faults.invalid(&key, detail);
        }
        if selected(key.str()) {
            faults.invalid(&key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}

fn validate_gates(gates: &Node<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name");
        for detail in names::qualified_name(name.str()) {
            faults.push(FieldError::invalid(gate.path(), Value::from(name.str()), detail));
        }
        if !seen.insert(name.str()) {
            faults.push(FieldError::duplicate(gate.path(), name.str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::default_pod_spec;
    use super::*;

    /// Faults of a spec after defaults.
    fn faults(mut spec: Value) -> Vec<String> {
        machinery::schema::apply_static_defaults(
            machinery::schema::builtin(),
            "api.core.v1.PodSpec",
            &mut spec,
        );
        default_pod_spec(spec.as_object_mut().expect("object"));
        let mut faults = Faults::default();
        validate_pod_spec(&Node::root(&json!({"spec": spec})).get("spec"), &mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_pod_is_fine() {
        let spec = json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v"}], "tolerations": [{"operator": "Exists"}]});
        assert_eq!(faults(spec), Vec::<String>::new());
    }

    #[test]
    fn missing_and_wrong_fields_are_named_as_upstream_does() {
        let cases = [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
            (json!({"containers": [{"image": "x"}]}), "spec.containers[0].name: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}],
                    "volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
                "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {"periodSeconds": 3}}]}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "A=B"}]}]}),
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
                 of printable ASCII characters other than '='",
            ),
        ];
        for (spec, fault) in cases {
            assert_eq!(faults(spec.clone()), [fault], "{spec}");
        }
    }

    /// Faults of a pod with one plain container and something more.
    fn with(more: Value) -> Vec<String> {
        let mut spec = json!({"containers": [{"name": "a", "image": "x"}]});
        spec.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        faults(spec)
    }

    #[test]
    fn security_contexts_say_what_goes_together() {
        assert_eq!(
            with(json!({"hostUsers": false, "hostPID": true, "securityContext": {
                "seccompProfile": {"type": "Localhost", "localhostProfile": "/../x"},
                "appArmorProfile": {"type": "Unconfined", "localhostProfile": "x"},
                "supplementalGroupsPolicy": "Some",
                "sysctls": [{"name": "Net"}, {"name": "net.core.somaxconn"}, {"name": "net.core.somaxconn"}]}})),
            [
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"Some\": supported values: \"Merge\", \"Strict\"",
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"/../x\": must be a relative path",
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"/../x\": must not contain '..'",
                "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is \
                 Localhost",
                &format!(
                    "spec.securityContext.sysctls[0].name: Invalid value: \"Net\": must have at most 253 characters and match regex {}",
                    "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
                ),
                "spec.securityContext.sysctls[2].name: Duplicate value: \"net.core.somaxconn\"",
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ]
        );
        let container = json!({"name": "a", "image": "x", "securityContext": {"procMount": "Unmasked",
            "appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}, "seccompProfile": {}}});
        assert_eq!(
            with(json!({"containers": [container]})),
            [
                "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
                "spec.containers[0].securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with \
                 whitespace",
            ]
        );
    }

    #[test]
    fn names_are_looked_up_where_they_can_be() {
        let many: Vec<String> = (0..33).map(|n| format!("d{n}")).collect();
        let refused = with(json!({"dnsConfig": {"searches": many, "options": [{"value": "x"}]}}));
        assert!(refused[0].starts_with("spec.dnsConfig.searches: Invalid value: [\"d0\""));
        assert!(refused[0].ends_with("must not have more than 32 search paths"));
        assert_eq!(refused[1], "spec.dnsConfig.options[0]: Required value: must not be empty");
        assert!(with(json!({"dnsConfig": {"searches": [".", "_tcp.example.com."]}})).is_empty());
        assert!(
            with(json!({"dnsConfig": {"searches": ["-a"]}}))[0]
                .starts_with("spec.dnsConfig.searches[0]: Invalid value: \"-a\"")
        );
    }

    #[test]
    fn nodes_are_chosen_by_labels_and_by_name() {
        let term = json!({"matchFields": [{"key": "metadata.uid", "operator": "Exists"},
            {"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]});
        assert_eq!(
            with(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [term]}}, "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "namespaces": ["a.b"]}]}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": ["app"]}]})),
            [
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].operator: \
                 Invalid value: \"Exists\": not a valid selector operator",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: \
                 Invalid value: \"metadata.uid\": not a valid field selector key",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[1].values: \
                 Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaces: Invalid value: \"a.b\": must not \
                 contain dots",
                "spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and \
                 labelSelector",
            ]
        );
    }

    #[test]
    fn claims_gates_and_overhead_are_whole() {
        let container = json!({"name": "a", "image": "x", "resizePolicy": [{"resourceName": "gpu", "restartPolicy": "Never"}],
            "resources": {"claims": [{"name": "c"}, {"name": "c"}, {"name": "d"}], "limits": {"hugepages-2Mi": "2Mi"},
                "requests": {"hugepages-2Mi": "2Mi"}}});
        assert_eq!(
            with(
                json!({"containers": [container], "resourceClaims": [{"name": "c"}], "os": {"name": "plan9"},
                "overhead": {"cpu": "-1"}, "readinessGates": [{"conditionType": "a b"}]})
            )
            .into_iter()
            .filter(|text| !text.starts_with("spec.readinessGates"))
            .collect::<Vec<_>>(),
            [
                "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
                "spec.containers[0].resources.claims[1]: Duplicate value: \"c\"",
                "spec.containers[0].resources.claims[2]: Not found: \"d\"",
                "spec.containers[0].resizePolicy[0].resourceName: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
                "spec.containers[0].resizePolicy[0].restartPolicy: Unsupported value: \"Never\": supported values: \"NotRequired\", \
                 \"RestartContainer\"",
                "spec.overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
                "spec.resourceClaims[0]: Invalid value: {\"name\":\"c\"}: must specify one of: `resourceClaimName`, \
                 `resourceClaimTemplateName`",
            ]
        );
    }
}
