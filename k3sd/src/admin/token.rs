//! `k3sd token`: bootstrap tokens, by which single machines join for a while, and a new token for the cluster; as K3s has them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use client::remote::{self, Credentials, Servers, Trust};
use client::request;
use http::{HeaderValue, Request};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::client::Body;
use machinery::bootstrap_token::{
    self, AUTHENTICATION, BootstrapToken, NAME_PREFIX, NAMESPACE, SIGNING, TYPE,
};
use serde_json::{Value, json};
use supervisor::token::{self, Token};

use super::cluster::{self, Access};

const DEFAULT_GROUP: &str = "system:bootstrappers:k3s:default-node-token";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a bootstrap token and print it in full
    Create(Create),
    /// Delete bootstrap tokens, each named by its ID or in full
    Delete {
        #[command(flatten)]
        access: Access,
        /// ID, ID.SECRET or K10HASH::ID.SECRET
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
    /// Make up a bootstrap token without asking a server
    Generate,
    /// List bootstrap tokens
    List {
        #[command(flatten)]
        access: Access,
        /// How to say it
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Replace the token by which servers, and agents without a token of their own, join
    Rotate(Rotate),
}

#[derive(Args)]
pub(super) struct Create {
    #[command(flatten)]
    access: Access,
    /// ID.SECRET of six and sixteen lower-case letters and digits [default: a random one]
    token: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Groups of those who show it; each begins with system:bootstrappers:
    #[arg(long, value_name = "GROUP", value_delimiter = ',', default_value = DEFAULT_GROUP)]
    groups: Vec<String>,
    /// How long it is good, such as 24h; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    ttl: SignedDuration,
    /// What it may be used for: signing, authentication
    #[arg(long, value_enum, value_name = "USAGE", value_delimiter = ',', default_values = ["signing", "authentication"])]
    usages: Vec<Usage>,
}

#[derive(Args)]
pub(super) struct Rotate {
    /// The token that is to be replaced [default: DATA/server/token]
    #[arg(short, long, value_name = "TOKEN", env = "K3S_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The server
    #[arg(short, long, value_name = "URL", env = "K3S_URL", default_value = "https://127.0.0.1:6443")]
    server: String,
    /// The new one [default: a random one]
    #[arg(long, value_name = "TOKEN")]
    new_token: Option<String>,
    /// Directory of everything that must survive a restart [default: /var/lib/rancher/k3s]
    #[arg(short, long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Usage {
    Signing,
    Authentication,
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self {
                Self::Create(create) => create.run().await,
                Self::Delete { access, tokens } => delete(&access, &tokens).await,
                Self::Generate => {
                    println!("{}", token::random_bootstrap());
                    Ok(())
                }
                Self::List { access, output } => list(&access, output).await,
                Self::Rotate(rotate) => rotate.run().await,
            }
        })
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let cluster = self.access.connect()?;
        let token = self.token.clone().unwrap_or_else(token::random_bootstrap);
        let secret = self.secret(&token, Timestamp::now())?;
        let secrets: Api<Secret> = Api::namespaced(cluster.client, NAMESPACE);
        match secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!(
                    "there is a token with the ID {}: delete it, or choose another",
                    id_of(&token).unwrap_or_default()
                )
            }
            result => result.context("failed to create the token")?,
        };
        println!("K10{}::{token}", cluster.ca_hash);
        Ok(())
    }

    /// How the cluster keeps it (`cluster-bootstrap/token/api`).
    fn secret(&self, token: &str, now: Timestamp) -> anyhow::Result<Secret> {
        let Some((id, secret)) = bootstrap_token::parse(token) else {
            bail!("{token:?} is not a bootstrap token: six, a dot and sixteen lower-case letters and digits")
        };
        for group in &self.groups {
            ensure!(
                bootstrap_token::is_extra_group(group),
                "group {group:?} is not allowed: it begins with system:bootstrappers: and goes on with lower-case letters, digits, \
                 colons and dashes"
            );
        }
        let expiration = if self.ttl.is_zero() {
            String::new()
        } else {
            now.checked_add(self.ttl).context("ttl is too long")?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        };
        let kept = BootstrapToken {
            id: id.to_owned(),
            secret: secret.to_owned(),
            description: self.description.clone().unwrap_or_default(),
            expiration,
            usages: self.usages.iter().map(|usage| usage.name().to_owned()).collect(),
            groups: self.groups.clone(),
        };
        let object = json!({
            "metadata": { "name": format!("{NAME_PREFIX}{id}"), "namespace": NAMESPACE },
            "type": TYPE,
            "stringData": kept.data(),
        });
        Ok(serde_json::from_value(object)?)
    }
}

impl Usage {
    fn name(self) -> &'static str {
        match self {
            Self::Signing => SIGNING,
            Self::Authentication => AUTHENTICATION,
        }
    }
}

async fn delete(access: &Access, tokens: &[String]) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(access.connect()?.client, NAMESPACE);
    for token in tokens {
        let Some(id) = id_of(token) else {
            bail!(
                "not a bootstrap token or the ID of one (six lower-case letters and digits), as `k3sd token list` shows it"
            )
        };
        match secrets.delete(&format!("{NAME_PREFIX}{id}"), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!("there is no bootstrap token {id:?}")
            }
            result => result.with_context(|| format!("failed to delete bootstrap token {id:?}"))?,
        };
        println!("bootstrap token {id:?} deleted");
    }
    Ok(())
}

/// The part that is no secret, of a token in any form or of itself.
fn id_of(token: &str) -> Option<&str> {
    let bare = token.rsplit("::").next().unwrap_or(token);
    let is_id =
        bare.len() == 6 && bare.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    bootstrap_token::parse(bare).map(|(id, _)| id).or(is_id.then_some(bare))
}

async fn list(access: &Access, output: Output) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(access.connect()?.client, NAMESPACE);
    let of_tokens = ListParams::default().fields(&format!("type={TYPE}"));
    let found = secrets.list(&of_tokens).await.context("failed to list the tokens")?;
    let found = found.items.into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    let tokens: Vec<BootstrapToken> = found.iter().filter_map(BootstrapToken::of).collect();
    match output {
        Output::Text => print!("{}", table(&tokens, Timestamp::now())),
        Output::Json => println!("{}", Value::from_iter(tokens.iter().map(value))),
        Output::Yaml => {
            print!("{}", serde_yaml_ng::to_string(&Value::from_iter(tokens.iter().map(value)))?);
        }
    }
    Ok(())
}

/// As kubeadm's `BootstrapToken`, which K3s prints.
fn value(token: &BootstrapToken) -> Value {
    let mut value = json!({ "token": format!("{}.{}", token.id, token.secret) });
    let mut set = |key: &str, field: Value, empty: bool| {
        if !empty {
            value[key] = field;
        }
    };
    set("description", json!(token.description), token.description.is_empty());
    set("expires", json!(token.expiration), token.expiration.is_empty());
    set("usages", json!(token.usages), token.usages.is_empty());
    set("groups", json!(token.groups), token.groups.is_empty());
    value
}

fn table(tokens: &[BootstrapToken], now: Timestamp) -> String {
    let head = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(String::from);
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let row = |token: &BootstrapToken| {
        let (ttl, expires) = match token.expiration.parse::<Timestamp>() {
            Ok(end) => (short(end.duration_since(now)), token.expiration.clone()),
            Err(_) if token.expiration.is_empty() => ("<forever>".to_owned(), "<never>".to_owned()),
            Err(_) => ("<invalid>".to_owned(), token.expiration.clone()),
        };
        let usages = or_none(token.usages.join(","));
        let groups = or_none(token.groups.join(","));
        // Whoever may write secrets writes this, and the terminal obeys.
        let description = token.description.replace(char::is_control, " ");
        [token.id.clone(), ttl, expires, usages, or_none(description), groups]
    };
    super::table::aligned(&[head].into_iter().chain(tokens.iter().map(row)).collect::<Vec<_>>())
}

/// The biggest unit only (`apimachinery/pkg/util/duration.ShortHumanDuration`).
fn short(left: SignedDuration) -> String {
    let seconds = left.as_secs();
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ if seconds < 365 * 86400 => format!("{}d", seconds / 86400),
        _ => format!("{}y", seconds / (365 * 86400)),
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let duration =
        text.parse::<SignedDuration>().map_err(|_| "not a duration such as 90m or 24h0m0s".to_owned())?;
    if duration.is_negative() { Err("negative".to_owned()) } else { Ok(duration) }
}

impl Rotate {
    async fn run(self) -> anyhow::Result<()> {
        let data_dir = self.data_dir.unwrap_or_else(crate::config::default_data_dir);
        let old = match self.token {
            Some(token) => token,
            None => read_token(&data_dir)?,
        };
        let old: Token = old.parse()?;
        let token::Secret::Password(password) = &old.secret else {
            bail!("a bootstrap token cannot be rotated: delete it and create another")
        };
        if old.ca_hash.is_none() {
            eprintln!("k3sd: the token names no CA: whoever answers at {} is believed", self.server);
        }
        let servers = Servers::new(cluster::endpoint(&self.server)?);
        let authorities = supervisor::join::agent::authorities(&servers, &old).await?;
        let basic = STANDARD.encode(format!("server:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {basic}"))?;
        value.set_sensitive(true);
        let client = remote::connect(servers, Trust::Authorities(authorities), Credentials::Header(value))?;
        let body = json!({ "newToken": self.new_token.unwrap_or_default() }).to_string();
        let request = Request::put("/v1-k3s/token").body(Body::from(body.into_bytes()))?;
        request::send(&client, request).await.context("the server did not rotate the token")?;
        println!(
            "Token rotated: it is in DATA/server/token of the server. Put it where another one is configured, then restart."
        );
        Ok(())
    }
}

fn read_token(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("server/token");
    fs::read_to_string(&path)
        .with_context(|| format!("failed to read {}; name the token with --token", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn create(arguments: &[&str]) -> anyhow::Result<Secret> {
        use clap::Parser as _;
        let line = ["token", "create"].iter().chain(arguments);
        let Command::Create(create) = Line::try_parse_from(line)?.command else { unreachable!() };
        let token = create.token.clone().unwrap();
        create.secret(&token, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_becomes_the_secret_that_upstream_describes() {
        let secret = create(&["abcdef.0123456789abcdef", "--description=a door", "--ttl=1h30m"]).unwrap();
        let data = secret.string_data.unwrap();
        assert_eq!(secret.metadata.name.unwrap(), "bootstrap-token-abcdef");
        assert_eq!(data["expiration"], "2026-01-01T01:30:00Z");
        assert_eq!(
            (data["usage-bootstrap-signing"].as_str(), data["description"].as_str()),
            ("true", "a door")
        );
        assert_eq!(data["auth-extra-groups"], DEFAULT_GROUP);
        let ever = create(&["abcdef.0123456789abcdef", "--ttl=0", "--usages=authentication"]).unwrap();
        let data = ever.string_data.unwrap();
        assert!(!data.contains_key("expiration") && !data.contains_key("usage-bootstrap-signing"));
    }

    #[test]
    fn a_token_is_deleted_by_its_id_in_any_form() {
        for text in ["abcdef", "abcdef.0123456789abcdef", "K10aa::abcdef.0123456789abcdef"] {
            assert_eq!(id_of(text), Some("abcdef"), "{text}");
        }
        for text in ["", "abcde", "abcdef.0123", "ABCDEF", "../abc"] {
            assert_eq!(id_of(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (arguments, expected) in [
            (["abc.def", "--ttl=1h"], "not a bootstrap token"),
            (["abcdef.0123456789abcdef", "--groups=admins"], "group \"admins\" is not allowed"),
            (["abcdef.0123456789abcdef", "--ttl=soon"], "not a duration"),
            (["abcdef.0123456789abcdef", "--usages=fun"], "signing, authentication"),
        ] {
            let text = format!("{:#}", create(&arguments).unwrap_err());
            assert!(text.contains(expected), "{arguments:?}: {text}");
        }
    }

    #[test]
    fn a_list_says_how_long_each_is_good() {
        let token = |id: &str, expiration: &str| BootstrapToken {
            id: id.into(),
            expiration: expiration.into(),
            ..BootstrapToken::default()
        };
        let tokens = [token("abcdef", "2026-01-01T05:59:00Z"), token("ghijkl", "")];
        let text = table(&tokens, "2026-01-01T00:00:00Z".parse().unwrap());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..4], ["abcdef", "5h", "2026-01-01T05:59:00Z", "<none>"]);
        assert_eq!(lines[2][..3], ["ghijkl", "<forever>", "<never>"]);
        assert_eq!(short(SignedDuration::from_secs(-5)), "<invalid>");
    }
}
