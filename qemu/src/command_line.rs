//! QEMU's arguments for one machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::kubeconfig;

/// What a machine consists of. All paths exist, all ports are chosen.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    /// QEMU's major version.
    pub(crate) version: u32,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// Directory with `vmlinuz`, `initramfs.img` and `root.erofs`.
    pub(crate) image: PathBuf,
    pub(crate) state: Option<PathBuf>,
    /// Added to the kernel command line; a later word wins over an earlier one.
    pub(crate) append: String,
    /// Host port and guest port.
    pub(crate) forwards: Vec<(u16, u16)>,
    pub(crate) control_socket: PathBuf,
    pub(crate) kubeconfig_socket: PathBuf,
}

/// The files of an image.
pub(crate) const KERNEL: &str = "vmlinuz";
pub(crate) const INITRAMFS: &str = "initramfs.img";
pub(crate) const ROOT: &str = "root.erofs";

/// The kernel command line of every machine. The console shows the kernel's errors and leaves its other news to the
/// log; after a panic it resets, which ends QEMU.
const KERNEL_ARGUMENTS: &str = "console=ttyS0,115200 loglevel=4 panic=5 skerry.role=server skerry.hostname=skerry skerry.root=LABEL=skerry-root";

impl Machine {
    /// All arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.add("-nodefaults");
        arguments.pair("-display", "none");
        arguments.add("-no-reboot");
        // No SATA controller: nothing is on it, and the guest would look for half a second.
        arguments.pair("-machine", "q35,sata=off");
        arguments.pair("-accel", self.accelerator_argument());
        arguments.pair("-cpu", self.cpu());
        arguments.pair("-smp", self.cpus.to_string());
        arguments.pair("-m", format!("{}M", self.memory_mib));
        arguments.pair("-kernel", self.image.join(KERNEL));
        arguments.pair("-initrd", self.image.join(INITRAMFS));
        arguments.pair("-append", format!("{KERNEL_ARGUMENTS} {}", self.append).trim_end());
        arguments.drive("root", &self.image.join(ROOT), "readonly=on");
        if let Some(state) = &self.state {
            arguments.drive("state", state, "discard=unmap");
        }
        arguments.pair("-netdev", self.network());
        arguments.pair("-device", "virtio-net-pci,netdev=net0,romfile=");
        arguments.pair("-device", "virtio-rng-pci");
        arguments.pair("-chardev", "stdio,id=console,signal=off");
        arguments.pair("-serial", "chardev:console");
        arguments.socket("control", &self.control_socket);
        arguments.pair("-mon", "chardev=control,mode=control");
        arguments.pair("-device", "virtio-serial-pci");
        arguments.socket("kubeconfig", &self.kubeconfig_socket);
        arguments
            .pair("-device", format!("virtserialport,chardev=kubeconfig,name={}", kubeconfig::PORT_NAME));
        arguments.0
    }

    fn accelerator_argument(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }

    /// QEMU 7.2 translates `cmpxchg16b` wrongly under threads: the kernel panics in its allocator in a quarter of the
    /// boots. Five-level paging and protection keys cost translation time and bring nothing here.
    fn cpu(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg if self.version < 8 => "max,la57=off,pku=off,cx16=off",
            Accelerator::Tcg => "max,la57=off,pku=off",
        }
    }

    fn network(&self) -> String {
        let forwards: Vec<String> = self
            .forwards
            .iter()
            .map(|(host, guest)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"))
            .collect();
        format!("user,id=net0{}", forwards.concat())
    }
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

    fn drive(&mut self, id: &str, file: &Path, options: &str) {
        let mut value = OsString::from(format!("if=none,id={id},format=raw,{options},file="));
        value.push(escape(file));
        self.pair("-drive", value);
        self.pair("-device", format!("virtio-blk-pci,drive={id},serial={id}"));
    }

    /// A character device on a socket that we listen on already, so that nothing the guest says is lost.
    fn socket(&mut self, id: &str, path: &Path) {
        let mut value = OsString::from(format!("socket,id={id},path="));
        value.push(escape(path));
        self.pair("-chardev", value);
    }
}

/// In QEMU's option lists a comma is written twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            version: 7,
            memory_mib: 1024,
            cpus: 2,
            image: "/image,1".into(),
            state: Some("/state".into()),
            append: "skerry.log=debug".into(),
            forwards: vec![(8080, 30080)],
            control_socket: "/c".into(),
            kubeconfig_socket: "/k".into(),
        }
    }

    #[test]
    fn a_comma_in_a_path_does_not_become_an_option() {
        let arguments = machine().arguments();
        assert!(arguments.iter().any(|argument| {
            argument.to_string_lossy().ends_with("format=raw,readonly=on,file=/image,,1/root.erofs")
        }));
    }

    #[test]
    fn what_the_caller_appends_comes_last_and_wins() {
        let arguments = machine().arguments();
        assert!(arguments.iter().any(|argument| argument.to_string_lossy().ends_with(" skerry.log=debug")));
    }

    #[test]
    fn only_an_old_qemu_gets_its_broken_instruction_switched_off() {
        assert!(machine().cpu().contains("cx16=off"));
        assert!(!Machine { version: 10, ..machine() }.cpu().contains("cx16"));
        assert_eq!(Machine { accelerator: Accelerator::Kvm, ..machine() }.cpu(), "host");
    }
}
