//! Who owns the replicas of an object, when they are written through its scale.

use machinery::apply::managed::Managed;
use machinery::apply::{Applied, Applying, FieldManager, OneVersion, Reset, scale};
use machinery::kinds::Resource;
use machinery::status::Status;
use machinery::{meta, schema};
use serde_json::Value;

use crate::managed_fields::{self, Application};

/// The owners after `after` was put in the place of `before`, the scale of `object`.
pub(super) fn update(object: &Value, before: &Value, after: &Value, manager: &str) -> Managed {
    let owners = scale::to_scale(&of(object));
    // As with every object: what nobody was remembered for is not remembered from now on.
    if managed_fields::entries(object).is_none() {
        return owners;
    }
    with_manager(|fields| fields.update(Some(before), after, owners, manager, &meta::now()))
}

/// The scale with a configuration applied, and its owners.
pub(super) fn apply(
    object: &Value,
    before: &Value,
    application: &Application,
) -> Result<(Value, Managed), Status> {
    let Application { config, manager, force } = application;
    let mut live = before.clone();
    managed_fields::put(&mut live, scale::to_scale(&of(object)).encode());
    let how = Applying { manager, force: *force, now: &meta::now() };
    let Applied { object, managed } = with_manager(|fields| fields.apply(Some(&live), config, how))?;
    Ok((object, managed))
}

/// Gives the object the owners of its scale.
pub(super) fn adopt(resource: &Resource, object: &mut Value, owners: Managed) {
    let managed = scale::to_parent(of(object), &owners, &resource.api_version());
    managed_fields::put(object, managed.encode());
}

fn of(object: &Value) -> Managed {
    Managed::decode(managed_fields::entries(object).cloned()).unwrap_or_default()
}

fn with_manager<T>(work: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    let ty = schema::builtin().get("api.autoscaling.v1.Scale").expect("a type of the schema table");
    let versions = OneVersion { api_version: "autoscaling/v1", ty };
    work(&FieldManager {
        versions: &versions,
        api_version: versions.api_version,
        subresource: "scale",
        reset: Reset::AllBut(&[&["spec", "replicas"]]),
    })
}
