use std::collections::BTreeMap;
use std::sync::Barrier;

use super::*;

fn id(container: &str) -> AttachmentId {
    AttachmentId { container: container.to_owned(), interface: "eth0".to_owned() }
}

/// An attachment whose namespace exists: the test's own.
fn alive(container: &str) -> Attachment {
    let namespace = PathBuf::from("/proc/self/ns/net");
    Attachment { id: id(container), namespace, addresses: Vec::new(), port_mappings: Vec::new() }
}

fn gone(container: &str) -> Attachment {
    Attachment { namespace: PathBuf::from("/nowhere"), ..alive(container) }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn reserve(directory: &Path, attachment: Attachment, subnet: &str) -> Result<IpAddr, Error> {
    let store = Store::lock(directory)?;
    store.reserve(attachment, &[net(subnet)]).map(|attachment| attachment.addresses[0])
}

#[test]
fn addresses_rest_before_they_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let next = |name: &str| reserve(directory.path(), alive(name), "10.42.0.0/29").unwrap().to_string();
    assert_eq!(next("a"), "10.42.0.2");
    assert_eq!(next("b"), "10.42.0.3");
    Store::lock(directory.path()).unwrap().release(&id("a")).unwrap();
    assert_eq!([next("c"), next("d"), next("e")], ["10.42.0.4", "10.42.0.5", "10.42.0.6"]);
    assert_eq!(next("f"), "10.42.0.2");
}

#[test]
fn a_full_subnet_is_an_error_until_containers_that_are_gone_are_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let subnet = "10.42.0.0/30";
    assert_eq!(reserve(directory.path(), gone("a"), subnet).unwrap().to_string(), "10.42.0.2");
    let error = reserve(directory.path(), alive("b"), subnet).unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error}");
    let reclaimed = Store::lock(directory.path()).unwrap().reclaim().unwrap();
    assert_eq!(reclaimed.len(), 1);
    assert_eq!(reserve(directory.path(), alive("b"), subnet).unwrap().to_string(), "10.42.0.2");
    assert!(Store::lock(directory.path()).unwrap().reclaim().unwrap().is_empty());
}

#[test]
fn release_is_idempotent_and_touches_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    reserve(directory.path(), alive("a"), "10.42.0.0/24").unwrap();
    let kept = reserve(directory.path(), alive("b"), "10.42.0.0/24").unwrap();
    let store = Store::lock(directory.path()).unwrap();
    assert!(store.release(&id("a")).unwrap().is_some());
    assert!(store.release(&id("a")).unwrap().is_none());
    assert_eq!(store.taken().unwrap(), BTreeSet::from([kept]));
    assert_eq!(store.attachments().unwrap().len(), 1);
}

#[test]
fn an_add_that_was_cut_off_and_comes_again_leaks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    reserve(directory.path(), alive("a"), "10.42.0.0/24").unwrap();
    let second = reserve(directory.path(), alive("a"), "10.42.0.0/24").unwrap();
    let store = Store::lock(directory.path()).unwrap();
    assert_eq!(store.taken().unwrap(), BTreeSet::from([second]));
}

#[test]
fn reservations_of_host_local_are_honoured_and_released() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("10.42.0.2"), "old\r\neth0").unwrap();
    let ours = reserve(directory.path(), alive("new"), "10.42.0.0/24").unwrap();
    assert_eq!(ours.to_string(), "10.42.0.3");
    assert_eq!(fs::read_to_string(directory.path().join("10.42.0.3")).unwrap(), "new\r\neth0");
    let store = Store::lock(directory.path()).unwrap();
    store.release(&id("old")).unwrap();
    assert_eq!(store.taken().unwrap(), BTreeSet::from([ours]));
}

#[test]
fn files_torn_by_a_power_cut_are_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::lock(directory.path()).unwrap();
    fs::write(directory.path().join("10.42.0.2"), "").unwrap();
    fs::write(directory.path().join("10.42.0.3"), "torn\r\neth0").unwrap();
    fs::write(store.record_path(&id("torn")), "{\"contai").unwrap();
    store.reclaim().unwrap();
    assert!(store.taken().unwrap().is_empty());
    drop(store);
    assert!(reserve(directory.path(), alive("torn"), "10.42.0.0/24").is_ok());
}

#[test]
fn a_pod_gets_one_address_of_each_family() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::lock(directory.path()).unwrap();
    let got = store.reserve(alive("a"), &[net("10.42.0.0/24"), net("fd00:42::/64")]).unwrap();
    assert_eq!(got.addresses, ["10.42.0.2", "fd00:42::2"].map(|text| text.parse::<IpAddr>().unwrap()));
    assert_eq!(gateway(net("fd00:42::/64")).to_string(), "fd00:42::1");
}

#[test]
fn attachments_made_at_the_same_time_never_share_an_address() {
    const THREADS: usize = 8;
    const EACH: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(THREADS);
    let addresses: Vec<IpAddr> = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let (barrier, directory) = (&barrier, directory.path());
            scope.spawn(move || {
                barrier.wait();
                let one =
                    |pod| reserve(directory, alive(&format!("{thread}-{pod}")), "10.42.0.0/24").unwrap();
                (0..EACH).map(one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..THREADS).map(work).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), THREADS * EACH);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 48, failure_persistence: None, ..Default::default() })]

    /// Against a model (a map of who has what): addresses are inside the subnet, never special, never shared; a
    /// reservation fails only when the subnet is full; nothing is left after everybody is gone.
    #[test]
    fn any_sequence_of_adds_and_dels_keeps_addresses_unique(
        prefix in 27_u8..=30,
        steps in proptest::collection::vec((0_u8..16, proptest::bool::ANY), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let subnet: IpNet = format!("10.9.8.0/{prefix}").parse().unwrap();
        let capacity = (1_usize << (32 - prefix)) - 3;
        let store = Store::lock(directory.path()).unwrap();
        let mut model: BTreeMap<u8, IpAddr> = BTreeMap::new();
        for (pod, add) in steps {
            model.remove(&pod);
            if !add {
                store.release(&id(&pod.to_string())).unwrap();
                continue;
            }
            match store.reserve(alive(&pod.to_string()), &[subnet]) {
                Ok(attachment) => {
                    let address = attachment.addresses[0];
                    proptest::prop_assert!(subnet.contains(&address));
                    let special = [subnet.network(), subnet.broadcast(), gateway(subnet)];
                    proptest::prop_assert!(!special.contains(&address));
                    proptest::prop_assert!(!model.values().any(|other| *other == address));
                    model.insert(pod, address);
                }
                Err(_) => proptest::prop_assert_eq!(model.len(), capacity),
            }
            proptest::prop_assert_eq!(store.taken().unwrap(), model.values().copied().collect());
        }
        store.reclaim_unless(|_| false).unwrap();
        proptest::prop_assert!(store.taken().unwrap().is_empty());
    }
}
