//! What one notification says.

use std::time::Duration;

/// The assignments of one datagram that mean something to us; all others are skipped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// A change in its life.
    pub(crate) life: Option<Life>,
    /// `STATUS=text`, for people.
    pub(crate) status: Option<String>,
    /// `MAINPID=n`: another process is the service from now on.
    pub(crate) main_pid: Option<i32>,
    /// `ERRNO=n`: why it is about to fail.
    pub(crate) errno: Option<i32>,
    /// `WATCHDOG=1`: it lives.
    pub(crate) alive: bool,
    /// `WATCHDOG=trigger`: it has found out by itself that it is stuck.
    pub(crate) stuck: bool,
    /// `WATCHDOG_USEC=n`: how often it will say so from now on.
    pub(crate) watchdog: Option<Duration>,
    /// `EXTEND_TIMEOUT_USEC=n`: starting or stopping goes on for at least this long.
    pub(crate) extend: Option<Duration>,
}

/// Where a service says it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// `READY=1`: started, or done with reloading.
    Ready,
    /// `RELOADING=1`: reading its configuration again; `READY=1` follows.
    Reloading,
    /// `STOPPING=1`: on its way out.
    Stopping,
}

/// Reads newline-separated assignments. A later one wins.
pub(super) fn parse(text: &str) -> Message {
    let mut message = Message::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match (key, value) {
            ("READY", "1") => message.life = Some(Life::Ready),
            ("RELOADING", "1") => message.life = Some(Life::Reloading),
            ("STOPPING", "1") => message.life = Some(Life::Stopping),
            ("STATUS", text) => message.status = Some(text.trim().to_owned()),
            ("MAINPID", pid) => message.main_pid = pid.parse().ok().filter(|pid| *pid > 1),
            ("ERRNO", number) => message.errno = number.parse().ok().filter(|number| *number > 0),
            ("WATCHDOG", "1") => message.alive = true,
            ("WATCHDOG", "trigger") => message.stuck = true,
            ("WATCHDOG_USEC", time) => message.watchdog = micros(time),
            ("EXTEND_TIMEOUT_USEC", time) => message.extend = micros(time),
            _ => {}
        }
    }
    message
}

fn micros(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_assignment_is_read_and_others_are_skipped() {
        let text = "RELOADING=1\nMONOTONIC_USEC=5\nSTATUS=a = b \nMAINPID=7\nERRNO=2\nWATCHDOG=1\nWATCHDOG_USEC=1500000\n\
                    EXTEND_TIMEOUT_USEC=2000000\nX_OURS=1\nno assignment\n";
        let expected = Message {
            life: Some(Life::Reloading),
            status: Some("a = b".to_owned()),
            main_pid: Some(7),
            errno: Some(2),
            alive: true,
            stuck: false,
            watchdog: Some(Duration::from_millis(1500)),
            extend: Some(Duration::from_secs(2)),
        };
        assert_eq!(parse(text), expected);
        assert!(parse("WATCHDOG=trigger").stuck);
        assert_eq!(parse("STOPPING=1").life, Some(Life::Stopping));
        assert_eq!(parse("READY=1\n").life, Some(Life::Ready));
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in
            ["MAINPID=1", "MAINPID=-3", "MAINPID=x", "READY=0", "ERRNO=-1", "EXTEND_TIMEOUT_USEC=", ""]
        {
            assert_eq!(parse(text), Message::default(), "{text}");
        }
    }
}
