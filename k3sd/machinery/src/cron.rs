//! Cron schedules as `CronJob` has them: five fields, names, steps, `@hourly` and the like, `@every`.
//!
//! The grammar is that of robfig/cron's standard parser, which upstream uses. Times are civil: the caller decides the zone.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{SignedDuration, ToSpan};

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Fields(Fields),
    Every(Duration),
}

/// A bit for every value that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both fields for the day are restricted, so either may match.
    either_day: bool,
}

/// A schedule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    Count {
        /// Number of fields.
        found: usize,
        /// The schedule.
        text: String,
    },
    /// A field that is not in the grammar.
    #[error("failed to parse {0}")]
    Field(String),
    /// A value outside the field's range.
    #[error("value ({value}) out of range [{low}, {high}]: {text}")]
    Range {
        /// What was written.
        value: u32,
        /// Lowest value of the field.
        low: u32,
        /// Highest value of the field.
        high: u32,
        /// The expression.
        text: String,
    },
    /// An `@` word that does not exist.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
}

/// Range and names of a field.
struct Domain {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTES: Domain = Domain { low: 0, high: 59, names: &[] };
const HOURS: Domain = Domain { low: 0, high: 23, names: &[] };
const DAYS: Domain = Domain { low: 1, high: 31, names: &[] };
const MONTHS: Domain = Domain {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Domain =
    Domain { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A schedule such as `0 0 30 2 *` is never due; looking further than this is pointless.
const HORIZON_YEARS: i64 = 5;

// === impl Schedule ===

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// It is not in the grammar.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        // A zone in the schedule is for the caller.
        let rest = match text.split_once(' ') {
            Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest.trim(),
            _ => text.trim(),
        };
        if let Some(descriptor) = rest.strip_prefix('@') {
            return Self::descriptor(descriptor, rest);
        }
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(ScheduleError::Count { found: fields.len(), text: rest.to_owned() });
        };
        let star = |field: &str| field.split(',').any(|part| part.starts_with(['*', '?']));
        Ok(Self(Kind::Fields(Fields {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
            either_day: !star(days) && !star(weekdays),
        })))
    }

    fn descriptor(word: &str, text: &str) -> Result<Self, ScheduleError> {
        if let Some(duration) = word.strip_prefix("every ") {
            let duration: SignedDuration =
                duration.trim().parse().map_err(|_| ScheduleError::Field(text.to_owned()))?;
            let seconds =
                u64::try_from(duration.as_secs()).map_err(|_| ScheduleError::Field(text.to_owned()))?;
            return Ok(Self(Kind::Every(Duration::from_secs(seconds.max(1)))));
        }
        Self::parse(match word {
            "yearly" | "annually" => "0 0 1 1 *",
            "monthly" => "0 0 1 * *",
            "weekly" => "0 0 * * 0",
            "daily" | "midnight" => "0 0 * * *",
            "hourly" => "0 * * * *",
            _ => return Err(ScheduleError::Descriptor(text.to_owned())),
        })
    }

    /// The first due time after `time`; `None` if there is none within five years.
    pub fn next_after(&self, time: DateTime) -> Option<DateTime> {
        let fields = match &self.0 {
            Kind::Every(period) => return time.checked_add(SignedDuration::try_from(*period).ok()?).ok(),
            Kind::Fields(fields) => fields,
        };
        let mut at = time.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        let end = time.checked_add(HORIZON_YEARS.years()).ok()?;
        while at <= end {
            if !has(fields.months, at.month()) {
                at = at.first_of_month().start_of_day_time()?.checked_add(1.month()).ok()?;
            } else if !fields.matches_day(at) {
                at = at.start_of_day_time()?.checked_add(1.day()).ok()?;
            } else if !has(fields.hours, at.hour()) {
                at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if !has(fields.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }
}

impl Fields {
    fn matches_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }
}

/// Midnight of the same day.
trait StartOfDay {
    fn start_of_day_time(self) -> Option<DateTime>;
}

impl StartOfDay for DateTime {
    fn start_of_day_time(self) -> Option<DateTime> {
        self.with().hour(0).minute(0).build().ok()
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

fn field(text: &str, domain: &Domain) -> Result<u64, ScheduleError> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | range(part, domain)?))
}

/// `*`, `n`, `a-b`, each with an optional `/step`.
fn range(text: &str, domain: &Domain) -> Result<u64, ScheduleError> {
    let fault = || ScheduleError::Field(text.to_owned());
    let (span, step) = match text.split_once('/') {
        Some((span, step)) => {
            (span, Some(step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(fault)?))
        }
        None => (text, None),
    };
    let (low, high) = match span {
        "*" | "?" => (domain.low, domain.high),
        span => match span.split_once('-') {
            Some((low, high)) => {
                (value(low, domain).ok_or_else(fault)?, value(high, domain).ok_or_else(fault)?)
            }
            None => {
                let low = value(span, domain).ok_or_else(fault)?;
                (low, if step.is_some() { domain.high } else { low })
            }
        },
    };
    for end in [low, high] {
        if !(domain.low..=domain.high).contains(&end) {
            return Err(ScheduleError::Range {
                value: end,
                low: domain.low,
                high: domain.high,
                text: text.to_owned(),
            });
        }
    }
    if low > high {
        return Err(fault());
    }
    Ok((low..=high).step_by(step.unwrap_or(1) as usize).fold(0, |bits, value| bits | 1 << value))
}

fn value(text: &str, domain: &Domain) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    match domain.names.iter().position(|name| *name == lower) {
        Some(at) => Some(domain.low + at as u32),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, from: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap_or_else(|err| panic!("{schedule}: {err}"));
        let from: DateTime = from.parse().expect("time");
        schedule.next_after(from).map_or_else(|| "never".to_owned(), |time| time.to_string())
    }

    #[test]
    fn due_times_follow_the_fields() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:30", "2026-01-01T00:01:00"),
            ("*/15 * * * *", "2026-01-01T00:14:59", "2026-01-01T00:15:00"),
            ("30 4 * * *", "2026-01-31T04:30:00", "2026-02-01T04:30:00"),
            ("0 0 1 jan *", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
            ("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00", "2026-01-05T09:00:00"),
            ("0 0 13 * 5", "2026-01-03T00:00:00", "2026-01-09T00:00:00"),
            ("@hourly", "2026-01-01T23:30:00", "2026-01-02T00:00:00"),
            ("@every 90m", "2026-01-01T00:00:00", "2026-01-01T01:30:00"),
            ("0 0 30 2 *", "2026-01-01T00:00:00", "never"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ];
        for (schedule, from, due) in cases {
            assert_eq!(next(schedule, from), due, "{schedule}");
        }
    }

    #[test]
    fn what_is_not_a_schedule_is_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@often",
            "a * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Schedule::parse("* * * *").expect_err("four").to_string(),
            "expected exactly 5 fields, found 4: [* * * *]"
        );
    }
}
