//! What a service writes to its standard output and error: a pipe, line by line.

use std::io;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use super::{level, record};
use crate::config::Level;

/// A longer line is cut.
const MAX_LINE: usize = 2 << 10;

/// Keeps lines from `pipe` as those of `source` until every process has closed the other end. What the service calls `info` counts as
/// `info_counts_as`.
pub(crate) async fn follow(source: &str, pipe: pipe::Receiver, info_counts_as: Level) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(MAX_LINE, pipe);
    let mut line = Vec::new();
    while read_line(&mut reader, &mut line).await? {
        let text = String::from_utf8_lossy(&line);
        let (level, text) = level::split_severity(text.trim_end());
        let level = match level.unwrap_or_else(|| level::claimed(text)) {
            Level::Info => info_counts_as,
            level => level,
        };
        record(source, level, text);
        line.clear();
    }
    Ok(())
}

/// Reads up to and including a newline, keeping at most [`MAX_LINE`] bytes. False at the end.
async fn read_line(reader: &mut BufReader<pipe::Receiver>, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut any = false;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(buffer.len());
        let room = MAX_LINE.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(&buffer[..room]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logs::ring::Filter;

    #[tokio::test]
    async fn lines_are_kept_with_their_level_long_ones_cut_and_the_last_without_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        writeln!(writer, "<3>broken\nlevel=info msg=x\n{}\nnothing claimed", "y".repeat(MAX_LINE + 5))
            .unwrap();
        drop(writer);
        let pipe = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        follow("stream-test", pipe, Level::Debug).await.unwrap();
        let filter = Filter { source: Some("stream-test".to_owned()), ..Filter::default() };
        let inner = crate::logs::inner();
        let lines: Vec<_> = inner
            .ring
            .read(&filter, 0, 9)
            .iter()
            .map(|(_, line)| (line.level, line.text.to_string()))
            .collect();
        let expected = [
            (Level::Error, "broken".to_owned()),
            (Level::Debug, "level=info msg=x".to_owned()),
            (Level::Warn, "y".repeat(MAX_LINE)),
            (Level::Warn, "nothing claimed".to_owned()),
        ];
        assert_eq!(lines, expected);
    }
}
