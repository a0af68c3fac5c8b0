//! The demo workload: a small web server that says which node and pod served the page.
//!
//! The image holds this binary and nothing else, so what a person would run by `kubectl exec` is here too:
//!
//! | command | what it does |
//! | --- | --- |
//! | `demo` or `demo serve [ADDRESS]` | serves pages on ADDRESS (default 0.0.0.0:8080) until SIGTERM |
//! | `demo cat FILE...` | prints files |
//! | `demo env` | prints the environment, sorted |
//! | `demo fetch URL` | prints the body of an `http://` page |
//! | `demo hostname` | prints the host name |
//! | `demo kill NAME [SIGNAL]` | kills processes by name, or sends them the signal with a number, where its pod may |
//!
//! It has no TLS and no keep-alive: one request per connection.

mod fetch;
mod identity;
mod kill;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

/// Where `serve` listens when no address is given.
const DEFAULT_ADDRESS: &str = "0.0.0.0:8080";

/// Exit code for a command line that cannot be understood.
const EXIT_USAGE: u8 = 2;

const USAGE: &str =
    "usage: demo [serve [ADDRESS] | cat FILE... | env | fetch URL | hostname | kill NAME [SIGNAL]]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        [] | ["serve"] => serve::run(DEFAULT_ADDRESS),
        ["serve", address] => serve::run(address),
        ["cat", files @ ..] => files.iter().try_for_each(|file| cat(file)),
        ["env"] => print(&environment()),
        ["fetch", url] => fetch::get(url).and_then(|body| print(&body)),
        ["hostname"] => print(&format!("{}\n", identity::hostname())),
        ["kill", name] => kill::by_name(name, kill::SIGKILL).and_then(|text| print(&text)),
        ["kill", name, signal] => signal
            .parse()
            .map_err(|_| io::Error::other(format!("{signal} is no signal's number")))
            .and_then(|signal| kill::by_name(name, signal))
            .and_then(|text| print(&text)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every variable as `NAME=value`, sorted by name.
fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

fn cat(file: &str) -> std::io::Result<()> {
    let bytes = std::fs::read(file).map_err(|error| std::io::Error::other(format!("{file}: {error}")))?;
    std::io::stdout().write_all(&bytes)
}

fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}
