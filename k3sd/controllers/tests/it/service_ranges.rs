//! Ranges of service addresses: made ready, given from, and kept while somebody has an address in them.

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{IPAddress, ServiceCIDR},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, from};

/// Status and reason of the condition `Ready`, or nothing.
async fn ready(ranges: &Api<ServiceCIDR>, name: &str) -> (String, String) {
    let range = ranges.get(name).await.unwrap();
    let conditions = range.status.and_then(|status| status.conditions).unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| (c.status, c.reason)).unwrap_or_default()
}

async fn until_ready(ranges: &Api<ServiceCIDR>, name: &str, status: &str, reason: &str) {
    let wanted = (status.to_owned(), reason.to_owned());
    eventually(name, || async {
        let found = ready(ranges, name).await;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

fn range(name: &str, cidr: &str) -> ServiceCIDR {
    from(json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}}))
}

fn service(name: &str, ip: &str) -> Service {
    from(json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_given_from_once_ready_and_kept_while_in_use() {
    let cluster = Cluster::start().await;
    let ranges = cluster.cluster_api::<ServiceCIDR>();
    let (services, addresses) = (cluster.api::<Service>(), cluster.cluster_api::<IPAddress>());
    until_ready(&ranges, "kubernetes", "True", "").await;

    ranges.create(&PostParams::default(), &range("more", "10.99.0.0/24")).await.unwrap();
    until_ready(&ranges, "more", "True", "").await;
    let held = ranges.get("more").await.unwrap().metadata.finalizers;
    assert_eq!(held.unwrap(), ["networking.k8s.io/service-cidr-finalizer"]);
    services.create(&PostParams::default(), &service("in-more", "10.99.0.7")).await.unwrap();
    let parent = addresses.get("10.99.0.7").await.unwrap().spec.parent_ref;
    assert_eq!((parent.resource.as_str(), parent.name.as_str()), ("services", "in-more"));

    ranges.delete("more", &DeleteParams::default()).await.unwrap();
    until_ready(&ranges, "more", "False", "Terminating").await;
    let refused = services.create(&PostParams::default(), &service("late", "10.99.0.8")).await.unwrap_err();
    assert!(refused.to_string().contains("does not match the current range"), "{refused}");

    // The address is in another range from here on, so this one may go.
    ranges.create(&PostParams::default(), &range("around", "10.99.0.0/16")).await.unwrap();
    eventually("the range is gone", || async {
        match ranges.get_opt("more").await.unwrap() {
            None => Ok(()),
            Some(range) => Err(range.status),
        }
    })
    .await;
    let still: Value = serde_json::to_value(addresses.get("10.99.0.7").await.unwrap()).unwrap();
    assert_eq!(still["spec"]["parentRef"]["name"], "in-more");

    // And so may that one, with the last address.
    ranges.delete("around", &DeleteParams::default()).await.unwrap();
    until_ready(&ranges, "around", "False", "Terminating").await;
    services.delete("in-more", &DeleteParams::default()).await.unwrap();
    eventually("the other range is gone", || async {
        match ranges.get_opt("around").await.unwrap() {
            None => Ok(()),
            Some(range) => Err(range.status),
        }
    })
    .await;
    assert!(addresses.get_opt("10.99.0.7").await.unwrap().is_none());
    cluster.stop().await;
}
