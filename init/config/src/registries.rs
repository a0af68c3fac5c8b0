//! `[registries]`: K3s's `registries.yaml` as TOML, with K3s's key names; what containerd is told of it; and that file itself.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::k3s::yaml_text;
use crate::read::At;

/// Where images are pulled from instead of their registry, and with what credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// Mirrors, by the host of the registry they stand in for; `*` for every other one.
    pub mirrors: BTreeMap<String, Mirror>,
    /// Credentials and TLS settings, by the host that is connected to.
    pub configs: BTreeMap<String, Access>,
}

/// What stands in for a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    /// URLs, tried in order; the registry itself comes last.
    pub endpoint: Vec<String>,
    /// What is put before the name of every image that is asked of a mirror.
    pub prefix: Option<String>,
}

/// How a host is spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Who one is there.
    pub auth: Option<Auth>,
    /// How its certificate is checked, and one's own.
    pub tls: Option<Tls>,
}

/// Who one is at a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Both, as base64 of `user:password`.
    pub auth: Option<String>,
    /// An identity token.
    pub identity_token: Option<String>,
}

/// How a certificate is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities to trust.
    pub ca_file: Option<String>,
    /// One's own certificate.
    pub cert_file: Option<String>,
    /// Its key.
    pub key_file: Option<String>,
    /// Whether the certificate is not checked at all.
    pub insecure_skip_verify: bool,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(...)")
    }
}

impl Registries {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut registries = Self::default();
        let Some(fields) = at.fields(&["mirrors", "configs"]) else { return registries };
        if let Some(at) = fields.get("mirrors") {
            let entries = at.entries("a table of registries").into_iter();
            registries.mirrors =
                entries.filter_map(|(host, at)| Some((named(host, &at)?, mirror(at)?))).collect();
        }
        if let Some(at) = fields.get("configs") {
            let entries = at.entries("a table of hosts").into_iter();
            registries.configs =
                entries.filter_map(|(host, at)| Some((named(host, &at)?, access(at)?))).collect();
        }
        registries
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mirrors.is_empty() && self.configs.is_empty()
    }
}

/// A host as a key; it becomes the name of a directory.
fn named(host: &str, at: &At<'_>) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    let sound = host == "*"
        || (!host.is_empty() && !host.starts_with('.') && host.len() < 256 && host.bytes().all(plain));
    if !sound {
        at.wrong_because(&format!("the host {}", crate::tree::quoted(host)), "HOST, HOST:PORT or *");
    }
    sound.then(|| host.to_owned())
}

fn mirror(at: At<'_>) -> Option<Mirror> {
    let fields = at.fields(&["endpoint", "rewrite"])?;
    let endpoint = fields.get("endpoint").map(|at| {
        at.list("URLs", |at| {
            at.parsed("a URL such as https://mirror.example:5000", |text| {
                let rest =
                    text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
                let odd = |c: char| c.is_whitespace() || c.is_control() || "\"\\{}".contains(c);
                (!rest.is_empty() && !rest.contains("://") && !text.contains(odd)).then(|| text.to_owned())
            })
        })
    });
    let prefix = fields.get("rewrite").and_then(|at| rewrite(&at));
    Some(Mirror { endpoint: endpoint.unwrap_or_default(), prefix })
}

/// K3s takes any regular expression, which only its own build of containerd understands. What ours can do is what nearly everyone
/// writes there: everything below a prefix.
fn rewrite(at: &At<'_>) -> Option<String> {
    let allowed = "one rule for all names, { \"^(.*)$\" = \"PREFIX/$1\" }: this containerd knows no other";
    match &at.entries(allowed)[..] {
        [(pattern, to)] if ["^(.*)$", "(.*)", "^(.*)", "(.*)$", "^(.+)$"].contains(pattern) => {
            to.parsed(allowed, |text| {
                let prefix = text.strip_suffix("/$1").or_else(|| text.strip_suffix("/${1}"))?;
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
                (!prefix.is_empty() && prefix.bytes().all(plain)).then(|| prefix.trim_matches('/').to_owned())
            })
        }
        _ => {
            at.wrong(allowed);
            None
        }
    }
}

fn access(at: At<'_>) -> Option<Access> {
    let fields = at.fields(&["auth", "tls"])?;
    Some(Access { auth: fields.get("auth").and_then(auth), tls: fields.get("tls").and_then(tls) })
}

fn auth(at: At<'_>) -> Option<Auth> {
    let fields = at.fields(&["username", "password", "auth", "identity_token"])?;
    let secret = |key: &str| {
        let at = fields.get(key)?;
        match at.value() {
            crate::tree::Value::Text(text) => Some(text.clone()),
            crate::tree::Value::Words(words) => words.last().cloned(),
            _ => {
                at.wrong_because("something else", "text");
                None
            }
        }
    };
    Some(Auth {
        username: secret("username"),
        password: secret("password"),
        auth: secret("auth"),
        identity_token: secret("identity_token"),
    })
}

fn tls(at: At<'_>) -> Option<Tls> {
    let fields = at.fields(&["ca_file", "cert_file", "key_file", "insecure_skip_verify"])?;
    let file = |key: &str| {
        let allowed = "the absolute path of a file";
        fields
            .get(key)
            .and_then(|at| at.parsed(allowed, |text| text.starts_with('/').then(|| text.to_owned())))
    };
    let tls = Tls {
        ca_file: file("ca_file"),
        cert_file: file("cert_file"),
        key_file: file("key_file"),
        insecure_skip_verify: fields
            .get("insecure_skip_verify")
            .and_then(|at| at.boolean())
            .unwrap_or_default(),
    };
    if fields.get("cert_file").is_some() != fields.get("key_file").is_some() {
        fields.whole().wrong("cert_file and key_file together");
    }
    Some(tls)
}

/// `registries.yaml`, as K3s reads it.
#[must_use]
pub fn registries_yaml(registries: &Registries) -> String {
    let mut yaml =
        String::from("# Written by init at every boot, from [registries] of the node configuration.\n");
    if !registries.mirrors.is_empty() {
        yaml.push_str("mirrors:\n");
    }
    for (host, mirror) in &registries.mirrors {
        let endpoints: String =
            mirror.endpoint.iter().map(|url| format!("\n      - {}", yaml_text(url))).collect();
        let endpoints = if endpoints.is_empty() { " []".to_owned() } else { endpoints };
        // Writing to a String does not fail.
        let _ = writeln!(yaml, "  {}:\n    endpoint:{endpoints}", yaml_text(host));
        if let Some(prefix) = &mirror.prefix {
            let _ = writeln!(yaml, "    rewrite:\n      \"^(.*)$\": {}", yaml_text(&format!("{prefix}/$1")));
        }
    }
    if !registries.configs.is_empty() {
        yaml.push_str("configs:\n");
    }
    for (host, access) in &registries.configs {
        let _ = writeln!(yaml, "  {}:", yaml_text(host));
        let mut group = |name: &str, entries: &[(&str, Option<String>)]| {
            let _ = writeln!(yaml, "    {name}:");
            for (key, value) in entries.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
                let _ = writeln!(yaml, "      {key}: {value}");
            }
        };
        let text = |value: &Option<String>| value.as_deref().map(yaml_text);
        if let Some(auth) = &access.auth {
            let entries = [
                ("username", text(&auth.username)),
                ("password", text(&auth.password)),
                ("auth", text(&auth.auth)),
                ("identity_token", text(&auth.identity_token)),
            ];
            group("auth", &entries);
        }
        if let Some(tls) = &access.tls {
            let skip = tls.insecure_skip_verify.then(|| "true".to_owned());
            let entries = [
                ("ca_file", text(&tls.ca_file)),
                ("cert_file", text(&tls.cert_file)),
                ("key_file", text(&tls.key_file)),
                ("insecure_skip_verify", skip),
            ];
            group("tls", &entries);
        }
    }
    yaml
}
