//! The client against a server written here, over a wire made of channels, with a clock that jumps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::{Mutex, mpsc};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Longer than anything the client waits for by itself in these tests.
const LONG: Duration = Duration::from_secs(4000);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 9);
/// Option 53's values.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
/// Seconds that leases last, are renewed after, and are rebound after.
const TIMES: [u32; 3] = [1000, 500, 800];

/// A message of the client as the server sees it.
#[derive(Debug)]
struct Sent {
    at: Instant,
    bytes: Vec<u8>,
    from: Option<Ipv4Addr>,
    to: Option<Ipv4Addr>,
}

/// The client's end.
struct Channel {
    out: mpsc::UnboundedSender<Sent>,
    answers: Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
    taken: Rc<RefCell<BTreeSet<Ipv4Addr>>>,
    announced: Rc<Cell<Option<Ipv4Addr>>>,
}

impl Wire for Channel {
    async fn send(&self, message: &[u8], from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) -> io::Result<()> {
        let sent = Sent { at: Instant::now(), bytes: message.to_vec(), from, to };
        self.out.send(sent).map_err(io::Error::other)
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(answer) = self.answers.lock().await.recv().await else {
            return std::future::pending().await;
        };
        buffer[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }

    async fn in_use(&self, address: Ipv4Addr) -> io::Result<bool> {
        Ok(self.taken.borrow().contains(&address))
    }

    async fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.announced.set(Some(address));
        Ok(())
    }
}

/// The server's end, and what the client tells.
struct Server {
    requests: mpsc::UnboundedReceiver<Sent>,
    answers: mpsc::UnboundedSender<Vec<u8>>,
    told: mpsc::UnboundedReceiver<Event>,
    carrier: watch::Sender<bool>,
    taken: Rc<RefCell<BTreeSet<Ipv4Addr>>>,
    announced: Rc<Cell<Option<Ipv4Addr>>>,
    times: [u32; 3],
}

impl Server {
    /// Starts a client; must be called inside a [`LocalSet`].
    fn with_client(remembered: Option<Ipv4Addr>) -> Self {
        let (out, requests) = mpsc::unbounded_channel();
        let (answers, received) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let (carrier, seen) = watch::channel(true);
        let (taken, announced) = (Rc::default(), Rc::default());
        let wire = Channel {
            out,
            answers: Mutex::new(received),
            taken: Rc::clone(&taken),
            announced: Rc::clone(&announced),
        };
        let client = Client::new(wire, seen, MAC, "box".to_owned(), remembered);
        tokio::task::spawn_local(client.run(async move |event| {
            let _ = tell.send(event);
        }));
        Self { requests, answers, told, carrier, taken, announced, times: TIMES }
    }

    async fn hear(&mut self, kind: u8) -> Sent {
        let sent = timeout(LONG, self.requests.recv()).await.expect("the client is silent").unwrap();
        assert_eq!(sent.bytes[240..243], [53, 1, kind]);
        sent
    }

    fn answer(&self, to: &Sent, kind: u8, address: Ipv4Addr) {
        let mut reply = to.bytes[..240].to_vec();
        reply[0] = 2;
        reply[16..20].copy_from_slice(&address.octets());
        reply.extend_from_slice(&[53, 1, kind, 1, 4, 255, 255, 255, 0, 54, 4]);
        reply.extend_from_slice(&SERVER.octets());
        for (option, seconds) in [51, 58, 59].into_iter().zip(self.times) {
            reply.extend_from_slice(&[option, 4]);
            reply.extend_from_slice(&seconds.to_be_bytes());
        }
        reply.push(255);
        self.answers.send(reply).unwrap();
    }

    /// Grants the address, from the first question on.
    async fn grant(&mut self, address: Ipv4Addr) -> Lease {
        let discover = self.hear(DISCOVER).await;
        self.answer(&discover, OFFER, address);
        let request = self.hear(REQUEST).await;
        assert_eq!(option(&request, 50), Some(address.octets().to_vec()));
        assert_eq!(option(&request, 54), Some(SERVER.octets().to_vec()));
        assert_eq!((request.from, request.to, &request.bytes[12..16]), (None, None, &[0; 4][..]));
        self.answer(&request, ACK, address);
        self.bound().await
    }

    async fn tells(&mut self) -> Event {
        loop {
            match timeout(LONG, self.told.recv()).await.expect("the client tells nothing").unwrap() {
                Event::Asking => {}
                event => return event,
            }
        }
    }

    async fn bound(&mut self) -> Lease {
        match self.tells().await {
            Event::Bound(lease) => lease,
            other => panic!("no lease but {other:?}"),
        }
    }
}

fn option(sent: &Sent, wanted: u8) -> Option<Vec<u8>> {
    let mut rest = &sent.bytes[240..];
    while let [number, len, data @ ..] = rest {
        if *number == wanted {
            return Some(data[..usize::from(*len)].to_vec());
        }
        rest = data.get(usize::from(*len)..)?;
    }
    None
}

/// Seconds between two messages.
fn gap(first: &Sent, second: &Sent) -> f64 {
    (second.at - first.at).as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_by_its_server_then_by_any_and_ends_when_nobody_does() {
    let run = async {
        let mut server = Server::with_client(None);
        let lease = server.grant(FIRST).await;
        assert_eq!(lease.address, "10.9.8.7/24".parse().unwrap());

        let renewal = server.hear(REQUEST).await;
        assert_eq!((renewal.from, renewal.to), (Some(FIRST), Some(SERVER)));
        assert_eq!(renewal.bytes[12..16], FIRST.octets());
        assert_eq!((option(&renewal, 50), option(&renewal, 54)), (None, None));
        assert_eq!(server.announced.get(), Some(FIRST));
        let after = (renewal.at - lease.granted).as_secs_f64();
        assert!((490.0..=500.0).contains(&after), "renewed after {after} s");
        // Renewed with the same settings, there is nothing to tell, and the time counts from the renewal.
        server.answer(&renewal, ACK, FIRST);

        let second = server.hear(REQUEST).await;
        assert!((490.0..=500.5).contains(&gap(&renewal, &second)));
        let mut all = vec![second];
        while !matches!(server.told.try_recv(), Ok(Event::Lost(loss)) if loss == Loss::Expired) {
            match timeout(Duration::from_secs(1), server.requests.recv()).await {
                Ok(sent) if sent.as_ref().unwrap().bytes[242] == REQUEST => all.push(sent.unwrap()),
                _ => {}
            }
        }
        let to: Vec<_> = all.iter().map(|sent| sent.to).collect();
        // Half of what is left each time, and at least a minute: of its server from 500 to 800, of any from 800 to 1000.
        assert_eq!(to, [Some(SERVER), Some(SERVER), Some(SERVER), Some(SERVER), None, None, None]);
        assert!(all.windows(2).all(|pair| gap(&pair[0], &pair[1]) > 10.0), "{all:?}");
        let discover = server.hear(DISCOVER).await;
        assert_eq!(option(&discover, 50), Some(FIRST.octets().to_vec()), "wishes for the old address");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_lease_is_told_and_a_refused_one_is_given_up() {
    let run = async {
        let mut server = Server::with_client(None);
        server.grant(FIRST).await;
        let renewal = server.hear(REQUEST).await;
        server.answer(&renewal, ACK, SECOND);
        assert_eq!(server.bound().await.address.addr(), SECOND);
        let renewal = server.hear(REQUEST).await;
        server.answer(&renewal, NAK, Ipv4Addr::UNSPECIFIED);
        assert_eq!(server.tells().await, Event::Lost(Loss::Refused));
        server.grant(FIRST).await;
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn questions_are_repeated_ever_more_slowly_and_a_late_answer_is_taken() {
    let run = async {
        let mut server = Server::with_client(None);
        let mut asked = Vec::new();
        for _ in 0..7 {
            asked.push(server.hear(DISCOVER).await);
        }
        let gaps: Vec<_> = asked.windows(2).map(|pair| gap(&pair[0], &pair[1])).collect();
        for (gap, expected) in gaps.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 64.0]) {
            assert!((gap - expected).abs() <= 1.01, "{gaps:?}");
        }
        let seconds = u16::from_be_bytes([asked[6].bytes[8], asked[6].bytes[9]]);
        assert!((180..=200).contains(&seconds), "says that it has tried for {seconds} s");
        assert_eq!(server.tells().await, Event::Silence);
        server.answer(&asked[6], OFFER, FIRST);
        // The request is lost, and repeated.
        let first = server.hear(REQUEST).await;
        let second = server.hear(REQUEST).await;
        assert!((3.0..=5.0).contains(&gap(&first, &second)));
        server.answer(&second, ACK, FIRST);
        server.bound().await;
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_offers_and_refuses_is_not_asked_in_a_circle() {
    let run = async {
        let mut server = Server::with_client(None);
        let mut asked = Vec::new();
        for _ in 0..4 {
            let discover = server.hear(DISCOVER).await;
            server.answer(&discover, OFFER, FIRST);
            let request = server.hear(REQUEST).await;
            server.answer(&request, NAK, Ipv4Addr::UNSPECIFIED);
            asked.push(discover);
        }
        assert!(gap(&asked[2], &asked[3]) > 14.0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_is_declined_and_another_asked_for() {
    let run = async {
        let mut server = Server::with_client(None);
        server.taken.borrow_mut().insert(FIRST);
        let discover = server.hear(DISCOVER).await;
        server.answer(&discover, OFFER, FIRST);
        let request = server.hear(REQUEST).await;
        server.answer(&request, ACK, FIRST);
        let decline = server.hear(DECLINE).await;
        assert_eq!(option(&decline, 50), Some(FIRST.octets().to_vec()));
        assert_eq!(option(&decline, 54), Some(SERVER.octets().to_vec()));
        assert_eq!(server.tells().await, Event::Conflict(FIRST));
        let again = server.hear(DISCOVER).await;
        assert!(gap(&decline, &again) >= 10.0);
        server.answer(&again, OFFER, SECOND);
        let request = server.hear(REQUEST).await;
        server.answer(&request, ACK, SECOND);
        assert_eq!(server.bound().await.address.addr(), SECOND);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_remembered_address_is_confirmed_first_and_forgotten_when_refused() {
    let run = async {
        let mut server = Server::with_client(Some(FIRST));
        let confirmation = server.hear(REQUEST).await;
        assert_eq!(option(&confirmation, 50), Some(FIRST.octets().to_vec()));
        assert_eq!(option(&confirmation, 54), None);
        assert_eq!(confirmation.bytes[12..16], [0; 4]);
        server.answer(&confirmation, ACK, FIRST);
        server.bound().await;

        let mut server = Server::with_client(Some(SECOND));
        let confirmation = server.hear(REQUEST).await;
        server.answer(&confirmation, NAK, Ipv4Addr::UNSPECIFIED);
        server.grant(FIRST).await;

        // A server that does not know us must keep silent, so silence means little and costs little.
        let mut server = Server::with_client(Some(SECOND));
        let first = server.hear(REQUEST).await;
        server.hear(REQUEST).await;
        let discover = server.hear(DISCOVER).await;
        assert!(gap(&first, &discover) <= 3.1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_carrier_nothing_is_sent_and_its_return_has_the_lease_confirmed() {
    let run = async {
        let mut server = Server::with_client(None);
        server.carrier.send_replace(false);
        let silence = timeout(LONG, server.requests.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
        server.carrier.send_replace(true);
        server.times = [8000, 6000, 7000];
        server.grant(FIRST).await;

        for (answer, expected) in [(Some(ACK), None), (None, None), (Some(NAK), Some(Loss::Refused))] {
            server.carrier.send_replace(false);
            assert!(timeout(Duration::from_secs(5), server.requests.recv()).await.is_err());
            server.carrier.send_replace(true);
            let confirmation = server.hear(REQUEST).await;
            assert_eq!(option(&confirmation, 50), Some(FIRST.octets().to_vec()));
            match answer {
                Some(kind) => server.answer(&confirmation, kind, FIRST),
                None => drop(server.hear(REQUEST).await),
            }
            match expected {
                Some(loss) => assert_eq!(server.tells().await, Event::Lost(loss)),
                None => {
                    let told = timeout(Duration::from_secs(10), server.told.recv()).await;
                    assert!(told.is_err(), "{told:?}");
                }
            }
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_carrier_that_comes_and_goes_starts_the_questions_over() {
    let run = async {
        let mut server = Server::with_client(None);
        for _ in 0..5 {
            server.hear(DISCOVER).await;
        }
        server.carrier.send_replace(false);
        tokio::task::yield_now().await;
        server.carrier.send_replace(true);
        let first = server.hear(DISCOVER).await;
        let second = server.hear(DISCOVER).await;
        assert!(gap(&first, &second) <= 5.1, "patience begins anew");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn an_infinite_lease_is_never_renewed() {
    let run = async {
        let mut server = Server::with_client(None);
        server.times = [u32::MAX; 3];
        server.grant(FIRST).await;
        let month = Duration::from_secs(30 * 24 * 3600);
        assert!(timeout(month, server.requests.recv()).await.is_err());
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_renewal_at_once_is_not_asked_without_a_pause() {
    let run = async {
        let mut server = Server::with_client(None);
        server.times = [1000, 0, 0];
        let lease = server.grant(FIRST).await;
        let renewal = server.hear(REQUEST).await;
        let after = (renewal.at - lease.granted).as_secs_f64();
        assert!((490.0..=500.0).contains(&after), "renewed after {after} s");
        assert_eq!(renewal.to, Some(SERVER), "not to be asked of anyone yet");
    };
    LocalSet::new().run_until(run).await;
}
