//! Messages as QEMU's, dnsmasq's and worse servers send them.

use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const XID: u32 = 0xDEAD_BEEF;

/// A reply with these options, for 10.0.2.15.
fn reply(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN];
    message[0] = BOOT_REPLY;
    message[4..8].copy_from_slice(&XID.to_be_bytes());
    message[16..20].copy_from_slice(&[10, 0, 2, 15]);
    message[28..34].copy_from_slice(&MAC);
    message.extend_from_slice(&COOKIE);
    for (number, data) in options {
        message.extend_from_slice(&[*number, data.len() as u8]);
        message.extend_from_slice(data);
    }
    message.push(option::END);
    message
}

fn decode(message: &[u8]) -> Option<Reply> {
    Reply::decode(message, XID, MAC, Instant::now())
}

#[tokio::test]
async fn an_ack_gives_address_routes_servers_and_times() {
    let message = reply(&[
        (option::KIND, &[5]),
        (option::MASK, &[255, 255, 255, 0]),
        (option::ROUTER, &[10, 0, 2, 2]),
        (option::DNS, &[10, 0, 2, 3]),
        (option::LEASE_TIME, &86400u32.to_be_bytes()),
        (option::SERVER, &[10, 0, 2, 2]),
        (option::DOMAIN, b"lan\0"),
        (option::NTP, &[10, 0, 2, 4, 10, 0, 2, 5]),
        (option::MTU, &[5, 220]),
    ]);
    let Reply { kind, lease } = decode(&message).unwrap();
    assert_eq!(kind, Kind::Ack);
    assert_eq!(lease.address, "10.0.2.15/24".parse().unwrap());
    let default =
        Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: Some(Ipv4Addr::new(10, 0, 2, 2)) };
    assert_eq!(lease.routes, [default]);
    assert_eq!(lease.dns, [Ipv4Addr::new(10, 0, 2, 3)]);
    assert_eq!(lease.domain.as_deref(), Some("lan"));
    assert_eq!(lease.ntp, [Ipv4Addr::new(10, 0, 2, 4), Ipv4Addr::new(10, 0, 2, 5)]);
    assert_eq!(lease.mtu, Some(1500));
    let times = lease.times().unwrap();
    assert_eq!([times.renew, times.rebind, times.end].map(|t| t.as_secs()), [43200, 75600, 86400]);
}

#[tokio::test]
async fn answers_to_others_and_broken_ones_are_nothing() {
    let good = reply(&[(option::KIND, &[2]), (option::SERVER, &[10, 0, 2, 2])]);
    assert!(decode(&good).is_some());
    assert!(decode(&reply(&[(option::KIND, &[2])])).is_none(), "an offer by nobody");
    assert!(Reply::decode(&good, XID + 1, MAC, Instant::now()).is_none(), "another transaction");
    assert!(Reply::decode(&good, XID, [0; 6], Instant::now()).is_none(), "another client");
    for len in 0..good.len() - 1 {
        assert!(decode(&good[..len]).is_none(), "cut to {len} bytes");
    }
    let mut request = good.clone();
    request[0] = BOOT_REQUEST;
    assert!(decode(&request).is_none());
    let mut nowhere = good;
    nowhere[16..20].copy_from_slice(&[0; 4]);
    assert!(decode(&nowhere).is_none(), "no address");
}

#[tokio::test]
async fn classless_routes_replace_the_router() {
    let message = reply(&[
        (option::KIND, &[5]),
        (option::ROUTER, &[10, 0, 2, 2]),
        (option::ROUTES, &[0, 10, 0, 2, 1, 24, 192, 168, 9, 0, 0, 0, 0]),
    ]);
    let routes = decode(&message).unwrap().lease.routes;
    assert_eq!(
        routes,
        [
            Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: Some(Ipv4Addr::new(10, 0, 2, 1)) },
            Route { destination: "192.168.9.0/24".parse().unwrap(), gateway: None },
        ]
    );
    assert_eq!(classless(&[33, 1, 2, 3, 4, 5, 0, 0, 0, 0]), None);
    assert_eq!(classless(&[24, 1, 2]), None);
}

#[tokio::test]
async fn a_split_option_is_joined_and_a_bad_domain_is_dropped() {
    let message = reply(&[
        (option::KIND, &[5]),
        (option::DNS, &[1, 1]),
        (option::DNS, &[1, 1, 8, 8, 8, 8]),
        (option::DOMAIN, b"x\nnameserver 6.6.6.6"),
    ]);
    let lease = decode(&message).unwrap().lease;
    assert_eq!(lease.dns, [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)]);
    assert_eq!(lease.domain, None);
}

#[tokio::test]
async fn an_infinite_lease_has_no_times_and_wrong_times_are_replaced() {
    let times = |options: &[(u8, &[u8])]| {
        let mut all = vec![(option::KIND, &[5u8][..])];
        all.extend_from_slice(options);
        decode(&reply(&all)).unwrap().lease.times()
    };
    assert_eq!(times(&[(option::LEASE_TIME, &[255; 4])]), None);
    let wrong = times(&[
        (option::LEASE_TIME, &80u32.to_be_bytes()),
        (option::RENEW_TIME, &90u32.to_be_bytes()),
        (option::REBIND_TIME, &70u32.to_be_bytes()),
    ]);
    assert_eq!(wrong.map(|t| [t.renew, t.rebind, t.end].map(|t| t.as_secs())), Some([40, 70, 80]));
}

#[tokio::test]
async fn a_request_takes_the_offer_and_a_renewal_speaks_from_its_address() {
    let message = reply(&[(option::KIND, &[2]), (option::SERVER, &[10, 0, 2, 2])]);
    let offer = decode(&message).unwrap().lease;
    let taking = request(Kind::Request, None);
    let bytes = taking.select(&offer).encode();
    assert!(bytes.len() >= MIN_LEN);
    assert_eq!(bytes[10..12], BROADCAST_FLAG.to_be_bytes());
    let mut options = Options(Vec::new());
    options.read(&bytes[HEADER_LEN + COOKIE.len()..]).unwrap();
    assert_eq!(options.get(option::REQUESTED), Some(&[10, 0, 2, 15][..]));
    assert_eq!(options.get(option::SERVER), Some(&[10, 0, 2, 2][..]));
    assert_eq!(options.get(option::HOSTNAME), Some(&b"box"[..]));

    let current = Some(Ipv4Addr::new(10, 0, 2, 15));
    let renewal = request(Kind::Request, current);
    let bytes = renewal.encode();
    assert_eq!((&bytes[10..12], &bytes[12..16]), (&[0, 0][..], &[10, 0, 2, 15][..]));
}

fn request(kind: Kind, current: Option<Ipv4Addr>) -> Request<'static> {
    let trying = Duration::from_secs(70_000);
    Request {
        kind,
        transaction: XID,
        mac: MAC,
        hostname: "box",
        trying,
        current,
        requested: None,
        server: None,
    }
}

#[tokio::test]
async fn options_may_stand_in_lent_fields() {
    let mut message = reply(&[(option::KIND, &[5]), (option::OVERLOAD, &[3])]);
    message[BOOT_FILE.start..BOOT_FILE.start + 7].copy_from_slice(&[option::DNS, 4, 9, 9, 9, 9, option::END]);
    message[SERVER_NAME.start..SERVER_NAME.start + 7].copy_from_slice(&[option::NTP, 4, 8, 8, 8, 8, 255]);
    let lease = decode(&message).unwrap().lease;
    assert_eq!(lease.dns, [Ipv4Addr::new(9, 9, 9, 9)]);
    assert_eq!(lease.ntp, [Ipv4Addr::new(8, 8, 8, 8)]);
}

#[tokio::test]
async fn a_release_says_who_and_where_and_asks_for_nothing() {
    let mut release = request(Kind::Release, Some(Ipv4Addr::new(10, 0, 2, 15)));
    release.server = Some(Ipv4Addr::new(10, 0, 2, 2));
    let bytes = release.encode();
    assert_eq!((&bytes[8..10], &bytes[12..16]), (&[255, 255][..], &[10, 0, 2, 15][..]));
    let mut options = Options(Vec::new());
    options.read(&bytes[HEADER_LEN + COOKIE.len()..]).unwrap();
    assert_eq!(options.get(option::KIND), Some(&[7][..]));
    assert_eq!(options.get(option::SERVER), Some(&[10, 0, 2, 2][..]));
    assert_eq!((options.get(option::PARAMETERS), options.get(option::REQUESTED)), (None, None));
}

#[tokio::test]
async fn a_lease_of_no_time_is_a_short_one() {
    let message = reply(&[(option::KIND, &[5]), (option::LEASE_TIME, &[0; 4])]);
    assert_eq!(decode(&message).unwrap().lease.times().unwrap().end, Duration::from_secs(10));
}
