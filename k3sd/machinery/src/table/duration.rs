//! Ages as kubectl writes them (`k8s.io/apimachinery/pkg/util/duration.HumanDuration`): two units at most, and the finer one
//! only while it matters.

use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The length of time in kubectl's words, from whole seconds.
pub fn human_duration(seconds: i64) -> String {
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(seconds, MINUTE, 'm', 1, 's', MINUTE),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => pair(seconds, HOUR, 'h', MINUTE, 'm', HOUR),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => pair(seconds, DAY, 'd', HOUR, 'h', DAY),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => pair(seconds, YEAR, 'y', DAY, 'd', YEAR),
        _ => format!("{}y", seconds / YEAR),
    }
}

fn pair(seconds: i64, big: i64, big_unit: char, small: i64, small_unit: char, modulus: i64) -> String {
    match seconds % modulus / small {
        0 => format!("{}{big_unit}", seconds / big),
        rest => format!("{}{big_unit}{rest}{small_unit}", seconds / big),
    }
}

/// The time since a timestamp in RFC 3339; `<unknown>` if there is none.
pub(super) fn since(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}
