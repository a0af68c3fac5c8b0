//! containerd's `hosts.toml` for every registry that is configured (containerd docs/hosts.md), by K3s's rules.
//!
//! The mirrors come first, in their order, and the registry itself last, unless K3s's `disable-default-registry-endpoint` says that it is never
//! asked. TLS settings are looked up by the host that is connected to.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use node_config::{Mirror, Registries, Tls};

/// Where containerd looks, a directory for each registry.
const CERTS_DIRECTORY: &str = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d";
/// What every file that is generated begins with; what does not is someone else's and stays.
const HEADING: &str = "# Written by init at every boot.";
/// Every registry that has no directory of its own.
const ANY: &str = "*";
const ANY_DIRECTORY: &str = "_default";
/// The names of Docker Hub: in image names, in configurations, and of the host itself.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Whether a registry that has mirrors is asked itself when none of them has what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is asked last.
    Last,
    /// It is not asked.
    Never,
}

/// One host that is asked.
struct Endpoint {
    url: String,
    override_path: bool,
    tls: String,
}

/// Writes the files for `registries` and takes away those of the last boot.
pub(super) fn write(registries: &Registries, origin: Origin) -> Result<()> {
    write_below(Path::new(CERTS_DIRECTORY), registries, origin)
}

fn write_below(base: &Path, registries: &Registries, origin: Origin) -> Result<()> {
    fs::create_dir_all(base).with_context(|| format!("failed to create {}", base.display()))?;
    for entry in fs::read_dir(base).with_context(|| format!("failed to list {}", base.display()))?.flatten() {
        let generated = fs::read_to_string(entry.path().join("hosts.toml"));
        if generated.is_ok_and(|text| text.starts_with(HEADING)) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("failed to remove {}", entry.path().display()))?;
        }
    }
    for (directory, text) in render(registries, origin) {
        let directory = base.join(directory);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("hosts.toml"), text))
            .with_context(|| format!("failed to write {}/hosts.toml", directory.display()))?;
    }
    Ok(())
}

/// Directory and text for each registry that differs from what containerd does anyway.
fn render(registries: &Registries, origin: Origin) -> BTreeMap<String, String> {
    let hosts: BTreeSet<&String> = registries.mirrors.keys().chain(registries.configs.keys()).collect();
    let nothing = Mirror::default();
    hosts
        .into_iter()
        .filter_map(|host| {
            let mirror = registries.mirrors.get(host).unwrap_or(&nothing);
            let directory = if host == ANY { ANY_DIRECTORY } else { host };
            let has_tls = host != ANY && tls_of(registries, host).is_some();
            let worth = !mirror.endpoint.is_empty() || has_tls;
            worth.then(|| (directory.to_owned(), one(registries, host, mirror, origin)))
        })
        .collect()
}

fn one(registries: &Registries, host: &str, mirror: &Mirror, origin: Origin) -> String {
    let mut mirrors = endpoints(registries, mirror);
    // Without a `server` containerd would ask the registry itself in the end. So the last mirror stands there (docs/hosts.md, "Setup
    // Default Mirror for All Registries").
    let only = if origin == Origin::Never { mirrors.pop() } else { None };
    let mut text = format!("{HEADING}\n");
    // Writing to a String does not fail.
    if let Some(Endpoint { url, override_path, tls }) = &only {
        let _ = writeln!(text, "server = {url:?}\ncapabilities = [\"pull\", \"resolve\"]");
        if *override_path {
            text.push_str("override_path = true\n");
        }
        text.push_str(tls);
    } else if host != ANY {
        let _ = writeln!(text, "server = {:?}", format!("{}/v2", base_url(actual(host))));
        text.push_str("capabilities = [\"pull\", \"resolve\", \"push\"]\n");
        text.push_str(&tls_lines(tls_of(registries, host)));
    }
    // containerd takes no file without this table (its issue 10027).
    text.push_str("\n[host]\n");
    for Endpoint { url, override_path, tls } in mirrors {
        let _ = writeln!(text, "\n[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]");
        if override_path {
            text.push_str("override_path = true\n");
        }
        text.push_str(&tls);
    }
    text
}

/// The mirrors in their order, each once.
fn endpoints(registries: &Registries, mirror: &Mirror) -> Vec<Endpoint> {
    let mut seen = BTreeSet::new();
    let urls = mirror.endpoint.iter().map(|endpoint| base_url(endpoint));
    urls.filter(|url| seen.insert(url.clone()))
        .map(|url| {
            let (at, path) = split(&url);
            let mut path = if path.is_empty() { "/v2".to_owned() } else { path.to_owned() };
            if let Some(prefix) = &mirror.prefix {
                path = format!("{path}/{prefix}");
            }
            let host = at.split_once("://").map_or(at, |(_, host)| host);
            let tls = tls_lines(tls_of(registries, host));
            Endpoint { url: format!("{at}{path}"), override_path: path != "/v2", tls }
        })
        .collect()
}

fn tls_lines(tls: Option<&Tls>) -> String {
    let mut text = String::new();
    let Some(tls) = tls else { return text };
    // Writing to a String does not fail.
    if let Some(file) = &tls.ca_file {
        let _ = writeln!(text, "ca = [{file:?}]");
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        let _ = writeln!(text, "client = [[{cert:?}, {key:?}]]");
    }
    if tls.insecure_skip_verify {
        let _ = writeln!(text, "skip_verify = true");
    }
    text
}

fn tls_of<'a>(registries: &'a Registries, host: &str) -> Option<&'a Tls> {
    let names: &[&str] = if DOCKER_HUB.contains(&host) { &DOCKER_HUB } else { &[host] };
    names.iter().chain(&[ANY]).find_map(|name| registries.configs.get(*name)?.tls.as_ref())
}

/// The host that a registry's name stands for.
fn actual(host: &str) -> &str {
    if DOCKER_HUB.contains(&host) { DOCKER_HUB[2] } else { host }
}

/// With a scheme and without a slash at the end. HTTPS it is, but for a port of this machine other than HTTPS's.
fn base_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.contains("://") {
        return endpoint.to_owned();
    }
    let host = split(endpoint).0;
    let local = ["localhost:", "127.0.0.1:", "[::1]:"].iter().any(|start| host.starts_with(start));
    let scheme = if local && !host.ends_with(":443") { "http" } else { "https" };
    format!("{scheme}://{endpoint}")
}

/// Scheme and host, and the path.
fn split(url: &str) -> (&str, &str) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let path = url[start..].find('/').map_or(url.len(), |at| start + at);
    url.split_at(path)
}

#[cfg(test)]
mod tests {
    use node_config::{Layer, resolve};

    use super::*;

    fn registries(text: &str) -> Registries {
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        assert_eq!(resolved.mistakes, []);
        resolved.config.registries
    }

    const TEXT: &str = r#"
        [registries.mirrors."docker.io"]
        endpoint = ["https://mirror.example:5000", "http://localhost:5001/cache/", "https://mirror.example:5000/"]
        [registries.mirrors."other.example"]
        endpoint = ["mirror.example"]
        rewrite = { "^(.*)$" = "quay/$1" }
        [registries.mirrors."*"]
        endpoint = ["https://all.example"]
        [registries.configs."mirror.example:5000".tls]
        ca_file = "/etc/mirror.crt"
        [registries.configs."docker.io".tls]
        insecure_skip_verify = true
        [registries.configs."only-auth.example".auth]
        username = "u"
        password = "p"
    "#;

    #[test]
    fn mirrors_become_hosts_in_their_order_with_the_tls_of_each_host() {
        let files = render(&registries(TEXT), Origin::Last);
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["_default", "docker.io", "mirror.example:5000", "other.example"]
        );
        let table: toml::Table = files["docker.io"].parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://registry-1.docker.io/v2"));
        assert_eq!(table["skip_verify"].as_bool(), Some(true));
        let hosts = table["host"].as_table().unwrap();
        assert_eq!(hosts.len(), 2, "the same endpoint twice counts once");
        assert_eq!(hosts["https://mirror.example:5000/v2"]["ca"][0].as_str(), Some("/etc/mirror.crt"));
        assert_eq!(hosts["http://localhost:5001/cache"]["override_path"].as_bool(), Some(true));
        assert!(
            files["docker.io"].find("mirror.example").unwrap()
                < files["docker.io"].find("localhost").unwrap()
        );
        assert!(!files["_default"].contains("server"));
    }

    #[test]
    fn a_prefix_becomes_part_of_the_mirrors_path() {
        let table: toml::Table = render(&registries(TEXT), Origin::Last)["other.example"].parse().unwrap();
        let host = &table["host"]["https://mirror.example/v2/quay"];
        assert_eq!(host["override_path"].as_bool(), Some(true));
    }

    #[test]
    fn a_registry_that_is_never_asked_has_its_last_mirror_in_its_place() {
        let files = render(&registries(TEXT), Origin::Never);
        let table: toml::Table = files["docker.io"].parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("http://localhost:5001/cache"));
        assert_eq!(table["override_path"].as_bool(), Some(true));
        assert_eq!(table.get("skip_verify"), None, "that is said of the registry, not of the mirror");
        let hosts: Vec<_> = table["host"].as_table().unwrap().keys().collect();
        assert_eq!(hosts, ["https://mirror.example:5000/v2"]);
        let table: toml::Table = files["_default"].parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://all.example/v2"));
        // Nothing stands in for this one.
        let table: toml::Table = files["mirror.example:5000"].parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://mirror.example:5000/v2"));
    }

    #[test]
    fn every_file_has_the_table_of_hosts_that_containerd_insists_on() {
        for (name, text) in render(&registries(TEXT), Origin::Last) {
            assert!(text.parse::<toml::Table>().unwrap()["host"].is_table(), "{name}");
        }
    }

    #[test]
    fn the_files_of_the_last_boot_go_and_those_of_others_stay() {
        let base = std::env::temp_dir().join(format!("skerry-hosts-{}", std::process::id()));
        fs::create_dir_all(base.join("own.example")).unwrap();
        fs::write(base.join("own.example/hosts.toml"), "server = \"x\"").unwrap();
        write_below(&base, &registries(TEXT), Origin::Last).unwrap();
        assert!(base.join("other.example/hosts.toml").exists());
        write_below(&base, &Registries::default(), Origin::Last).unwrap();
        assert!(!base.join("other.example").exists() && base.join("own.example/hosts.toml").exists());
        fs::remove_dir_all(&base).unwrap();
    }
}
