//! `[[files]]`: files that are written at every boot.

use std::collections::BTreeSet;

use crate::base64;
use crate::read::At;
use crate::tree::{Value, quoted};

/// A file that is written at every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it goes: absolute, without `.` and `..`, below one of [`PLACES`].
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub permissions: u32,
}

/// The directories below which files may be written. Everything else is read-only, or PID 1's own.
pub const PLACES: &[&str] =
    &["/etc/", "/run/", "/var/lib/rancher/", "/var/lib/kubelet/", "/var/lib/cni/", "/var/local/"];

/// Files below [`PLACES`] that are generated from the configuration itself, and what to write instead.
const GENERATED: &[(&str, &str)] = &[
    ("/etc/hostname", "node.hostname"),
    ("/etc/hosts", "a name server, with network.nameservers"),
    ("/etc/machine-id", "nothing: it is made once and kept on STATE"),
    ("/etc/mtab", "nothing"),
    ("/etc/passwd", "nothing: there are no users"),
    ("/etc/group", "nothing: there are no users"),
    ("/etc/resolv.conf", "network.nameservers and network.search"),
    ("/etc/containerd/config.toml", "nothing: it is the appliance's"),
    ("/etc/rancher/k3s/config.yaml", "the section [k3s], or a file in /etc/rancher/k3s/config.yaml.d/"),
    ("/etc/rancher/k3s/registries.yaml", "the section [registries]"),
    ("/etc/rancher/node/password", "nothing: it is made once and kept on STATE"),
];
/// PID 1's own.
const OWN: &[&str] = &["/run/skerry/", "/run/k3s/", "/run/systemd/", "/etc/rancher/node/"];

const DEFAULT_PERMISSIONS: u32 = 0o644;

/// Reads the section.
pub(crate) fn read(at: &At<'_>) -> Vec<File> {
    let mut paths = BTreeSet::new();
    at.list("tables, each written as [[files]]", |at| {
        let fields = at.fields(&["path", "content", "encoding", "permissions"])?;
        let path = match fields.get("path") {
            Some(at) => path(&at).filter(|path| {
                let first = paths.insert(path.clone());
                if !first {
                    at.wrong("each path once");
                }
                first
            }),
            None => {
                fields.whole().wrong("path and content");
                None
            }
        };
        let encoded = fields.get("encoding").and_then(|at| at.choice(&[("text", false), ("base64", true)]));
        let content = fields.get("content").and_then(|at| content(&at, encoded.unwrap_or_default()));
        let permissions = fields.get("permissions").and_then(|at| permissions(&at));
        let content = match fields.get("content") {
            Some(_) => content?,
            None => Vec::new(),
        };
        Some(File { path: path?, content, permissions: permissions.unwrap_or(DEFAULT_PERMISSIONS) })
    })
}

fn path(at: &At<'_>) -> Option<String> {
    let allowed = "an absolute path without empty parts, . and ..";
    let text = at.parsed(allowed, |text| is_clean(text).then_some(text.to_owned()))?;
    if let Some((_, instead)) = GENERATED.iter().find(|(path, _)| *path == text) {
        at.wrong_because(&format!("{}, which is generated", quoted(&text)), instead);
        return None;
    }
    let below = |places: &[&str]| places.iter().any(|place| text.starts_with(place));
    if !below(PLACES) || below(OWN) {
        at.wrong(format_args!("a path below {}", PLACES.join(", ")));
        return None;
    }
    Some(text)
}

fn is_clean(path: &str) -> bool {
    path.len() < 4096
        && path.starts_with('/')
        && !path.chars().any(char::is_control)
        && path
            .split('/')
            .skip(1)
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.len() < 256)
}

/// What was given is never shown: files hold secrets.
fn content(at: &At<'_>, encoded: bool) -> Option<Vec<u8>> {
    let text = match at.value() {
        Value::Text(text) => text,
        _ => {
            at.wrong_because("something else", "text");
            return None;
        }
    };
    if !encoded {
        return Some(text.as_bytes().to_owned());
    }
    let bytes = base64::decode(text);
    if bytes.is_none() {
        at.wrong_because("something else", "base64");
    }
    bytes
}

/// Octal digits as text, as everywhere else; a bare number would be read as decimal.
pub(crate) fn permissions(at: &At<'_>) -> Option<u32> {
    let allowed = "octal digits as text, such as \"0644\", at most \"0777\"";
    at.parsed(allowed, |text| u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777))
}

#[cfg(test)]
mod tests {
    use crate::{Layer, resolve};

    fn told(text: &str) -> Vec<String> {
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        resolved.mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_has_a_path_content_and_permissions() {
        let text = "[[files]]\npath = \"/etc/motd\"\ncontent = \"aGk=\"\nencoding = \"base64\"\npermissions = \"0600\"";
        let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
        assert_eq!(resolved.mistakes, []);
        let file = &resolved.config.files[0];
        assert_eq!((file.content.as_slice(), file.permissions), (&b"hi"[..], 0o600));
    }

    #[test]
    fn only_listed_places_can_be_written_and_no_way_leads_out_of_them() {
        for path in [
            "/usr/bin/x",
            "etc/x",
            "/etc/../usr/x",
            "/etc//x",
            "/etc/",
            "/run/skerry/x",
            "/var/lib/skerry/accepted.toml",
            "/etc/hostname",
            "/var/lib/rancher/./x",
            "/etc/a\\nb",
        ] {
            let told = told(&format!("[[files]]\npath = \"{path}\"\ncontent = \"\""));
            assert_eq!(told.len(), 1, "{path}: {told:?}");
        }
    }

    #[test]
    fn special_bits_and_numbers_are_no_permissions() {
        for bits in ["\"4755\"", "644", "\"rw\""] {
            let told = told(&format!("[[files]]\npath = \"/etc/x\"\npermissions = {bits}"));
            assert!(told[0].starts_with("c:3: files[0].permissions"), "{told:?}");
        }
    }

    #[test]
    fn of_a_content_nothing_is_shown() {
        for content in ["\"hidden!\"\nencoding = \"base64\"", "[\"hidden\"]", "{ hidden = 1 }", "4711"] {
            let told = told(&format!("[[files]]\npath = \"/etc/x\"\ncontent = {content}"));
            assert!(
                told[0].starts_with("c:3: files[0].content: given something else; allowed: "),
                "{told:?}"
            );
        }
    }

    #[test]
    fn a_path_given_twice_is_told() {
        let told = told("[[files]]\npath = \"/etc/x\"\n[[files]]\npath = \"/etc/x\"");
        assert_eq!(told, ["c:4: files[1].path: given \"/etc/x\"; allowed: each path once"]);
    }
}
