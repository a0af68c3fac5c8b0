//! The supervisor with real processes, launched without control groups and limits.

use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::board::Facts;
use crate::config::Level;
use crate::services::{Leftovers, Ready};
use crate::testing::alone;

/// Skips the launcher's words and becomes the service.
const LAUNCHER: &[&str] =
    &["/bin/sh", "-c", r#"while [ "$1" != -- ]; do shift; done; shift; exec "$@""#, "launcher"];
const LIMIT: Duration = Duration::from_secs(20);

const SERVICE: Service = Service {
    name: "s",
    command: &["/bin/sleep", "60"],
    environment: &[],
    hostname_variable: None,
    needs: &[],
    ready: Ready::Started,
    start_timeout: None,
    watchdog: None,
    restart: Restart::Failed,
    cgroup: "/skerry-supervisor-test",
    leftovers: Leftovers::Keep,
    open_files: (1024, 1024),
    oom_score_adj: 0,
    without: &[],
    no_new_privileges: false,
    namespaces: &[],
    streams: Streams::Log,
    stop_timeout: Duration::from_millis(300),
    info_counts_as: Level::Info,
};

/// A supervisor of one service, in a process where nobody else has children.
struct Bench {
    board: Board,
    reaping: tokio::task::JoinHandle<io::Result<()>>,
    supervisor: Supervisor,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start(service: Service) -> Self {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let (board, reaper, hub) = (Board::new(Facts::default()), Reaper::default(), Hub::default());
        let reaping = tokio::task::spawn(reaper.clone().reap_all());
        let (listening, path) = (hub.clone(), socket.clone());
        tokio::task::spawn(async move { listening.receive_all(&path).await });
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let environment = vec![("SOCKET", &*socket.display().to_string().leak())];
        let service = Service { environment: environment.leak(), ..service };
        let context = Context { board: board.clone(), reaper, hub, launcher: LAUNCHER };
        let supervisor = Supervisor::start(vec![Box::leak(Box::new(service))], &context);
        Self { board, reaping, supervisor, socket, _dir: dir }
    }

    async fn until(&self, what: &str, holds: impl Fn(&board::Service) -> bool) -> board::Service {
        let mut facts = self.board.watch();
        let found = tokio::time::timeout(LIMIT, facts.wait_for(|facts| holds(&facts.services["s"]))).await;
        let facts =
            found.unwrap_or_else(|_| panic!("{what}: {:?}", self.board.watch().borrow().services)).unwrap();
        facts.services["s"].clone()
    }
}

fn failure(service: &board::Service) -> Option<&str> {
    match &service.phase {
        Phase::Failed { reason, .. } => Some(reason),
        _ => None,
    }
}

/// A service that does what `play` says: this very program, as [`actor`].
fn plays(play: &'static str, service: Service) -> Service {
    let program = std::env::current_exe().unwrap().display().to_string().leak();
    let command = vec![&*program, "--ignored", "--exact", "--nocapture", "supervisor::tests::actor", play];
    Service { command: command.leak(), ready: Ready::Notify, ..service }
}

/// Words of a play: `sleep:MILLIS`, `fork` (goes on as a child that it tells is the main process now), `exit:STATUS`, and anything
/// else is sent, with `,` for line ends.
#[test]
#[ignore = "the service in other tests"]
fn actor() {
    let play = std::env::args().next_back().unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.connect(std::env::var("SOCKET").unwrap()).unwrap();
    let mut acts = play.split(' ');
    while let Some(act) = acts.next() {
        match act.split_once(':') {
            Some(("sleep", millis)) => std::thread::sleep(Duration::from_millis(millis.parse().unwrap())),
            Some(("exit", status)) => std::process::exit(status.parse().unwrap()),
            _ if act == "fork" => {
                let mut words: Vec<_> = std::env::args().collect();
                *words.last_mut().unwrap() = acts.by_ref().collect::<Vec<_>>().join(" ");
                let child = Command::new(&words[0]).args(&words[1..]).spawn().unwrap();
                socket.send(format!("MAINPID={}", child.id()).as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(300));
                std::process::exit(0);
            }
            _ => drop(socket.send(act.replace(',', "\n").as_bytes()).unwrap()),
        }
    }
}

/// What reaps all takes every child of its process, so each of these tests has a process of its own.
macro_rules! own_process {
    ($($rule:ident => $test:ident),* $(,)?) => { $(
        #[test]
        fn $rule() {
            alone(concat!("supervisor::tests::", stringify!($test))).passes();
        }
    )* };
}

own_process! {
    a_service_that_ends_at_once_for_ever_is_visible_with_reason_count_and_next_try => fails_for_ever,
    a_killed_service_is_shown_and_comes_back => killed,
    a_service_that_does_not_become_ready_in_time_has_failed => slow,
    a_service_whose_signs_of_life_stop_is_ended_and_started_again => stuck,
    what_a_service_says_shows_on_the_board => speaks,
    a_new_main_process_takes_the_place_of_the_old_one => moves,
    a_service_that_was_merely_done_has_not_failed => done,
    a_service_that_does_not_end_when_asked_is_killed => stubborn,
    a_process_that_stays_although_it_was_killed_does_not_keep_the_machine_up => immortal,
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn fails_for_ever() {
    let bench = Bench::start(Service { command: &["/bin/sh", "-c", "exit 3"], ..SERVICE }).await;
    let mut earlier = since_kernel_start();
    for count in 1..=3 {
        let service = bench.until("failure", |s| failure(s).is_some() && s.failures == count).await;
        assert_eq!(failure(&service), Some("ended with status 3"));
        let Phase::Failed { retry_at, .. } = service.phase else { unreachable!() };
        // How long the waits are is the back-off's to say.
        assert!(retry_at > earlier, "try {count}");
        earlier = retry_at;
    }
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn killed() {
    let bench = Bench::start(Service {
        command: &["/bin/sh", "-c", "[ -e $SOCKET.x ] || { : > $SOCKET.x; kill -9 $$; }; exec sleep 60"],
        ..SERVICE
    })
    .await;
    let service = bench.until("death", |s| failure(s).is_some()).await;
    assert_eq!(failure(&service), Some("was killed by SIGKILL"));
    let service = bench.until("return", |s| matches!(s.phase, Phase::Ready(_))).await;
    assert_eq!(service.failures, 1);
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn slow() {
    let service =
        Service { ready: Ready::Notify, start_timeout: Some(Duration::from_millis(300)), ..SERVICE };
    let bench = Bench::start(service).await;
    let service = bench.until("timeout", |s| failure(s).is_some()).await;
    assert_eq!(failure(&service), Some("was not ready after 0s"));
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn stuck() {
    // The last sign comes when the first alone would have been too long ago.
    let play = "READY=1,WATCHDOG=1 sleep:1200 WATCHDOG=1 sleep:1200 WATCHDOG=1,STATUS=last sleep:60000";
    let service = Service { watchdog: Some(Duration::from_secs(2)), ..plays(play, SERVICE) };
    let bench = Bench::start(service).await;
    let service = bench.until("last sign", |s| s.status.as_deref() == Some("last")).await;
    assert!(matches!(service.phase, Phase::Ready(_)) && service.failures == 0, "{service:?}");
    let service = bench.until("stuck", |s| failure(s).is_some()).await;
    assert_eq!(failure(&service), Some("gave no sign of life"));
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn speaks() {
    let play = "EXTEND_TIMEOUT_USEC=9000000,STATUS=thinking sleep:1000 READY=1,STATUS=open sleep:300 RELOADING=1 sleep:300 READY=1 \
                sleep:300 STOPPING=1,ERRNO=28 sleep:300 exit:1";
    let service = Service { start_timeout: Some(Duration::from_millis(900)), ..plays(play, SERVICE) };
    let bench = Bench::start(service).await;
    bench.until("status", |s| s.status.as_deref() == Some("thinking") && s.phase == Phase::Starting).await;
    bench.until("ready", |s| s.status.as_deref() == Some("open") && matches!(s.phase, Phase::Ready(_))).await;
    bench.until("reloading", |s| s.phase == Phase::Reloading).await;
    bench.until("ready again", |s| matches!(s.phase, Phase::Ready(_))).await;
    bench.until("stopping", |s| s.phase == Phase::Stopping).await;
    let service = bench.until("failure", |s| failure(s).is_some()).await;
    let reason = failure(&service).unwrap();
    assert!(reason.starts_with("ended with status 1: No space left"), "{reason}");
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn moves() {
    // The group that contains all processes, since these have none of their own.
    let service =
        Service { cgroup: "", ..plays("READY=1 fork sleep:1000 STATUS=new sleep:300 exit:7", SERVICE) };
    let bench = Bench::start(service).await;
    let service = bench.until("word of the new one", |s| s.status.as_deref() == Some("new")).await;
    assert!(matches!(service.phase, Phase::Ready(_)), "the end of the old one did not count: {service:?}");
    let service = bench.until("end of the new one", |s| failure(s).is_some()).await;
    assert_eq!(failure(&service), Some("ended with status 7"));
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn done() {
    let service = Service { command: &["/bin/true"], restart: Restart::Done, ..SERVICE };
    let bench = Bench::start(service).await;
    bench.until("start", |s| matches!(s.phase, Phase::Ready(_))).await;
    bench.until("end", |s| s.phase == Phase::Waiting).await;
    let service = bench.until("next start", |s| matches!(s.phase, Phase::Ready(_))).await;
    assert_eq!(service.failures, 0);
    bench.supervisor.stop_all().await;
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn stubborn() {
    let command: &[&str] = &["/bin/sh", "-c", "trap '' TERM; : > $SOCKET.up; while :; do sleep 1; done"];
    let bench = Bench::start(Service { command, ..SERVICE }).await;
    let up = bench.socket.with_extension("up");
    while !up.exists() {
        tokio::task::yield_now().await;
    }
    let asked = Instant::now();
    tokio::time::timeout(LIMIT, bench.supervisor.stop_all()).await.unwrap();
    assert!(asked.elapsed() >= SERVICE.stop_timeout);
    assert_eq!(bench.board.watch().borrow().services["s"].phase, Phase::Stopped);
}

#[tokio::test]
#[ignore = "started by another test, as a process of its own"]
async fn immortal() {
    let bench = Bench::start(SERVICE).await;
    bench.until("start", |s| matches!(s.phase, Phase::Ready(_))).await;
    // Whom nobody reaps has not ended, like whom a disk does not let go of.
    bench.reaping.abort();
    tokio::time::timeout(LIMIT, bench.supervisor.stop_all()).await.unwrap();
    assert_eq!(bench.board.watch().borrow().services["s"].phase, Phase::Stopped);
}
