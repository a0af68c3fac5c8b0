//! `k3sd`: Kubernetes in one process.
//!
//! This file decides which program the binary is: under the names of CNI plugins it is the CNI plugin, for those of [`tools`] it
//! makes room, for [`admin`]'s words it does one thing and ends, else it is the daemon. [`server`] and [`agent`] wire the daemon's components; the crates below this folder are the components.

mod admin;
mod agent;
mod cli;
mod config;
mod config_file;
mod node;
mod notify;
mod server;
mod tasks;
mod tools;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Role};
use crate::notify::Notifier;

/// The Kubernetes version served, with our own build behind the plus sign.
const VERSION: &str = concat!("v1.36.2+skerry", env!("CARGO_PKG_VERSION"));

/// What is logged unless `RUST_LOG` or `--debug` says otherwise.
const DEFAULT_FILTER: &str = "info";
const DEBUG_FILTER: &str = "debug,h2=info,hyper=info,hyper_util=info,tower=info,rustls=info,tonic=info";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let name = arguments.first().and_then(|path| Path::new(path).file_name()?.to_str()).unwrap_or_default();
    // Started by the container runtime for every pod: nothing else may run before it.
    if network::cni::PROGRAM_NAMES.contains(&name) {
        return network::cni::main();
    }
    if let Some(call) = tools::Call::of(&env::args_os().collect::<Vec<_>>()) {
        return call.run(&config::default_data_dir());
    }
    if let Some(code) = admin::main(&arguments) {
        return code;
    }
    let config = match Config::from_command_line(arguments) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("k3sd: {error:#}");
            return ExitCode::from(2);
        }
    };
    start_logging(config.debug);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "k3sd ends");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    // The TLS library lets the process choose its cryptography once.
    let _second_choice = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("k3sd").build()?;
    for warning in &config.warnings {
        tracing::warn!(warning, "the configuration asks for something that is not done");
    }
    let notifier = Arc::new(Notifier::from_environment(&config.warnings));
    let outcome = match config.role {
        Role::Server(config) => runtime.block_on(server::run(*config, notifier)),
        Role::Agent(config) => runtime.block_on(agent::run(*config, notifier)),
    };
    // What still runs on blocking threads is cut off: all that matters has been awaited above.
    runtime.shutdown_background();
    outcome
}

/// Logs to the journal where standard error leads to one, else as text to standard error.
fn start_logging(debug: bool) {
    use tracing_subscriber::prelude::*;
    let default = if debug { DEBUG_FILTER } else { DEFAULT_FILTER };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    let journal = is_stderr(&stream).then(tracing_journald::layer).and_then(Result::ok);
    match journal.map(|layer| layer.with_priority_mappings(PRIORITIES)) {
        Some(layer) => tracing_subscriber::registry().with(filter).with(layer).init(),
        None => {
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .init();
        }
    }
}

/// syslog's names for our levels; the library's own begin one step higher, and would call what is `info` here a notice.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// Whether `stream` (`DEVICE:INODE`, as service managers put it into `JOURNAL_STREAM`) is our standard error, which is how a program
/// tells that what it writes there goes to a journal (systemd.exec(5)).
fn is_stderr(stream: &str) -> bool {
    let stat = nix::sys::stat::fstat(std::io::stderr());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Watches are connections: take as many descriptors as the machine lets us have.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _best_effort = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_standard_error_is_a_journal() {
        let stat = nix::sys::stat::fstat(std::io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is_stderr(""));
    }
}
