//! From wanted content to nftables scripts: the whole table, or only what changed.

use std::fmt::Write as _;

use super::model::Family;
use super::rules::Rules;

/// The table of both families.
pub(crate) const TABLE: &str = "skerry-services";

/// A script that makes the table exactly so, whatever is there.
pub(crate) fn whole(rules: &Rules, family: Family) -> String {
    let mut script = Script::new(family);
    // Adding first makes deleting safe when there is none.
    script.line("add table");
    script.line("delete table");
    script.line("add table");
    for object in containers(family) {
        script.on_table("add", &object);
    }
    for chain in FIXED_CHAINS {
        script.on_table("add", &format!("chain {chain}"));
    }
    for rule in fixed_rules(family) {
        script.on_table("add", &format!("rule {rule}"));
    }
    script.change(&Rules::default(), rules);
    script.text
}

/// A script that leads from one content to the other, or `None` if they are the same.
pub(crate) fn change(old: &Rules, new: &Rules, family: Family) -> Option<String> {
    let mut script = Script::new(family);
    script.change(old, new);
    (!script.text.is_empty()).then_some(script.text)
}

/// A script that removes the table if there is one.
pub(crate) fn removal(family: Family) -> String {
    let mut script = Script::new(family);
    script.line("add table");
    script.line("delete table");
    script.text
}

pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn containers(family: Family) -> Vec<String> {
    let address = address_type(family);
    vec![
        format!("map service-ips {{ type {address} . inet_proto . inet_service : verdict ; }}"),
        "map node-ports { type inet_proto . inet_service : verdict ; }".to_owned(),
        format!("set no-endpoint-ips {{ type {address} . inet_proto . inet_service ; }}"),
        "set no-endpoint-ports { type inet_proto . inet_service ; }".to_owned(),
        format!("set hairpin {{ type {address} . {address} ; }}"),
    ]
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

/// Numbers, since the names of priorities are not known in every hook by old versions of nft.
const FIXED_CHAINS: [&str; 9] = [
    "dispatch",
    "reject-without-endpoints",
    "prerouting { type nat hook prerouting priority -100 ; policy accept ; }",
    "output { type nat hook output priority -100 ; policy accept ; }",
    "postrouting { type nat hook postrouting priority 100 ; policy accept ; }",
    "filter-input { type filter hook input priority -110 ; policy accept ; }",
    "filter-forward { type filter hook forward priority -110 ; policy accept ; }",
    "filter-output { type filter hook output priority -110 ; policy accept ; }",
    "guard-localhost { type filter hook input priority -109 ; policy accept ; }",
];

fn fixed_rules(family: Family) -> Vec<String> {
    let ip = family_name(family);
    let mut rules = vec![format!("dispatch {ip} daddr . meta l4proto . th dport vmap @service-ips")];
    rules.push(match family {
        Family::V4 => "dispatch fib daddr type local meta l4proto . th dport vmap @node-ports".to_owned(),
        // ::1 cannot be routed, there is no `route_localnet` for IPv6.
        Family::V6 => {
            "dispatch ip6 daddr != ::1 fib daddr type local meta l4proto . th dport vmap @node-ports"
                .to_owned()
        }
    });
    for hook in ["prerouting", "output"] {
        rules.push(format!("{hook} jump dispatch"));
    }
    // A pod that reaches itself through a service must not see its own address as the client's.
    rules.push(format!("postrouting {ip} saddr . {ip} daddr @hairpin masquerade fully-random"));
    rules.push("postrouting meta mark & 0x00004000 != 0x00004000 return".to_owned());
    rules.push("postrouting meta mark set meta mark & 0xffffbfff".to_owned());
    rules.push("postrouting masquerade fully-random".to_owned());
    rules.push(format!(
        "reject-without-endpoints {ip} daddr . meta l4proto . th dport @no-endpoint-ips reject"
    ));
    rules.push(
        "reject-without-endpoints fib daddr type local meta l4proto . th dport @no-endpoint-ports reject"
            .to_owned(),
    );
    for hook in ["filter-input", "filter-forward", "filter-output"] {
        rules.push(format!("{hook} ct state new jump reject-without-endpoints"));
    }
    if family == Family::V4 {
        // `route_localnet` would let neighbours reach what listens on localhost (CVE-2020-8558).
        rules.push(
            "guard-localhost iifname != \"lo\" ip daddr 127.0.0.0/8 ct status & dnat != dnat drop".to_owned(),
        );
    }
    rules
}

struct Script {
    family: Family,
    text: String,
}

impl Script {
    fn new(family: Family) -> Self {
        Self { family, text: String::new() }
    }

    fn line(&mut self, verb: &str) {
        writeln!(self.text, "{verb} {} {TABLE}", family_name(self.family)).expect("writing to a string");
    }

    /// `object` begins with its kind: `chain NAME …`.
    fn on_table(&mut self, verb: &str, object: &str) {
        let (kind, rest) = object.split_once(' ').expect("a kind and a name");
        writeln!(self.text, "{verb} {kind} {} {TABLE} {rest}", family_name(self.family))
            .expect("writing to a string");
    }

    /// In an order in which nothing is used before it is there or gone before it is unused.
    fn change(&mut self, old: &Rules, new: &Rules) {
        let address = address_type(self.family);
        for set in new.affinity_sets.keys().filter(|set| !old.affinity_sets.contains_key(*set)) {
            self.on_table(
                "add",
                &format!("set {set} {{ type {address} ; size 65535 ; flags dynamic,timeout ; }}"),
            );
        }
        for chain in new.chains.keys().filter(|chain| !old.chains.contains_key(*chain)) {
            self.on_table("add", &format!("chain {chain}"));
        }
        for ((container, key), value) in &old.elements {
            if new.elements.get(&(*container, key.clone())) != Some(value) {
                self.on_table("delete", &format!("element {container} {{ {key} }}"));
            }
        }
        for (chain, rules) in
            new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(*rules))
        {
            if old.chains.contains_key(chain) {
                self.on_table("flush", &format!("chain {chain}"));
            }
            for rule in rules {
                self.on_table("add", &format!("rule {chain} {rule}"));
            }
        }
        for ((container, key), value) in &new.elements {
            if old.elements.get(&(*container, key.clone())) != Some(value) {
                let value = value.as_ref().map(|value| format!(" : {value}")).unwrap_or_default();
                self.on_table("add", &format!("element {container} {{ {key}{value} }}"));
            }
        }
        let gone: Vec<&String> = old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).collect();
        for verb in ["flush", "delete"] {
            for chain in &gone {
                self.on_table(verb, &format!("chain {chain}"));
            }
        }
        for set in old.affinity_sets.keys().filter(|set| !new.affinity_sets.contains_key(*set)) {
            self.on_table("delete", &format!("set {set}"));
        }
    }
}
