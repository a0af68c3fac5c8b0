//! What the hypervisor hands over: strings in the SMBIOS table, and files of QEMU's firmware configuration.
//!
//! The names are systemd's (systemd.exec(5), "Credentials"): `io.systemd.credential:NAME=TEXT` and
//! `io.systemd.credential.binary:NAME=BASE64` in SMBIOS type 11, `opt/io.systemd.credentials/NAME` in fw_cfg. The credential `skerry.config` is a
//! whole document. Credentials by other names are for others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use node_config::{Layer, decode_base64};

use super::{Part, mistake, read_capped, unreadable};
use crate::modules;
use crate::reaper::{Exit, Reaper};

/// The credential that holds a document.
const CREDENTIAL: &str = "skerry.config";
const TEXT_PREFIX: &str = "io.systemd.credential:";
const BINARY_PREFIX: &str = "io.systemd.credential.binary:";
/// The structures, one behind the other (Documentation/ABI/testing/sysfs-firmware-dmi-tables).
const SMBIOS_TABLE: &str = "/sys/firmware/dmi/tables/DMI";
/// "OEM Strings" (SMBIOS specification 7.12).
const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;
/// Where QEMU's firmware configuration shows its files.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name";
const FW_CFG_FILES: [&str; 2] = ["opt/skerry/config", "opt/io.systemd.credentials/skerry.config"];
/// How ACPI calls the device (QEMU docs/specs/fw_cfg).
const FW_CFG_DEVICE: &str = "/sys/bus/acpi/devices/QEMU0002:00";
const FW_CFG_MODULE: &str = "qemu_fw_cfg";

/// Everything that is handed over to us, lowest first.
pub(super) fn read() -> Vec<Part> {
    let table = fs::read(SMBIOS_TABLE).unwrap_or_default();
    let mut parts: Vec<_> = oem_strings(&table).iter().filter_map(|text| from_string(text)).collect();
    parts.extend(FW_CFG_FILES.iter().filter_map(|name| from_fw_cfg(name)));
    parts
}

/// Loads the driver of QEMU's firmware configuration where there is such a device. The kernel has made the files when this returns.
pub(super) async fn load_driver(reaper: &Reaper) -> Result<()> {
    if !Path::new(FW_CFG_DEVICE).exists() || Path::new(FW_CFG).exists() {
        return Ok(());
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .args([modules::HOTPLUG_ROLE, FW_CFG_MODULE])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    match reaper.run(&mut command).await.context("failed to load the driver of fw_cfg")? {
        Exit::Status(0) => Ok(()),
        exit => anyhow::bail!(
            "the driver of fw_cfg cannot be loaded ({exit}), so no configuration can come that way"
        ),
    }
}

fn from_fw_cfg(name: &str) -> Option<Part> {
    let called = format!("fw_cfg {name}");
    match read_capped(&Path::new(FW_CFG).join(name).join("raw")) {
        Ok(bytes) => Some(Part::of(Layer::toml(&called, &bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Part::wrong(unreadable(&called, &error))),
    }
}

fn from_string(text: &str) -> Option<Part> {
    let credential = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix(CREDENTIAL)?.strip_prefix('=');
    let called = format!("SMBIOS credential {CREDENTIAL}");
    if let Some(text) = credential(TEXT_PREFIX) {
        return Some(Part::of(Layer::toml(&called, text.as_bytes())));
    }
    let encoded = credential(BINARY_PREFIX)?;
    Some(match decode_base64(encoded) {
        Some(bytes) => Part::of(Layer::toml(&called, &bytes)),
        None => Part::wrong(mistake(&called, "something else", "base64")),
    })
}

/// The strings of every structure of type 11. A structure is a header (type, length, handle), the rest of `length` bytes, then its strings,
/// each ended by a zero byte, and one more zero byte; without strings, two.
fn oem_strings(mut table: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [kind, length, ..] = *table {
        let Some(strings) = table.get(usize::from(length)..).filter(|_| length >= 4) else { break };
        let Some(end) = strings.windows(2).position(|pair| pair == [0, 0]) else { break };
        if kind == OEM_STRINGS {
            let texts = strings[..end].split(|&byte| byte == 0).filter(|text| !text.is_empty());
            found.extend(texts.map(|text| String::from_utf8_lossy(text).into_owned()));
        }
        if kind == END_OF_TABLE {
            break;
        }
        table = &strings[end + 2..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, 4 + formatted.len() as u8, 0, 0];
        bytes.extend(formatted);
        for text in strings {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    #[test]
    fn strings_of_type_11_are_found_between_other_structures() {
        let table = [
            structure(0, &[1, 2], &["SeaBIOS", "io.systemd.credential:skerry.config=wrong type"]),
            structure(16, &[0; 19], &[]),
            structure(11, &[2], &["a", "io.systemd.credential:skerry.config=[node]"]),
            structure(127, &[], &[]),
        ]
        .concat();
        assert_eq!(oem_strings(&table), ["a", "io.systemd.credential:skerry.config=[node]"]);
        for end in 0..table.len() {
            // A table that is cut off gives what is whole.
            assert!(oem_strings(&table[..end]).len() <= 2);
        }
        assert_eq!(oem_strings(&[11, 0, 0, 0, 0, 0]), Vec::<String>::new());
    }

    #[test]
    fn a_credential_is_text_or_base64_and_others_are_left_alone() {
        let layer = |text: &str| {
            from_string(text).map(|part| (part.layer.map(|layer| layer.to_toml()), part.mistakes.len()))
        };
        let document = Some((Some("\n[log]\ndisk = true\n".to_owned()), 0));
        assert_eq!(layer("io.systemd.credential:skerry.config=log.disk=true"), document);
        assert_eq!(layer("io.systemd.credential.binary:skerry.config=bG9nLmRpc2s9dHJ1ZQ=="), document);
        assert_eq!(layer("io.systemd.credential.binary:skerry.config=%"), Some((None, 1)));
        assert_eq!(layer("io.systemd.credential:skerry.configuration=x"), None);
    }
}
