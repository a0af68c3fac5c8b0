//! From what Buildroot leaves behind to an image: `board/post-image.sh` with the real builder, and stand-ins for what
//! takes Buildroot an hour. Only `mkfs.erofs` is a stand-in of the builder's own tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Writes the content of all files below a directory to an image, so that another tree is another image.
const MKFS: &str = "while [ $# -gt 2 ]; do shift; done\n\
                    (cd \"$2\" && find . -type f | LC_ALL=C sort | xargs cat) > \"$1\"\n\
                    truncate -s %4096 \"$1\"\n";

/// Modules that a kernel has to have in one way or another.
const NEEDED: [&str; 3] = ["erofs", "dm_verity", "loop"];

/// Ends a module that only this machine has.
const DRIVER: &[u8] = b"driver of the network port";

/// What `make show-info` prints, in short.
const PACKAGES: &str = r#"{"containerd": {"type": "target", "version": "2.0.5", "licenses": "Apache-2.0",
    "install_target": true, "install_images": false}}"#;

const VERSION: &str = "6.18.40";

/// The configurations of Buildroot, each with what it is for.
const TARGETS: [Target; 3] = [
    Target {
        configuration: "x86_64",
        machine: 62,
        loader: "ld-linux-x86-64.so.2",
        starts: "efi-part/EFI/BOOT/bootx64.efi",
    },
    Target {
        configuration: "aarch64",
        machine: 183,
        loader: "ld-linux-aarch64.so.1",
        starts: "efi-part/EFI/BOOT/bootaa64.efi",
    },
    Target {
        configuration: "raspberrypi4_64",
        machine: 183,
        loader: "ld-linux-aarch64.so.1",
        starts: "rpi-firmware/config.txt",
    },
];

struct Target {
    configuration: &'static str,
    /// The processor's number in ELF files.
    machine: u16,
    loader: &'static str,
    starts: &'static str,
}

/// The output directory of Buildroot.
struct Built {
    scratch: tempfile::TempDir,
    /// What it calls post-image.sh with.
    argument: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read '{}': {error}", path.display()))
}

/// Writes a file and makes the directories above it.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn script(path: &Path, text: &str) {
    write(path, format!("#!/bin/sh\n{text}"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The header of a 64-bit ELF file without sections and segments: a static program, and a module that says nothing.
fn elf(machine: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

// === impl Target ===

impl Target {
    fn defconfig(&self) -> String {
        read(&repository().join(format!("buildroot/configs/skerry_{}_defconfig", self.configuration)))
    }

    /// A setting of the configuration.
    fn setting(&self, name: &str) -> String {
        let text = self.defconfig();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name}")).trim_matches('"').to_owned()
    }

    /// The final configuration of a kernel that got all that the fragments ask for.
    fn kernel_configuration(&self) -> BTreeMap<String, String> {
        let fragments = self.setting("BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES");
        let texts = fragments
            .split_whitespace()
            .map(|word| read(&repository().join("buildroot").join(word.split_once('/').expect("a path").1)));
        let lines: Vec<String> =
            texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        let settings = lines.iter().filter_map(|line| line.split_once('='));
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

// === impl Built ===

impl Built {
    fn new(target: &Target) -> Self {
        let built = Self {
            scratch: tempfile::tempdir().unwrap(),
            argument: target.setting("BR2_ROOTFS_POST_SCRIPT_ARGS"),
        };
        let program = elf(target.machine);
        built.add_tools();
        for path in installed() {
            let crates: &[u8] = b"k3sd v0.1.0 (/build/k3sd)|Apache-2.0\nserde v1.0.1|MIT OR Apache-2.0\n";
            write(&built.path(&path), if path.ends_with("/crates.txt") { crates } else { &program });
        }
        let manifest: toml::Table = read(&repository().join("image/debian.toml")).parse().unwrap();
        for path in
            manifest["files"].as_array().unwrap().iter().flat_map(|files| files["paths"].as_array().unwrap())
        {
            write(&built.path(&format!("target{}", path.as_str().unwrap())), &program);
        }
        write(&built.path("target/usr/share/ca-certificates/mozilla/one.crt"), "certificate\n");
        write(&built.path("target/usr/lib").join(target.loader), &program);
        built.add_kernel(target, &program);
        write(&built.path("images").join(target.starts), "what starts it");
        write(&built.path("images/efi-part/EFI/BOOT/grub.cfg"), "of Buildroot's own\n");
        built
    }

    fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    fn add_tools(&self) {
        fs::create_dir_all(self.path("host/bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_image"), self.path("host/bin/image")).unwrap();
        script(&self.path("host/bin/mkfs.erofs"), MKFS);
    }

    fn add_kernel(&self, target: &Target, module: &[u8]) {
        let fragments = target.setting("BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES");
        let text = format!(
            "BR2_LINUX_KERNEL_VERSION=\"{VERSION}\"\nBR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES=\"{fragments}\"\n"
        );
        write(&self.path(".config"), text);
        write(&self.path("packages.json"), PACKAGES);
        self.configure_kernel(&target.kernel_configuration());
        write(&self.path("images/bzImage"), "kernel");
        write(&self.path("images/Image"), "kernel");
        write(&self.path("images/board.dtb"), "device tree");
        let modules = self.path("target/lib/modules").join(VERSION);
        let builtin: String = NEEDED.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
        write(&modules.join("modules.builtin"), builtin);
        write(&modules.join("kernel/drivers/net/port.ko"), [module, DRIVER].concat());
    }

    fn configure_kernel(&self, settings: &BTreeMap<String, String>) {
        let text: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        write(&self.path(&format!("build/linux-{VERSION}/.config")), text);
    }

    /// Runs the script as Buildroot does.
    fn post_image(&self) -> Output {
        Command::new(repository().join("buildroot/board/post-image.sh"))
            .arg(self.path("images"))
            .arg(&self.argument)
            .env("BR2_CONFIG", self.path(".config"))
            .env("BUILD_DIR", self.path("build"))
            .env("HOST_DIR", self.path("host"))
            .env("TARGET_DIR", self.path("target"))
            .env("BINARIES_DIR", self.path("images"))
            .env("SKERRY_CACHE", self.path("cache"))
            .output()
            .unwrap()
    }
}

/// What our packages install, below Buildroot's output directory. The image builder itself is the real one.
fn installed() -> Vec<String> {
    let mut paths = Vec::new();
    for name in ["skerry-init", "skerry-k3sd"] {
        let text = read(&repository().join(format!("buildroot/package/{name}/{name}.mk")));
        for word in text.split_whitespace() {
            let places = [("$(TARGET_DIR)/", "target/"), ("$(BINARIES_DIR)/", "images/")];
            let found = places
                .iter()
                .find_map(|(variable, at)| Some(format!("{at}{}", word.strip_prefix(variable)?)));
            paths.extend(found);
        }
    }
    assert!(!paths.is_empty());
    paths
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_every_configuration_builds_becomes_an_image() {
    for target in TARGETS {
        let built = Built::new(&target);
        let output = built.post_image();
        assert!(output.status.success(), "{}: {}", target.configuration, text(&output));
        for name in ["disk.img", "root.erofs", "image.lock", "sbom.cdx.json", "netboot/initramfs.img"] {
            assert!(built.path("images/skerry").join(name).is_file(), "{}: {name}", target.configuration);
        }
        let lock: toml::Table = read(&built.path("images/skerry/image.lock")).parse().unwrap();
        assert_eq!(lock["origin"].as_str(), Some("tree"));
        let started_by =
            lock["boot-files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap());
        let name = target.starts.split_once('/').unwrap().1;
        assert!(started_by.into_iter().any(|path| path == name), "{lock}");
        let materials = read(&built.path("images/skerry/sbom.cdx.json"));
        for address in ["pkg:generic/containerd@2.0.5", "pkg:cargo/serde@1.0.1"] {
            assert!(materials.contains(address), "{address}: {materials}");
        }
        let root = fs::read(built.path("images/skerry/root.erofs")).unwrap();
        let has = root.windows(DRIVER.len()).any(|bytes| bytes == DRIVER);
        assert!(has, "{}: no list of ours names the driver, but it was configured", target.configuration);
        let report = text(&output);
        assert!(report.contains("kernel 6.18.40 has no virtio_blk, "), "{report}");
    }
}

#[test]
fn another_loader_makes_another_build() {
    let target = &TARGETS[0];
    let built = Built::new(target);
    let build = || {
        let output = built.post_image();
        assert!(output.status.success(), "{}", text(&output));
        let lock: toml::Table = read(&built.path("images/skerry/image.lock")).parse().unwrap();
        lock["build"].as_str().unwrap().to_owned()
    };
    let first = build();
    assert_eq!(first, build());
    write(&built.path("images").join(target.starts), "another");
    assert_ne!(first, build());
}

#[test]
fn an_option_that_kconfig_dropped_stops_the_build_and_is_named() {
    let target = &TARGETS[0];
    let built = Built::new(target);
    let mut settings = target.kernel_configuration();
    settings.remove("CONFIG_IP_NF_NAT");
    settings.insert("CONFIG_DM_VERITY".into(), "m".into());
    settings.insert("CONFIG_DEVMEM".into(), "y".into());
    // Built in though a module was asked for: something else selects it.
    settings.insert("CONFIG_NF_TABLES".into(), "y".into());
    built.configure_kernel(&settings);
    let output = built.post_image();
    assert!(!output.status.success());
    let text = text(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "check-kernel: CONFIG_DM_VERITY is m, skerry.fragment asks for y",
            "check-kernel: CONFIG_IP_NF_NAT is n, skerry.fragment asks for m",
            "check-kernel: CONFIG_DEVMEM is y, skerry.fragment asks for n",
        ]
    );
}
