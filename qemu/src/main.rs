//! `qemu run`: boots an image for a person, or for a script with `--headless --until ready`.

mod run;
mod until;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::run::Run;

/// Runs the appliance in QEMU.
#[derive(Parser)]
#[command(name = "qemu", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots an image that `image build` made
    Run(Box<Run>),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Command::Run(run) = Arguments::parse().command;
    match run.execute().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qemu: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `8G` and the like, in powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("'{unit}' is not K, M, G or T")),
    };
    let number: u64 = number.parse().map_err(|_| "not a size, such as 8G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too much".to_owned())
}

fn parse_credential(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("not NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_powers_of_1024() {
        assert_eq!(parse_size("8G"), Ok(8 << 30));
        assert_eq!(parse_size("512"), Ok(512));
        for wrong in ["", "G", "8g", "8 G", "-1", "99999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_boot_takes_its_kind_after_an_equals_sign_only() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["qemu", "run"], arguments].concat());
        assert!(parse(&["--netboot", "image"]).is_ok());
        assert!(parse(&["--netboot=pxe", "image"]).is_ok());
        assert!(parse(&["--netboot=tape", "image"]).is_err());
        assert!(parse(&["--netboot", "--uefi", "image"]).is_err());
    }
}
