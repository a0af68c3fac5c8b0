//! The running machine: what goes on all the time, the way up, and the wait for the end.

mod devices;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::board::{Board, note};
use crate::boot;
use crate::cmdline::Cmdline;
use crate::config::{self, Decision, Found, NodeConfig};
use crate::console::say;
use crate::etc;
use crate::figures;
use crate::handout;
use crate::identity;
use crate::kexec;
use crate::logs;
use crate::mounts;
use crate::network;
use crate::notify::{self, Hub};
use crate::power::{Action, Asked};
use crate::reaper::Reaper;
use crate::report;
use crate::services::{self, Service};
use crate::shutdown;
use crate::state;
use crate::supervisor::{self, Context as ServiceContext, Supervisor};
use crate::time;
use crate::verity;
use crate::watchdog::Watchdog;

/// How long a duty that failed rests before it is tried again.
const DUTY_PAUSE: Duration = Duration::from_secs(5);
/// What reading a kernel from a slow disk may take.
const KEXEC_LIMIT: Duration = Duration::from_secs(30);

/// A duty that has failed and then goes on for this long works again.
const DUTY_WORKS: Duration = Duration::from_secs(30);

/// Mistakes that are told. A file that is none of ours may have any number of them.
const MOST_TOLD: usize = 50;

/// The machine between the first stage and the end.
pub(crate) struct Machine {
    board: Board,
    cmdline: Cmdline,
    reaper: Reaper,
    hub: Hub,
    /// What goes on until the end; all of it is dropped then.
    duties: JoinSet<()>,
    supervisor: Option<Supervisor>,
    watchdog: Watchdog,
    /// What the network has for others.
    offers: network::Offers,
    /// Whether STATE survives a reboot.
    persistent: bool,
}

impl Machine {
    /// A machine that tells about itself on `board`.
    pub(crate) fn new(board: Board) -> Self {
        let cmdline = Cmdline::read();
        let watchdog = Watchdog::new(config::early(&cmdline).config.boot.watchdog);
        Self {
            board,
            cmdline,
            reaper: Reaper::default(),
            hub: Hub::default(),
            duties: JoinSet::new(),
            supervisor: None,
            watchdog,
            offers: network::Offers::default(),
            persistent: false,
        }
    }

    /// Comes up, runs until someone asks for the end, and takes everything down. Returns what is left to do.
    pub(crate) async fn live(mut self) -> Action {
        self.start_duties();
        let mut asked = Asked::listen();
        let early = tokio::select! {
            action = asked.next() => Some(action),
            () = self.bring_up() => None,
        };
        let action = match early {
            Some(action) => action,
            None => asked.next().await,
        };
        let action = prepared(action).await;
        self.watchdog.expect_shutdown();
        shutdown::run(action, self.supervisor, self.persistent, &self.reaper, asked).await;
        if matches!(action, Action::PowerOff | Action::Halt) {
            self.offers.release_leases();
        }
        self.watchdog.finish(action);
        action
    }

    fn start_duties(&mut self) {
        let reaper = self.reaper.clone();
        self.keep_doing("reaping", move || reaper.clone().reap_all());
        let hub = self.hub.clone();
        self.keep_doing("notifications", move || hub.clone().receive_all(Path::new(notify::SOCKET)));
        let (board, reaper) = (self.board.clone(), self.reaper.clone());
        self.keep_doing("modules", move || devices::load_modules(board.clone(), reaper.clone()));
        self.keep_doing("verified root", fall_with_root);
        let (watchdog, board) = (self.watchdog.clone(), self.board.clone());
        self.keep_doing("watchdog", move || watchdog.clone().run(board.clone()));
        let board = self.board.clone();
        self.keep_doing("kubeconfig", move || handout::run(board.clone()));
        self.keep_doing("journal socket", logs::serve_journal);
        self.keep_doing("kernel messages", logs::follow_kernel);
        let board = self.board.clone();
        self.keep_doing("log socket", move || logs::serve(board.clone()));
        let board = self.board.clone();
        self.keep_doing("figures", move || figures::run(board.clone()));
        self.duties.spawn_local(report::run(self.board.clone()));
    }

    /// Configuration, STATE, identity, network, services: the order in which each needs the one before.
    async fn bring_up(&mut self) {
        let found = config::search(&self.board, &self.cmdline, &self.reaper).await;
        let state = self.prepare_state(&found).await;
        let (Decision { config, usable, mistakes, .. }, problems) = found.settled(&self.cmdline).await;
        self.watchdog.set(config.boot.watchdog);
        let hostname = self.take_identity(&config, state.is_ok());
        self.start_network(&config, &hostname);
        self.apply(&config);
        let mistakes = first_of(mistakes.iter().map(ToString::to_string).collect());
        // What is not in the way is shown all the same, and so is what is.
        let (mut obstacles, wrong) = if usable { (Vec::new(), mistakes) } else { (mistakes, Vec::new()) };
        for (number, text) in wrong.into_iter().chain(first_of(problems)).enumerate() {
            // In the order in which they stand in the documents.
            self.board.problem(&format!("configuration {number:03}"), Some(text));
        }
        let state_device = state.as_ref().ok().map(|place| place.trim_start_matches("/dev/").to_owned());
        match state {
            Ok(place) => {
                if let Err(error) = etc::write_services(&config, self.persistent) {
                    obstacles.push(format!("{error:#}"));
                }
                say!("state ready {place}");
                self.board.mark("state");
                self.board.update(|facts| facts.state = Some(place));
            }
            Err(error) => obstacles.push(format!("{error:#}")),
        }
        if self.persistent {
            self.keep_doing("saved time", identity::keep_clock);
            let (device, board) = (state_device.unwrap_or_default(), self.board.clone());
            self.keep_doing("state", move || state::health::watch(device.clone(), board.clone()));
        }
        self.start_logging(&config);
        let shell = self.debug_shell(&config);
        match config.node.role {
            Some(role) if obstacles.is_empty() => {
                self.start_services(services::of_role(role).into_iter().chain(shell).collect());
            }
            _ => {
                self.enter_maintenance(obstacles);
                self.start_services(shell.into_iter().collect());
            }
        }
    }

    /// Finds or makes STATE as far as what was found allows.
    async fn prepare_state(&mut self, found: &Arc<Found>) -> Result<String> {
        let wish = state::Wish::new(&found.told(&self.cmdline).await, boot::root_source());
        let place = state::prepare(&wish, &self.board, &self.reaper).await?;
        self.persistent = place != state::IN_MEMORY;
        note(&self.board, "clock", identity::raise_clock());
        note(&self.board, "seed", identity::stir_seed());
        Ok(place)
    }

    /// Becomes someone: machine id, host name, and the files that tell. Returns the host name.
    fn take_identity(&mut self, config: &NodeConfig, keep: bool) -> String {
        let machine_id = note(&self.board, "machine id", identity::machine_id(keep)).unwrap_or_default();
        let hostname =
            config.node.hostname.clone().unwrap_or_else(|| identity::default_hostname(&machine_id));
        let set = nix::unistd::sethostname(&hostname).context("failed to set the host name");
        note(&self.board, "host name", set);
        note(&self.board, "/etc", etc::write_identity(&hostname, &machine_id));
        self.board.update(|facts| {
            facts.role = config.node.role;
            facts.hostname.clone_from(&hostname);
        });
        hostname
    }

    /// Files, kernel settings and modules. The latter two go on beside the rest.
    fn apply(&mut self, config: &NodeConfig) {
        config::files(config, &self.board);
        if !config.sysctl.is_empty() {
            self.duties.spawn_local(config::kernel(config.clone(), self.board.clone()));
        }
        if !config.modules.is_empty() {
            self.duties.spawn_local(config::modules(config.clone(), self.board.clone(), self.reaper.clone()));
        }
    }

    fn start_network(&mut self, config: &NodeConfig, hostname: &str) {
        let (board, network, hostname) = (self.board.clone(), config.network.clone(), hostname.to_owned());
        let offers = self.offers.clone();
        self.keep_doing("network", move || {
            network::run(network.clone(), hostname.clone(), board.clone(), offers.clone())
        });
        let (board, time, offers) = (self.board.clone(), config.time.clone(), self.offers.clone());
        self.keep_doing("time", move || time::run(time.clone(), offers.time_servers(), board.clone()));
    }

    fn start_logging(&mut self, config: &NodeConfig) {
        logs::configure(logs::Settings::new(&config.log));
        if config.log.disk {
            let (board, written) = (self.board.clone(), logs::Written::default());
            self.keep_doing("log on disk", move || logs::write_to_disk(board.clone(), written.clone()));
        }
    }

    /// The shell, if it is asked for and the image has one.
    fn debug_shell(&self, config: &NodeConfig) -> Option<&'static Service> {
        let shell = config.boot.debug.then(services::debug_shell)?;
        note(&self.board, "debugfs", mounts::debug());
        if shell.is_none() {
            let text =
                "skerry.debug asks for a shell, and this image has none; build one with image build --debug";
            self.board.problem("debug shell", Some(text.to_owned()));
        }
        shell
    }

    fn start_services(&mut self, services: Vec<&'static Service>) {
        let context = ServiceContext {
            board: self.board.clone(),
            reaper: self.reaper.clone(),
            hub: self.hub.clone(),
            launcher: supervisor::LAUNCHER,
        };
        self.supervisor = Some(Supervisor::start(services, &context));
    }

    /// Says why no service runs and what to do. The machine stays up, so that someone can read it.
    fn enter_maintenance(&self, obstacles: Vec<String>) {
        for obstacle in &obstacles {
            say!("maintenance: {obstacle}");
        }
        say!(
            "maintenance: no service is started; correct this and restart (Ctrl-Alt-Del or the power button)"
        );
        say!("maintenance: allowed settings:");
        for line in config::help() {
            say!("maintenance:   {line}");
        }
        self.board.update(|facts| facts.maintenance = obstacles);
    }

    /// Runs `work` again, after a pause, whenever it ends; it is meant to go on for ever.
    fn keep_doing<E, F>(&mut self, what: &'static str, work: impl Fn() -> F + 'static)
    where
        E: Into<anyhow::Error> + 'static,
        F: Future<Output = Result<(), E>> + 'static,
    {
        self.duties.spawn_local(keep_doing(self.board.clone(), what, work));
    }
}

async fn keep_doing<E, F>(board: Board, what: &'static str, work: impl Fn() -> F)
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<(), E>>,
{
    // Not the topic of a problem that the work itself raises and clears.
    let topic = format!("duty {what}");
    let mut failed = false;
    loop {
        let mut run = std::pin::pin!(work());
        let early = match failed {
            true => timeout(DUTY_WORKS, &mut run).await.ok(),
            false => None,
        };
        let ended = match early {
            Some(ended) => ended,
            None => {
                board.problem(&topic, None);
                run.await
            }
        };
        if let Err(error) = ended {
            failed = true;
            board.problem(&topic, Some(format!("{what}: {:#}", error.into())));
        }
        sleep(DUTY_PAUSE).await;
    }
}

/// As many of `texts` as someone may read, and how many more there are.
fn first_of(mut texts: Vec<String>) -> Vec<String> {
    let more = texts.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        texts.truncate(MOST_TOLD);
        texts.push(format!("and {more} more"));
    }
    texts
}

/// Ends the machine when its root turns out to be damaged. Does not return before.
async fn fall_with_root() -> Result<()> {
    let block = verity::damaged().await?;
    let root = boot::root_source();
    shutdown::fall(&format!(
        "the root filesystem on {root} is damaged: {block} does not match the root hash. {}",
        verity::REMEDY
    ))
}

/// Loads what a kexec starts. Without that the machine goes the longer way through its firmware, and says so.
async fn prepared(action: Action) -> Action {
    if action != Action::Kexec {
        return action;
    }
    let load = || kexec::load(&boot::root_source());
    let error = match timeout(KEXEC_LIMIT, tokio::task::spawn_blocking(load)).await {
        Ok(Ok(Ok(()))) => return action,
        Ok(Ok(Err(error))) => error,
        Ok(Err(error)) => error.into(),
        Err(_) => anyhow!("the disk with the kernel does not answer"),
    };
    say!("problem: no kexec: {error:#}; rebooting instead");
    Action::Reboot
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::board::Facts;

    #[test]
    fn a_screen_full_of_mistakes_is_enough() {
        let mistakes = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(first_of(mistakes(50)), mistakes(50));
        let told = first_of(mistakes(100_000));
        assert_eq!((told.len(), told[49].as_str(), told[50].as_str()), (51, "49", "and 99950 more"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_problem_of_a_duty_goes_away_once_it_works_and_not_before() {
        let board = Board::new(Facts::default());
        let runs = Cell::new(0);
        let work = || {
            runs.set(runs.get() + 1);
            let run = runs.get();
            async move {
                match run {
                    1 => Err(anyhow::anyhow!("no such socket")),
                    2 => {
                        sleep(DUTY_WORKS / 2).await;
                        Err(anyhow::anyhow!("no such socket"))
                    }
                    _ => std::future::pending().await,
                }
            }
        };
        let problem = || board.watch().borrow().problems.values().next().cloned();
        let began = tokio::time::Instant::now();
        let look = async {
            for (at, expected) in [(1, true), (6, true), (21, true), (54, true), (57, false), (900, false)] {
                tokio::time::sleep_until(began + Duration::from_secs(at)).await;
                assert_eq!(problem().is_some(), expected, "after {at} s: {:?}", problem());
            }
        };
        tokio::select! {
            () = keep_doing(board.clone(), "socket", work) => {}
            () = look => {}
        }
        assert_eq!(runs.get(), 3);
    }
}
