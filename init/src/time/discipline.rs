//! What to do with the clock, and when to ask again: a pure function of what the servers said.

use std::time::Duration;

use super::packet::Sample;

/// Beyond this the clock is set; nearer, it is made to run a little faster or slower, which no program notices.
const STEP: f64 = 0.4;
/// A clock that was right is only set after so many samples in a row that say it is wrong.
const STEP_AFTER: u32 = 3;
/// Closer than this, the next question can wait longer.
const CALM: f64 = 0.02;
/// Seconds between questions, as powers of two.
const SHORTEST: u8 = 6;
const LONGEST: u8 = 11;
/// What RFC 5905's reference implementation takes off the poll exponent to get the kernel's time constant.
const TIME_CONSTANT: u8 = 4;
/// Waits after a round that nobody answered, in seconds; the last is repeated.
const RETRY: [u64; 9] = [4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// How the clock is kept.
#[derive(Debug)]
pub(super) struct Discipline {
    synchronised: bool,
    suspicious: u32,
    silent: usize,
    exponent: u8,
}

/// What to do with the clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Correction {
    /// Set it, by this many seconds.
    Step(f64),
    /// Have the kernel work this off, with this time constant.
    Slew(f64, u32),
    /// Wait for another sample.
    Nothing,
}

impl Discipline {
    pub(super) fn new() -> Self {
        Self { synchronised: false, suspicious: 0, silent: 0, exponent: SHORTEST }
    }

    /// Takes a sample in.
    pub(super) fn take(&mut self, sample: Sample) -> Correction {
        self.silent = 0;
        let off = sample.offset.abs();
        if off > STEP {
            self.exponent = SHORTEST;
            self.suspicious += 1;
            if self.synchronised && self.suspicious < STEP_AFTER {
                return Correction::Nothing;
            }
            self.suspicious = 0;
            self.synchronised = true;
            return Correction::Step(sample.offset);
        }
        self.suspicious = 0;
        self.synchronised = true;
        let constant = self.exponent - TIME_CONSTANT;
        // A sample that may itself be that wrong says nothing against the clock.
        self.exponent = match off < CALM.max(sample.error) {
            true => (self.exponent + 1).min(LONGEST),
            false => self.exponent.saturating_sub(1).max(SHORTEST),
        };
        Correction::Slew(sample.offset, constant.into())
    }

    /// Nobody answered.
    pub(super) fn silence(&mut self) {
        self.silent += 1;
    }

    /// How often in a row nobody answered.
    pub(super) fn rounds_without_answer(&self) -> usize {
        self.silent
    }

    /// A server asked us to ask less often.
    pub(super) fn slow_down(&mut self) {
        self.exponent = (self.exponent + 1).min(LONGEST);
    }

    /// How long to wait before the next question.
    pub(super) fn wait(&self) -> Duration {
        match self.silent.checked_sub(1) {
            Some(silent) if !self.synchronised => Duration::from_secs(RETRY[silent.min(RETRY.len() - 1)]),
            _ => Duration::from_secs(1 << self.exponent),
        }
    }
}

/// The sample to believe: the middle one, so that one server that is wrong among three or more does no harm. Of two, the one that is surer.
pub(super) fn choose(mut samples: Vec<Sample>) -> Option<Sample> {
    if samples.len() == 2 {
        return samples.into_iter().min_by(|a, b| a.error.total_cmp(&b.error));
    }
    samples.sort_by(|a, b| a.offset.total_cmp(&b.offset));
    samples.get(samples.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: f64) -> Sample {
        Sample { offset, error: 0.01 }
    }

    #[test]
    fn a_wrong_clock_is_set_at_once_and_a_right_one_only_after_three_samples() {
        let mut discipline = Discipline::new();
        assert_eq!(discipline.take(sample(-1e9)), Correction::Step(-1e9));
        assert_eq!(discipline.take(sample(0.1)), Correction::Slew(0.1, 2));
        assert_eq!(discipline.take(sample(30.0)), Correction::Nothing);
        assert_eq!(discipline.take(sample(0.1)), Correction::Slew(0.1, 2));
        assert_eq!(discipline.take(sample(30.0)), Correction::Nothing);
        assert_eq!(discipline.take(sample(30.0)), Correction::Nothing);
        assert_eq!(discipline.take(sample(30.0)), Correction::Step(30.0));
    }

    #[test]
    fn a_calm_clock_is_asked_about_ever_less_often() {
        let mut discipline = Discipline::new();
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(discipline.wait().as_secs());
            discipline.take(sample(0.001));
        }
        assert_eq!(waits, [64, 128, 256, 512, 1024, 2048, 2048]);
        discipline.take(sample(0.2));
        assert_eq!(discipline.wait().as_secs(), 1024);
        discipline.take(sample(2.0));
        assert_eq!(discipline.wait().as_secs(), 64);
    }

    #[test]
    fn silence_is_met_with_patience() {
        let mut discipline = Discipline::new();
        let waits: Vec<_> = (0..10)
            .map(|_| {
                discipline.silence();
                discipline.wait().as_secs()
            })
            .collect();
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
        discipline.take(sample(0.001));
        discipline.silence();
        assert_eq!(discipline.wait().as_secs(), 128, "a clock that is kept does not need haste");
    }

    #[test]
    fn one_liar_among_three_does_no_harm() {
        let chosen = choose(vec![sample(0.1), sample(9e9), sample(0.2)]).unwrap();
        assert_eq!(chosen.offset, 0.2);
        let surer = Sample { offset: 5.0, error: 0.001 };
        assert_eq!(choose(vec![sample(0.1), surer]), Some(surer));
        assert_eq!(choose(Vec::new()), None);
    }
}
