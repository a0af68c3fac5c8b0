//! `/etc/resolv.conf`: the name servers and search domains of every source, in one order: configured, by DHCP, by router
//! advertisement; within a source by link.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::time::{Instant, sleep_until};

use super::advertisements::{Advice, Listener, Offer};
use crate::board::{Board, note};

/// How many servers and domains of one link's routers are believed at the same time.
const MAX_ADVISED: usize = 8;

/// The sources and the file; clones are handles to the same one.
#[derive(Clone)]
pub(super) struct Resolver(Rc<RefCell<Sources>>);

struct Sources {
    path: PathBuf,
    board: Board,
    configured: Settings,
    leased: BTreeMap<u32, Settings>,
    advised: BTreeMap<u32, Vec<Advised>>,
    written: Option<String>,
}

/// What one source says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Name servers.
    pub(super) servers: Vec<IpAddr>,
    /// Domains in which short names are looked up.
    pub(super) search: Vec<String>,
}

/// One thing a router said.
struct Advised {
    entry: Entry,
    until: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum Entry {
    /// As it is written: a link-local address with its link.
    Server(String),
    Domain(String),
}

impl Resolver {
    /// Writes `path`, at first with what is configured alone.
    pub(super) fn new(path: PathBuf, configured: Settings, board: Board) -> Self {
        let (leased, advised) = (BTreeMap::new(), BTreeMap::new());
        let sources = Sources { path, board, configured, leased, advised, written: None };
        let resolver = Self(Rc::new(RefCell::new(sources)));
        resolver.change(|_| {});
        resolver
    }

    /// Takes what the lease of the link `index` says.
    pub(super) fn lease(&self, index: u32, settings: Settings) {
        self.change(|sources| {
            sources.leased.insert(index, settings);
        });
    }

    /// Forgets what the lease of the link said.
    pub(super) fn end_lease(&self, index: u32) {
        self.change(|sources| {
            sources.leased.remove(&index);
        });
    }

    /// Forgets the link.
    pub(super) fn forget(&self, index: u32) {
        self.change(|sources| {
            sources.leased.remove(&index);
            sources.advised.remove(&index);
        });
    }

    /// Follows the routers of our links for ever. `name` gives the name of a link if it is one of ours.
    pub(super) async fn heed(
        &self,
        listener: &Listener,
        name: impl Fn(u32) -> Option<String>,
    ) -> io::Result<()> {
        loop {
            let next = self.next_end();
            let end = async {
                match next {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                advice = listener.next() => {
                    let advice = advice?;
                    if let Some(name) = name(advice.index) {
                        self.advise(&advice, &name);
                    }
                }
                () = end => self.change(|sources| sources.expire(Instant::now())),
            }
        }
    }

    fn advise(&self, advice: &Advice, link: &str) {
        self.change(|sources| sources.advise(advice, link, Instant::now()));
    }

    fn next_end(&self) -> Option<Instant> {
        self.0.borrow().advised.values().flatten().filter_map(|advised| advised.until).min()
    }

    fn change(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = self.0.borrow_mut();
        change(&mut sources);
        sources.write();
    }
}

impl Sources {
    fn advise(&mut self, advice: &Advice, link: &str, now: Instant) {
        let known = self.advised.entry(advice.index).or_default();
        let until = advice.lifetime.map(|lifetime| now + lifetime);
        let entries: Vec<_> = match &advice.offer {
            Offer::Servers(servers) => servers
                .iter()
                .map(|server| match server.is_unicast_link_local() {
                    true => Entry::Server(format!("{server}%{link}")),
                    false => Entry::Server(server.to_string()),
                })
                .collect(),
            Offer::Domains(domains) => domains.iter().cloned().map(Entry::Domain).collect(),
        };
        for entry in entries {
            if let Some(known) = known.iter_mut().find(|known| known.entry == entry) {
                known.until = until;
            } else if known.len() < MAX_ADVISED {
                known.push(Advised { entry, until });
            }
        }
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        for advised in self.advised.values_mut() {
            advised.retain(|advised| advised.until.is_none_or(|until| until > now));
        }
    }

    fn text(&self) -> String {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for settings in std::iter::once(&self.configured).chain(self.leased.values()) {
            servers.extend(settings.servers.iter().map(ToString::to_string));
            search.extend(settings.search.iter().cloned());
        }
        for advised in self.advised.values().flatten() {
            match &advised.entry {
                Entry::Server(server) => servers.push(server.clone()),
                Entry::Domain(domain) => search.push(domain.clone()),
            }
        }
        let mut text = String::new();
        let search = once_each(search);
        if !search.is_empty() {
            text = format!("search {}\n", search.join(" "));
        }
        once_each(servers).iter().fold(text, |text, server| text + &format!("nameserver {server}\n"))
    }

    /// Writes the file if it has changed: beside the old one and over it, so that a reader finds one or the other.
    fn write(&mut self) {
        let text = self.text();
        if self.written.as_ref() == Some(&text) {
            return;
        }
        let beside = self.path.with_extension("new");
        let result = std::fs::write(&beside, &text).and_then(|()| std::fs::rename(&beside, &self.path));
        if note(&self.board, "resolv.conf", result.map_err(Into::into)).is_some() {
            self.written = Some(text);
            self.board.problem("resolv.conf", None);
        }
    }
}

fn once_each(mut items: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
    items
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::board::Facts;

    fn settings(servers: &[&str], search: &[&str]) -> Settings {
        Settings {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            search: search.iter().map(|&domain| domain.to_owned()).collect(),
        }
    }

    fn advice(lifetime: u64, offer: Offer) -> Advice {
        Advice { index: 2, lifetime: Some(Duration::from_secs(lifetime)), offer }
    }

    #[tokio::test(start_paused = true)]
    async fn every_source_is_in_the_file_once_with_the_configured_one_first() {
        let path = std::env::temp_dir().join(format!("skerry-resolv-{}", std::process::id()));
        let read = || std::fs::read_to_string(&path).unwrap();
        let board = Board::new(Facts::default());
        let resolver = Resolver::new(path.clone(), settings(&["9.9.9.9"], &["corp.example"]), board);
        assert_eq!(read(), "search corp.example\nnameserver 9.9.9.9\n");

        resolver.lease(3, settings(&["10.0.0.3", "9.9.9.9"], &["lan"]));
        resolver.lease(2, settings(&["10.0.2.3"], &[]));
        let servers = vec!["fe80::1".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        resolver.advise(&advice(600, Offer::Servers(servers.clone())), "eth0");
        resolver.advise(&advice(300, Offer::Domains(vec!["lan".to_owned(), "home".to_owned()])), "eth0");
        let all = "nameserver 9.9.9.9\nnameserver 10.0.2.3\nnameserver 10.0.0.3\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\n";
        assert_eq!(read(), format!("search corp.example lan home\n{all}"));

        tokio::time::advance(Duration::from_secs(301)).await;
        resolver.change(|sources| sources.expire(Instant::now()));
        assert_eq!(read(), format!("search corp.example lan\n{all}"), "what was said for 300 s is over");

        resolver.advise(&advice(0, Offer::Servers(servers[..1].to_vec())), "eth0");
        resolver.end_lease(3);
        assert_eq!(
            read(),
            "search corp.example\nnameserver 9.9.9.9\nnameserver 10.0.2.3\nnameserver 2001:db8::53\n"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
