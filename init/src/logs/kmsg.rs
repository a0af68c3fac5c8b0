//! The kernel's messages, read record by record from `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg).

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::io::Interest;

use super::{KERNEL, level, record};
use crate::config::Level;
use crate::readiness::readable;

/// No record is longer (`PRINTK_MESSAGE_MAX` is 2 KiB; escapes make it up to four times that).
const MAX_RECORD: usize = 8 << 10;

/// One record.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    level: Level,
    sequence: u64,
    text: String,
}

/// Follows the kernel's messages from the oldest there is, for ever. Owned by the main task; ends only on error.
pub(crate) async fn run() -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg")?;
    let file = readable(file)?;
    let mut buffer = [0; MAX_RECORD];
    let mut next = None;
    loop {
        match file.async_io(Interest::READABLE, |mut file| file.read(&mut buffer)).await {
            Ok(len) => take(&buffer[..len], &mut next),
            // The kernel went round; the next read goes on with the oldest it has, and its number tells how much is missing.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            // A record longer than documented: skipped by the kernel.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            Err(error) => return Err(error),
        }
    }
}

fn take(bytes: &[u8], next: &mut Option<u64>) {
    let Some(Record { level, sequence, text }) = parse(&String::from_utf8_lossy(bytes)) else { return };
    let missing = next.map_or(0, |next| sequence.saturating_sub(next));
    if missing > 0 {
        record(KERNEL, Level::Warn, &format!("({missing} messages were lost: too many at once)"));
    }
    *next = Some(sequence + 1);
    record(KERNEL, level, &text);
}

/// Reads `priority,sequence,microseconds,flags[,...];text`; lines after the first hold properties of the record, which we do not use.
fn parse(text: &str) -> Option<Record> {
    let (head, body) = text.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let severity = u8::try_from(priority & 7).ok()?;
    let line = body.lines().next().unwrap_or_default();
    Some(Record { level: level::of_severity(severity), sequence, text: unescape(line) })
}

/// The kernel writes what cannot be printed, and backslashes, as `\xHH`.
fn unescape(line: &str) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = rest
            .strip_prefix(b"\\x")
            .and_then(|hex| hex.get(..2))
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    // Control characters stay as they came: this text may end up on a terminal.
    let text = String::from_utf8_lossy(&bytes);
    if text.contains(char::is_control) { line.to_owned() } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_with_unknown_fields_and_properties_skipped() {
        let text = "4,339,5140900,-,caller=T1;NET: Registered \\xc3\\xa9\n SUBSYSTEM=net\n DEVICE=n2\n";
        let expected = Record { level: Level::Warn, sequence: 339, text: "NET: Registered é".to_owned() };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("30,1,2,-;user space").unwrap().level, Level::Info);
        assert_eq!(parse("no record"), None);
    }

    #[test]
    fn escapes_that_would_reach_a_terminal_stay_escaped() {
        assert_eq!(unescape("a\\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(unescape("a\\x5cb\\x"), "a\\b\\x");
    }

    #[test]
    fn a_gap_in_the_numbers_is_told() {
        let mut next = None;
        take(b"6,5,0,-;first of the gap test", &mut next);
        take(b"6,9,0,-;second of the gap test", &mut next);
        assert_eq!(next, Some(10));
        let inner = crate::logs::inner();
        let lines = inner.ring.read(&super::super::ring::Filter::default(), 0, usize::MAX);
        let texts: Vec<_> =
            lines.iter().filter(|(source, _)| *source == KERNEL).map(|(_, l)| &*l.text).collect();
        let at = texts.iter().position(|text| text.starts_with("second of the gap")).unwrap();
        assert_eq!(texts[at - 1], "(3 messages were lost: too many at once)");
    }
}
