//! Builds what a machine boots: the root file system, the kernel and initramfs beside it, and the container images
//! inside it.
//!
//! Nothing here needs root, a loop device, a registry or a container engine, and nothing outside the output and cache
//! directories is written. The same inputs give the same bytes.
//!
//! | module | its part |
//! | --- | --- |
//! | [`build`] | the sequence of `image build`, readable as a list |
//! | [`manifest`] | `debian.toml`: which file comes from which package, and why |
//! | [`apt`] | Debian packages by a private apt configuration, cached |
//! | [`target`] | `targets/`: what differs between kinds of machines |
//! | [`source`], [`programs`] | where files come from: Debian or a tree, and our own binaries |
//! | [`rootfs`], [`tree`] | what the root file system consists of, as a directory |
//! | [`buildroot`] | what a tree was made from |
//! | [`libraries`], [`elf`] | which shared libraries the programs need |
//! | [`modules`] | which kernel modules, and the indexes over them |
//! | [`initramfs`], [`erofs`] | the two file system images |
//! | [`boot`], [`partitions`] | the BOOT partition's files, and the image of a whole disk |
//! | [`identity`], [`sbom`] | what the image says of itself: os-release, and all that it is made from |
//! | [`flash`] | a disk image onto a disk |
//! | [`oci`] | container images made from one static binary |
//! | [`tool`], [`cache`] | programs of another release, and where downloads are kept |
//! | [`lock`], [`inspect`] | `image.lock`: what went in, and whether the files still are what came out |
//! | [`components`] | which parts of the root take how much room |

mod apt;
mod boot;
mod build;
mod buildroot;
mod cache;
mod components;
mod digest;
mod elf;
mod erofs;
mod flash;
mod identity;
mod initramfs;
mod inspect;
mod libraries;
mod lock;
mod manifest;
mod modules;
mod oci;
mod partitions;
mod programs;
mod replace;
mod rootfs;
mod sbom;
mod source;
mod target;
mod tool;
mod tree;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Builds the artifacts of the appliance.
#[derive(Parser)]
#[command(name = "image", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the disk image, the netboot bundle and their parts from Debian's packages and our binaries
    Build(build::Options),
    /// Builds an OCI image layout (a tar file) from one static binary
    Oci(oci::Options),
    /// Prints what an image, a disk, a root file system or an initramfs has in it, and checks that it is as it was built
    Inspect(inspect::Options),
    /// Writes a disk image to a disk, checks it, and gives it a configuration
    Flash(flash::Options),
    /// Prints where a build tool is, fetching it into the cache if the host has none
    Tool {
        /// The tool's name in debian.toml
        name: String,
        /// Take the packages' newest versions even if the lists are fresh
        #[arg(long)]
        refresh: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Build(options) => build::run(&options),
        Command::Oci(options) => oci::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Flash(options) => flash::run(&options),
        Command::Tool { name, refresh } => print_tool(&name, refresh),
    }
}

/// Prints a script that runs the tool: it may need another release's loader and libraries around it.
fn print_tool(name: &str, refresh: bool) -> anyhow::Result<()> {
    let manifest = manifest::Manifest::embedded()?;
    let tool = manifest.tools.get(name).with_context(|| format!("debian.toml has no tool '{name}'"))?;
    let cache = cache::Cache::open()?;
    let refresh = if refresh { apt::Refresh::Always } else { apt::Refresh::WhenOld };
    let archive = apt::Archive::open(&cache, &manifest.archive, tool::Tool::ARCHITECTURE, refresh)?;
    let path: PathBuf = tool::Tool::prepare(&archive, tool)?.wrapper(&cache, name)?;
    println!("{}", path.display());
    Ok(())
}
