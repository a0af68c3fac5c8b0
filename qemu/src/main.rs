//! `qemu run`: boots an image for a person, or for a script with `--headless --until ready`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use qemu::{Accelerator, Arch, Builder, Disk, Echo, Forward, READY_LINE, Start, State, Vm, Volume};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The state disk that is kept beside the image.
const STATE_FILE: &str = "state.img";

/// The copy of the whole disk that is booted, and kept, beside it.
const DISK_COPY_FILE: &str = "disk.run.img";

/// The kubeconfig that is written beside the image.
const KUBECONFIG_FILE: &str = "kubeconfig";

/// The demo workload's NodePort.
const DEMO_PORT: u16 = 30080;

/// The API server's port.
const API_PORT: u16 = 6443;

/// How long the guest may take to power off.
const POWERDOWN_LIMIT: Duration = Duration::from_secs(120);

/// Longer than anybody watches a machine.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long the kubeconfig may take once the node is ready.
const KUBECONFIG_LIMIT: Duration = Duration::from_secs(30);

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
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// Directory that `image build` filled, or the image of a whole disk
    image: PathBuf,
    /// Processor family: x86_64 or aarch64 (default: what the image was built for)
    #[arg(long)]
    arch: Option<Arch>,
    /// Memory of the guest in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Do not print the console, except its end when something fails
    #[arg(long)]
    headless: bool,
    /// Power off and exit as soon as this is reached
    #[arg(long)]
    until: Option<Until>,
    /// State disk; made if it is missing (default: state.img beside the image)
    #[arg(long, conflicts_with = "fresh")]
    state: Option<PathBuf>,
    /// Begin with a blank state disk and throw it away at the end
    #[arg(long)]
    fresh: bool,
    /// Without a state disk: the machine keeps its state in memory
    #[arg(long, conflicts_with_all = ["fresh", "state"])]
    diskless: bool,
    /// Boot the whole disk through UEFI firmware, from a copy that is kept beside it
    #[arg(long, conflicts_with = "netboot")]
    uefi: bool,
    /// Boot the RAM-only bundle: its two files directly, or by DHCP and TFTP with `--netboot=pxe`
    #[arg(long, value_enum, require_equals = true, num_args = 0..=1, default_missing_value = "kernel")]
    netboot: Option<Netboot>,
    /// Size of a disk that is made, such as 8G: of the state's, or of the whole disk's copy
    #[arg(long, value_parser = parse_size)]
    disk_size: Option<u64>,
    /// One more disk, a raw image; may be repeated
    #[arg(long)]
    disk: Vec<PathBuf>,
    /// A configuration for the node: a config.toml of any name, or a directory, such as one for NoCloud
    #[arg(long)]
    config: Option<PathBuf>,
    /// A credential for the node, as NAME=FILE; may be repeated
    #[arg(long, value_parser = parse_credential)]
    credential: Vec<(String, PathBuf)>,
    /// A string for SMBIOS's table 11; may be repeated
    #[arg(long)]
    smbios: Vec<String>,
    /// One more argument for QEMU itself; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    qemu: Vec<String>,
    /// Words to add to the kernel command line
    #[arg(long, default_value = "")]
    append: String,
    /// Seconds to wait for the node to be ready (default: 120, and 600 without KVM)
    #[arg(long)]
    timeout: Option<u64>,
    /// Forward HOST_PORT:GUEST_PORT; may be repeated
    #[arg(long)]
    forward: Vec<Forward>,
    /// The kubectl to name in the printed line
    #[arg(long, default_value = "kubectl")]
    kubectl: String,
}

/// How a RAM-only bundle is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Netboot {
    /// QEMU loads kernel and initramfs.
    Kernel,
    /// The network card's boot program does, by DHCP and TFTP.
    Pxe,
}

/// Where a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The node is Ready and every service is.
    Ready,
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

impl Run {
    async fn execute(&self) -> anyhow::Result<()> {
        let mut vm = self.boot().await?;
        eprintln!("qemu: booting {} ({:?})", self.image.display(), vm.accelerator());
        let mut stop = StopSignals::new()?;
        let outcome = tokio::select! {
            outcome = self.wait_ready(&mut vm) => outcome,
            () = stop.next() => return power_off(&mut vm, &mut stop).await,
        };
        match (outcome, self.until) {
            (Ok(()), Some(Until::Ready)) => return power_off(&mut vm, &mut stop).await,
            (Ok(()), None) => {}
            // A person may want to look at a machine that is late; a script wants to know.
            (Err(error @ qemu::Error::Deadline { .. }), None) => eprintln!("qemu: {error}"),
            (Err(error), _) => return Err(error.into()),
        }
        tokio::select! {
            status = vm.wait_end(FOREVER) => report_end(status?),
            () = stop.next() => power_off(&mut vm, &mut stop).await,
        }
    }

    async fn boot(&self) -> Result<Vm, qemu::Error> {
        let mut builder = Vm::builder(&self.image)
            .memory_mib(self.memory)
            .cpus(self.cpus)
            .state(self.state())
            .append(&self.append)
            .echo(if self.headless { Echo::Off } else { Echo::Stdout })
            .forward_from(Forward { host: Some(API_PORT), guest: API_PORT })
            .forward_from(Forward { host: Some(DEMO_PORT), guest: DEMO_PORT });
        for forward in &self.forward {
            builder = builder.forward_from(*forward);
        }
        self.add_hardware(self.add_configuration(builder)?).boot().await
    }

    /// Whether the machine boots a whole disk, which then also has its state.
    fn whole_disk(&self) -> bool {
        self.uefi || self.image.is_file()
    }

    fn state(&self) -> State {
        match (&self.state, self.fresh) {
            _ if self.diskless => State::None,
            (_, true) => State::Fresh,
            (Some(path), false) => State::File(path.clone()),
            (None, false) if self.whole_disk() => State::File(beside(&self.image, DISK_COPY_FILE)),
            (None, false) => State::File(beside(&self.image, STATE_FILE)),
        }
    }

    fn add_hardware(&self, mut builder: Builder) -> Builder {
        if let Some(arch) = self.arch {
            builder = builder.arch(arch);
        }
        builder = match self.netboot {
            Some(Netboot::Kernel) => builder.start(Start::Netboot),
            Some(Netboot::Pxe) => builder.start(Start::Pxe),
            None if self.whole_disk() => builder.start(Start::Uefi),
            None => builder,
        };
        if let Some(bytes) = self.disk_size {
            builder = builder.disk_bytes(bytes);
        }
        for file in &self.disk {
            builder = builder.disk(Disk { file: file.clone(), read_only: false });
        }
        builder.qemu_arguments(self.qemu.iter().map(String::as_str))
    }

    fn add_configuration(&self, mut builder: Builder) -> Result<Builder, qemu::Error> {
        if let Some(path) = &self.config {
            builder = builder.volume(Volume::from_path(path)?);
        }
        for (name, path) in &self.credential {
            let content = std::fs::read(path).map_err(|source| qemu::Error::Host {
                action: format!("read the credential '{}'", path.display()),
                source,
            })?;
            builder = builder.credential(name, content);
        }
        for string in &self.smbios {
            builder = builder.smbios(string);
        }
        Ok(builder)
    }

    /// Waits for the node, then writes the kubeconfig and prints what can be done now.
    async fn wait_ready(&self, vm: &mut Vm) -> Result<(), qemu::Error> {
        let limit = self.timeout.map_or_else(|| default_limit(vm.accelerator()), Duration::from_secs);
        vm.wait_line(READY_LINE, limit).await?;
        let uptime = vm.uptime();
        let kubeconfig = vm.kubeconfig(KUBECONFIG_LIMIT).await?;
        let path = beside(&self.image, KUBECONFIG_FILE);
        write_private(&path, &kubeconfig)
            .map_err(|source| qemu::Error::Host { action: format!("write '{}'", path.display()), source })?;
        println!("\nReady after {:.1} s. In another terminal:\n", uptime.as_secs_f64());
        if let Some(port) = vm.forwarded(DEMO_PORT) {
            println!("  curl http://127.0.0.1:{port}/");
        }
        println!("  {} --kubeconfig {} get nodes\n", self.kubectl, path.display());
        if self.until.is_none() {
            println!("Ctrl-C powers the machine off.\n");
        }
        Ok(())
    }
}

/// A file in the image's directory, or in that of the disk.
fn beside(image: &Path, name: &str) -> PathBuf {
    if image.is_file() { image.with_file_name(name) } else { image.join(name) }
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

fn default_limit(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => Duration::from_secs(120),
        Accelerator::Tcg => Duration::from_secs(600),
    }
}

/// Ctrl-C from a person, SIGTERM from a script.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Powers off in order; a second signal cuts the power.
async fn power_off(vm: &mut Vm, stop: &mut StopSignals) -> anyhow::Result<()> {
    eprintln!("qemu: powering off (Ctrl-C again to cut the power)");
    tokio::select! {
        status = vm.powerdown(POWERDOWN_LIMIT) => report_end(status?),
        () = stop.next() => {
            eprintln!("qemu: power cut");
            Ok(())
        }
    }
}

fn report_end(status: std::process::ExitStatus) -> anyhow::Result<()> {
    anyhow::ensure!(status.success(), "QEMU ended with {status}");
    eprintln!("qemu: the machine is off");
    Ok(())
}

/// Writes a file that only its owner can read: whoever has the kubeconfig has the cluster.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
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
    fn the_kubeconfig_is_for_its_owner_only_even_if_an_open_one_was_there() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("kubeconfig");
        std::fs::write(&path, "old").unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
