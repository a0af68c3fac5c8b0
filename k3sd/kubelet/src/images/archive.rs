//! The documents inside image tarballs: OCI image layout and `docker save`'s manifest.
//!
//! Only data and pure functions; reading tarballs and writing to containerd is `import`'s.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Reference to a blob by digest.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlobRef {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: i64,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
}

/// An index or a manifest: whichever fields the document has.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) schema_version: i32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) manifests: Vec<BlobRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<BlobRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<BlobRef>,
}

/// One entry of `docker save`'s `manifest.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// A file of the tarball that went into the content store.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    pub(crate) digest: String,
    pub(crate) size: i64,
    pub(crate) gzip: bool,
}

impl BlobRef {
    /// The full image name an entry of `index.json` carries, if any.
    pub(crate) fn image_name(&self) -> Option<String> {
        let name = self.annotations.get("io.containerd.image.name").or_else(|| {
            // The OCI annotation may hold a bare tag, which names nothing by itself.
            self.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
        })?;
        Some(full_name(name))
    }
}

impl Document {
    /// Labels that keep a blob's children from being garbage-collected by containerd.
    pub(crate) fn gc_labels(&self) -> HashMap<String, String> {
        let mut labels = HashMap::new();
        for (index, child) in self.manifests.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.m.{index}"), child.digest.clone());
        }
        if let Some(config) = &self.config {
            labels.insert("containerd.io/gc.ref.content.config".to_owned(), config.digest.clone());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.l.{index}"), layer.digest.clone());
        }
        labels
    }
}

impl SavedImage {
    /// The image manifest `docker save` leaves out, from the files it names.
    /// `Err` is the name of a file that is not in the tarball.
    pub(crate) fn to_manifest(&self, files: &HashMap<String, StoredFile>) -> Result<Document, String> {
        let find = |name: &String| files.get(name).cloned().ok_or_else(|| name.clone());
        let blob = |file: StoredFile, media_type: &str| BlobRef {
            media_type: media_type.to_owned(),
            digest: file.digest,
            size: file.size,
            ..BlobRef::default()
        };
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let file = find(layer)?;
            let media_type = if file.gzip { DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
            layers.push(blob(file, media_type));
        }
        Ok(Document {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.to_owned(),
            config: Some(blob(find(&self.config)?, DOCKER_CONFIG)),
            layers,
            ..Document::default()
        })
    }
}

/// A reference with registry, path and tag, as containerd stores names: `busybox` is
/// `docker.io/library/busybox:latest`. Rules of the distribution reference grammar.
pub(crate) fn full_name(name: &str) -> String {
    let (path, digest) = match name.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => (name, None),
    };
    let mut full = match path.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => path.to_owned(),
        Some(_) => format!("docker.io/{path}"),
        None => format!("docker.io/library/{path}"),
    };
    let tagged = full.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if let Some(digest) = digest {
        full = format!("{full}@{digest}");
    } else if !tagged {
        full.push_str(":latest");
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_containerd_stores_them() {
        let cases = [
            ("localhost/skerry/pause:1", "localhost/skerry/pause:1"),
            ("busybox", "docker.io/library/busybox:latest"),
            ("rancher/mirrored-pause:3.6", "docker.io/rancher/mirrored-pause:3.6"),
            ("registry:5000/app", "registry:5000/app:latest"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
        ];
        for (given, full) in cases {
            assert_eq!(full_name(given), full);
        }
    }

    #[test]
    fn a_bare_tag_names_no_image() {
        let annotations =
            HashMap::from([("org.opencontainers.image.ref.name".to_owned(), "latest".to_owned())]);
        assert_eq!(BlobRef { annotations, ..BlobRef::default() }.image_name(), None);
    }

    #[test]
    fn docker_save_without_a_named_layer_says_which() {
        let saved =
            SavedImage { config: "c.json".into(), repo_tags: None, layers: vec!["a/layer.tar".into()] };
        assert_eq!(saved.to_manifest(&HashMap::new()).unwrap_err(), "a/layer.tar");
    }
}
