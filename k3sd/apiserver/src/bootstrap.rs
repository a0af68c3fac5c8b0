//! Objects that every cluster has. Written at each start where they are missing, so that deleting one heals.

use std::sync::Arc;

use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};
use tracing::debug;

use crate::options::WriteOptions;
use crate::server::{Shared, StartError};
use crate::user::{MASTERS, UserInfo};
use crate::verbs::create;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Make sure that everything is there.
pub(crate) async fn ensure(shared: &Arc<Shared>) -> Result<(), StartError> {
    for name in NAMESPACES {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        present(shared, "", "namespaces", "", namespace).await?;
    }
    Ok(())
}

/// The identity behind the server's own writes.
pub(crate) fn own_user() -> UserInfo {
    UserInfo::new("system:apiserver", &[MASTERS])
}

/// Create an object unless it exists.
async fn present(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<(), StartError> {
    let name = meta::name(&object).to_owned();
    if shared.registry.contains(group, plural, namespace, &name) {
        return Ok(());
    }
    match write(shared, group, plural, namespace, object).await {
        Ok(()) => debug!(plural, name, "bootstrap object created"),
        // Another server was faster.
        Err(status) if status.code == 409 => {}
        Err(status) => {
            let what = format!("{plural} '{name}'");
            return Err(StartError::Bootstrap { what, source: Box::new(status) });
        }
    }
    Ok(())
}

async fn write(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    let tables = shared.registry.tables();
    let entry = tables.find_any(group, plural).ok_or_else(Status::unknown_path)?;
    let user = own_user();
    create::create(shared, entry, &user, namespace, object, &WriteOptions::default()).await.map(drop)
}
