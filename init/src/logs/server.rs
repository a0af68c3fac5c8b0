//! `/run/skerry/log`: the ring, for who asks.
//!
//! A stream socket, for root alone. A client sends one line with a command, and gets lines of text until the connection is closed:
//!
//! | command | answer |
//! | --- | --- |
//! | `show [source=NAME] [level=LEVEL] [lines=N] [since=SECONDS] [follow]` | kept lines in order; with `follow`, later ones too |
//! | `sources` | what is kept of whom: name, lines, bytes, lines dropped |
//! | `figures` | what PID 1 costs, measured over the next ten seconds |
//! | `status` | the status block of the console, as it is now |
//! | `help` | this |
//!
//! A line is `TIME SOURCE LEVEL TEXT`, with the time in UTC; further lines of an entry are indented and control characters spelled out. A mistake is answered by one line that
//! begins with `error: `.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::ring::{Filter, Line};
use super::{inner, newest};
use crate::board::{Board, since_kernel_start};
use crate::config::Level;
use crate::console;
use crate::figures;
use crate::report;

/// Where the socket is.
pub(super) const SOCKET: &str = "/run/skerry/log";
/// Clients at the same time; more wait.
const MAX_CLIENTS: usize = 8;
/// A longer command is none.
const MAX_COMMAND: u64 = 1 << 10;
/// A client that does not read must not be kept for ever, nor one that does not ask.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines taken from the ring at once, so that its whole is never copied.
const PORTION: usize = 64;
/// How long `figures` measures.
const WINDOW: Duration = Duration::from_secs(10);
const HELP: &str = "show [source=NAME] [level=error|warn|info|debug] [lines=N] [since=SECONDS] [follow]\nsources\nfigures\nstatus\nhelp\n";

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Show { filter: Filter, lines: Option<usize>, since: Option<Duration>, follow: bool },
    Sources,
    Figures,
    Status,
    Help,
}

/// Answers clients for ever. Owned by the main task; ends only on error.
pub(crate) async fn run(board: Board) -> io::Result<()> {
    serve(Path::new(SOCKET), &board).await
}

async fn serve(path: &Path, board: &Board) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => {
                let (stream, _) = accepted?;
                clients.spawn_local(talk(stream, board.clone()));
            }
            // A client that went away is no problem of ours.
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn talk(stream: UnixStream, board: Board) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::with_capacity(256, reader.take(MAX_COMMAND));
    let mut words = String::new();
    tokio::time::timeout(PATIENCE, reader.read_line(&mut words)).await??;
    let mut client = Client { writer };
    match parse(&words) {
        Ok(Command::Show { mut filter, lines, since, follow }) => {
            filter.since = since.map(|since| since_kernel_start().saturating_sub(since));
            client.show(&filter, lines, follow).await
        }
        Ok(Command::Sources) => client.write(&sources()).await,
        Ok(Command::Figures) => {
            let figures = figures::measure(WINDOW).await?;
            client.write(&format!("init {figures}\n")).await
        }
        Ok(Command::Status) => {
            let text = report::render(&board.watch().borrow(), since_kernel_start());
            client.write(&text).await
        }
        Ok(Command::Help) => client.write(HELP).await,
        Err(mistake) => client.write(&format!("error: {mistake}\n")).await,
    }
}

struct Client {
    writer: tokio::net::unix::OwnedWriteHalf,
}

impl Client {
    async fn show(&mut self, filter: &Filter, lines: Option<usize>, follow: bool) -> io::Result<()> {
        let mut newest = newest();
        let mut after = lines.map_or(0, |count| inner().ring.last_lines(filter, count));
        loop {
            let end = *newest.borrow_and_update();
            loop {
                let (text, last) = portion(filter, after);
                let Some(last) = last else { break };
                after = last;
                self.write(&text).await?;
            }
            // What the filter does not let through is not looked at again.
            after = after.max(end);
            if !follow {
                return Ok(());
            }
            tokio::select! {
                changed = newest.changed() => changed.map_err(io::Error::other)?,
                // The other side has gone; a quiet log would not tell.
                _ = self.writer.ready(tokio::io::Interest::ERROR) => return Ok(()),
            }
        }
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        tokio::time::timeout(PATIENCE, self.writer.write_all(text.as_bytes())).await?
    }
}

/// The text of the next lines, and the number of the last of them.
fn portion(filter: &Filter, after: u64) -> (String, Option<u64>) {
    let inner = inner();
    let lines = inner.ring.read(filter, after, PORTION);
    let text = lines.iter().map(|(source, line)| format_line(source, line)).collect();
    (text, lines.last().map(|(_, line)| line.number))
}

/// `TIME SOURCE LEVEL TEXT`.
pub(super) fn format_line(source: &str, line: &Line) -> String {
    let text = console::tame(&line.text);
    format!("{} {source} {} {text}\n", timestamp(wall_clock(line.at)), level_name(line.level))
}

/// The time of day, by today's clock, at which the kernel had run for `at`.
fn wall_clock(at: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now + at).saturating_sub(since_kernel_start())
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// RFC 3339 in UTC with milliseconds. Days to civil date as in Howard Hinnant's "chrono-compatible low-level date algorithms".
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn sources() -> String {
    inner().ring.usage().iter().fold(String::new(), |mut text, usage| {
        let (source, lines, bytes, dropped) = (&usage.source, usage.lines, usage.bytes, usage.dropped);
        let _ = writeln!(text, "{source} lines={lines} bytes={bytes} dropped={dropped}");
        text
    })
}

fn parse(text: &str) -> Result<Command, String> {
    let mut words = text.split_whitespace();
    match words.next() {
        Some("show") => parse_show(words),
        Some("sources") => Ok(Command::Sources),
        Some("figures") => Ok(Command::Figures),
        Some("status") => Ok(Command::Status),
        None | Some("help") => Ok(Command::Help),
        Some(other) => {
            Err(format!("there is no command {other:?}; allowed are show, sources, figures, status and help"))
        }
    }
}

fn parse_show<'a>(words: impl Iterator<Item = &'a str>) -> Result<Command, String> {
    let (mut filter, mut lines, mut since, mut follow) = (Filter::default(), None, None, false);
    for word in words {
        let number = |value: &str| value.parse().map_err(|_| format!("{word:?} needs a number"));
        match word.split_once('=') {
            None if word == "follow" => follow = true,
            Some(("source", name)) => filter.source = Some(name.to_owned()),
            Some(("level", name)) => filter.level = Some(parse_level(name)?),
            Some(("lines", value)) => lines = Some(usize::try_from(number(value)?).unwrap_or(usize::MAX)),
            Some(("since", value)) => since = Some(Duration::from_secs(number(value)?)),
            _ => {
                return Err(format!(
                    "{word:?} is not understood; allowed is: {}",
                    HELP.lines().next().unwrap_or_default()
                ));
            }
        }
    }
    Ok(Command::Show { filter, lines, since, follow })
}

fn parse_level(name: &str) -> Result<Level, String> {
    [Level::Error, Level::Warn, Level::Info, Level::Debug]
        .into_iter()
        .find(|level| level_name(*level) == name)
        .ok_or_else(|| format!("there is no level {name:?}; allowed are error, warn, info and debug"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Facts;

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(timestamp(Duration::ZERO), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(Duration::from_millis(951_782_400_007)), "2000-02-29T00:00:00.007Z");
        assert_eq!(timestamp(Duration::from_secs(4_102_444_799)), "2099-12-31T23:59:59.000Z");
    }

    #[test]
    fn commands_are_understood_or_their_mistake_is_named() {
        let filter = Filter { source: Some("k3sd".to_owned()), level: Some(Level::Warn), since: None };
        let show =
            Command::Show { filter, lines: Some(5), since: Some(Duration::from_secs(60)), follow: true };
        assert_eq!(parse("show source=k3sd level=warn lines=5 since=60 follow\n"), Ok(show));
        assert_eq!(parse("\n"), Ok(Command::Help));
        for (text, named) in [
            ("shout", "shout"),
            ("show lines=x", "lines=x"),
            ("show level=loud", "loud"),
            ("show all", "all"),
        ] {
            assert!(parse(text).unwrap_err().contains(named), "{text}");
        }
    }

    #[tokio::test]
    async fn a_client_gets_the_last_lines_and_then_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let board = Board::new(Facts::default());
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let bound = path.clone();
                tokio::task::spawn_local(async move { serve(&bound, &board).await });
                while !path.exists() {
                    tokio::task::yield_now().await;
                }
                for text in ["one", "two\nmore", "three"] {
                    crate::logs::record("server-test", Level::Info, text);
                }
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(b"show source=server-test lines=2 follow\n").await.unwrap();
                let mut lines = tokio::io::BufReader::new(stream).lines();
                for expected in ["server-test info two", "    more", "server-test info three"] {
                    assert!(lines.next_line().await.unwrap().unwrap().ends_with(expected));
                }
                crate::logs::record("server-test", Level::Error, "four");
                assert!(lines.next_line().await.unwrap().unwrap().ends_with("server-test error four"));
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(b"sources\n").await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                assert!(text.contains("server-test lines=4 "), "{text}");
            })
            .await;
    }
}
