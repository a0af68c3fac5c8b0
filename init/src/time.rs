//! The clock, kept right by time servers: a simple NTP client (RFC 5905, section 14).
//!
//! Servers are those of the configuration, else those that DHCP names, else the public pool's. Nobody waits for the clock: the
//! machine boots with the time of its battery, or with the last it knew (see [`crate::identity`]), and a clock that turns out to be far
//! off is set, once; later it is only nudged. A server that says it is earlier than the image was made is wrong, and is not believed. What was found is kept in the battery clock, if there is one, and on STATE.

mod discipline;
mod lookup;
mod packet;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures::future::join_all;
use nix::time::{ClockId, clock_settime};
use node_config::time::Time;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::discipline::{Correction, Discipline, choose};
use self::packet::Answer;
use crate::board::{Board, Condition};
use crate::console::say;
use crate::identity;
use crate::network::random;

/// Used when neither the configuration nor DHCP names a server.
const PUBLIC: [&str; 3] = ["0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"];
const PORT: u16 = 123;
/// Servers asked in one round; with three, one may be wrong.
const MOST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(3);
/// After so many rounds without an answer the user is told, if servers were named.
const SILENT_ROUNDS: usize = 4;
/// A round comes up to this part of the wait later, so that machines that started together do not ask together.
const FUZZ: u32 = 8;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const BATTERY_CLOCK: &str = "/dev/rtc0";
/// Marks the problem this module raises.
const TOPIC: &str = "time";

/// The clock that is kept.
trait Clock {
    /// Its time since 1970.
    fn now(&self) -> Duration;
    /// Sets it by so many seconds.
    fn step(&self, seconds: f64, error: Duration) -> io::Result<()>;
    /// Has it gain so many seconds gently.
    fn slew(&self, seconds: f64, error: Duration, time_constant: u32) -> io::Result<()>;
}

/// The machine's.
struct SystemClock;

/// One that asks and keeps.
struct Keeper<C> {
    clock: C,
    board: Board,
    discipline: Discipline,
    /// It cannot be earlier than this.
    floor: Duration,
    /// Servers that do not want us.
    refused: Vec<SocketAddr>,
    announced: bool,
}

/// What a round brought.
enum Round {
    Corrected,
    Silence,
}

/// Keeps the clock, for ever. Owned by the main task; ends only when it cannot go on.
pub(crate) async fn run(time: Time, mut offered: watch::Receiver<Vec<IpAddr>>, board: Board) -> Result<()> {
    let mut facts = board.watch();
    let reachable = facts.wait_for(|facts| facts.holds(Condition::Network)).await.map(drop);
    reachable.context("nobody follows the network any more")?;
    let mut keeper = Keeper::new(SystemClock, board, identity::image_time());
    loop {
        let named = names(&time, &offered.borrow_and_update());
        let servers = find(&named, keeper.discipline.rounds_without_answer()).await;
        let round = keeper.round(&servers).await?;
        keeper.report(&round, &time, &named);
        let wait = keeper.discipline.wait();
        tokio::select! {
            () = sleep(wait + random_part(wait / FUZZ)?) => {}
            // Servers of the network's own are better than those that nobody named.
            Ok(()) = offered.changed(), if time.servers.is_empty() => {}
        }
    }
}

/// The names or addresses to ask, and whether somebody named them.
fn names(time: &Time, offered: &[IpAddr]) -> Vec<String> {
    let mut names = time.servers.clone();
    if names.is_empty() {
        names = offered.iter().map(ToString::to_string).collect();
    }
    if names.is_empty() {
        names = PUBLIC.map(str::to_owned).to_vec();
    }
    names
}

/// Addresses to ask: one of each of [`MOST`] names. After `silent` rounds without an answer it is the turn of later names, and of
/// other addresses of the same ones.
async fn find(names: &[String], silent: usize) -> Vec<SocketAddr> {
    let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let mut found = Vec::new();
    for name in turn(names, silent * MOST).take(MOST) {
        let addresses: Vec<_> = lookup::addresses(name, &resolv_conf).await;
        let mut sockets = turn(&addresses, silent).map(|&address| SocketAddr::new(address, PORT));
        found.extend(sockets.find(|address| !found.contains(address)));
    }
    found
}

/// All of `items` once, beginning with the one at `first`, counted round and round.
fn turn<T>(items: &[T], first: usize) -> impl Iterator<Item = &T> {
    let (before, after) = items.split_at(first.checked_rem(items.len()).unwrap_or_default());
    after.iter().chain(before)
}

impl<C: Clock> Keeper<C> {
    fn new(clock: C, board: Board, floor: Duration) -> Self {
        Self { clock, board, discipline: Discipline::new(), floor, refused: Vec::new(), announced: false }
    }

    /// Asks every server once and corrects the clock.
    async fn round(&mut self, servers: &[SocketAddr]) -> Result<Round> {
        let wanted: Vec<_> =
            servers.iter().copied().filter(|server| !self.refused.contains(server)).collect();
        let answers = join_all(wanted.iter().map(|&server| ask(&self.clock, server))).await;
        let mut samples = Vec::new();
        for (server, answer) in wanted.into_iter().zip(answers) {
            match answer {
                Some(Answer::Sample(sample)) if self.is_possible(sample.offset) => samples.push(sample),
                Some(Answer::Sample(_)) | None => {}
                Some(Answer::TooOften) => self.discipline.slow_down(),
                Some(Answer::GoAway) => self.refused.push(server),
            }
        }
        let Some(sample) = choose(samples) else {
            self.discipline.silence();
            // Names may stand for other servers by now.
            if self.refused.len() > MOST {
                self.refused.clear();
            }
            return Ok(Round::Silence);
        };
        let error = Duration::from_secs_f64(sample.error);
        match self.discipline.take(sample) {
            Correction::Step(seconds) => {
                self.clock.step(seconds, error).context("failed to set the clock")?;
                say!("time set by {seconds:+.3} s");
            }
            Correction::Slew(seconds, constant) => {
                self.clock.slew(seconds, error, constant).context("failed to adjust the clock")?;
                if !self.announced {
                    say!("time right, {seconds:+.3} s off");
                }
            }
            Correction::Nothing => {}
        }
        Ok(Round::Corrected)
    }

    /// Whether it can be as late as a clock says that ours lacks this many seconds of.
    fn is_possible(&self, offset: f64) -> bool {
        self.clock.now().as_secs_f64() + offset >= self.floor.as_secs_f64()
    }

    fn report(&mut self, round: &Round, time: &Time, named: &[String]) {
        match round {
            Round::Corrected => {
                self.announced = true;
                self.board.mark("time");
                self.board.problem(TOPIC, None);
                // For the next boot, which may follow a power cut.
                let _ = identity::save_clock();
            }
            Round::Silence => {
                let somebodys = !time.servers.is_empty()
                    || named.first().is_some_and(|name| !PUBLIC.contains(&name.as_str()));
                if somebodys && self.discipline.rounds_without_answer() == SILENT_ROUNDS {
                    let text = format!(
                        "no time server answers ({}); the clock may be wrong. Check the network and time.servers",
                        named.join(", ")
                    );
                    self.board.problem(TOPIC, Some(text));
                }
            }
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn step(&self, seconds: f64, error: Duration) -> io::Result<()> {
        let by = Duration::from_secs_f64(seconds.abs());
        let to = if seconds < 0.0 { self.now().saturating_sub(by) } else { self.now() + by };
        clock_settime(ClockId::CLOCK_REALTIME, to.into())?;
        sys::clock::mark_synchronised(error)?;
        // A machine without a battery, or with a clock that cannot hold the date, goes on without.
        if let Ok(rtc) = File::open(BATTERY_CLOCK) {
            let _ = sys::clock::set_battery_clock(&rtc, to);
        }
        Ok(())
    }

    fn slew(&self, seconds: f64, error: Duration, time_constant: u32) -> io::Result<()> {
        sys::clock::slew(seconds, error, time_constant)
    }
}

/// One question to one server. No answer, and whatever keeps us from getting one, is none.
async fn ask(clock: &impl Clock, server: SocketAddr) -> Option<Answer> {
    timeout(PATIENCE, exchange(clock, server)).await.ok()?.ok()
}

async fn exchange(clock: &impl Clock, server: SocketAddr) -> io::Result<Answer> {
    let here: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    // From now on only this server is heard.
    socket.connect(server).await?;
    let nonce = u64::from(random()?) << 32 | u64::from(random()?);
    let sent = clock.now();
    socket.send(&packet::question(nonce)).await?;
    let mut buffer = [0; 2 * packet::LEN];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = packet::read(&buffer[..len], nonce, sent, clock.now()) {
            return Ok(answer);
        }
    }
}

fn random_part(whole: Duration) -> io::Result<Duration> {
    Ok(whole.mul_f64(f64::from(random()?) / f64::from(u32::MAX)))
}

#[cfg(test)]
mod tests;
