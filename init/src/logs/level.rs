//! How important a line is: by number, where there is one, else by what the text claims.

use crate::config::Level;

/// The level of a syslog severity, 0 (emergency) to 7 (debug).
pub(super) fn of_severity(severity: u8) -> Level {
    match severity {
        0..=3 => Level::Error,
        4 => Level::Warn,
        5 | 6 => Level::Info,
        _ => Level::Debug,
    }
}

/// Takes a severity in angle brackets off the front of a line, as sd-daemon(3) has it.
pub(super) fn split_severity(line: &str) -> (Option<Level>, &str) {
    match line.as_bytes() {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => (Some(of_severity(digit - b'0')), &line[3..]),
        _ => (None, line),
    }
}

/// The importance a line claims: logfmt's `level=`, or a bare word near its start as tracing and klog-like formats have it. A line
/// that claims nothing was written by hand for someone to read, so it counts as a warning.
pub(super) fn claimed(line: &str) -> Level {
    for word in line.split_whitespace().take(4) {
        let word = word.trim_start_matches("level=").trim_matches(['[', ']', '"', ':']);
        match word.to_ascii_lowercase().as_str() {
            "error" | "fatal" | "panic" => return Level::Error,
            "warn" | "warning" => return Level::Warn,
            "info" => return Level::Info,
            "debug" | "trace" => return Level::Debug,
            _ => {}
        }
    }
    Level::Warn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_in_the_formats_our_services_write() {
        let cases = [
            ("time=\"2026-01-01T00:00:00Z\" level=warning msg=\"x\"", Level::Warn),
            ("time=\"2026-01-01T00:00:00Z\" level=info msg=\"error\"", Level::Info),
            ("2026-01-01T00:00:00.0Z  INFO k3sd::server: listening", Level::Info),
            ("2026-01-01T00:00:00.0Z ERROR kubelet: failed", Level::Error),
            ("panic: runtime error", Level::Error),
            ("thread 'main' panicked at", Level::Warn),
        ];
        for (line, level) in cases {
            assert_eq!(claimed(line), level, "{line}");
        }
    }

    #[test]
    fn a_severity_in_front_is_taken_off() {
        assert_eq!(split_severity("<3>broken"), (Some(Level::Error), "broken"));
        assert_eq!(split_severity("<6>fine"), (Some(Level::Info), "fine"));
        assert_eq!(split_severity("<9>odd"), (None, "<9>odd"));
        assert_eq!(split_severity("<é"), (None, "<é"));
    }
}
