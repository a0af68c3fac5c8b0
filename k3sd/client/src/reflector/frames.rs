//! The events of a watch response, each with the object's bytes.
//!
//! A watch body is a line of JSON per event. The transport gives it in chunks that need not end at line ends. Where a
//! chunk is one event of a server in this process, or one object within an event, the object is kept as a slice of that
//! chunk: no copy, and the same allocation that the server's own cache holds.

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;

use super::Error;
use crate::scan;

/// Marks the bookmark after the last initial event (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: EventKind,
    pub(super) object: Bytes,
}

pub(super) struct Events {
    body: kube::client::Body,
    share: bool,
    /// Received and not yet returned: the first chunks hold no line end, the last may.
    chunks: Vec<Bytes>,
}

impl Frame {
    pub(super) fn ends_initial_events(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct View {
            metadata: Meta,
        }
        #[derive(serde::Deserialize)]
        struct Meta {
            #[serde(default)]
            annotations: std::collections::BTreeMap<String, String>,
        }
        serde_json::from_slice::<View>(&self.object)
            .is_ok_and(|view| view.metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true"))
    }
}

impl Events {
    pub(super) fn new(body: kube::client::Body, share: bool) -> Self {
        Self { body, share, chunks: Vec::new() }
    }

    /// The next event; `None` at the end of the body. Safe to cancel: chunks received stay here.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(|chunk| chunk.iter().all(u8::is_ascii_whitespace)) {
                    continue;
                }
                return parse(&line, self.share).map(Some);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(chunk) = frame?.into_data()
                && chunk.has_remaining()
            {
                self.chunks.push(chunk);
            }
        }
    }

    /// The chunks that make up the first line, if its end has been received.
    fn take_line(&mut self) -> Option<Vec<Bytes>> {
        let at = self.chunks.iter().position(|chunk| chunk.contains(&b'\n'))?;
        let rest = self.chunks.split_off(at + 1);
        let mut line = std::mem::replace(&mut self.chunks, rest);
        let last = line.last_mut()?;
        let end = last.iter().position(|byte| *byte == b'\n')? + 1;
        if end < last.len() {
            let remainder = last.split_off(end);
            self.chunks.insert(0, remainder);
            // What is left is a part of a bigger chunk: not worth pinning that for.
            *last = Bytes::copy_from_slice(last);
        }
        Some(line)
    }
}

fn parse(line: &[Bytes], share: bool) -> Result<Frame, Error> {
    let whole = match line {
        [one] => one.clone(),
        many => many.concat().into(),
    };
    let kind = match scan::member(&whole, "type")?.map(|range| &whole[range]) {
        Some(br#""ADDED""#) => EventKind::Added,
        Some(br#""MODIFIED""#) => EventKind::Modified,
        Some(br#""DELETED""#) => EventKind::Deleted,
        Some(br#""BOOKMARK""#) => EventKind::Bookmark,
        Some(br#""ERROR""#) => EventKind::Error,
        _ => return Err(scan::Malformed(0).into()),
    };
    let range = scan::member(&whole, "object")?.ok_or(scan::Malformed(whole.len()))?;
    Ok(Frame { kind, object: keep(line, &whole, range, share) })
}

/// The bytes of `range` in the line: a slice if that pins little more than itself, else a copy.
fn keep(line: &[Bytes], whole: &Bytes, range: std::ops::Range<usize>, share: bool) -> Bytes {
    if !share {
        return Bytes::copy_from_slice(&whole[range]);
    }
    let mut start = 0;
    for chunk in line {
        let inside = range.start >= start && range.end <= start + chunk.len();
        if inside && range.len() * 8 >= chunk.len() * 7 {
            return chunk.slice(range.start - start..range.end - start);
        }
        start += chunk.len();
    }
    Bytes::copy_from_slice(&whole[range])
}
