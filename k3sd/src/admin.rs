//! Commands that do one thing and end: `certificate` to a node's files, `token` to a cluster.

mod certificate;
mod cluster;
mod table;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;

/// The words that lead here.
const WORDS: [&str; 2] = ["certificate", "token"];

#[derive(Parser)]
#[command(name = "k3sd", version)]
struct Admin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look at this node's certificates, or have them made anew
    Certificate {
        #[command(subcommand)]
        command: certificate::Command,
        /// Directory of everything that must survive a restart [default: /var/lib/rancher/k3s]
        #[arg(short, long, value_name = "DIR", global = true)]
        data_dir: Option<PathBuf>,
    },
    /// Manage bootstrap tokens, and the cluster's own
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
}

/// Does what the command line asks for, if its word leads here.
pub(crate) fn main(arguments: &[String]) -> Option<ExitCode> {
    if !arguments.get(1).is_some_and(|word| WORDS.contains(&word.as_str())) {
        return None;
    }
    let done = match Admin::parse_from(arguments).command {
        Command::Certificate { command, data_dir } => {
            command.run(&data_dir.unwrap_or_else(config::default_data_dir))
        }
        Command::Token { command } => command.run(),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("k3sd: {error:#}");
            ExitCode::FAILURE
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_well_formed_and_words_lead_to_them() {
        Admin::command().debug_assert();
        let commands: Vec<String> =
            Admin::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        assert_eq!(commands, WORDS);
        assert!(main(&["k3sd".to_owned(), "server".to_owned()]).is_none());
    }
}
