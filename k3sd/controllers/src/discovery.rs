//! What resources the API server has, custom ones too. For the controllers that act on every kind.

use std::collections::BTreeMap;

use client::request;
use serde::Deserialize;

/// A resource as discovery lists it, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiResource {
    /// `v1` or `group/version`.
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

impl ApiResource {
    /// The path of its collection.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("/{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural)
            }
            _ => format!("/{root}/{}/{}", self.api_version, self.plural),
        }
    }

    /// `plural` or `plural.group`, as messages name it.
    pub(crate) fn qualified(&self) -> String {
        match self.api_version.split_once('/') {
            Some((group, _)) => format!("{}.{group}", self.plural),
            None => format!("{}.", self.plural),
        }
    }

    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }
}

/// Every resource in its group's preferred version, or else in the first version that has it. A group that cannot be
/// asked (an aggregated one that is down) is left out and named in the second part.
pub(crate) async fn resources(client: &kube::Client) -> Result<(Vec<ApiResource>, Vec<String>), kube::Error> {
    let mut found = BTreeMap::<(String, String), ApiResource>::new();
    let mut failed = Vec::new();
    add(&mut found, "v1", request::read(client, "/api/v1").await?);
    let groups: Groups = request::read(client, "/apis").await?;
    for group in groups.groups {
        let preferred = group.preferred_version.group_version;
        let others = group.versions.into_iter().map(|version| version.group_version);
        let others: Vec<_> = others.filter(|version| *version != preferred).collect();
        for version in std::iter::once(preferred).chain(others) {
            match request::read(client, &format!("/apis/{version}")).await {
                Ok(resources) => add(&mut found, &version, resources),
                Err(error) => failed.push(format!("{version}: {error}")),
            }
        }
    }
    Ok((found.into_values().collect(), failed))
}

fn add(found: &mut BTreeMap<(String, String), ApiResource>, api_version: &str, resources: Resources) {
    let group = api_version.split_once('/').map(|(group, _)| group).unwrap_or_default();
    for listed in resources.resources.into_iter().filter(|listed| !listed.name.contains('/')) {
        found.entry((group.to_owned(), listed.name.clone())).or_insert_with(|| ApiResource {
            api_version: api_version.to_owned(),
            kind: listed.kind,
            plural: listed.name,
            namespaced: listed.namespaced,
            verbs: listed.verbs,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_counts_and_subresources_do_not() {
        let list = |names: &[&str]| Resources {
            resources: names
                .iter()
                .map(|name| Listed {
                    name: (*name).to_owned(),
                    kind: "K".to_owned(),
                    namespaced: true,
                    verbs: vec!["get".to_owned()],
                })
                .collect(),
        };
        let mut found = BTreeMap::new();
        add(&mut found, "v1", list(&["pods", "pods/status"]));
        add(&mut found, "g/v2", list(&["things"]));
        add(&mut found, "g/v1", list(&["things", "olds"]));
        let paths: Vec<_> = found.values().map(|resource| resource.path(Some("n"))).collect();
        let expected =
            ["/api/v1/namespaces/n/pods", "/apis/g/v1/namespaces/n/olds", "/apis/g/v2/namespaces/n/things"];
        assert_eq!(paths, expected);
        assert_eq!(
            found.values().map(ApiResource::qualified).collect::<Vec<_>>(),
            ["pods.", "olds.g", "things.g"]
        );
    }
}
