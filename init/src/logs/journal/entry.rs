//! One journal entry: the fields we use, and its text.

use std::fmt::Write;

use super::super::level;
use crate::config::Level;

/// An entry keeps this much text; more is cut.
const MAX_TEXT: usize = 8 << 10;
/// How `tracing-journald` marks the fields of an event, besides its message.
const EVENT_FIELD: &str = "F_";

/// What we use of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// `PRIORITY`; `info` without one.
    pub(super) level: Level,
    /// `SYSLOG_IDENTIFIER`.
    pub(super) identifier: Option<String>,
    /// `MESSAGE`.
    message: String,
    /// `TARGET`: which part of a program speaks.
    target: Option<String>,
    /// Fields of the event, by name.
    fields: Vec<(String, String)>,
}

impl Entry {
    /// Reads an entry; none if it does not follow the protocol or has no message.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let (mut message, mut level, mut identifier, mut target) = (None, Level::Info, None, None);
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let (key, value, rest) = split_field(bytes)?;
            bytes = rest;
            match key {
                "MESSAGE" => message = Some(lossy(value)),
                "PRIORITY" => {
                    level = lossy(value).trim().parse().map(level::of_severity).unwrap_or(Level::Info);
                }
                "SYSLOG_IDENTIFIER" => identifier = Some(lossy(value)),
                "TARGET" => target = Some(lossy(value)),
                _ => fields.extend(
                    key.strip_prefix(EVENT_FIELD).map(|name| (name.to_ascii_lowercase(), lossy(value))),
                ),
            }
        }
        Some(Self { level, identifier, message: message?, target, fields })
    }

    /// The line that is kept: `target: message name=value ...`.
    pub(super) fn text(&self) -> String {
        let mut text = self.target.as_ref().map(|target| format!("{target}: ")).unwrap_or_default();
        text += self.message.trim_end();
        for (name, value) in &self.fields {
            let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"');
            let _ = if plain { write!(text, " {name}={value}") } else { write!(text, " {name}={value:?}") };
        }
        let end = text.floor_char_boundary(MAX_TEXT);
        text.truncate(end);
        text
    }
}

fn lossy(bytes: &[u8]) -> String {
    let most = bytes.len().min(MAX_TEXT);
    String::from_utf8_lossy(&bytes[..most]).into_owned()
}

/// The first field and what follows it: `KEY=value\n`, or `KEY\n`, the length as eight bytes, little end first, the value, `\n`.
fn split_field(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = (&bytes[..line_end], &bytes[line_end + 1..]);
    let (key, value, rest) = match line.iter().position(|&byte| byte == b'=') {
        Some(equals) => (&line[..equals], &line[equals + 1..], rest),
        None => {
            let (len, rest) = rest.split_first_chunk::<8>()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let (value, rest) = rest.split_at_checked(len)?;
            (line, value, rest.strip_prefix(b"\n")?)
        }
    };
    let key = std::str::from_utf8(key).ok()?;
    let proper = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    proper.then_some((key, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(key: &str, value: &[u8]) -> Vec<u8> {
        let len = u64::try_from(value.len()).unwrap().to_le_bytes();
        [key.as_bytes(), b"\n", &len, value, b"\n"].concat()
    }

    #[test]
    fn both_forms_of_a_field_are_read() {
        let mut bytes = b"PRIORITY=4\nTARGET=kubelet::pods\nF_POD=default/a\nCODE_LINE=7\n".to_vec();
        bytes.extend(binary("MESSAGE", b"two\nlines = one entry"));
        bytes.extend(binary("F_ERROR", b"not there"));
        let entry = Entry::parse(&bytes).unwrap();
        assert_eq!(entry.level, Level::Warn);
        assert_eq!(entry.text(), "kubelet::pods: two\nlines = one entry pod=default/a error=\"not there\"");
    }

    #[test]
    fn what_does_not_follow_the_protocol_is_no_entry() {
        let too_long = [b"MESSAGE\n".as_slice(), &u64::MAX.to_le_bytes(), b"x\n"].concat();
        let unended = [b"MESSAGE\n".as_slice(), &1_u64.to_le_bytes(), b"xy"].concat();
        let cases: [&[u8]; 8] = [
            b"",
            b"MESSAGE=x",
            b"PRIORITY=3\n",
            b"MESSAGE\n",
            b"=x\nMESSAGE=y\n",
            b"a b=x\n",
            &too_long,
            &unended,
        ];
        for bytes in cases {
            assert_eq!(Entry::parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let entry = Entry::parse(format!("MESSAGE=x{}\n", "é".repeat(MAX_TEXT)).as_bytes()).unwrap();
        assert!(entry.text().len() <= MAX_TEXT);
    }
}
