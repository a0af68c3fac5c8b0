//! `[sysctl]` and `modules`: what the kernel is told.

use std::collections::BTreeMap;

use crate::read::At;
use crate::tree::{Value, quoted};

/// Kernel settings by name, with dots or slashes as sysctl(8) takes them.
pub type Sysctl = BTreeMap<String, String>;

/// Settings that PID 1 needs as they are.
const OURS: &[&str] = &["kernel.modprobe", "kernel.hostname", "kernel.ctrl-alt-del"];

/// Reads `[sysctl]`. Unquoted dots make nested tables in TOML; they mean the same here.
pub(crate) fn sysctl(at: &At<'_>) -> Sysctl {
    let mut settings = Sysctl::new();
    gather(at, "", &mut settings);
    settings
}

fn gather(at: &At<'_>, above: &str, settings: &mut Sysctl) {
    for (key, at) in at.entries("a table of kernel settings") {
        let name = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        if let Value::Table(_) = at.value() {
            gather(&at, &name, settings);
        } else if !is_name(&name) || OURS.contains(&dotted(&name).as_str()) {
            at.wrong_because(
                &format!("the name {}", quoted(&name)),
                "a kernel setting that the appliance leaves to you, such as vm.max_map_count",
            );
        } else if let Some(value) = setting(&at) {
            settings.insert(name, value);
        }
    }
}

/// The name with dots between its parts, whichever separator it was written with: the first one decides (sysctl.d(5)).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'/') => name.replace('/', "."),
        _ => name.to_owned(),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    name.contains(['.', '/'])
        && name.len() < 256
        && name.bytes().all(plain)
        && name.split(['.', '/']).all(|part| !part.is_empty())
}

fn setting(at: &At<'_>) -> Option<String> {
    match at.value() {
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(u8::from(*on).to_string()),
        _ => at.parsed("a number or one line of text", |text| {
            (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
        }),
    }
}

/// A kernel module to load at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its parameters, as the kernel takes them: `name=value`, with blanks between.
    pub parameters: String,
}

/// Reads `modules`: each a name, or a name and parameters with blanks between.
pub(crate) fn modules(at: &At<'_>) -> Vec<Module> {
    let allowed = "module names, each with its parameters behind it if there are any: \"zram num_devices=2\"";
    at.list(allowed, |at| {
        at.parsed(allowed, |text| {
            let (name, parameters) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            let sound =
                !name.is_empty() && name.bytes().all(plain) && !parameters.chars().any(char::is_control);
            sound.then(|| Module { name: name.to_owned(), parameters: parameters.trim().to_owned() })
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::{Layer, resolve};

    #[test]
    fn a_settings_dots_may_be_quoted_or_not() {
        let text = "[sysctl]\nvm.max_map_count = 262144\n\"net/ipv4/conf/eth0.5/forwarding\" = \"1\"\n";
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        assert_eq!(resolved.mistakes, []);
        let settings: Vec<_> = resolved.config.sysctl.into_iter().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            settings,
            [pair("net/ipv4/conf/eth0.5/forwarding", "1"), pair("vm.max_map_count", "262144")]
        );
    }

    #[test]
    fn a_setting_that_leads_elsewhere_or_belongs_to_pid_1_is_refused() {
        for name in ["../../etc/x", "vm..x", "swappiness", "kernel/modprobe", "kernel.modprobe", "vm.a b"] {
            let text = format!("[sysctl]\n\"{name}\" = 1");
            let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
            assert_eq!(resolved.mistakes.len(), 1, "{name}");
        }
    }

    #[test]
    fn modules_take_parameters() {
        let text = "modules = [\"wireguard\", \"zram num_devices=2\"]";
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        let modules: Vec<_> =
            resolved.config.modules.iter().map(|m| (m.name.as_str(), m.parameters.as_str())).collect();
        assert_eq!(modules, [("wireguard", ""), ("zram", "num_devices=2")]);
    }
}
