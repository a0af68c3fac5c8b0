//! What many validations share: reading fields, and the checks with upstream's words
//! (`k8s.io/apimachinery/pkg/util/validation`, `pkg/apis/core/validation`).

use std::net::IpAddr;

use ipnet::IpNet;
use machinery::quantity::Quantity;
use machinery::status::FieldError;
use serde_json::{Map, Value};

/// Everything that is wrong, as it is found.
pub(crate) type Faults = Vec<FieldError>;

/// The text at a JSON pointer, empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The whole number at a JSON pointer.
pub(crate) fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The list at a JSON pointer, empty if there is none.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of the object at a JSON pointer, none if there is no object.
pub(crate) fn members<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

/// Whether there is a value at a JSON pointer.
pub(crate) fn is_set(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).is_some_and(|value| !value.is_null())
}

/// The member `name` of an object as an object, made if it is not there.
pub(crate) fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    machinery::meta::child_mut(machinery::meta::object_mut(object), name)
}

/// Sets a member that is absent, null or an empty text.
pub(crate) fn set_default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let is_missing = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if is_missing {
        map.insert(key.to_owned(), value.into());
    }
}

/// Makes a top-level member what it was in the old object.
pub(crate) fn keep_old(object: &mut Value, old: &Value, field: &str) {
    let map = machinery::meta::object_mut(object);
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// A text that must be one of these, if it is there.
pub(crate) fn one_of(object: &Value, pointer: &str, allowed: &[&str], faults: &mut Faults) {
    let value = text(object, pointer);
    if !value.is_empty() && !allowed.contains(&value) {
        faults.push(FieldError::not_supported(path(pointer), value, allowed));
    }
}

/// A value that may not change.
pub(crate) fn immutable(object: &Value, old: &Value, pointer: &str, faults: &mut Faults) {
    let (new, old) = (object.pointer(pointer), old.pointer(pointer));
    if new != old {
        faults.push(FieldError::invalid(
            path(pointer),
            new.cloned().unwrap_or_default(),
            "field is immutable",
        ));
    }
}

/// A port number.
pub(crate) fn port(value: i64, field: &str, faults: &mut Faults) {
    if !(1..=65_535).contains(&value) {
        faults.push(FieldError::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

/// An address of either family.
pub(crate) fn ip(value: &str, field: &str, faults: &mut Faults) {
    if value.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(FieldError::invalid(field, value, detail));
    }
}

/// A CIDR of either family.
pub(crate) fn cidr(value: &str, field: &str, faults: &mut Faults) {
    if value.parse::<IpNet>().is_err() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        faults.push(FieldError::invalid(field, value, detail));
    }
}

/// An address that stands for one machine on the network, not for something special.
pub(crate) fn endpoint_ip(value: &str, field: &str, faults: &mut Faults) {
    let Ok(ip) = value.parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(FieldError::invalid(field, value, detail));
        return;
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xff02,
    };
    let special = [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    for (_, detail) in special.into_iter().filter(|(is, _)| *is) {
        faults.push(FieldError::invalid(field, value, detail));
    }
}

/// Names given by a function of `names`, each fault under `field`.
pub(crate) fn named(value: &str, field: &str, rule: fn(&str, bool) -> Vec<String>, faults: &mut Faults) {
    faults.extend(rule(value, false).into_iter().map(|detail| FieldError::invalid(field, value, detail)));
}

/// A quantity that may not be negative, and whole if it must be.
pub(crate) fn quantity(value: &Value, field: &str, whole: bool, faults: &mut Faults) {
    match Quantity::from_value(value) {
        Err(error) => faults.push(FieldError::invalid(field, value.clone(), error.to_string())),
        Ok(quantity) if quantity.is_negative() => {
            faults.push(FieldError::invalid(field, value.clone(), "must be greater than or equal to 0"));
        }
        Ok(quantity) if whole && !quantity.is_integer() => {
            faults.push(FieldError::invalid(field, value.clone(), "must be an integer"));
        }
        Ok(_) => {}
    }
}

/// Labels as a selector or template has them.
pub(crate) fn labels(object: &Value, pointer: &str, faults: &mut Faults) {
    let field = path(pointer);
    for (key, value) in members(object, pointer) {
        for detail in crate::names::qualified_name(key) {
            faults.push(FieldError::invalid(field.as_str(), key.as_str(), detail));
        }
        let value = value.as_str().unwrap_or_default();
        for detail in crate::names::label_value(value) {
            faults.push(FieldError::invalid(field.as_str(), value, detail));
        }
    }
}

/// `/spec/ports` as `spec.ports`; indexes are left to the caller.
pub(crate) fn path(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}
