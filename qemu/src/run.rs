//! One run: machines are booted, waited for, and powered off.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::future::{join_all, try_join_all};
use qemu::{Accelerator, Arch, Builder, Cluster, Disk, Echo, Error, Forward, Start, State, Vm, Volume};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::until::Until;
use crate::{parse_credential, parse_size};

/// What is kept beside the image, so that the next run goes on where this one ended.
const STATE_FILE: &str = "state.img";
const DISK_COPY_FILE: &str = "disk.run.img";
const KUBECONFIG_FILE: &str = "kubeconfig";
const TOKEN_FILE: &str = "cluster-token";

/// The demo workload's NodePort, and one for Services of one's own.
const DEMO_PORT: u16 = 30080;
const SPARE_PORT: u16 = 30081;

/// The API server's port.
const API_PORT: u16 = 6443;

/// How long the guest may take to power off.
const POWERDOWN_LIMIT: Duration = Duration::from_secs(120);

/// Longer than anybody watches a machine.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long the kubeconfig may take once the node is ready.
const KUBECONFIG_LIMIT: Duration = Duration::from_secs(30);

/// How long a boot may take, and what each further machine adds to it.
const KVM_LIMIT: Duration = Duration::from_secs(120);
const TCG_LIMIT: Duration = Duration::from_secs(600);

/// The command line of `qemu run`.
#[derive(Args)]
pub(crate) struct Run {
    /// Directory that `image build` filled, or the image of a whole disk
    image: PathBuf,
    /// Processor family: x86_64 or aarch64 (default: what the image was built for)
    #[arg(long)]
    arch: Option<Arch>,
    /// Memory of a guest in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Processors of a guest (default: 2; 1 where an x86 is emulated)
    #[arg(long)]
    cpus: Option<u32>,
    /// A configuration for the node: a config.toml of any name, or a directory, such as one for NoCloud
    #[arg(long)]
    config: Option<PathBuf>,
    /// Boot this many machines as one cluster: the first is the server, the others join it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Boot the RAM-only bundle: its two files directly, or by DHCP and TFTP with `--netboot=pxe`
    #[arg(long, value_enum, require_equals = true, num_args = 0..=1, default_missing_value = "kernel")]
    netboot: Option<Netboot>,
    /// Boot the whole disk through UEFI firmware, from a copy that is kept beside it
    #[arg(long, conflicts_with = "netboot")]
    uefi: bool,
    /// Do not print the console, except its end when something fails
    #[arg(long)]
    headless: bool,
    /// Power off and exit as soon as this is reached: ready, api, off, line=TEXT or page=PORT/PATH
    #[arg(long)]
    until: Option<Until>,
    /// Seconds to wait for that, or for the node to be ready (default: 120, and 600 without KVM)
    #[arg(long)]
    timeout: Option<u64>,
    /// State disk, or the copy of the whole disk; made if it is missing (default: beside the image)
    #[arg(long, conflicts_with_all = ["fresh", "nodes"])]
    state: Option<PathBuf>,
    /// Begin with blank disks and throw them away at the end
    #[arg(long)]
    fresh: bool,
    /// Without a state disk: the machine keeps its state in memory
    #[arg(long, conflicts_with_all = ["fresh", "state"])]
    diskless: bool,
    /// Size of a disk that is made, such as 8G: of the state's, or of the whole disk's copy
    #[arg(long, value_parser = parse_size)]
    disk_size: Option<u64>,
    /// One more disk, a raw image; may be repeated
    #[arg(long, conflicts_with = "nodes")]
    disk: Vec<PathBuf>,
    /// Words to add to the kernel command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// A credential for the node, as NAME=FILE; may be repeated
    #[arg(long, value_parser = parse_credential)]
    credential: Vec<(String, PathBuf)>,
    /// A string for SMBIOS's table 11; may be repeated
    #[arg(long)]
    smbios: Vec<String>,
    /// Forward HOST_PORT:GUEST_PORT of the first machine; may be repeated
    #[arg(long)]
    forward: Vec<Forward>,
    /// Go on when the guest restarts; without this a restart is an end, too
    #[arg(long)]
    restarts: bool,
    /// One more argument for QEMU itself; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    qemu: Vec<String>,
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

// === impl Run ===

impl Run {
    /// Runs until the condition is reached, or until a person ends it.
    pub(crate) async fn execute(&self) -> anyhow::Result<()> {
        let mut machines = Vec::new();
        for builder in self.builders()? {
            machines.push(builder.boot().await?);
        }
        let accelerator = machines[0].accelerator();
        eprintln!("qemu: booting {} ({accelerator:?})", self.image.display());
        let mut stop = StopSignals::new()?;
        let outcome = tokio::select! {
            outcome = self.wait(&mut machines, accelerator) => outcome,
            () = stop.next() => return power_off(machines, &mut stop).await,
        };
        match (outcome, &self.until) {
            (Ok(()), Some(Until::Off)) => return Ok(()),
            (Ok(()), Some(_)) => return power_off(machines, &mut stop).await,
            (Ok(()), None) => {}
            // A person may want to look at a machine that is late; a script wants to know.
            (Err(error @ Error::Deadline { .. }), None) => eprintln!("qemu: {error}"),
            (Err(error), _) => return Err(error.into()),
        }
        let ends = tokio::select! {
            ends = join_all(machines.iter_mut().map(|vm| vm.wait_off(FOREVER))) => ends,
            () = stop.next() => return power_off(machines, &mut stop).await,
        };
        report_ends(ends)
    }

    fn builders(&self) -> anyhow::Result<Vec<Builder>> {
        let machine = self.add_configuration(self.hardware())?;
        if self.nodes == 1 {
            return Ok(vec![self.add_forwards(machine).state(self.state(None))]);
        }
        let cluster = Cluster::with_token(&self.token()?)?;
        let node = |number| {
            let machine = machine.clone().state(self.state(Some(number)));
            cluster.node(if number == 1 { self.add_forwards(machine) } else { machine }, number)
        };
        Ok((1..=self.nodes).map(node).collect())
    }

    fn hardware(&self) -> Builder {
        let mut builder = Vm::builder(&self.image)
            .memory_mib(self.memory)
            .append(&self.append)
            .echo(if self.headless { Echo::Off } else { Echo::Stdout });
        if let Some(cpus) = self.cpus {
            builder = builder.cpus(cpus);
        }
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
        if self.restarts {
            builder = builder.restarts();
        }
        for file in &self.disk {
            builder = builder.disk(Disk { file: file.clone(), read_only: false });
        }
        builder.qemu_arguments(self.qemu.iter().map(String::as_str))
    }

    fn add_configuration(&self, mut builder: Builder) -> anyhow::Result<Builder> {
        if let Some(path) = &self.config {
            builder = builder.volume(Volume::from_path(path)?);
        }
        for (name, path) in &self.credential {
            let content = std::fs::read(path)
                .with_context(|| format!("failed to read the credential '{}'", path.display()))?;
            builder = builder.credential(name, content);
        }
        for string in &self.smbios {
            builder = builder.smbios(string);
        }
        Ok(builder)
    }

    fn add_forwards(&self, mut builder: Builder) -> Builder {
        for port in [API_PORT, DEMO_PORT, SPARE_PORT] {
            builder = builder.forward_from(Forward { host: Some(port), guest: port });
        }
        if let Some(port) = self.until.as_ref().and_then(Until::port) {
            builder = builder.forward(port);
        }
        self.forward.iter().fold(builder, |builder, forward| builder.forward_from(*forward))
    }

    /// Whether the machine boots a whole disk, which then also has its state.
    fn whole_disk(&self) -> bool {
        self.uefi || self.image.is_file()
    }

    /// The disk of a machine, which has a number when there are several.
    fn state(&self, number: Option<u8>) -> State {
        let name = if self.whole_disk() { DISK_COPY_FILE } else { STATE_FILE };
        match (&self.state, number) {
            _ if self.diskless => State::None,
            _ if self.fresh => State::Fresh,
            (Some(path), _) => State::File(path.clone()),
            (None, None) => State::File(self.beside(name)),
            (None, Some(number)) => State::File(self.beside(&format!("{}-{name}", Cluster::name(number)))),
        }
    }

    /// The token that machines with kept disks know already.
    fn token(&self) -> anyhow::Result<String> {
        let path = self.beside(TOKEN_FILE);
        if let Ok(token) = std::fs::read_to_string(&path) {
            return Ok(token.trim().to_owned());
        }
        let token = qemu::random_token().context("failed to make a token")?;
        write_private(&path, &token).with_context(|| format!("failed to write '{}'", path.display()))?;
        Ok(token)
    }

    /// A file in the image's directory, or in that of the disk.
    fn beside(&self, name: &str) -> PathBuf {
        if self.image.is_file() { self.image.with_file_name(name) } else { self.image.join(name) }
    }

    fn limit(&self, accelerator: Accelerator) -> Duration {
        let default = match accelerator {
            Accelerator::Kvm => KVM_LIMIT,
            Accelerator::Tcg => TCG_LIMIT,
        };
        self.timeout.map_or(default * u32::from(self.nodes), Duration::from_secs)
    }

    /// Waits for the machines. Once they are ready, the kubeconfig is written, and what can be done now is printed.
    async fn wait(&self, machines: &mut [Vm], accelerator: Accelerator) -> Result<(), Error> {
        let limit = self.limit(accelerator);
        let until = self.until.as_ref().unwrap_or(&Until::Ready);
        if *until != Until::Ready {
            return until.wait(&mut machines[0], limit).await;
        }
        try_join_all(machines.iter_mut().map(|vm| until.wait(vm, limit))).await?;
        self.hand_over(&mut machines[0]).await
    }

    /// Writes the kubeconfig, and prints what can be done with it.
    fn show_cluster(&self, vm: &Vm, kubeconfig: &str, after: f64) -> Result<(), Error> {
        let path = self.beside(KUBECONFIG_FILE);
        write_private(&path, kubeconfig)
            .map_err(|source| Error::Host { action: format!("write '{}'", path.display()), source })?;
        println!("\nReady after {after:.1} s. In another terminal:\n");
        if let Some(port) = vm.forwarded(DEMO_PORT) {
            println!("  curl http://127.0.0.1:{port}/");
        }
        println!("  {} --kubeconfig {} get nodes\n", self.kubectl, path.display());
        Ok(())
    }

    async fn hand_over(&self, vm: &mut Vm) -> Result<(), Error> {
        let uptime = vm.uptime();
        let console = vm.console().clone();
        let kubeconfig = tokio::select! {
            biased;
            kubeconfig = vm.kubeconfig(KUBECONFIG_LIMIT) => Some(kubeconfig?),
            // It has none to give.
            _ = console.wait(0, &[AGENT]) => None,
        };
        let after = uptime.as_secs_f64();
        match kubeconfig {
            Some(kubeconfig) => self.show_cluster(vm, kubeconfig.as_str(), after)?,
            None => println!("\nReady after {after:.1} s, as an agent of another machine's cluster.\n"),
        }
        if self.until.is_none() {
            println!("Ctrl-C powers the machine off.\n");
        }
        Ok(())
    }
}

/// On the console of an agent.
const AGENT: &str = "(role agent)";

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
async fn power_off(mut machines: Vec<Vm>, stop: &mut StopSignals) -> anyhow::Result<()> {
    eprintln!("qemu: powering off (Ctrl-C again to cut the power)");
    let ends = tokio::select! {
        ends = join_all(machines.iter_mut().map(|vm| vm.powerdown(POWERDOWN_LIMIT))) => ends,
        () = stop.next() => {
            eprintln!("qemu: power cut");
            return Ok(());
        }
    };
    report_ends(ends)
}

fn report_ends(ends: Vec<Result<(), Error>>) -> anyhow::Result<()> {
    for end in ends {
        end?;
    }
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
