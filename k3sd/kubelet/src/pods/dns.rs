//! Name resolution inside a pod: `resolv.conf` by DNS policy, and the managed `/etc/hosts`.

use std::net::IpAddr;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::config::Config;

/// The resolver configuration of a pod, and whether it wanted the cluster's DNS and there is none.
pub(crate) struct Resolver {
    pub(crate) config: DnsConfig,
    pub(crate) cluster_dns_missing: bool,
}

/// Follows the pod's `dnsPolicy` and `dnsConfig`; upstream's `pkg/kubelet/network/dns/dns.go`.
pub(crate) fn resolver(pod: &Pod, config: &Config) -> Resolver {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host = || parse_resolv_conf(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default());
    let host_network = spec.host_network == Some(true);
    let wants_cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let cluster_dns_missing = wants_cluster && config.cluster_dns.is_empty();
    let mut dns = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        _ if wants_cluster && !cluster_dns_missing => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            cluster_first(namespace, &config.cluster_domain, &config.cluster_dns, host())
        }
        _ => host(),
    };
    apply_dns_config(&mut dns, spec);
    Resolver { config: dns, cluster_dns_missing }
}

fn cluster_first(namespace: &str, domain: &str, servers: &[IpAddr], host: DnsConfig) -> DnsConfig {
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    for search in host.searches {
        if !searches.contains(&search) {
            searches.push(search);
        }
    }
    DnsConfig {
        servers: servers.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn apply_dns_config(dns: &mut DnsConfig, spec: &PodSpec) {
    let Some(extra) = &spec.dns_config else { return };
    for server in extra.nameservers.iter().flatten() {
        push_new(&mut dns.servers, server.clone());
    }
    for search in extra.searches.iter().flatten() {
        push_new(&mut dns.searches, search.clone());
    }
    for option in extra.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        let text = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
        dns.options.retain(|present| present.split(':').next() != Some(name));
        dns.options.push(text);
    }
}

fn push_new(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// The three kinds of lines of `resolv.conf`; the last `search` and `options` count.
fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                dns.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns.searches.retain(|search| !search.is_empty());
    dns
}

/// Text of `/etc/hosts` for a pod with its own network.
pub(crate) fn hosts_file(spec: &PodSpec, hostname: &str, domain: Option<&str>, ips: &[String]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    text + &host_aliases(spec)
}

/// Text of `/etc/hosts` for a pod in the host's network.
pub(crate) fn host_network_hosts_file(spec: &PodSpec) -> String {
    let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", host_aliases(spec))
}

fn host_aliases(spec: &PodSpec) -> String {
    let aliases: Vec<String> = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")))
        .collect();
    if aliases.is_empty() {
        return String::new();
    }
    format!("\n# Entries added by HostAliases.\n{}", aliases.concat())
}

/// Host name of the pod and, with `subdomain`, its domain. At most 63 characters, as the kernel allows.
pub(crate) fn hostname(pod: &Pod, config: &Config) -> (String, Option<String>) {
    const LIMIT: usize = 63;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if spec.host_network == Some(true) {
        return (config.node_name.clone(), None);
    }
    if let Some(full) = spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        return (full.clone(), None);
    }
    let mut name = spec.hostname.clone().filter(|name| !name.is_empty());
    let name = name.take().unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    let name = name.chars().take(LIMIT).collect::<String>().trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec
        .subdomain
        .as_ref()
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{}", config.cluster_domain));
    (name, domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_first_searches_the_namespace_then_the_cluster_then_what_the_host_searches() {
        let host = parse_resolv_conf("nameserver 9.9.9.9\nsearch lan. svc.cluster.local\noptions rotate\n");
        let dns = cluster_first("web", "cluster.local", &["10.43.0.10".parse().unwrap()], host);
        assert_eq!(dns.servers, ["10.43.0.10"]);
        assert_eq!(dns.searches, ["web.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn a_pods_own_hosts_file_names_it_by_its_addresses() {
        let text = hosts_file(&PodSpec::default(), "web-0", Some("web.ns.svc.c"), &["10.42.0.3".to_owned()]);
        assert!(text.ends_with("10.42.0.3\tweb-0.web.ns.svc.c\tweb-0\n"), "{text}");
    }
}
