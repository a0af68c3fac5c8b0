//! Container images made from one static binary, as a tar of an OCI image layout (image-spec v1.1).
//!
//! One layer with the binary in it, a configuration that runs it, a manifest, and an index that names the image in
//! the two annotations that containerd's importer reads. No times and no random parts: the same binary gives the same
//! bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::digest;
use crate::libraries;
use crate::target::Processor;

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Not compressed: it lies in a compressed file system, and unpacking it costs the node time at every first start.
const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is in the image and how it runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Image {
    /// Name and tag, such as localhost/skerry/demo:1
    #[arg(long)]
    pub(crate) name: String,
    /// The static binary on the host
    #[arg(long)]
    pub(crate) binary: PathBuf,
    /// Where the binary is in the image (default: /usr/bin/ and its name)
    #[arg(long)]
    pub(crate) install: Option<String>,
    /// User and group number the program runs as
    #[arg(long, default_value_t = 65532)]
    pub(crate) user: u32,
    /// TCP ports that the program serves on
    #[arg(long)]
    pub(crate) expose: Vec<u16>,
}

/// The command line of `image oci`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    image: Image,
    /// The tar file to write
    #[arg(long)]
    out: PathBuf,
}

/// Runs `image oci`.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let bytes = options.image.to_tar()?;
    let mut file =
        File::create(&options.out).with_context(|| format!("failed to make '{}'", options.out.display()))?;
    file.write_all(&bytes).with_context(|| format!("failed to write '{}'", options.out.display()))?;
    println!("{} {} bytes", options.out.display(), bytes.len());
    Ok(())
}

struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

// === impl Image ===

impl Image {
    /// The whole image layout as a tar file.
    pub(crate) fn to_tar(&self) -> anyhow::Result<Vec<u8>> {
        libraries::check_static(&self.binary)?;
        ensure!(
            self.name.contains(':') && !self.name.contains(char::is_whitespace),
            "'{}' is not an image name with a tag",
            self.name
        );
        let binary =
            fs::read(&self.binary).with_context(|| format!("failed to read '{}'", self.binary.display()))?;
        let processor = Processor::of_program(&binary)
            .with_context(|| format!("'{}' cannot be in an image", self.binary.display()))?;
        let path = self.install_path()?;
        let layer = Blob { media_type: MEDIA_LAYER, bytes: layer(&path, &binary)? };
        let config =
            Blob { media_type: MEDIA_CONFIG, bytes: encode(&self.config(&path, processor, &layer))? };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        });
        let manifest = Blob { media_type: MEDIA_MANIFEST, bytes: encode(&manifest)? };
        Ok(layout(&encode(&self.index(processor, &manifest))?, &[layer, config, manifest])?)
    }

    fn install_path(&self) -> anyhow::Result<String> {
        if let Some(path) = &self.install {
            ensure!(path.starts_with('/') && !path.contains(".."), "'{path}' is not a plain absolute path");
            return Ok(path.clone());
        }
        let name = self.binary.file_name().context("the binary has no file name")?;
        Ok(format!("/usr/bin/{}", name.to_string_lossy()))
    }

    fn config(&self, path: &str, processor: Processor, layer: &Blob) -> Value {
        let ports: serde_json::Map<String, Value> =
            self.expose.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        json!({
            "architecture": processor.container_name(),
            "os": "linux",
            "config": {
                "User": format!("{0}:{0}", self.user),
                "Entrypoint": [path],
                "Env": [format!("PATH={PATH}")],
                "ExposedPorts": ports,
                "WorkingDir": "/",
                "StopSignal": "SIGTERM",
            },
            // Of the content before compression, which there is none of.
            "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
            "history": [{ "created_by": "image oci" }],
        })
    }

    fn index(&self, processor: Processor, manifest: &Blob) -> Value {
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = json!({ "architecture": processor.container_name(), "os": "linux" });
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        json!({ "schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [descriptor] })
    }
}

// === impl Blob ===

impl Blob {
    fn digest(&self) -> String {
        format!("sha256:{}", digest::of_bytes(&self.bytes))
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

/// The binary and the directories above it.
fn layer(path: &str, binary: &[u8]) -> io::Result<Vec<u8>> {
    let path = path.trim_start_matches('/');
    let mut archive = tar::Builder::new(Vec::new());
    for (end, _) in path.match_indices('/') {
        append(&mut archive, &format!("{}/", &path[..end]), tar::EntryType::Directory, 0o755, &[])?;
    }
    append(&mut archive, path, tar::EntryType::Regular, 0o755, binary)?;
    archive.into_inner()
}

fn layout(index: &[u8], blobs: &[Blob]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let file = tar::EntryType::Regular;
    append(&mut archive, "oci-layout", file, 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", file, 0o644, index)?;
    for directory in ["blobs/", "blobs/sha256/"] {
        append(&mut archive, directory, tar::EntryType::Directory, 0o755, &[])?;
    }
    for blob in blobs {
        let name = Path::new("blobs").join(blob.digest().replace(':', "/"));
        append(&mut archive, &name.to_string_lossy(), file, 0o644, &blob.bytes)?;
    }
    archive.into_inner()
}

/// Adds an entry that belongs to root and has no time.
fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, bytes)
}

fn encode(value: &Value) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(value).context("failed to write JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn image() -> Image {
        Image {
            name: "localhost/skerry/demo:1".into(),
            binary: "/nowhere/demo".into(),
            install: None,
            user: 65532,
            expose: vec![8080],
        }
    }

    fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(bytes)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (path, content)
            })
            .collect()
    }

    #[test]
    fn every_descriptor_names_a_blob_of_the_layout_by_its_digest() {
        let image = image();
        let layer = Blob { media_type: MEDIA_LAYER, bytes: layer("/usr/bin/demo", b"binary").unwrap() };
        let files = unpack(&layout(b"{}", &[layer]).unwrap());
        let (name, content) =
            files.iter().find(|(name, _)| name.starts_with("blobs/sha256/") && name.len() > 13).unwrap();
        assert_eq!(*name, format!("blobs/sha256/{}", digest::of_bytes(content)));
        assert_eq!(unpack(content)["usr/bin/demo"], b"binary");
        assert_eq!(image.install_path().unwrap(), "/usr/bin/demo");
    }

    /// A runtime refuses an image for another processor, and takes its word for which it is for.
    #[test]
    fn an_image_is_for_the_processor_of_its_program() {
        let scratch = tempfile::tempdir().unwrap();
        let binary = scratch.path().join("demo");
        for (machine, name) in [(62, "amd64"), (183, "arm64")] {
            let mut bytes = vec![0; 64];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[18] = machine;
            fs::write(&binary, bytes).unwrap();
            let files = unpack(&Image { binary: binary.clone(), ..image() }.to_tar().unwrap());
            let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
            assert_eq!(index["manifests"][0]["platform"]["architecture"], name);
            let blobs = files.values().filter_map(|bytes| serde_json::from_slice::<Value>(bytes).ok());
            let config = blobs.into_iter().find(|blob| blob["rootfs"].is_object()).unwrap();
            assert_eq!(config["architecture"], name);
        }
    }

    #[test]
    fn the_index_carries_the_name_for_the_importer() {
        let manifest = Blob { media_type: MEDIA_MANIFEST, bytes: b"{}".to_vec() };
        let index = image().index(Processor::X86_64, &manifest);
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "localhost/skerry/demo:1");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
    }
}
