//! Services and what stands behind and before them.

use jiff::Timestamp;
use serde_json::Value;

use super::field::{
    age, join_texts, labels, list, name, number, or, scalar, selector, some, text as get, text_or,
};
use super::{AGE, NAME, Printer, text, wide};

/// Entries shown before "+ n more...".
const SHOWN: usize = 3;

pub(super) static PRINTERS: &[Printer] = &[
    Printer::new(
        "",
        "Service",
        &[
            NAME,
            text("Type"),
            text("Cluster-IP"),
            text("External-IP"),
            text("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        |o, now| {
            vec![
                name(o),
                get(o, "/spec/type").into(),
                text_or(o, "/spec/clusterIP", "<none>").into(),
                external_ip(o).into(),
                or(service_ports(o), "<none>").into(),
                age(o, now),
                labels(o, "/spec/selector").into(),
            ]
        },
    ),
    Printer::new("", "Endpoints", &[NAME, text("Endpoints"), AGE], |o, now| {
        vec![name(o), endpoints(o).into(), age(o, now)]
    }),
    Printer::new(
        "discovery.k8s.io",
        "EndpointSlice",
        &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
        endpoint_slice,
    ),
    Printer::new(
        "networking.k8s.io",
        "Ingress",
        &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE],
        |o, now| {
            vec![
                name(o),
                text_or(o, "/spec/ingressClassName", "<none>").into(),
                hosts(o).into(),
                load_balancer(o).into(),
                if list(o, "/spec/tls").is_empty() { "80" } else { "80, 443" }.into(),
                age(o, now),
            ]
        },
    ),
    Printer::new(
        "networking.k8s.io",
        "IngressClass",
        &[NAME, text("Controller"), text("Parameters"), AGE],
        |o, now| {
            let parameters = match (get(o, "/spec/parameters/apiGroup"), get(o, "/spec/parameters/kind")) {
                (_, "") => "<none>".to_owned(),
                ("", kind) => format!("{kind}/{}", get(o, "/spec/parameters/name")),
                (group, kind) => format!("{kind}.{group}/{}", get(o, "/spec/parameters/name")),
            };
            vec![name(o), get(o, "/spec/controller").into(), parameters.into(), age(o, now)]
        },
    ),
    Printer::new("networking.k8s.io", "NetworkPolicy", &[NAME, text("Pod-Selector"), AGE], |o, now| {
        vec![name(o), or(selector(o, "/spec/podSelector"), "<none>").into(), age(o, now)]
    }),
    Printer::new("networking.k8s.io", "ServiceCIDR", &[NAME, text("CIDRs"), AGE], |o, now| {
        vec![name(o), join_texts(list(o, "/spec/cidrs"), ",").into(), age(o, now)]
    }),
    Printer::new("networking.k8s.io", "IPAddress", &[NAME, text("ParentRef")], |o, _| {
        let parent = |field: &str| get(o, &format!("/spec/parentRef/{field}"));
        let parts: Vec<&str> = [parent("resource"), parent("namespace"), parent("name")]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        vec![name(o), or(parts.join("/"), "<none>").into()]
    }),
];

fn external_ip(o: &Value) -> String {
    let external = join_texts(list(o, "/spec/externalIPs"), ",");
    match get(o, "/spec/type") {
        "ClusterIP" | "NodePort" => or(external, "<none>"),
        "LoadBalancer" => {
            let given = [load_balancer(o), external];
            or(given.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(","), "<pending>")
        }
        "ExternalName" => get(o, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses in `status.loadBalancer`, sorted, without repeats.
fn load_balancer(o: &Value) -> String {
    let mut addresses: Vec<&str> = list(o, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| text_or(ingress, "/ip", get(ingress, "/hostname")))
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.join(",")
}

fn service_ports(o: &Value) -> String {
    let ports = list(o, "/spec/ports").iter().map(|port| {
        let (number_, protocol) = (number(port, "/port"), get(port, "/protocol"));
        match number(port, "/nodePort") {
            0 => format!("{number_}/{protocol}"),
            node_port => format!("{number_}:{node_port}/{protocol}"),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

fn endpoints(o: &Value) -> String {
    let subsets = list(o, "/subsets");
    let all = subsets.iter().flat_map(|subset| match list(subset, "/ports") {
        // Without ports the addresses stand alone.
        [] => list(subset, "/addresses").iter().map(|a| get(a, "/ip").to_owned()).collect::<Vec<_>>(),
        ports => ports
            .iter()
            .flat_map(|port| {
                list(subset, "/addresses").iter().map(|a| host_port(get(a, "/ip"), number(port, "/port")))
            })
            .collect(),
    });
    some(all, SHOWN, "<none>")
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list(o, "/ports").iter().map(|port| scalar(port, "/port", text_or(port, "/name", "*")));
    let addresses = list(o, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned);
    vec![
        name(o),
        get(o, "/addressType").into(),
        some(ports, SHOWN, "<unset>").into(),
        some(addresses, SHOWN, "<unset>").into(),
        age(o, now),
    ]
}

fn hosts(o: &Value) -> String {
    let hosts = list(o, "/spec/rules").iter().map(|rule| get(rule, "/host").to_owned());
    some(hosts.filter(|host| !host.is_empty()), SHOWN, "*")
}
