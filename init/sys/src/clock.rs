//! The clock: how the kernel steers it (adjtimex(2)), and the one that runs on a battery (rtc(4)).

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use rustix::ioctl::{self, Opcode, Setter, opcode};

/// `RTC_SET_TIME`.
const RTC_SET_TIME: Opcode = opcode::write::<RtcTime>(b'p', 0x0A);
const SECONDS_PER_DAY: i64 = 86_400;
/// The kernel's phase-locked loop takes offsets of up to half a second.
const LARGEST_OFFSET: f64 = 0.5;

/// `struct rtc_time`; the last three are not read.
#[repr(C)]
#[derive(Debug, PartialEq, Eq)]
struct RtcTime {
    second: i32,
    minute: i32,
    hour: i32,
    day: i32,
    month: i32,
    year: i32,
    weekday: i32,
    day_of_year: i32,
    daylight_saving: i32,
}

/// Has the kernel work off `offset_seconds` of the clock gently, and learn from it how fast the clock runs. A positive offset means that
/// the clock is behind. `error` is how wrong the clock may be all the same. Marks the clock as synchronised, so the kernel keeps the
/// battery clock right as well.
///
/// # Errors
/// If the caller may not.
pub fn slew(offset_seconds: f64, error: Duration, time_constant: u32) -> io::Result<()> {
    let mut timex = empty();
    timex.modes = libc::ADJ_OFFSET
        | libc::ADJ_NANO
        | libc::ADJ_STATUS
        | libc::ADJ_TIMECONST
        | libc::ADJ_MAXERROR
        | libc::ADJ_ESTERROR;
    timex.offset = (offset_seconds.clamp(-LARGEST_OFFSET, LARGEST_OFFSET) * 1e9) as libc::c_long;
    timex.status = libc::STA_PLL;
    timex.constant = time_constant.into();
    synchronised(&mut timex, error);
    adjust(&mut timex)
}

/// Says that the clock is right but for `error`, after it was set.
///
/// # Errors
/// If the caller may not.
pub fn mark_synchronised(error: Duration) -> io::Result<()> {
    let mut timex = empty();
    timex.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    timex.status = libc::STA_PLL;
    synchronised(&mut timex, error);
    adjust(&mut timex)
}

/// Whether the kernel takes the clock to be synchronised.
///
/// # Errors
/// None that is known for a request that changes nothing.
pub fn is_synchronised() -> io::Result<bool> {
    let mut timex = empty();
    adjust(&mut timex)?;
    Ok(timex.status & libc::STA_UNSYNC == 0)
}

/// Sets a battery clock, `/dev/rtc0`, to this time since 1970, in UTC.
///
/// # Errors
/// If it is no such clock, or cannot be set to that year.
pub fn set_battery_clock(rtc: impl AsFd, since_epoch: Duration) -> io::Result<()> {
    let seconds =
        i64::try_from(since_epoch.as_secs()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel reads one `rtc_time`, which has the kernel's layout and lives until the call returns.
    unsafe { Ok(ioctl::ioctl(rtc, Setter::<RTC_SET_TIME, RtcTime>::new(civil(seconds)))?) }
}

fn synchronised(timex: &mut libc::timex, error: Duration) {
    let micros = libc::c_long::try_from(error.as_micros()).unwrap_or(libc::c_long::MAX);
    timex.maxerror = micros;
    timex.esterror = micros;
}

fn empty() -> libc::timex {
    // SAFETY: all of its fields are integers, for which zero is a value.
    unsafe { mem::zeroed() }
}

fn adjust(timex: &mut libc::timex) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `timex`, which is borrowed mutably for the call.
    let result = unsafe { libc::adjtimex(timex) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Seconds since 1970 as a date (Howard Hinnant, "chrono-compatible low-level date algorithms": `civil_from_days`).
fn civil(seconds: i64) -> RtcTime {
    let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    // Years that begin in March, in eras of 400 years, have their leap day at the end.
    let from_era = days + 719_468;
    let (era, day_of_era) = (from_era.div_euclid(146_097), from_era.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + i64::from(month < 2);
    let field = |value: i64| value as i32;
    RtcTime {
        second: field(second % 60),
        minute: field(second / 60 % 60),
        hour: field(second / 3600),
        day: field(day),
        month: field(month),
        year: field(year - 1900),
        weekday: 0,
        day_of_year: 0,
        daylight_saving: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_one_the_calendar_says() {
        for (seconds, expected) in [
            (0, [1970, 1, 1, 0, 0, 0]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_709_251_199, [2024, 2, 29, 23, 59, 59]),
            (1_735_689_600, [2025, 1, 1, 0, 0, 0]),
            (4_107_542_399, [2100, 2, 28, 23, 59, 59]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0]),
        ] {
            let RtcTime { second, minute, hour, day, month, year, .. } = civil(seconds);
            assert_eq!([year + 1900, month + 1, day, hour, minute, second], expected, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_clock_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(set_battery_clock(&null, Duration::from_secs(1)).is_err());
        assert!(is_synchronised().is_ok());
    }
}
