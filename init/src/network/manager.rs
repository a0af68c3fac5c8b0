//! Which link is to be what: matches the links there are with those that are configured, makes what has to be made, and has
//! a keeper for each.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use node_config::network::{Interface, Kind, Match, Network};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::devices::{Device, Devices};
use super::interface::{Keeper, Setup, Shared};
use super::links::New;
use crate::board::Board;

/// After this the user is told what is missing, and a bond or bridge is made of the members that are there.
const PATIENCE: Duration = Duration::from_secs(20);
/// Routes of a configured link get this and its place in the configuration as their metric; of any other port, this and its index.
const CONFIGURED_METRIC: u32 = 100;
const ANY_PORT_METRIC: u32 = 1000;
/// How long what failed rests before it is tried again; each time twice as long, up to the limit.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(320);
/// Marks the problem that nothing is plugged in.
const NO_CABLE: &str = "network cable";

/// All links together.
pub(super) struct Manager {
    shared: Rc<Shared>,
    board: Board,
    network: Network,
    /// Keepers by link: for which configured one, and how to end them.
    keepers: BTreeMap<u32, (usize, AbortHandle)>,
    tasks: JoinSet<()>,
    /// What was made and has not been seen yet: its notification is on the way.
    made: BTreeSet<usize>,
    /// What could not be made, and when to try again.
    failed: BTreeMap<usize, (Duration, Instant)>,
    /// Whether [`PATIENCE`] is over.
    told: bool,
    began: Instant,
}

impl Manager {
    /// Nothing configured means DHCP on every Ethernet port.
    pub(super) fn new(mut network: Network, shared: Rc<Shared>, board: Board) -> Self {
        if network.interfaces.is_empty() {
            let any = Interface { matching: Some(Match::default()), ..Interface::default() };
            network.interfaces.push(any);
        }
        Self {
            shared,
            board,
            network,
            keepers: BTreeMap::new(),
            tasks: JoinSet::new(),
            made: BTreeSet::new(),
            failed: BTreeMap::new(),
            told: false,
            began: Instant::now(),
        }
    }

    /// Follows the links for ever.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut devices = self.shared.devices.clone();
        loop {
            self.drop_gone(&devices.borrow_and_update());
            self.shared.status.see(&devices.borrow());
            self.start_keepers(&devices.borrow())?;
            self.make_links(&devices).await;
            if self.told {
                self.tell_missing(&devices.borrow());
            }
            let wake = self.next_wake();
            let wait = async {
                match wake {
                    Some(wake) => sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = devices.changed() => changed.context("nobody follows the links any more")?,
                () = wait => self.told |= self.began.elapsed() >= PATIENCE,
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    _ => {}
                },
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let told = (!self.told).then(|| self.began + PATIENCE);
        told.into_iter().chain(self.failed.values().map(|(_, again)| *again)).min()
    }

    fn drop_gone(&mut self, devices: &Devices) {
        let gone: Vec<_> =
            self.keepers.keys().copied().filter(|&index| devices.get(index).is_none()).collect();
        for index in gone {
            if let Some((_, keeper)) = self.keepers.remove(&index) {
                keeper.abort();
            }
            self.shared.forget(index);
        }
    }

    fn start_keepers(&mut self, devices: &Devices) -> Result<()> {
        for device in devices.iter() {
            if self.keepers.contains_key(&device.index) {
                continue;
            }
            if let Some(place) = self.place_of(device) {
                let setup = self.setup(place, device.index);
                let keeper = self.tasks.spawn_local(keep(Rc::clone(&self.shared), setup, device.index));
                self.keepers.insert(device.index, (place, keeper));
            }
        }
        Ok(())
    }

    /// The configured link that `device` is: by name before anything else.
    fn place_of(&self, device: &Device) -> Option<usize> {
        let taken: BTreeSet<_> = self.keepers.values().map(|(place, _)| *place).collect();
        let by_name = |interface: &Interface| {
            interface.name.as_ref() == Some(&device.name) && is_made_as(interface, device)
        };
        let by_match = |interface: &Interface| {
            interface.matching.as_ref().is_some_and(|wanted| {
                // Whoever does not say which link it is means a port of the machine.
                let any = wanted.mac.is_none() && wanted.name.is_none();
                device.matches(wanted) && (!any || device.is_port())
            })
        };
        let interfaces = || self.network.interfaces.iter().enumerate();
        let named = interfaces().find(|(_, interface)| interface.matching.is_none() && by_name(interface));
        let matched = || {
            interfaces().find(|(place, interface)| {
                by_match(interface) && !(takes_one(interface) && taken.contains(place))
            })
        };
        named.or_else(matched).map(|(place, _)| place)
    }

    fn setup(&self, place: usize, index: u32) -> Setup {
        let interface = self.network.interfaces[place].clone();
        let master = self.network.master_of(&interface).map(str::to_owned);
        let metric = interface.metric.unwrap_or_else(|| {
            if takes_one(&interface) {
                CONFIGURED_METRIC.saturating_add(u32::try_from(place).unwrap_or_default())
            } else {
                ANY_PORT_METRIC.saturating_add(index)
            }
        });
        Setup { dhcp: self.network.uses_dhcp(&interface), master, metric, interface }
    }

    /// Makes the links that are configured, not there, and possible now.
    async fn make_links(&mut self, devices: &tokio::sync::watch::Receiver<Devices>) {
        for place in 0..self.network.interfaces.len() {
            let wanted = self.to_make(place, &devices.borrow());
            let Some((name, new, mac)) = wanted else {
                self.made.remove(&place);
                self.failed.remove(&place);
                continue;
            };
            if self.made.contains(&place)
                || self.failed.get(&place).is_some_and(|(_, again)| Instant::now() < *again)
            {
                continue;
            }
            match self.shared.links.add(&name, new, mac).await {
                Ok(()) => {
                    self.made.insert(place);
                    self.failed.remove(&place);
                    self.shared.status.problem(&name, None);
                }
                Err(error) => {
                    let pause = self.failed.get(&place).map_or(PAUSE, |(pause, _)| longer(*pause));
                    self.failed.insert(place, (pause, Instant::now() + pause));
                    self.shared.status.problem(&name, Some(format!("failed to make {name}: {error}")));
                }
            }
        }
    }

    fn to_make(&self, place: usize, devices: &Devices) -> Option<(String, New, Option<[u8; 6]>)> {
        let interface = &self.network.interfaces[place];
        let name = interface.name.clone()?;
        if devices.named(&name).is_some() {
            return None;
        }
        let (new, members) = match &interface.kind {
            Kind::Port => return None,
            Kind::Vlan { id, link } => {
                // Once it is up it has its MTU, which limits ours.
                let link = devices.named(link).filter(|link| link.up)?;
                return Some((name, New::Vlan { id: *id, link: link.index }, None));
            }
            Kind::Bond { members, mode } => (New::Bond(*mode), members),
            Kind::Bridge { members } => (New::Bridge, members),
        };
        let mut there = members.iter().map(|member| devices.named(member));
        // The first member gives it its address.
        let model = if self.told { there.flatten().next() } else { there.next().flatten() };
        // A bridge for pods alone has no members.
        if model.is_none() && !members.is_empty() {
            return None;
        }
        Some((name, new, model.and_then(|model| model.mac)))
    }

    /// Says which configured links are not there, and whether nothing is plugged in.
    fn tell_missing(&self, devices: &Devices) {
        let found: BTreeSet<_> = self.keepers.values().map(|(place, _)| *place).collect();
        for (place, interface) in self.network.interfaces.iter().enumerate() {
            let topic = interface.name.clone().unwrap_or_else(|| format!("interface {place}"));
            if found.contains(&place) {
                if interface.name.is_none() {
                    self.shared.status.problem(&topic, None);
                }
            } else if interface.kind == Kind::Port {
                self.shared.status.problem(&topic, Some(missing(place, interface)));
            } else if !self.failed.contains_key(&place) {
                let text = format!("{topic} waits for the links it is made of");
                self.shared.status.problem(&topic, Some(text));
            }
        }
        let ours = || self.keepers.keys().filter_map(|index| devices.get(*index));
        let unplugged = ours().next().is_some() && !ours().any(|device| device.carrier);
        let text = unplugged.then(|| {
            let names: Vec<_> = ours().map(|device| device.name.as_str()).collect();
            format!("no cable is plugged into {}, or the other end is off", names.join(", "))
        });
        self.board.problem(NO_CABLE, text);
    }
}

/// Keeps one link, and begins again when that fails.
async fn keep(shared: Rc<Shared>, setup: Setup, index: u32) {
    let mut pause = PAUSE;
    loop {
        let name = shared.devices.borrow().get(index).map(|device| device.name.clone());
        let result = match Keeper::new(Rc::clone(&shared), setup.clone(), index) {
            Ok(keeper) => keeper.run().await,
            Err(error) => Err(error),
        };
        if let (Err(error), Some(name)) = (result, name) {
            shared.status.link(index, &name);
            shared.status.problem(&name, Some(format!("{name}: {error:#}")));
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

/// Whether only one link can be meant: two cannot have one name, or one address.
fn takes_one(interface: &Interface) -> bool {
    interface.name.is_some()
        || !interface.addresses.is_empty()
        || interface.matching.as_ref().is_some_and(|wanted| wanted.mac.is_some())
}

/// Whether the link is of the kind that is asked for: a name may be taken by something else.
fn is_made_as(interface: &Interface, device: &Device) -> bool {
    match interface.kind {
        Kind::Port => true,
        Kind::Vlan { .. } => device.is_a("vlan"),
        Kind::Bond { .. } => device.is_a("bond"),
        Kind::Bridge { .. } => device.is_a("bridge"),
    }
}

fn missing(place: usize, interface: &Interface) -> String {
    let key = format!("network.interfaces[{place}]");
    match (&interface.matching, &interface.name) {
        (None, Some(name)) => format!("there is no interface {name} ({key}); waiting for it"),
        (Some(wanted), _) if *wanted == Match::default() => {
            "there is no Ethernet interface, or no driver for it; waiting for one".to_owned()
        }
        _ => format!("no interface matches {key}; waiting for one"),
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}
