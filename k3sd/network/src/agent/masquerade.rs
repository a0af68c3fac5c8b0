//! Table `skerry-masq`: pods that talk to the world do so with the node's address.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::Config;

/// The table of both families.
pub(super) const TABLE: &str = "skerry-masq";

/// The whole table, replacing what is there. The rules are flannel's (`FLANNEL-POSTRTG`), in its order.
///
/// `bridged_seen`: netfilter sees packets between pods on the bridge. Without that, answers of a service's pod to another pod of
/// this node would bypass the translation back, so such connections are masqueraded, at the price of the client's address.
pub(super) fn script(config: &Config, subnets: &[IpNet], bridged_seen: bool) -> String {
    let mut script = String::new();
    for (family, v6) in [("ip", false), ("ip6", true)] {
        if v6 && !config.ipv6_masquerade {
            continue;
        }
        let of_family = |net: &&IpNet| net.addr().is_ipv6() == v6;
        let (Some(own), Some(cluster)) =
            (subnets.iter().find(of_family), config.cluster_cidrs.iter().find(of_family))
        else {
            continue;
        };
        table(&mut script, family, *own, *cluster, bridged_seen);
    }
    script
}

fn table(script: &mut String, family: &str, own: IpNet, cluster: IpNet, bridged_seen: bool) {
    let (own, cluster) = (own.trunc(), cluster.trunc());
    let multicast = if family == "ip" { "224.0.0.0/4" } else { "ff00::/8" };
    let (from, to) = (format!("{family} saddr"), format!("{family} daddr"));
    let mut line = |text: String| writeln!(script, "{text}").expect("writing to a string");
    for verb in ["add", "delete", "add"] {
        line(format!("{verb} table {family} {TABLE}"));
    }
    // After the services' chain, whose decision to masquerade is final.
    line(format!(
        "add chain {family} {TABLE} postrouting {{ type nat hook postrouting priority 101 ; policy accept ; }}"
    ));
    let mut rule = |text: String| line(format!("add rule {family} {TABLE} postrouting {text}"));
    if !bridged_seen {
        rule(format!("{from} {own} {to} {own} ct status & dnat == dnat masquerade fully-random"));
    }
    rule(format!("{from} {own} {to} {cluster} return"));
    rule(format!("{from} {cluster} {to} {own} return"));
    rule(format!("{from} != {cluster} {to} {own} return"));
    rule(format!("{from} {cluster} {to} != {multicast} masquerade fully-random"));
    rule(format!("{from} != {cluster} {to} {cluster} masquerade fully-random"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_masqueraded_to_the_world_only() {
        let config =
            Config::new("here", ["10.42.0.0/16", "fd00:42::/56"].map(|net| net.parse().unwrap()).to_vec());
        let subnets = ["10.42.3.0/24", "fd00:42:0:3::/64"].map(|net| net.parse().unwrap());
        let expected = "\
add table ip skerry-masq
delete table ip skerry-masq
add table ip skerry-masq
add chain ip skerry-masq postrouting { type nat hook postrouting priority 101 ; policy accept ; }
add rule ip skerry-masq postrouting ip saddr 10.42.3.0/24 ip daddr 10.42.0.0/16 return
add rule ip skerry-masq postrouting ip saddr 10.42.0.0/16 ip daddr 10.42.3.0/24 return
add rule ip skerry-masq postrouting ip saddr != 10.42.0.0/16 ip daddr 10.42.3.0/24 return
add rule ip skerry-masq postrouting ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip skerry-masq postrouting ip saddr != 10.42.0.0/16 ip daddr 10.42.0.0/16 masquerade fully-random
";
        assert_eq!(script(&config, &subnets, true), expected);
        let both = script(&Config { ipv6_masquerade: true, ..config.clone() }, &subnets, true);
        assert!(both.contains("ip6 saddr fd00:42::/56 ip6 daddr != ff00::/8 masquerade"));
        assert!(script(&config, &subnets, false).contains("ct status & dnat == dnat masquerade"));
    }
}
