//! QEMU's arguments for one machine.

use std::ffi::OsString;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::arch::{Arch, Firmware};
use crate::error::Error;
use crate::image::{Kernel, NETBOOT_SCRIPT};
use crate::kubeconfig;

/// What a machine consists of. All paths exist, all ports are chosen.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    pub(crate) accelerator: Accelerator,
    /// QEMU's major version.
    pub(crate) version: u32,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) boot: Boot,
    /// In the order in which the guest numbers them.
    pub(crate) drives: Vec<Drive>,
    pub(crate) user: UserNetwork,
    pub(crate) lan: Option<Lan>,
    /// Strings of SMBIOS's table 11.
    pub(crate) smbios: Vec<String>,
    /// Name and content of QEMU's firmware configuration.
    pub(crate) fw_cfg: Vec<(String, PathBuf)>,
    /// Whether QEMU goes on when the guest restarts; else that ends it.
    pub(crate) restarts: bool,
    /// As they are, at the end.
    pub(crate) extra: Vec<String>,
    pub(crate) control_socket: PathBuf,
    pub(crate) kubeconfig_socket: PathBuf,
}

/// How a machine gets to its kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Boot {
    /// QEMU puts it there, with this command line.
    Kernel(Kernel, String),
    /// The firmware looks on the first drive. The variables are the machine's own copy.
    Firmware(Firmware),
    /// The network card's boot program asks by DHCP and TFTP; this directory is served.
    Network(PathBuf),
}

/// One virtual disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drive {
    /// Also the disk's serial number, which the guest shows.
    pub(crate) id: String,
    pub(crate) file: PathBuf,
    pub(crate) read_only: bool,
}

/// The network that leads to the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UserNetwork {
    /// Host port and guest port.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// The machine's number, from 1: machines get different addresses even though their networks do not meet.
    pub(crate) number: u8,
}

/// A network that machines share among themselves, by multicast on the host's loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lan {
    /// Tells one such network from another: a UDP port.
    pub port: u16,
    /// The machine's number in it, from 1; it makes the card's hardware address.
    pub number: u8,
}

impl Lan {
    /// A network that nothing else on this host uses, for the machine with this number.
    ///
    /// # Errors
    /// When the host has no port to give.
    pub fn free(number: u8) -> Result<Self, Error> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = socket.map_err(Error::host("find a free port for the machines' network"))?.port();
        Ok(Self { port, number })
    }
}

/// The network to the host, for [`crate::Vm::set_link`].
pub const USER_NETWORK: &str = "net0";
/// The network shared with other machines, for [`crate::Vm::set_link`].
pub const LAN_NETWORK: &str = "lan0";

/// The first address that the user network's DHCP server gives to machine 1.
const FIRST_HOST: u8 = 15;
/// Multicast group of shared networks: locally scoped (RFC 2365), and it never leaves the loopback interface.
const GROUP: &str = "239.83.75.89";

impl Machine {
    /// All arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        self.add_board(&mut arguments);
        self.add_boot(&mut arguments);
        for drive in &self.drives {
            arguments.drive(drive, matches!(self.boot, Boot::Firmware(_)));
        }
        self.add_network(&mut arguments);
        for string in &self.smbios {
            arguments.pair("-smbios", format!("type=11,value={}", escape(string)));
        }
        for (name, path) in &self.fw_cfg {
            arguments.pair("-fw_cfg", format!("name={},file={}", escape(name), escape_path(path)));
        }
        self.add_ports(&mut arguments);
        for argument in &self.extra {
            arguments.add(argument);
        }
        arguments.0
    }

    fn add_board(&self, arguments: &mut Arguments) {
        arguments.add("-nodefaults");
        arguments.pair("-display", "none");
        if !self.restarts {
            arguments.add("-no-reboot");
        }
        arguments.pair("-machine", self.arch.board());
        arguments.pair("-accel", self.arch.accel(self.accelerator));
        arguments.pair("-cpu", self.arch.cpu(self.accelerator, self.version));
        arguments.pair("-smp", self.cpus.to_string());
        arguments.pair("-m", format!("{}M", self.memory_mib));
        arguments.pair("-device", "virtio-rng-pci");
    }

    fn add_boot(&self, arguments: &mut Arguments) {
        match &self.boot {
            Boot::Kernel(kernel, words) => {
                arguments.pair("-kernel", &kernel.kernel);
                arguments.pair("-initrd", &kernel.initramfs);
                arguments.pair("-append", words);
            }
            Boot::Firmware(firmware) => {
                let code = escape_path(&firmware.code);
                arguments.pair("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
                let variables = escape_path(&firmware.variables);
                arguments.pair("-drive", format!("if=pflash,unit=1,format=raw,file={variables}"));
            }
            Boot::Network(_) => {}
        }
    }

    fn add_network(&self, arguments: &mut Arguments) {
        let UserNetwork { forwards, number } = &self.user;
        let first = FIRST_HOST.saturating_add(number.saturating_sub(1));
        let mut user = format!("user,id={USER_NETWORK},dhcpstart=10.0.2.{first}");
        if let Boot::Network(directory) = &self.boot {
            user += &format!(",tftp={},bootfile={NETBOOT_SCRIPT}", escape_path(directory));
        }
        for (host, guest) in forwards {
            user += &format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        }
        arguments.pair("-netdev", user);
        // The card's boot program costs a second where it has nothing to do.
        let rom = if matches!(self.boot, Boot::Network(_)) { "bootindex=1" } else { "romfile=" };
        let address = user_address(*number);
        arguments
            .pair("-device", format!("virtio-net-pci,id=nic0,netdev={USER_NETWORK},mac={address},{rom}"));
        if let Some(Lan { port, number }) = self.lan {
            let lan = format!("socket,id={LAN_NETWORK},mcast={GROUP}:{port},localaddr=127.0.0.1");
            arguments.pair("-netdev", lan);
            let address = lan_address(number);
            arguments.pair(
                "-device",
                format!("virtio-net-pci,id=nic1,netdev={LAN_NETWORK},mac={address},romfile="),
            );
        }
    }

    /// The console, and the sockets by which the harness and the guest's kubeconfig come and go.
    fn add_ports(&self, arguments: &mut Arguments) {
        arguments.pair("-chardev", "stdio,id=console,signal=off");
        arguments.pair("-serial", "chardev:console");
        arguments.socket("control", &self.control_socket);
        arguments.pair("-mon", "chardev=control,mode=control");
        arguments.pair("-device", "virtio-serial-pci");
        arguments.socket("kubeconfig", &self.kubeconfig_socket);
        arguments
            .pair("-device", format!("virtserialport,chardev=kubeconfig,name={}", kubeconfig::PORT_NAME));
    }
}

/// The hardware address of a machine's card on the shared network.
pub(crate) fn lan_address(number: u8) -> String {
    hardware_address(1, number)
}

/// The hardware address of a machine's card on the network to the host.
pub(crate) fn user_address(number: u8) -> String {
    hardware_address(0, number)
}

/// Under QEMU's prefix, which is locally administered.
fn hardware_address(network: u8, number: u8) -> String {
    format!("52:54:00:53:{network:02x}:{number:02x}")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, argument: impl Into<OsString>) {
        self.0.push(argument.into());
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.add(name);
        self.add(value);
    }

    fn drive(&mut self, drive: &Drive, bootable: bool) {
        let id = &drive.id;
        let file = escape_path(&drive.file);
        let options = if drive.read_only { "readonly=on" } else { "discard=unmap" };
        self.pair("-drive", format!("if=none,id={id},format=raw,{options},file={file}"));
        let boot = if bootable && id == SYSTEM_DRIVE { ",bootindex=0" } else { "" };
        self.pair("-device", format!("virtio-blk-pci,drive={id},serial={id}{boot}"));
    }

    /// A character device on a socket that we listen on already, so that nothing the guest says is lost.
    fn socket(&mut self, id: &str, path: &Path) {
        self.pair("-chardev", format!("socket,id={id},path={}", escape_path(path)));
    }
}

/// The drive with the system on it.
pub(crate) const SYSTEM_DRIVE: &str = "root";

/// In QEMU's option lists a comma is written twice.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

fn escape_path(path: &Path) -> String {
    escape(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let kernel = Kernel { kernel: "/vmlinuz".into(), initramfs: "/initramfs".into() };
        Machine {
            arch: Arch::X86_64,
            accelerator: Accelerator::Tcg,
            version: 7,
            memory_mib: 1024,
            cpus: 2,
            boot: Boot::Kernel(kernel, "console=ttyS0".into()),
            drives: vec![Drive {
                id: SYSTEM_DRIVE.into(),
                file: "/image,1/disk.img".into(),
                read_only: true,
            }],
            user: UserNetwork { forwards: vec![(8080, 30080)], number: 2 },
            lan: None,
            smbios: vec!["a=b,c".into()],
            fw_cfg: vec![("opt/skerry/config".into(), "/c".into())],
            restarts: false,
            extra: vec!["-s".into()],
            control_socket: "/c".into(),
            kubeconfig_socket: "/k".into(),
        }
    }

    fn text(machine: &Machine) -> String {
        machine.arguments().iter().map(|argument| argument.to_string_lossy() + " ").collect()
    }

    #[test]
    fn a_comma_in_a_path_or_a_string_does_not_become_an_option() {
        let text = text(&machine());
        assert!(text.contains("readonly=on,file=/image,,1/disk.img "), "{text}");
        assert!(text.contains("type=11,value=a=b,,c "), "{text}");
    }

    #[test]
    fn machines_on_one_network_have_addresses_of_their_own() {
        let first = Machine { lan: Some(Lan { port: 7000, number: 1 }), ..machine() };
        let second = Machine { lan: Some(Lan { port: 7000, number: 2 }), ..machine() };
        assert!(text(&first).contains("mac=52:54:00:53:01:01"));
        assert!(text(&second).contains("mac=52:54:00:53:01:02"));
        assert!(text(&second).contains("dhcpstart=10.0.2.16"));
        assert!(text(&second).contains("mcast=239.83.75.89:7000,localaddr=127.0.0.1"));
    }

    #[test]
    fn only_a_network_boot_loads_the_cards_boot_program() {
        assert!(text(&machine()).contains("romfile="));
        let netboot = Machine { boot: Boot::Network("/netboot".into()), ..machine() };
        let text = text(&netboot);
        assert!(!text.contains("romfile=") && text.contains("tftp=/netboot,bootfile=boot.ipxe"), "{text}");
    }

    #[test]
    fn firmware_boots_the_disk_with_the_system() {
        let firmware = Firmware { code: "/code".into(), variables: "/vars".into() };
        let text = text(&Machine { boot: Boot::Firmware(firmware), ..machine() });
        assert!(text.contains("drive=root,serial=root,bootindex=0"), "{text}");
        assert!(text.contains("unit=1,format=raw,file=/vars"), "{text}");
        assert!(!text.contains("-kernel"), "{text}");
    }
}
