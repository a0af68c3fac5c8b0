//! `write_files`: as `[[files]]`; K3s's own configuration files as the sections that stand for them.

use super::{Mapping, list_at, table_at, text_at, told};
use crate::base64;
use crate::toml_text::MAX_LEN;
use crate::tree::{Item, Place, Value};
use crate::yaml;

/// How a content may be written, and which steps lead back to it.
const ENCODINGS: &[(&str, Encoding)] = &[
    ("", Encoding { base64: false, gzip: false }),
    ("text/plain", Encoding { base64: false, gzip: false }),
    ("b64", Encoding { base64: true, gzip: false }),
    ("base64", Encoding { base64: true, gzip: false }),
    ("gz+b64", Encoding { base64: true, gzip: true }),
    ("gz+base64", Encoding { base64: true, gzip: true }),
    ("gzip+b64", Encoding { base64: true, gzip: true }),
    ("gzip+base64", Encoding { base64: true, gzip: true }),
];
const ENCODING: &str = "text/plain, b64 or gz+b64";

#[derive(Debug, Clone, Copy)]
struct Encoding {
    base64: bool,
    gzip: bool,
}

pub(super) fn write_files(ours: &mut Mapping, item: &Item) {
    for (index, item) in ours.list(item, "write_files").iter().enumerate() {
        write_file(ours, item, &format!("write_files[{index}]"));
    }
}

fn write_file(ours: &mut Mapping, item: &Item, path: &str) {
    let nothing = text_at(&item.place, "");
    let (mut target, mut content, mut encoding, mut permissions) = (None, &nothing, &nothing, None);
    let mut appended = None;
    for (key, item) in ours.table(item, path) {
        match key {
            "path" => target = Some(item),
            "content" => content = item,
            "encoding" => encoding = item,
            "permissions" => permissions = Some(item),
            "owner" if matches!(&item.value, Value::Text(text) if ["root", "root:root"].contains(&text.as_str())) =>
                {}
            "append" | "defer" if item.value == Value::Boolean(false) => {}
            // Written as it is, it would take away what it was to be added to.
            "append" => appended = Some(item),
            _ => ours.ignore(
                item,
                &format!("{path}.{key}"),
                "path, content, encoding and permissions; root owns everything",
            ),
        }
    }
    if let Some(item) = appended {
        return ours.ignore(item, &format!("{path}.append"), "the whole content; this file is left as it is");
    }
    let Some(bytes) = decoded(ours, content, encoding, path) else { return };
    let Some(target) = target else { return ours.wrong(item, path, "a table with path and content") };
    match &target.value {
        Value::Text(text) if text == "/etc/rancher/k3s/config.yaml" => {
            k3s_config(ours, &content.place, &bytes)
        }
        Value::Text(text) if text == "/etc/rancher/k3s/registries.yaml" => {
            match yaml::read(&within(&content.place, text), &bytes) {
                Ok(registries) => ours.set(&["registries"], registries),
                Err(mistakes) => ours.mistakes.extend(mistakes),
            }
        }
        _ => {
            let place = &item.place;
            let mut entries = vec![("path", target.clone())];
            match String::from_utf8(bytes) {
                Ok(text) => entries.push(("content", text_at(&content.place, text))),
                Err(error) => {
                    entries.push(("content", text_at(&content.place, base64::encode(error.as_bytes()))));
                    entries.push(("encoding", text_at(&content.place, "base64")));
                }
            }
            entries.extend(permissions.map(|item| ("permissions", item.clone())));
            ours.push(&["files"], table_at(place, entries));
        }
    }
}

/// The name of a document that stands within another.
fn within(place: &Place, path: &str) -> String {
    format!("{place} ({path})")
}

/// K3s's flags as a file become `[k3s]`; the role is still to be given.
fn k3s_config(ours: &mut Mapping, place: &Place, bytes: &[u8]) {
    match yaml::read(&within(place, "/etc/rancher/k3s/config.yaml"), bytes) {
        Ok(flags) => super::k3os::flags(ours, &flags, "(config.yaml)"),
        Err(mistakes) => ours.mistakes.extend(mistakes),
    }
}

fn decoded(ours: &mut Mapping, content: &Item, encoding: &Item, path: &str) -> Option<Vec<u8>> {
    let text = match &content.value {
        Value::Text(text) => text.clone(),
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        _ => {
            ours.mistakes.push(told(&content.place, &format!("{path}.content"), "something else", "text"));
            return None;
        }
    };
    let known = match &encoding.value {
        Value::Text(name) => ENCODINGS.iter().find(|(known, _)| known == name).map(|(_, encoding)| *encoding),
        _ => None,
    };
    let Some(steps) = known else {
        ours.wrong(encoding, &format!("{path}.encoding"), ENCODING);
        return None;
    };
    let bytes = if steps.base64 { base64::decode(&text) } else { Some(text.into_bytes()) };
    let bytes = if steps.gzip { bytes.and_then(|bytes| gunzip(&bytes)) } else { bytes };
    if bytes.is_none() {
        let allowed = if steps.gzip { "gzip data in base64, at most 1 MiB when unpacked" } else { "base64" };
        ours.mistakes.push(told(&content.place, &format!("{path}.content"), "something else", allowed));
    }
    bytes
}

/// What the first member of a gzip file (RFC 1952) holds.
fn gunzip(bytes: &[u8]) -> Option<Vec<u8>> {
    const HEADER_CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let flags = *bytes.get(3)?;
    if !bytes.starts_with(&[0x1F, 0x8B, 8]) {
        return None;
    }
    let mut rest = bytes.get(10..)?;
    if flags & EXTRA != 0 {
        let length = usize::from(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]));
        rest = rest.get(2 + length..)?;
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        rest = rest.get(2..)?;
    }
    miniz_oxide::inflate::decompress_to_vec_with_limit(rest, MAX_LEN).ok()
}

/// Texts as a list at one place.
pub(super) fn texts(place: &Place, texts: impl IntoIterator<Item = String>) -> Item {
    list_at(place, texts.into_iter().map(|text| text_at(place, text)).collect())
}
