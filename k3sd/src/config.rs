//! What the flags mean together: parsed, defaulted and checked, with every mistake reported in one go.

pub(crate) mod agent;
mod apiserver_arg;
pub(crate) mod node;
pub(crate) mod server;

use std::fmt;
use std::path::PathBuf;

use clap::FromArgMatches as _;

use crate::cli::{Cli, Command, CommonFlags, idle};
use crate::config_file;

const DATA_DIR: &str = "/var/lib/rancher/k3s";
const CONFIG_FILE: &str = "/etc/rancher/k3s/config.yaml";

/// What to run, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) debug: bool,
    pub(crate) role: Role,
    /// Things asked for that are not done; people are told.
    pub(crate) warnings: Vec<String>,
}

/// Which of the commands it is.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Server(Box<server::Server>),
    Agent(Box<agent::Agent>),
}

/// All that is wrong with the configuration.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<String>);

impl Mistakes {
    fn add(&mut self, mistake: impl Into<String>) {
        self.0.push(mistake.into());
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads the command line and the files it points to. Prints help, version and spelling mistakes and exits, as
    /// command lines do; mistakes in values come back together.
    pub(crate) fn from_command_line(arguments: Vec<String>) -> anyhow::Result<Self> {
        let matches = Cli::parser().get_matches_from(&arguments);
        let word = matches.subcommand_name().unwrap_or_default().to_owned();
        let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
        let (known, unknown) = known_settings(&word, config_file::load(&command.common().config)?);
        let merged = insert_settings(arguments, &word, &known);
        let matches = Cli::parser().try_get_matches_from(&merged).map_err(|error| explain(error, &known))?;
        let command = Cli::from_arg_matches(&matches)?.command;
        let (mut mistakes, mut warnings) = (Mistakes::default(), unknown);
        let which = match command {
            Command::Server(_) => idle::Command::Server,
            Command::Agent(_) => idle::Command::Agent,
        };
        if let Some((_, matches)) = matches.subcommand() {
            let (unused, refused) = idle::given(matches, which);
            let origin = |flag: &str| known.iter().find(|setting| setting.flag == flag);
            for flag in unused {
                let from = origin(flag).map(|setting| format!("{}: ", setting.path.display()));
                warnings.push(format!("{}flag {flag} of K3s is not acted on", from.unwrap_or_default()));
            }
            for flag in refused {
                mistakes.add(format!(
                    "{flag}: not supported yet, and nothing would be as it asks for without it"
                ));
            }
        }
        Self::resolve(command, mistakes, warnings)
    }

    fn resolve(command: Command, mut mistakes: Mistakes, mut warnings: Vec<String>) -> anyhow::Result<Self> {
        let debug = command.common().debug.unwrap_or_default();
        let role = match command {
            Command::Server(flags) => {
                // Else a server that K3s would join to another would quietly begin a cluster of its own.
                if std::env::var_os("K3S_URL").is_some_and(|url| !url.is_empty()) {
                    mistakes.add("K3S_URL: servers cannot join a cluster yet; a node joins by `k3sd agent`");
                }
                let server = server::Server::resolve(*flags, &mut mistakes, &mut warnings);
                Some(Role::Server(Box::new(server)))
            }
            Command::Agent(flags) => agent::Agent::resolve(*flags, &mut mistakes, &mut warnings)
                .map(|agent| Role::Agent(Box::new(agent))),
        };
        match role {
            Some(role) if mistakes.0.is_empty() => Ok(Self { debug, role, warnings }),
            _ => Err(mistakes.into()),
        }
    }
}

fn data_dir(flags: &CommonFlags) -> PathBuf {
    flags.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR))
}

/// The data directory for commands that are no daemon and were told none: by the environment, by the files, or K3s's.
pub(crate) fn default_data_dir() -> PathBuf {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let from_files = || {
        let files = given("K3S_CONFIG_FILE").unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
        // A file that cannot be read is the daemon's to complain about.
        let settings = config_file::load(&files).unwrap_or_default();
        let setting = settings.into_iter().find(|setting| setting.flag == "data-dir")?;
        setting.values.into_iter().next_back().map(PathBuf::from)
    };
    given("K3S_DATA_DIR").or_else(from_files).unwrap_or_else(|| PathBuf::from(DATA_DIR))
}

/// A secret that was given itself, or by a file.
fn secret(
    flag: &str,
    given: Option<String>,
    file: Option<PathBuf>,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let given = given.filter(|text| !text.trim().is_empty());
    if given.is_some() {
        return given;
    }
    let file = file?;
    match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => {
            mistakes.add(format!("{flag}-file: {} is empty", file.display()));
            None
        }
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) => {
            mistakes.add(format!("{flag}-file: failed to read {}: {error}", file.display()));
            None
        }
    }
}

/// Splits the files' settings into flags of the command and keys that are none, which are dropped with a warning.
fn known_settings(
    command: &str,
    settings: Vec<config_file::Setting>,
) -> (Vec<config_file::Setting>, Vec<String>) {
    let parser = Cli::parser();
    let flags: Vec<&str> = parser
        .find_subcommand(command)
        .map(|command| command.get_arguments().filter_map(clap::Arg::get_long).collect())
        .unwrap_or_default();
    let (known, unknown): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|setting| flags.contains(&setting.flag.as_str()));
    let unknown = unknown
        .into_iter()
        .map(|setting| format!("{}: unknown key {} is ignored", setting.path.display(), setting.flag));
    (known, unknown.collect())
}

/// Puts the files' settings right behind the command's word, so that flags behind it win.
fn insert_settings(
    mut arguments: Vec<String>,
    command: &str,
    settings: &[config_file::Setting],
) -> Vec<String> {
    let at = arguments.iter().position(|argument| argument == command).map_or(arguments.len(), |at| at + 1);
    arguments.splice(at..at, settings.iter().flat_map(config_file::Setting::arguments));
    arguments
}

/// A value in a file that its flag does not take: the message names the file, since no flag was typed.
fn explain(error: clap::Error, settings: &[config_file::Setting]) -> anyhow::Error {
    let text = error.to_string();
    let origin = settings.iter().find(|setting| text.contains(&format!("--{} ", setting.flag)));
    let detail = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    match origin {
        Some(setting) => anyhow::anyhow!("{}: {}: {detail}", setting.path.display(), setting.flag),
        None => anyhow::anyhow!(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::server::Server;
    use super::*;

    fn config(command: &str, file: &str, arguments: &[&str]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, file)?;
        let path = path.display().to_string();
        let given = ["k3sd", command, "--config", &path];
        Config::from_command_line(given.iter().chain(arguments).map(|text| (*text).to_owned()).collect())
    }

    fn server(arguments: &[&str]) -> anyhow::Result<Server> {
        let file = "node-name: from-file\nwrite-kubeconfig-mode: '644'\ndisable-agent: true\n";
        match config("server", file, arguments)?.role {
            Role::Server(server) => Ok(*server),
            Role::Agent(_) => anyhow::bail!("a server was asked for"),
        }
    }

    #[test]
    fn flags_win_over_files_and_unknown_keys_are_named() {
        let typed = server(&["--node-name", "typed", "--tls-san", "a,b"]).unwrap();
        assert_eq!(typed.identity.name, "typed");
        assert_eq!(typed.kubeconfig_mode, 0o644);
        assert_eq!(typed.tls_sans, ["a", "b"]);
        assert_eq!(server(&[]).unwrap().identity.name, "from-file");
        let file = "disable-agent: true\nno-such-flag: 1\nselinux: true\nrootless: false\n";
        let warnings = config("server", file, &["--helm-job-image", "x"]).unwrap().warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].ends_with("config.yaml: unknown key no-such-flag is ignored"), "{warnings:?}");
        assert!(warnings[1].ends_with("config.yaml: flag selinux of K3s is not acted on"), "{warnings:?}");
        assert_eq!(warnings[2], "flag helm-job-image of K3s is not acted on");
    }

    #[test]
    fn all_mistakes_are_reported_at_once_by_flag() {
        let arguments = [
            "--cluster-cidr=10.42",
            "--service-cidr=255.255.255.255/32",
            "--service-node-port-range=9-1",
            "--write-kubeconfig-mode=rw",
            "--node-name=Not_A_Name",
            "--flannel-backend=vxlan",
            "--datastore-endpoint=mysql://x",
            "--token-file=/nowhere",
        ];
        let text = server(&arguments).unwrap_err().to_string();
        for argument in arguments {
            let flag = argument.trim_start_matches("--").split('=').next().unwrap();
            assert!(text.contains(flag), "{flag} is missing in {text}");
        }
    }

    #[test]
    fn an_agent_says_everything_it_lacks() {
        let given = "node-label: [x, node-role.kubernetes.io/worker=true]\n";
        let text = config("agent", given, &[]).unwrap_err().to_string();
        for flag in
            ["server", "token", "node-label: not KEY=VALUE", "node-label: node-role.kubernetes.io/worker"]
        {
            assert!(text.lines().any(|line| line.starts_with(flag)), "{flag} is missing in {text}");
        }
        let text = config("agent", "server: http://x\ntoken: K10abc::node:x\n", &[]).unwrap_err().to_string();
        assert!(text.contains("http://x") && text.contains("CA hash"), "{text}");
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::parser().debug_assert();
    }

    #[test]
    fn objects_are_in_a_file_of_the_server_or_anywhere() {
        let at = |endpoint: &str| {
            server(&["--data-dir=/d", "--datastore-endpoint", endpoint]).map(|config| config.database)
        };
        for (endpoint, file) in [
            ("", "/d/server/db/state.db"),
            ("sqlite", "/d/server/db/state.db"),
            ("sqlite://", "/d/server/db/state.db"),
            ("sqlite://./db/other.db?_journal=WAL", "/d/server/db/other.db"),
            ("sqlite:///x/state.db", "/x/state.db"),
        ] {
            assert_eq!(at(endpoint).unwrap(), PathBuf::from(file), "{endpoint}");
        }
        let refused = at("postgres://me:secret@db/k3s").unwrap_err().to_string();
        assert!(refused.contains("sqlite://PATH") && refused.contains("postgres"), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
        assert!(!at("me:secret@tcp(db)").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn addresses_follow_from_the_service_range() {
        let config = server(&["--service-cidr", "10.96.0.0/12", "--bind-address", "127.0.0.1"]).unwrap();
        assert_eq!(config.service_address().to_string(), "10.96.0.1");
        assert_eq!(config.local_url(), "https://127.0.0.1:6443");
        let config = server(&["--service-cidr", "fd00:43::/112"]).unwrap();
        assert_eq!(config.service_address().to_string(), "fd00:43::1");
    }
}
