//! `k3sd certificate check` and `rotate`, as K3s has them.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};
use supervisor::pki::inventory::{self, Found, Service, Validity};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say until when each certificate is good
    Check {
        #[command(flatten)]
        services: Services,
        /// How to say it
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Put certificates and keys aside; the next start makes new ones
    Rotate {
        #[command(flatten)]
        services: Services,
    },
}

#[derive(Debug, Args)]
pub(super) struct Services {
    /// Which: admin, api-server, auth-proxy, cloud-controller, controller-manager, k3s-controller, kubelet, kube-proxy, scheduler,
    /// supervisor; repeatable, commas allowed [default: all that this node has]
    #[arg(short, long = "service", value_name = "NAME", value_delimiter = ',')]
    service: Vec<Service>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Output {
    Text,
    Table,
    Json,
    Yaml,
}

impl Command {
    pub(super) fn run(self, data_dir: &Path) -> anyhow::Result<()> {
        match self {
            Self::Check { services, output } => {
                let found = inventory::check(data_dir, &services.on(data_dir))?;
                anyhow::ensure!(!found.is_empty(), "there are no certificates below {}", data_dir.display());
                print!("{}", output.text(&found)?);
            }
            Self::Rotate { services } => {
                let aside = inventory::put_aside(data_dir, &services.on(data_dir))?;
                println!("Certificates and keys are in {}; restart to have new ones.", aside.display());
            }
        }
        Ok(())
    }
}

impl Services {
    fn on(self, data_dir: &Path) -> Vec<Service> {
        if self.service.is_empty() { Service::all(data_dir) } else { self.service }
    }
}

impl Output {
    fn text(self, found: &[Found]) -> anyhow::Result<String> {
        Ok(match self {
            Self::Text => found.iter().map(sentence).collect(),
            Self::Table => table(found),
            Self::Json => format!("{}\n", value(found, FIELDS)),
            // K3s's YAML has the names in lower case.
            Self::Yaml => serde_yaml_ng::to_string(&value(found, FIELDS.map(str::to_lowercase)))?,
        })
    }
}

/// Its last moment, or its first when that is to come.
fn decisive(found: &Found) -> String {
    let moment = if found.validity == Validity::NotYetValid { found.not_before } else { found.not_after };
    Timestamp::from_second(moment.unix_timestamp()).map(|at| at.to_string()).unwrap_or_default()
}

fn sentence(found: &Found) -> String {
    let (at, days) = (decisive(found), inventory::warning_days());
    let state = match found.validity {
        Validity::Ok => format!("is ok, expires at {at}"),
        Validity::Warning => format!("will expire within {days} days at {at}"),
        Validity::Expired => format!("expired at {at}"),
        Validity::NotYetValid => format!("is not valid before {at}"),
    };
    format!("{}: certificate {} ({}) {state}\n", file(found), found.subject, found.usages.join(","))
}

fn file(found: &Found) -> String {
    found.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn table(found: &[Found]) -> String {
    let head = ["FILENAME", "SUBJECT", "USAGES", "EXPIRES", "STATUS"].map(String::from);
    let row = |found: &Found| {
        [
            file(found),
            found.subject.clone(),
            found.usages.join(","),
            decisive(found),
            found.validity.to_string(),
        ]
    };
    super::table::aligned(&[head].into_iter().chain(found.iter().map(row)).collect::<Vec<_>>())
}

/// K3s's names of what is said of a certificate, the list's own first.
const FIELDS: [&str; 8] =
    ["Certificates", "Filename", "Subject", "Issuer", "Usages", "ExpiryTime", "ResidualTime", "Status"];

fn value(found: &[Found], fields: [impl AsRef<str>; 8]) -> Value {
    let [list, names @ ..] = fields.each_ref().map(AsRef::as_ref);
    let now = Timestamp::now().as_nanosecond();
    let one = |found: &Found| {
        let left = found.not_after.unix_timestamp_nanos() - now;
        let values = [
            json!(file(found)),
            json!(found.subject),
            json!(found.issuer),
            json!(found.usages),
            json!(decisive(found)),
            json!(i64::try_from(left).unwrap_or(i64::MAX)),
            json!(found.validity.to_string()),
        ];
        Value::Object(names.iter().map(|name| (*name).to_owned()).zip(values).collect())
    };
    json!({ list: found.iter().map(one).collect::<Vec<_>>() })
}
