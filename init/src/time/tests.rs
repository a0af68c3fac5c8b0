//! The client against servers on the loopback, with a clock of its own.

use std::cell::Cell;

use super::*;
use crate::board::Facts;

/// What the servers believe.
const TRUTH: Duration = Duration::from_secs(1_800_000_000);

/// When the image was made.
const FLOOR: Duration = Duration::from_secs(1_790_000_000);

/// A clock that stands still.
struct Stopped {
    now: Cell<Duration>,
    slewed: Cell<Option<f64>>,
}

impl Clock for Stopped {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn step(&self, seconds: f64, _: Duration) -> io::Result<()> {
        self.now.set(Duration::from_secs_f64(self.now.get().as_secs_f64() + seconds));
        Ok(())
    }

    fn slew(&self, seconds: f64, _: Duration, _: u32) -> io::Result<()> {
        self.slewed.set(Some(seconds));
        Ok(())
    }
}

fn keeper(now: Duration) -> Keeper<Stopped> {
    let clock = Stopped { now: Cell::new(now), slewed: Cell::new(None) };
    Keeper::new(clock, Board::new(Facts::default()), FLOOR)
}

/// A server that answers for ever: with its clock's time, or as it is told to change the answer.
async fn server(clock: Duration, change: fn(&mut [u8; packet::LEN])) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 64];
        loop {
            let (_, client) = socket.recv_from(&mut question).await.unwrap();
            // What somebody else sends is to be overlooked.
            socket.send_to(&[0; packet::LEN], client).await.unwrap();
            let mut answer = packet::answer(&question, clock);
            change(&mut answer);
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_clock_at_the_epoch_is_set_and_then_only_nudged() {
    let honest = server(TRUTH, |_| {}).await;
    let mut keeper = keeper(Duration::from_secs(5));
    assert!(matches!(keeper.round(&[honest]).await.unwrap(), Round::Corrected));
    let off = keeper.clock.now().as_secs_f64() - TRUTH.as_secs_f64();
    assert!(off.abs() < 0.001, "off by {off} s");
    keeper.clock.now.set(TRUTH - Duration::from_millis(100));
    keeper.round(&[honest]).await.unwrap();
    let slewed = keeper.clock.slewed.get().unwrap();
    assert!((slewed - 0.1).abs() < 0.001, "slewed by {slewed} s");
    assert_eq!(keeper.clock.now(), TRUTH - Duration::from_millis(100), "not set again");
}

#[tokio::test]
async fn one_wrong_server_of_three_is_outvoted_and_one_that_refuses_is_left_alone() {
    let honest = server(TRUTH, |_| {}).await;
    let also = server(TRUTH + Duration::from_millis(1), |_| {}).await;
    let liar = server(TRUTH + Duration::from_secs(1_000_000), |_| {}).await;
    let rude = server(TRUTH, |answer| {
        answer[1] = 0;
        answer[12..16].copy_from_slice(b"DENY");
    })
    .await;
    let mut keeper = keeper(Duration::ZERO);
    keeper.round(&[liar, honest, rude, also]).await.unwrap();
    assert!((keeper.clock.now().as_secs_f64() - TRUTH.as_secs_f64()).abs() < 0.01);
    assert_eq!(keeper.refused, [rude]);
}

#[tokio::test]
async fn a_server_that_lives_before_the_image_was_made_is_not_believed() {
    let backward = server(FLOOR - Duration::from_secs(60), |_| {}).await;
    let mut keeper = keeper(FLOOR);
    assert!(matches!(keeper.round(&[backward]).await.unwrap(), Round::Silence));
    assert_eq!((keeper.clock.now(), keeper.clock.slewed.get()), (FLOOR, None));
    let honest = server(TRUTH, |_| {}).await;
    keeper.round(&[backward, honest]).await.unwrap();
    assert!((keeper.clock.now().as_secs_f64() - TRUTH.as_secs_f64()).abs() < 0.01);
}

#[tokio::test]
async fn when_nobody_answers_it_is_the_turn_of_other_servers() {
    let names = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"].map(str::to_owned);
    let asked = async |silent| {
        let found = find(&names, silent).await;
        found.iter().map(|server| server.ip().to_string().split_off(8)).collect::<Vec<_>>().concat()
    };
    assert_eq!(asked(0).await, "123");
    assert_eq!(asked(1).await, "451");
    assert_eq!(asked(2).await, "234");
    assert_eq!(turn(&names[..2], 3).collect::<Vec<_>>(), ["192.0.2.2", "192.0.2.1"], "addresses of one name");
    assert_eq!(find(&[], 7).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_leaves_the_clock_alone() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut keeper = keeper(TRUTH);
    assert!(matches!(keeper.round(&[silent.local_addr().unwrap()]).await.unwrap(), Round::Silence));
    assert_eq!((keeper.clock.now(), keeper.clock.slewed.get()), (TRUTH, None));
}

#[test]
fn configured_servers_go_before_those_of_dhcp_and_these_before_the_public_ones() {
    let offered = ["192.0.2.1".parse().unwrap()];
    let configured = Time { servers: vec!["time.example".to_owned()] };
    assert_eq!(names(&configured, &offered), ["time.example"]);
    assert_eq!(names(&Time::default(), &offered), ["192.0.2.1"]);
    assert_eq!(names(&Time::default(), &[]), PUBLIC);
}
