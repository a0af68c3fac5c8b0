//! Tokens that secrets keep for service accounts.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, eventually, from, get_until};

/// Whom the API server takes the bearer for.
async fn user_of(cluster: &Cluster, token: &str) -> Option<String> {
    let reviews: Api<TokenReview> = cluster.cluster_api();
    let review = from(json!({ "metadata": {}, "spec": { "token": token } }));
    let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    status.user.filter(|_| status.authenticated == Some(true)).and_then(|user| user.username)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_asks_for_a_token_gets_one_that_ends_with_the_account() {
    let cluster = Cluster::start().await;
    let accounts: Api<ServiceAccount> = cluster.api();
    let secrets: Api<Secret> = cluster.api();
    let account = from(json!({ "metadata": { "name": "robot" } }));
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let wanted = |name: &str, account: &str| -> Secret {
        from(json!({
            "metadata": { "name": name, "annotations": { "kubernetes.io/service-account.name": account } },
            "type": "kubernetes.io/service-account-token",
        }))
    };
    secrets.create(&PostParams::default(), &wanted("robot-token", "robot")).await.unwrap();
    let has_token = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key("token"));
    let filled = get_until(&secrets, "robot-token", "filled", has_token).await;
    let data = filled.data.unwrap();
    assert_eq!(data["namespace"].0, b"default");
    assert_eq!(data["ca.crt"].0, b"the root");
    let token = String::from_utf8(data["token"].0.clone()).unwrap();
    assert_eq!(user_of(&cluster, &token).await.as_deref(), Some("system:serviceaccount:default:robot"));
    let last = if token.ends_with('A') { "B" } else { "A" };
    assert_eq!(user_of(&cluster, &format!("{}{last}", &token[..token.len() - 1])).await, None, "forged");

    // One for an account that is not there goes; so does one whose account goes, and its token with it.
    secrets.create(&PostParams::default(), &wanted("nobody-token", "nobody")).await.unwrap();
    secrets.create(&PostParams::default(), &wanted("odd-token", "robot/token?x")).await.unwrap();
    let gone = |name: &'static str| {
        let secrets = secrets.clone();
        eventually(name, move || {
            let secrets = secrets.clone();
            async move {
                match secrets.get_opt(name).await.unwrap() {
                    None => Ok(()),
                    Some(secret) => Err(secret),
                }
            }
        })
    };
    gone("nobody-token").await;
    gone("odd-token").await;
    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    gone("robot-token").await;
    assert_eq!(user_of(&cluster, &token).await, None);
    cluster.stop().await;
}
