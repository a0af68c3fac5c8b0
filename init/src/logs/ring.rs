//! The ring: the last lines of every source, bounded in bytes, fair between sources.
//!
//! Each source has a queue of its own. When the whole is full, the source that takes most loses its oldest line: who writes much
//! pushes out himself, and a quiet service keeps what it said at boot.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::rate::Rate;
use crate::board::since_kernel_start;
use crate::config::Level;

/// What a line costs besides its text: its record, and what the allocator adds.
const OVERHEAD: usize = 64;
/// Sources that are told apart; names of senders are not ours to choose, so there may be many.
const MAX_SOURCES: usize = 32;
/// Where the lines of all further sources go.
const OTHERS: &str = "others";

/// Lines of all sources.
#[derive(Debug)]
pub(super) struct Ring {
    queues: BTreeMap<Box<str>, Queue>,
    capacity: usize,
    used: usize,
    /// The number of the last line. Lines are numbered over all sources, from 1.
    last: u64,
}

#[derive(Debug)]
struct Queue {
    lines: VecDeque<Line>,
    used: usize,
    dropped: u64,
    rate: Rate,
    /// Whether lines worth showing were not, because there were too many.
    hiding: bool,
}

/// One line; it may hold line ends when it came as one entry.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Its place among all lines.
    pub(super) number: u64,
    /// When it came, since the kernel started.
    pub(super) at: Duration,
    /// How important it is.
    pub(super) level: Level,
    /// Whether the console has shown it.
    shown: bool,
    /// What it says.
    pub(super) text: Box<str>,
}

/// What has become of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Its number.
    pub(super) number: u64,
    /// Whether it is for the console.
    pub(super) shown: bool,
    /// Whether the console missed some before it.
    pub(super) some_were_hidden: bool,
}

/// Which lines to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// Of this source alone.
    pub(super) source: Option<String>,
    /// At least as important.
    pub(super) level: Option<Level>,
    /// Not older, as time since the kernel started.
    pub(super) since: Option<Duration>,
}

/// How a source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    /// Its name.
    pub(super) source: String,
    /// Lines kept.
    pub(super) lines: usize,
    /// Bytes they take.
    pub(super) bytes: usize,
    /// Lines dropped since boot.
    pub(super) dropped: u64,
}

impl Line {
    /// A line of now. Its number is given when it is pushed.
    pub(super) fn new(level: Level, text: &str) -> Self {
        Self { number: 0, at: since_kernel_start(), level, shown: false, text: text.into() }
    }

    fn cost(&self) -> usize {
        OVERHEAD + self.text.len()
    }
}

impl Ring {
    /// An empty ring of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { queues: BTreeMap::new(), capacity, used: 0, last: 0 }
    }

    /// Adds a line; `wanted` if its source and level are for the console.
    pub(super) fn push(&mut self, source: &str, mut line: Line, wanted: bool) -> Pushed {
        self.last += 1;
        line.number = self.last;
        let known = self.queues.contains_key(source) || self.queues.len() < MAX_SOURCES;
        let queue = self.queues.entry(if known { source } else { OTHERS }.into()).or_default();
        line.shown = wanted && queue.rate.allow(Instant::now());
        let some_were_hidden = line.shown && std::mem::take(&mut queue.hiding);
        queue.hiding |= wanted && !line.shown;
        let pushed = Pushed { number: line.number, shown: line.shown, some_were_hidden };
        self.used += line.cost();
        queue.used += line.cost();
        queue.lines.push_back(line);
        while self.used > self.capacity {
            self.drop_one();
        }
        pushed
    }

    /// Up to `max` lines that `filter` lets through, in order, beginning after number `after`.
    pub(super) fn read(&self, filter: &Filter, after: u64, max: usize) -> Vec<(&str, &Line)> {
        let mut heads: Vec<_> = self
            .queues
            .iter()
            .filter(|(name, _)| filter.source.as_deref().is_none_or(|source| source == &***name))
            .map(|(name, queue)| {
                let start = queue.lines.partition_point(|line| line.number <= after);
                (&**name, queue.lines.range(start..).filter(|line| filter.passes(line)).peekable())
            })
            .collect();
        let mut found = Vec::new();
        while found.len() < max {
            let next = heads
                .iter_mut()
                .filter_map(|(name, lines)| Some((lines.peek()?.number, *name, lines)))
                .min_by_key(|(number, ..)| *number);
            let Some((_, name, lines)) = next else { break };
            found.extend(lines.next().map(|line| (name, line)));
        }
        found
    }

    /// The number after which there are `count` lines that `filter` lets through, or fewer if there are not so many.
    pub(super) fn last_lines(&self, filter: &Filter, count: usize) -> u64 {
        let mut numbers: Vec<_> = self
            .queues
            .iter()
            .filter(|(name, _)| filter.source.as_deref().is_none_or(|source| source == &***name))
            .flat_map(|(_, queue)| queue.lines.iter().filter(|line| filter.passes(line)))
            .map(|line| line.number)
            .collect();
        numbers.sort_unstable();
        numbers.len().checked_sub(count + 1).map_or(0, |at| numbers[at])
    }

    /// The last `count` lines of `source` that were not shown and are not older than `age`.
    pub(super) fn last_words(
        &self,
        source: &str,
        now: Duration,
        age: Duration,
        count: usize,
    ) -> Vec<Box<str>> {
        let Some(queue) = self.queues.get(source) else { return Vec::new() };
        let recent = queue.lines.iter().rev().take_while(|line| now.saturating_sub(line.at) < age);
        let mut words: Vec<_> =
            recent.filter(|line| !line.shown).take(count).map(|line| line.text.clone()).collect();
        words.reverse();
        words
    }

    /// How every source is doing.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let mut usage = Vec::new();
        for (name, queue) in &self.queues {
            usage.push(Usage {
                source: name.to_string(),
                lines: queue.lines.len(),
                bytes: queue.used,
                dropped: queue.dropped,
            });
        }
        usage
    }

    fn drop_one(&mut self) {
        let Some(queue) = self.queues.values_mut().max_by_key(|queue| queue.used) else { return };
        if let Some(line) = queue.lines.pop_front() {
            queue.used -= line.cost();
            queue.dropped += 1;
            self.used -= line.cost();
        }
    }
}

impl Filter {
    fn passes(&self, line: &Line) -> bool {
        self.level.is_none_or(|level| line.level <= level) && self.since.is_none_or(|since| line.at >= since)
    }
}

impl Default for Queue {
    fn default() -> Self {
        let rate = Rate::new(Instant::now());
        Self { lines: VecDeque::new(), used: 0, dropped: 0, rate, hiding: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[(&str, &Line)]) -> Vec<String> {
        lines.iter().map(|(source, line)| format!("{source} {}", line.text)).collect()
    }

    #[test]
    fn a_chatty_source_pushes_out_itself_and_the_whole_stays_bounded() {
        let mut ring = Ring::new(10_000);
        ring.push("quiet", Line::new(Level::Info, "started"), false);
        for number in 0..5_000 {
            ring.push("chatty", Line::new(Level::Info, &format!("{number:036}")), false);
        }
        let usage = ring.usage();
        assert_eq!((usage[0].source.as_str(), usage[0].lines), ("chatty", 99));
        assert_eq!(usage[0].dropped, 4901);
        assert_eq!((usage[1].source.as_str(), usage[1].lines, usage[1].dropped), ("quiet", 1, 0));
        assert!(ring.used <= 10_000);
    }

    #[test]
    fn two_chatty_sources_share_the_ring_evenly() {
        let mut ring = Ring::new(10_000);
        for number in 0..6_000 {
            let source = if number % 3 == 0 { "a" } else { "b" };
            ring.push(source, Line::new(Level::Info, "0123456789012345678901234567890123456"), false);
        }
        let usage = ring.usage();
        assert!(usage[0].lines.abs_diff(usage[1].lines) <= 1, "{usage:?}");
    }

    #[test]
    fn lines_of_all_sources_come_in_order_and_filtered() {
        let mut ring = Ring::new(10_000);
        let levels = [Level::Info, Level::Error, Level::Debug, Level::Warn];
        for (number, level) in levels.into_iter().enumerate() {
            let source = if number % 2 == 0 { "b" } else { "a" };
            ring.push(source, Line::new(level, &number.to_string()), false);
        }
        let all = Filter::default();
        assert_eq!(texts(&ring.read(&all, 0, 9)), ["b 0", "a 1", "b 2", "a 3"]);
        assert_eq!(texts(&ring.read(&all, 1, 2)), ["a 1", "b 2"]);
        let warnings = Filter { level: Some(Level::Warn), ..Filter::default() };
        assert_eq!(texts(&ring.read(&warnings, 0, 9)), ["a 1", "a 3"]);
        assert_eq!(texts(&ring.read(&warnings, ring.last_lines(&warnings, 1), 9)), ["a 3"]);
        let b = Filter { source: Some("b".to_owned()), ..Filter::default() };
        assert_eq!(texts(&ring.read(&b, ring.last_lines(&b, 9), 9)), ["b 0", "b 2"]);
        let later =
            Filter { since: Some(since_kernel_start() + Duration::from_secs(1)), ..Filter::default() };
        assert!(ring.read(&later, 0, 9).is_empty());
    }

    #[test]
    fn last_words_are_the_recent_ones_that_were_not_shown() {
        let mut ring = Ring::new(10_000);
        for (text, wanted) in [("why", false), ("known", true), ("because", false)] {
            ring.push("a", Line::new(Level::Debug, text), wanted);
        }
        let age = Duration::from_secs(5);
        let now = since_kernel_start();
        assert_eq!(ring.last_words("a", now, age, 9).concat(), "whybecause");
        assert_eq!(ring.last_words("a", now, age, 1).concat(), "because");
        assert!(ring.last_words("a", now + age * 2, age, 9).is_empty());
        assert!(ring.last_words("b", now, age, 9).is_empty());
    }

    #[test]
    fn names_that_others_choose_do_not_make_sources_without_end() {
        let mut ring = Ring::new(1 << 20);
        for number in 0..100 {
            ring.push(&number.to_string(), Line::new(Level::Info, ""), false);
        }
        assert_eq!(ring.queues.len(), MAX_SOURCES + 1);
        assert_eq!(ring.queues[OTHERS].lines.len(), 100 - MAX_SOURCES);
    }
}
