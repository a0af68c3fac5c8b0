//! What holds for every object of every built-in kind, tried with objects made from the schema: what a codec, an apply or a patch
//! may do to them does not depend on which fields a kind happens to have.

mod difference;
mod made;

use std::sync::Arc;

use machinery::apply::managed::Managed;
use machinery::apply::{Applied, Applying, FieldManager, OneVersion, Reset};
use machinery::kinds::{self, Resource};
use machinery::schema::{self, TypeRef};
use machinery::{patch, protobuf};
use proptest::prelude::*;
use serde_json::{Value, json};

use difference::{merge_patch, strategic_patch};
use made::Maker;

fn every_kind() -> impl Iterator<Item = (&'static Arc<Resource>, TypeRef<'static>)> {
    kinds::builtin().iter().map(|resource| {
        (resource, schema::builtin().get(&resource.type_name).expect("every kind has a type"))
    })
}

/// An object as a request brings it in.
fn decoded(resource: &Resource, object: Value) -> Value {
    let text = object.to_string();
    let (mut decoded, repeated) = schema::decode_json(text.as_bytes()).expect("JSON");
    schema::check_types(schema::builtin(), &resource.type_name, &decoded).expect("made by the schema");
    let unknown = schema::prune(schema::builtin(), &resource.type_name, &mut decoded);
    assert!(repeated.is_empty() && unknown.is_empty(), "{repeated:?} {unknown:?} in {text}");
    decoded
}

/// All of `part` is in `whole`; lists whose elements merge may have more of them, in another order.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| contains(whole, part)))
        }
        _ => whole == part,
    }
}

const NOW: &str = "2026-01-01T00:00:00Z";

fn applied(
    manager: &FieldManager<'_>,
    name: &str,
    live: Option<&Value>,
    config: &Value,
    force: bool,
) -> (Value, Applied) {
    let how = Applying { manager: name, force, now: NOW };
    let applied = manager.apply(live, config, how).unwrap_or_else(|error| panic!("{error} in {config}"));
    // As it is stored: with the entries, and those read back.
    let mut object = applied.object.clone();
    if let Some(entries) = applied.managed.clone().encode() {
        assert_eq!(Managed::decode(Some(entries.clone())).expect("its own"), applied.managed);
        object["metadata"]["managedFields"] = entries;
    }
    (object, applied)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_kind_goes_through_protobuf_unchanged(seed in any::<u64>()) {
        for (resource, ty) in every_kind() {
            let object = Maker::new(seed).object(resource, ty, None);
            let bytes = protobuf::encode(&object).expect("every kind has protobuf");
            let back = protobuf::decode(&bytes, ("", "")).expect("its own bytes");
            prop_assert_eq!(&back, &object);
            // And so does what a request made of it.
            let object = decoded(resource, object);
            let back = protobuf::decode(&protobuf::encode(&object).expect("a kind"), ("", "")).expect("its own bytes");
            prop_assert_eq!(back, object);
        }
    }

    #[test]
    fn applying_to_any_kind_twice_is_applying_once(seed in any::<u64>()) {
        for (resource, ty) in every_kind() {
            let api_version = resource.api_version();
            let versions = OneVersion { api_version: &api_version, ty };
            let manager = FieldManager { versions: &versions, api_version: &api_version, subresource: "", reset: Reset::Nothing };
            let mut maker = Maker::new(seed);
            let first = decoded(resource, maker.object(resource, ty, None));
            let second = decoded(resource, maker.object(resource, ty, Some(&first)));
            let (live, _) = applied(&manager, "first", None, &first, false);
            let (object, once) = applied(&manager, "second", Some(&live), &second, true);
            prop_assert!(contains(&once.object, &second), "{} has not all of {}", once.object, second);
            // What it says is its own now: nobody is in the way.
            let (again, twice) = applied(&manager, "second", Some(&object), &second, false);
            prop_assert_eq!(&twice.object, &once.object);
            prop_assert_eq!(&twice.managed, &once.managed);
            prop_assert_eq!(again, object);
        }
    }

    #[test]
    fn a_strategic_patch_from_one_object_to_another_leads_there(seed in any::<u64>()) {
        for (resource, ty) in every_kind() {
            let mut maker = Maker::new(seed);
            let before = maker.object(resource, ty, None);
            let after = maker.object(resource, ty, Some(&before));
            let change = strategic_patch(ty, &before, &after);
            let mut patched = before.clone();
            patch::strategic(schema::builtin(), &resource.type_name, &mut patched, &change).expect("applies");
            prop_assert_eq!(&patched, &after, "{} by {}", before, change);
            patch::strategic(schema::builtin(), &resource.type_name, &mut patched, &change).expect("applies again");
            prop_assert_eq!(&patched, &after, "a second time by {}", change);
            let nothing = strategic_patch(ty, &after, &after);
            prop_assert_eq!(nothing, json!({}));
        }
    }

    #[test]
    fn a_strategic_patch_of_an_object_with_itself_changes_nothing(seed in any::<u64>()) {
        for (resource, ty) in every_kind() {
            let object = Maker::new(seed).object(resource, ty, None);
            let mut patched = object.clone();
            patch::strategic(schema::builtin(), &resource.type_name, &mut patched, &object).expect("applies");
            prop_assert_eq!(patched, object);
        }
    }

    #[test]
    fn a_merge_patch_from_one_object_to_another_leads_there(seed in any::<u64>()) {
        for (resource, ty) in every_kind() {
            let mut maker = Maker::new(seed);
            let before = maker.object(resource, ty, None);
            let after = maker.object(resource, ty, Some(&before));
            let change = merge_patch(&before, &after);
            let mut patched = before.clone();
            for _ in 0..2 {
                patch::merge(&mut patched, &change);
                prop_assert_eq!(&patched, &after, "{} by {}", before, change);
            }
        }
    }
}

/// The properties say little if the objects are poor: all fields and all kinds of lists must come up.
#[test]
fn the_objects_are_rich() {
    let mut directives = std::collections::BTreeSet::new();
    let mut fields = std::collections::BTreeSet::new();
    for seed in 0..60 {
        for (resource, ty) in every_kind() {
            let mut maker = Maker::new(seed);
            let before = maker.object(resource, ty, None);
            let after = maker.object(resource, ty, Some(&before));
            let change = strategic_patch(ty, &before, &after).to_string();
            for directive in ["$patch", "$retainKeys", "$deleteFromPrimitiveList/", "$setElementOrder/"] {
                if change.contains(directive) {
                    directives.insert(directive);
                }
            }
            if resource.kind == "Pod" {
                fields.extend(after["spec"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
            }
        }
    }
    assert_eq!(directives.len(), 4, "{directives:?}");
    let spec = schema::builtin().get("api.core.v1.PodSpec").expect("a type");
    assert_eq!(fields.len(), spec.fields().count());
}
