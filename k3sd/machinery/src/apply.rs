//! Server-side apply: who owns which field of an object, and merging what somebody applies with what others own.
//!
//! Every write leaves in `metadata.managedFields` which paths it set ([`FieldManager::update`]). An apply says which fields its
//! manager has an opinion on, and only those: it gets them ([`FieldManager::apply`]), unless somebody else owns one with another
//! value, which is a conflict; and what it said before, does not say any more, and nobody else owns, is removed.
//! The rules are those of KEP-555 and of upstream's `structured-merge-diff`.
//!
//! | file | what it does |
//! | --- | --- |
//! | `path`, `set` | paths, sets of paths, `FieldsV1` |
//! | `types` | how a value merges, from the schema |
//! | `compare`, `merge`, `fields`, `validate` | walks over objects by their type |
//! | `managed`, `cap` | the entries of `managedFields` |
//! | `conflict`, `last_applied`, `scale` | what is particular |
//!
//! The schema is whatever [`Versions`] gives, so kinds that are defined at run time merge by the same code.

mod cap;
pub mod compare;
mod conflict;
pub mod fields;
mod last_applied;
pub mod managed;
mod merge;
pub mod path;
pub mod scale;
pub mod set;
mod types;
mod validate;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use compare::{Comparison, compare};
pub use conflict::Conflict;
use managed::{Entry, Managed, Manager, Operation};
use set::Set;

use crate::meta;
use crate::schema::{self, TypeRef, ValueKind};
use crate::status::Status;

/// Owner of what was there before the first apply to an object that nobody tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager whose applies keep client-side apply's annotation up to date, and may take over from it.
const KUBECTL: &str = "kubectl";
/// Fields that nobody owns: they say which object it is, or are the server's.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];
/// Lists that upstream writes even when there are none, so that an object that was just made has them, empty.
const ALWAYS_WRITTEN: &[(&str, &str)] = &[
    ("api.core.v1.PodSpec", "containers"),
    ("api.core.v1.LimitRangeSpec", "limits"),
    ("api.discovery.v1.EndpointSlice", "endpoints"),
    ("api.discovery.v1.EndpointSlice", "ports"),
    ("api.rbac.v1.ClusterRole", "rules"),
    ("api.rbac.v1.Role", "rules"),
];

/// The versions of one kind: entries of `managedFields` speak of different ones.
pub trait Versions: Sync {
    /// The kind's type in a version; `None` if the version is not served (any more).
    fn type_of(&self, api_version: &str) -> Option<TypeRef<'_>>;

    /// The object, which has the version of the request, in another version that is served.
    fn convert(&self, object: &Value, to: &str) -> Option<Value>;
}

/// A kind with one version, or whose other versions are of no interest.
#[derive(Debug, Clone, Copy)]
pub struct OneVersion<'a> {
    /// The version.
    pub api_version: &'a str,
    /// The kind's type in it.
    pub ty: TypeRef<'a>,
}

impl Versions for OneVersion<'_> {
    fn type_of(&self, api_version: &str) -> Option<TypeRef<'_>> {
        (api_version == self.api_version).then_some(self.ty)
    }

    fn convert(&self, _object: &Value, _to: &str) -> Option<Value> {
        None
    }
}

/// Fields that a request does not write, whatever it says, so that it cannot own them either.
#[derive(Debug, Clone, Copy, Default)]
pub enum Reset<'a> {
    /// It writes everything.
    #[default]
    Nothing,
    /// It does not write these and what is below them.
    These(&'a [&'a [&'a str]]),
    /// It writes only these and what is below them.
    AllBut(&'a [&'a [&'a str]]),
}

impl Reset<'_> {
    fn filter(&self, set: &Set) -> Set {
        match self {
            Self::Nothing => set.clone(),
            Self::These(paths) => set.recursive_difference(&Set::of_fields(paths)),
            Self::AllBut(paths) => set.recursive_intersection(&Set::of_fields(paths)),
        }
    }
}

/// Keeps the ownership of fields for one kind of request to one kind of object.
#[derive(Clone, Copy)]
pub struct FieldManager<'a> {
    /// The versions of the kind.
    pub versions: &'a dyn Versions,
    /// The version of the request. It must be one of those.
    pub api_version: &'a str,
    /// The subresource of the request, or "".
    pub subresource: &'a str,
    /// What the request does not write.
    pub reset: Reset<'a>,
}

/// How an apply is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Applying<'a> {
    /// Who applies.
    pub manager: &'a str,
    /// Take fields from others instead of failing.
    pub force: bool,
    /// The time for the entry.
    pub now: &'a str,
}

/// What becomes of an object by an apply.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The object, in normal form, without `managedFields`.
    pub object: Value,
    /// Its `managedFields`.
    pub managed: Managed,
}

/// An apply that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change.
    #[error("{}", conflict::status(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration does not fit its type.
    #[error("failed to create typed patch object ({object}): {}", .faults.join("\n"))]
    Invalid {
        /// Name and kind.
        object: String,
        /// Each misfit.
        faults: Vec<String>,
    },
    /// The configuration has `managedFields`.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The version is not one of the kind's.
    #[error("no corresponding type for {0}")]
    NoVersion(String),
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        match &error {
            ApplyError::Conflicts(conflicts) => conflict::status(conflicts),
            ApplyError::ManagedFields => Self::bad_request(error.to_string()),
            ApplyError::Invalid { .. } | ApplyError::NoVersion(_) => Self::unknown_failure(error.to_string()),
        }
    }
}

// === impl FieldManager ===

impl FieldManager<'_> {
    fn ty(&self) -> Option<TypeRef<'_>> {
        self.versions.type_of(self.api_version)
    }

    /// The entries after a write that is no apply: the manager owns what the write changed, and others own it no longer.
    ///
    /// `before` is `None` when the write makes the object. `before` and `after` are both in the version of the request; what they
    /// say of `managedFields` does not matter. `now` goes into the manager's entry if the write changed anything.
    pub fn update(
        &self,
        before: Option<&Value>,
        after: &Value,
        managed: Managed,
        manager: &str,
        now: &str,
    ) -> Managed {
        let Some(ty) = self.ty() else { return managed };
        let unborn;
        let before = match before {
            Some(before) => before,
            None => {
                unborn = newborn(ty);
                &unborn
            }
        };
        let difference = self.filtered(&compare(ty, before, after));
        if difference.is_empty() {
            return managed;
        }
        let (before, after) = (Cow::Borrowed(before), Cow::Borrowed(after));
        let own = Manager::update(manager, self.subresource);
        let mut managed = self.take_from_others(managed, &difference, (&before, &after), Some(&own));
        self.give(&mut managed, own, &difference, now);
        cap::cap(&mut managed);
        managed
    }

    /// A difference without what this request does not write and nobody owns.
    fn filtered(&self, difference: &Comparison) -> Comparison {
        let unowned = Set::of_fields(UNOWNED);
        difference.map(|set| self.reset.filter(set).difference(&unowned))
    }

    /// Takes what changed away from everybody but `own`. Entries in versions that are no longer served are dropped.
    fn take_from_others(
        &self,
        managed: Managed,
        difference: &Comparison,
        (before, after): (&Value, &Value),
        own: Option<&Manager>,
    ) -> Managed {
        let mut elsewhere = Differences { manager: self, before, after, known: Vec::new() };
        let mut kept = Managed::default();
        for mut entry in managed.entries {
            let Some(difference) = elsewhere.of(&entry.api_version, difference) else { continue };
            let is_own =
                own.is_some_and(|own| entry.manager == *own) && entry.api_version == self.api_version;
            let changed = if is_own { Set::default() } else { difference.changed() };
            if changed.touches(&entry.fields) || difference.removed.touches(&entry.fields) {
                let rest = entry.set().difference(&changed).difference(&difference.removed);
                entry.set_paths(&rest);
            }
            kept.entries.push(entry);
        }
        kept.drop_empty();
        kept
    }

    /// Makes an updater the owner of what it changed.
    fn give(&self, managed: &mut Managed, own: Manager, difference: &Comparison, now: &str) {
        let changed = difference.changed();
        if changed.is_empty() {
            return;
        }
        let mut entry = match managed.take(&own, self.api_version) {
            // It owned all of it before, as those do that write the same fields again and again.
            Some(entry) if changed.within(&entry.fields) => entry,
            Some(mut entry) => {
                entry.set_paths(&entry.set().union(&changed));
                entry
            }
            None => Entry::new(own, self.api_version, &changed),
        };
        now.clone_into(&mut entry.time);
        managed.entries.push(entry);
    }

    /// Applies a configuration. `live` is `None` when the apply makes the object.
    ///
    /// # Errors
    /// Others own what it would change, or it does not fit its type.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        how: Applying<'_>,
    ) -> Result<Applied, ApplyError> {
        if config.pointer("/metadata/managedFields").is_some_and(|managed| !managed.is_null()) {
            return Err(ApplyError::ManagedFields);
        }
        let ty = self.ty().ok_or_else(|| ApplyError::NoVersion(self.api_version.to_owned()))?;
        let faults = validate::faults(ty, config);
        if !faults.is_empty() {
            return Err(ApplyError::Invalid { object: what(config), faults });
        }
        let applied = match self.attempt(ty, live, config, how) {
            Err(ApplyError::Conflicts(conflicts)) if how.manager == KUBECTL => {
                let left = last_applied::unsettled(self, ty, live, conflicts);
                if !left.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.attempt(ty, live, config, Applying { force: true, ..how })
            }
            done => done,
        };
        applied.map(|mut applied| {
            if how.manager == KUBECTL {
                last_applied::renew(&mut applied.object, config);
            }
            applied
        })
    }

    fn attempt(
        &self,
        ty: TypeRef<'_>,
        live: Option<&Value>,
        config: &Value,
        how: Applying<'_>,
    ) -> Result<Applied, ApplyError> {
        let nothing = Value::Object(Map::new());
        let bare = live.map(without_managed_fields);
        let live = bare.as_ref().map_or(&nothing, |(live, _)| live);
        let mut managed = bare.as_ref().map(|(_, managed)| managed.clone()).unwrap_or_default();
        if managed.entries.is_empty() && bare.is_some() {
            managed = self.update(None, live, managed, BEFORE_FIRST_APPLY, how.now);
        }
        self.reconcile(&mut managed);

        let own = Manager::apply(how.manager, self.subresource);
        let last = managed.take(&own, self.api_version);
        let set = self.reset.filter(&fields::of(ty, config));
        let mut object = merge::merge(ty, live, config);
        if let Some(last) = &last {
            object = self.prune(object, &managed, &set, last);
        }
        schema::normalize(ty, &mut object);

        let difference = compare(ty, live, &object).map(|set| self.reset.filter(set));
        if !how.force {
            self.refuse_conflicts(&managed, &difference, (live, &object))?;
        }
        managed = self.take_from_others(managed, &difference, (live, &object), None);
        let set = set.difference(&Set::of_fields(UNOWNED));
        if !set.is_empty() {
            let mut entry = Entry::new(own, self.api_version, &set);
            entry.time = match last {
                Some(last) if *live == object && same_claim(&last, &entry) => last.time,
                _ => how.now.to_owned(),
            };
            managed.entries.push(entry);
        }
        Ok(Applied { object, managed })
    }

    /// Brings the entries in line with the present schema. Those in versions that are gone are dropped when something is taken.
    fn reconcile(&self, managed: &mut Managed) {
        for entry in &mut managed.entries {
            if let Some(ty) = self.versions.type_of(&entry.api_version)
                && let Some(set) = fields::reconcile(ty, &entry.set())
            {
                entry.set_paths(&set);
            }
        }
    }

    fn refuse_conflicts(
        &self,
        managed: &Managed,
        difference: &Comparison,
        (live, object): (&Value, &Value),
    ) -> Result<(), ApplyError> {
        let mut elsewhere = Differences { manager: self, before: live, after: object, known: Vec::new() };
        let mut conflicts = Vec::new();
        for entry in &managed.entries {
            let Some(difference) = elsewhere.of(&entry.api_version, difference) else { continue };
            let changed = difference.changed();
            if !changed.touches(&entry.fields) {
                continue;
            }
            conflicts.extend(entry.set().intersection(&changed).paths().into_iter().map(|path| Conflict {
                manager: entry.manager.clone(),
                api_version: entry.api_version.clone(),
                path,
            }));
        }
        if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
    }

    /// The merged object without what the applier applied the last time, applies no longer, and nobody else owns.
    fn prune(&self, merged: Value, others: &Managed, set: &Set, last: &Entry) -> Value {
        let version = last.api_version.as_str();
        // What it applied in a version that is gone cannot be named any more.
        let Some((ty, merged_then)) = self.in_version(&merged, version) else { return merged };
        let named = |ty, set: &Set| fields::with_named_fields(ty, set);
        let last_set = named(ty, &last.set());
        let mut pruned = merge::remove(ty, &merged_then, &last_set);

        let mut claims: Vec<(&str, Set)> = vec![(self.api_version, set.clone())];
        for entry in &others.entries {
            match claims.iter_mut().find(|(version, _)| *version == entry.api_version) {
                Some((_, claimed)) => *claimed = claimed.union(&entry.set()),
                None => claims.push((&entry.api_version, entry.set())),
            }
        }
        // Its own version first: what was taken out may be needed to convert to another.
        claims.sort_by_key(|(of, _)| *of != version);
        let mut at = version.to_owned();
        for (of, claimed) in &claims {
            let Some((ty, merged)) = self.in_version(&merged, of) else { continue };
            let Some((_, so_far)) = self.between(&pruned, &at, of) else { continue };
            let all = named(ty, &fields::of(ty, &merged));
            let kept = named(ty, &fields::of(ty, &so_far)).union(&named(ty, claimed));
            pruned = merge::remove(ty, &merged, &all.difference(&kept));
            (*of).clone_into(&mut at);
        }

        // Only what it owned itself goes: neither what nobody owns, nor what came out with its parents.
        let Some((_, pruned)) = self.between(&pruned, &at, version) else { return merged };
        let gone = named(ty, &fields::of(ty, &merged_then)).difference(&named(ty, &fields::of(ty, &pruned)));
        let pruned = merge::remove(ty, &merged_then, &gone.intersection(&last_set));
        match self.between(&pruned, version, self.api_version) {
            Some((_, pruned)) => pruned.into_owned(),
            None => merged,
        }
    }

    /// The object, which is in the version of the request, in another version, with its type there.
    fn in_version<'o>(&self, object: &'o Value, to: &str) -> Option<(TypeRef<'_>, Cow<'o, Value>)> {
        self.between(object, self.api_version, to)
    }

    fn between<'o>(&self, object: &'o Value, from: &str, to: &str) -> Option<(TypeRef<'_>, Cow<'o, Value>)> {
        let ty = self.versions.type_of(to)?;
        if from == to {
            return Some((ty, Cow::Borrowed(object)));
        }
        self.versions.convert(object, to).map(|object| (ty, Cow::Owned(object)))
    }
}

/// The difference of one write, in each version that is asked for.
struct Differences<'a> {
    manager: &'a FieldManager<'a>,
    before: &'a Value,
    after: &'a Value,
    known: Vec<(String, Option<Comparison>)>,
}

impl Differences<'_> {
    /// `None`: the version is not served.
    fn of(&mut self, version: &str, own: &Comparison) -> Option<Cow<'_, Comparison>> {
        if version == self.manager.api_version {
            return Some(Cow::Owned(own.clone()));
        }
        let at = match self.known.iter().position(|(known, _)| known == version) {
            Some(at) => at,
            None => {
                let difference = self.compare(version);
                self.known.push((version.to_owned(), difference));
                self.known.len() - 1
            }
        };
        self.known[at].1.as_ref().map(Cow::Borrowed)
    }

    fn compare(&self, version: &str) -> Option<Comparison> {
        let (ty, before) = self.manager.in_version(self.before, version)?;
        let (_, after) = self.manager.in_version(self.after, version)?;
        Some(self.manager.filtered(&compare(ty, &before, &after)))
    }
}

fn same_claim(last: &Entry, entry: &Entry) -> bool {
    last.api_version == entry.api_version && last.fields == entry.fields
}

fn without_managed_fields(object: &Value) -> (Value, Managed) {
    let mut object = object.clone();
    let entries = object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove("managedFields"));
    let managed = Managed::decode(entries).unwrap_or_default();
    (object, managed)
}

/// An object of this type about which nothing is said yet, but what is always said.
fn newborn(ty: TypeRef<'_>) -> Value {
    let mut object = Map::new();
    for field in ty.fields() {
        let zero = match field.default() {
            Some(Value::Object(_)) => match field.value().kind() {
                ValueKind::Struct(ty) => newborn(ty),
                _ => json!({}),
            },
            Some(zero @ (Value::Bool(false) | Value::Null)) => zero.clone(),
            Some(Value::String(text)) if text.is_empty() => json!(""),
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => json!(0),
            None if ALWAYS_WRITTEN.contains(&(ty.name(), field.name())) => Value::Null,
            _ => continue,
        };
        object.insert(field.name().to_owned(), zero);
    }
    Value::Object(object)
}

/// `default/web; apps/v1, Kind=Deployment`.
fn what(config: &Value) -> String {
    let version = meta::api_version(config);
    let slash = if version.contains('/') { "" } else { "/" };
    let namespace = meta::namespace(config).unwrap_or_default();
    format!("{namespace}/{}; {slash}{version}, Kind={}", meta::name(config), meta::kind(config))
}

/// Whether this operation is an apply, for callers that look at entries.
impl Operation {
    /// True for applies.
    pub fn is_apply(self) -> bool {
        self == Self::Apply
    }
}

#[cfg(test)]
mod tests;
