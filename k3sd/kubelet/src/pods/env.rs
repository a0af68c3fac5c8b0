//! The environment of a container: `envFrom`, `env` with references and `$(NAME)` expansion, and the variables
//! that announce services.
//!
//! Order and precedence are upstream's `makeEnvironmentVariables` (`pkg/kubelet/kubelet_pods.go`).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::objects::{Kind, ObjectError, Objects, User};
use crate::pods::resources::{milli, whole};

/// Why an environment cannot be made; the container waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// A ConfigMap or Secret is missing.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// It is there but has not that key.
    #[error("couldn't find key {key} in {} {namespace}/{name}", match .kind { Kind::ConfigMap => "ConfigMap", Kind::Secret => "Secret" })]
    NoKey {
        /// The wanted key.
        key: String,
        /// ConfigMap or Secret.
        kind: Kind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A `fieldRef` or `resourceFieldRef` that names nothing known.
    #[error("unsupported field path: {0}")]
    FieldPath(String),
}

/// What fields of the pod can be referred to.
pub(crate) struct Fields<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ips: &'a [String],
    pub(crate) host_ips: &'a [String],
    /// Stands in for limits that are not set: milli-CPU and bytes the node has.
    pub(crate) node_milli_cpu: i64,
    pub(crate) node_memory: i64,
}

/// Everything an environment is made from.
pub(crate) struct Source<'a> {
    pub(crate) fields: Fields<'a>,
    pub(crate) objects: &'a Objects,
    pub(crate) user: &'a User,
    pub(crate) services: &'a [Service],
}

impl Fields<'_> {
    /// The value at a downward-API field path.
    pub(crate) fn field(&self, path: &str) -> Result<String, EnvError> {
        let metadata = &self.pod.metadata;
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => &metadata.labels,
                "metadata.annotations" => &metadata.annotations,
                _ => return Err(EnvError::FieldPath(path.to_owned())),
            };
            return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "metadata.labels" => lines(metadata.labels.as_ref()),
            "metadata.annotations" => lines(metadata.annotations.as_ref()),
            "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
            "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
            "status.podIP" => self.pod_ips.first().cloned().unwrap_or_default(),
            "status.podIPs" => self.pod_ips.join(","),
            "status.hostIP" => self.host_ips.first().cloned().unwrap_or_default(),
            "status.hostIPs" => self.host_ips.join(","),
            other => return Err(EnvError::FieldPath(other.to_owned())),
        })
    }

    /// A container's request or limit in units of `divisor`, rounded up.
    pub(crate) fn resource(
        &self,
        container: &Container,
        resource: &str,
        divisor: Option<&Quantity>,
    ) -> Result<String, EnvError> {
        let resources = container.resources.clone().unwrap_or_default();
        let unknown = || EnvError::FieldPath(resource.to_owned());
        let (map, name) = resource.split_once('.').ok_or_else(unknown)?;
        let set = match map {
            "limits" => resources.limits.as_ref().and_then(|limits| limits.get(name)),
            "requests" => resources.requests.as_ref().and_then(|requests| requests.get(name)),
            _ => return Err(unknown()),
        };
        let divisor = divisor.filter(|divisor| milli(divisor) > 0);
        let (value, unit) = match name {
            "cpu" => {
                let node = if map == "limits" { self.node_milli_cpu } else { 0 };
                (set.map_or(node, milli), divisor.map_or(1000, milli))
            }
            _ => {
                let node = if map == "limits" && name == "memory" { self.node_memory } else { 0 };
                (set.map_or(node, whole), divisor.map_or(1, whole))
            }
        };
        Ok(value.div_ceil_signed(unit.max(1)).to_string())
    }
}

/// Division rounding up, for non-negative numbers.
trait DivCeil {
    fn div_ceil_signed(self, divisor: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_signed(self, divisor: i64) -> i64 {
        (self + divisor - 1) / divisor
    }
}

/// `metadata.labels['key']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, as downward-API volumes hold them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

impl Source<'_> {
    /// The container's environment, in the order it is to be set.
    pub(crate) async fn environment(&self, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
        let mut env = Environment::default();
        self.add_env_from(container, &mut env).await?;
        let services = self.service_variables();
        for variable in container.env.iter().flatten() {
            let value = match &variable.value_from {
                Some(source) => self.value_from(container, variable, source).await?,
                None => Some(expand(variable.value.as_deref().unwrap_or_default(), |name| {
                    env.get(name).or_else(|| services.get(name).map(String::as_str)).map(str::to_owned)
                })),
            };
            if let Some(value) = value {
                env.set(&variable.name, value);
            }
        }
        for (name, value) in services {
            if env.get(&name).is_none() {
                env.set(&name, value);
            }
        }
        Ok(env.list)
    }

    async fn add_env_from(&self, container: &Container, env: &mut Environment) -> Result<(), EnvError> {
        for source in container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(map), _) => (Kind::ConfigMap, &map.name, map.optional),
                (None, Some(secret)) => (Kind::Secret, &secret.name, secret.optional),
                (None, None) => continue,
            };
            let data = match self.objects.get(self.user, kind, self.namespace(), name).await {
                Ok(data) => data,
                Err(ObjectError::NotFound { .. }) if optional == Some(true) => continue,
                Err(error) => return Err(error.into()),
            };
            for (key, value) in &data.values {
                env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
            }
        }
        Ok(())
    }

    async fn value_from(
        &self,
        container: &Container,
        variable: &EnvVar,
        source: &EnvVarSource,
    ) -> Result<Option<String>, EnvError> {
        if let Some(field) = &source.field_ref {
            return self.fields.field(&field.field_path).map(Some);
        }
        if let Some(reference) = &source.resource_field_ref {
            let spec = self.fields.pod.spec.as_ref();
            let other = reference.container_name.as_ref().filter(|name| !name.is_empty());
            let of =
                other.and_then(|name| spec?.containers.iter().find(|c| &c.name == name)).unwrap_or(container);
            return self.fields.resource(of, &reference.resource, reference.divisor.as_ref()).map(Some);
        }
        if let Some(key) = &source.config_map_key_ref {
            return self.key(Kind::ConfigMap, &key.name, &key.key, key.optional).await;
        }
        if let Some(key) = &source.secret_key_ref {
            return self.key(Kind::Secret, &key.name, &key.key, key.optional).await;
        }
        Err(EnvError::FieldPath(variable.name.clone()))
    }

    async fn key(
        &self,
        kind: Kind,
        name: &str,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<String>, EnvError> {
        let optional = optional == Some(true);
        let data = match self.objects.get(self.user, kind, self.namespace(), name).await {
            Err(ObjectError::NotFound { .. }) if optional => return Ok(None),
            result => result?,
        };
        match data.values.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                key: key.to_owned(),
                kind,
                namespace: self.namespace().to_owned(),
                name: name.to_owned(),
            }),
        }
    }

    fn namespace(&self) -> &str {
        self.fields.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Variables for the services of the pod's namespace, and always for the API server's.
    fn service_variables(&self) -> BTreeMap<String, String> {
        let links = self.fields.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let mut variables = BTreeMap::new();
        for service in self.services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let master = namespace == "default" && name == "kubernetes";
            if master || (links && namespace == self.namespace()) {
                service_variables(name, service, &mut variables);
            }
        }
        variables
    }
}

/// The seven variables of a service with a cluster address; docker's link convention.
fn service_variables(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = name.to_uppercase().replace('-', "_");
    let Some(first) = spec.ports.iter().flatten().next() else { return };
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
            let name = name.to_uppercase().replace('-', "_");
            variables.insert(format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(port_prefix.clone(), url);
        variables.insert(format!("{port_prefix}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{port_prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{port_prefix}_ADDR"), ip.to_owned());
    }
}

/// Variables in order; setting one again changes it in place.
#[derive(Default)]
struct Environment {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|index| self.list[*index].1.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(index) => self.list[*index].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

/// Replaces `$(NAME)`. What is not known stays as it is; `$$` is a dollar sign.
/// The grammar of `third_party/forked/golang/expansion`.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ResourceRequirements, ServicePort, ServiceSpec};

    #[test]
    fn references_expand_and_unknown_ones_stay() {
        let lookup = |name: &str| (name == "HOST").then(|| "db".to_owned());
        let cases = [
            ("tcp://$(HOST):5432", "tcp://db:5432"),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(HOST)", "$(HOST)"),
            ("cost: $5 $", "cost: $5 $"),
            ("$(HOST", "$(HOST"),
        ];
        for (text, expanded) in cases {
            assert_eq!(expand(text, lookup), expanded, "{text}");
        }
    }

    #[test]
    fn a_service_announces_its_address_and_ports() {
        let ports = vec![ServicePort { name: Some("http".into()), port: 80, ..ServicePort::default() }];
        let spec = ServiceSpec {
            cluster_ip: Some("10.43.0.7".into()),
            ports: Some(ports),
            ..ServiceSpec::default()
        };
        let mut variables = BTreeMap::new();
        service_variables("my-web", &Service { spec: Some(spec), ..Service::default() }, &mut variables);
        assert_eq!(variables["MY_WEB_SERVICE_HOST"], "10.43.0.7");
        assert_eq!(variables["MY_WEB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(variables["MY_WEB_PORT"], "tcp://10.43.0.7:80");
        assert_eq!(variables["MY_WEB_PORT_80_TCP_ADDR"], "10.43.0.7");
    }

    #[test]
    fn resources_are_counted_in_divisors_rounded_up() {
        let limits =
            [("cpu".to_owned(), Quantity("1500m".into())), ("memory".to_owned(), Quantity("65Mi".into()))];
        let resources =
            ResourceRequirements { limits: Some(limits.into()), ..ResourceRequirements::default() };
        let container = Container { resources: Some(resources), ..Container::default() };
        let pod = Pod::default();
        let fields =
            Fields { pod: &pod, pod_ips: &[], host_ips: &[], node_milli_cpu: 4000, node_memory: 1 << 30 };
        let get = |name: &str, divisor: Option<&str>| {
            fields.resource(&container, name, divisor.map(|text| Quantity(text.into())).as_ref()).unwrap()
        };
        assert_eq!(get("limits.cpu", None), "2");
        assert_eq!(get("limits.cpu", Some("1m")), "1500");
        assert_eq!(get("limits.memory", Some("1Mi")), "65");
        assert_eq!(get("requests.cpu", None), "0");
    }
}
