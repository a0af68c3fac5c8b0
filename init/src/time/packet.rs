//! NTP messages as bytes (RFC 5905, section 7.3), as a client that follows section 14 uses them.

use std::time::Duration;

pub(super) const LEN: usize = 48;
/// No leap warning, version 4, client.
const CLIENT: u8 = 0x23;
const SERVER_MODE: u8 = 4;
const UNSYNCHRONISED: u8 = 3;
/// Seconds from 1900, where NTP begins, to 1970.
const UNIX_EPOCH: u64 = 2_208_988_800;
const ERA_SECONDS: u64 = 1 << 32;
/// 2025-01-01: no server's time is before it, so stamps, which repeat every 136 years, mean the first time after it.
const NOT_BEFORE: u64 = 1_735_689_600;
/// What a server may be away from the true time by its own account (RFC 5905, MAXDISP is more lenient).
const MAX_DISTANCE: f64 = 5.0;

/// What a good answer says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// What our clock lacks, in seconds.
    pub(super) offset: f64,
    /// How wrong that may be, in seconds.
    pub(super) error: f64,
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Sample(Sample),
    /// We ask too often.
    TooOften,
    /// We are not to ask at all.
    GoAway,
}

/// A question. The time in it is a random number, which comes back in the answer: it tells answers from forgeries, and tells
/// the server nothing about us.
pub(super) fn question(nonce: u64) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[0] = CLIENT;
    message[40..].copy_from_slice(&nonce.to_be_bytes());
    message
}

/// Reads the answer to the question with this nonce, which was sent and received at these times of our clock. What is
/// not an answer to it, or not from a server that knows the time, is nothing.
pub(super) fn read(message: &[u8], nonce: u64, sent: Duration, received: Duration) -> Option<Answer> {
    let message = message.get(..LEN)?;
    let (leap, version, mode) = (message[0] >> 6, message[0] >> 3 & 7, message[0] & 7);
    let ours = mode == SERVER_MODE && (3..=4).contains(&version) && message[24..32] == nonce.to_be_bytes();
    ours.then_some(())?;
    let stratum = message[1];
    if stratum == 0 {
        return match &message[12..16] {
            b"RATE" => Some(Answer::TooOften),
            b"DENY" | b"RSTR" => Some(Answer::GoAway),
            _ => None,
        };
    }
    let distance = short(&message[4..8]) / 2.0 + short(&message[8..12]);
    let knows =
        stratum < 16 && leap != UNSYNCHRONISED && message[40..48] != [0; 8] && distance < MAX_DISTANCE;
    knows.then_some(())?;
    let (arrived, left) = (stamp(&message[32..40]), stamp(&message[40..48]));
    let delay = difference(received, sent) - difference(left, arrived);
    let offset = (difference(arrived, sent) + difference(left, received)) / 2.0;
    Some(Answer::Sample(Sample { offset, error: distance + delay.max(0.0) / 2.0 }))
}

/// `a - b` in seconds.
fn difference(a: Duration, b: Duration) -> f64 {
    if a >= b { (a - b).as_secs_f64() } else { -(b - a).as_secs_f64() }
}

/// 16 bits of seconds and 16 bits of fraction.
fn short(bytes: &[u8]) -> f64 {
    bytes.iter().fold(0.0, |value, &byte| value * 256.0 + f64::from(byte)) / 65_536.0
}

/// 32 bits of seconds and 32 bits of fraction, as time since 1970.
fn stamp(bytes: &[u8]) -> Duration {
    let value = bytes.iter().fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
    let seconds = ((value >> 32) + ERA_SECONDS - UNIX_EPOCH) % ERA_SECONDS;
    let eras = NOT_BEFORE.saturating_sub(seconds).div_ceil(ERA_SECONDS);
    let nanoseconds = ((value & 0xFFFF_FFFF) * 1_000_000_000) >> 32;
    Duration::from_secs(seconds + eras * ERA_SECONDS) + Duration::from_nanos(nanoseconds)
}

/// A server's answer to `question`, for tests: its clock says `now`.
#[cfg(test)]
pub(super) fn answer(question: &[u8], now: Duration) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[0] = 0x24;
    message[1] = 2;
    // A distance of 1/16 s.
    message[8..12].copy_from_slice(&4096u32.to_be_bytes());
    message[24..32].copy_from_slice(&question[40..48]);
    let seconds = ((now.as_secs() + UNIX_EPOCH) % ERA_SECONDS) as u32;
    let fraction = (u64::from(now.subsec_nanos()) << 32).div_ceil(1_000_000_000) as u32;
    for at in [32, 40] {
        message[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
        message[at + 4..at + 8].copy_from_slice(&fraction.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0123_4567_89AB_CDEF;
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn sample(message: &[u8], sent: Duration, received: Duration) -> Sample {
        match read(message, NONCE, sent, received) {
            Some(Answer::Sample(sample)) => sample,
            other => panic!("no sample but {other:?}"),
        }
    }

    #[test]
    fn the_offset_is_half_way_between_sending_and_receiving() {
        let message = answer(&question(NONCE), NOW);
        let second = Duration::from_secs(1);
        let found = sample(&message, NOW - 11 * second, NOW - 9 * second);
        assert!((found.offset - 10.0).abs() < 1e-6, "{found:?}");
        assert!((found.error - 1.0625).abs() < 1e-6, "{found:?}");
        assert!((sample(&message, NOW + second, NOW + second).offset + 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_clock_that_is_decades_off_is_told_so_in_every_era() {
        for year_2100 in [NOW, Duration::from_secs(4_200_000_000)] {
            let message = answer(&question(NONCE), year_2100);
            let found = sample(&message, Duration::from_secs(1), Duration::from_secs(1));
            assert!((found.offset - year_2100.as_secs_f64() + 1.0).abs() < 1e-3, "{found:?}");
        }
    }

    #[test]
    fn only_answers_of_servers_that_know_the_time_count() {
        let good = answer(&question(NONCE), NOW);
        assert!(read(&good, NONCE, NOW, NOW).is_some());
        assert_eq!(read(&good, NONCE + 1, NOW, NOW), None, "to another question");
        assert_eq!(read(&good[..47], NONCE, NOW, NOW), None, "cut");
        let changed = |at: usize, to: &[u8]| {
            let mut message = good;
            message[at..at + to.len()].copy_from_slice(to);
            read(&message, NONCE, NOW, NOW)
        };
        assert_eq!(changed(0, &[0x23]), None, "a client");
        assert_eq!(changed(0, &[0x14]), None, "version 2");
        assert_eq!(changed(0, &[0xE4]), None, "not synchronised");
        assert_eq!(changed(1, &[16]), None, "stratum 16");
        assert_eq!(changed(8, &[0, 6, 0, 0]), None, "6 s from the truth");
        assert_eq!(changed(40, &[0; 8]), None, "no time");
        let kiss = |code: &[u8; 4]| {
            let mut message = good;
            message[1] = 0;
            message[12..16].copy_from_slice(code);
            read(&message, NONCE, NOW, NOW)
        };
        assert_eq!(kiss(b"RATE"), Some(Answer::TooOften));
        assert_eq!(kiss(b"DENY"), Some(Answer::GoAway));
        assert_eq!(kiss(b"INIT"), None);
    }
}
