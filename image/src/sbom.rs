//! What is in an image, for programs that look for known faults: CycloneDX 1.6, as JSON.
//!
//! Debian's packages or Buildroot's, and the crates of our own programs. Nothing in it depends on when or where it is made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::apt::Package;
use crate::buildroot::Built;
use crate::identity::{Identity, VERSION};
use crate::programs::Crate;

/// The file's name, in the image and beside it.
pub(crate) const FILE: &str = "sbom.cdx.json";

/// How the image calls itself.
const SUBJECT: &str = "skerry";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    component: Component,
}

#[derive(Debug, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<Supplier>,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<License>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Debug, Serialize)]
struct Supplier {
    name: &'static str,
}

#[derive(Debug, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

/// Either an expression of SPDX, or names in the words of whoever wrote them down.
#[derive(Debug, Serialize, PartialEq, Eq)]
enum License {
    #[serde(rename = "expression")]
    Expression(String),
    #[serde(rename = "license")]
    Named { name: String },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    r#ref: String,
    depends_on: Vec<String>,
}

/// Writes the list for an image: Debian's packages with the directory that each is unpacked in, Buildroot's, and crates.
pub(crate) fn write(
    identity: &Identity<'_>,
    packages: &[(&Package, &Path)],
    built: &[Built],
    crates: &[Crate],
) -> anyhow::Result<Vec<u8>> {
    let mut components = packages
        .iter()
        .map(|(package, directory)| debian(package, directory, &identity.target.debian_architecture))
        .collect::<anyhow::Result<Vec<_>>>()?;
    components.extend(built.iter().map(buildroot));
    components.extend(crates.iter().map(cargo));
    let document = Document {
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: format!("urn:uuid:{}", identity.id("sbom")),
        version: 1,
        metadata: Metadata {
            component: Component {
                kind: "operating-system",
                reference: SUBJECT.to_owned(),
                supplier: None,
                name: SUBJECT.to_owned(),
                version: format!("{VERSION}+{}", identity.build),
                hashes: Vec::new(),
                licenses: vec![License::Expression(env!("CARGO_PKG_LICENSE").to_owned())],
                cpe: None,
                purl: None,
            },
        },
        dependencies: vec![Dependency {
            r#ref: SUBJECT.to_owned(),
            depends_on: components.iter().map(|component| component.reference.clone()).collect(),
        }],
        components,
    };
    let mut text = serde_json::to_vec_pretty(&document).context("failed to write the SBOM as JSON")?;
    text.push(b'\n');
    Ok(text)
}

fn debian(package: &Package, directory: &Path, architecture: &str) -> anyhow::Result<Component> {
    let purl = format!(
        "pkg:deb/debian/{}@{}?arch={architecture}",
        percent(&package.name),
        percent(&package.version)
    );
    let path = directory.join("usr/share/doc").join(&package.name).join("copyright");
    let licenses = match fs::read(&path) {
        Ok(text) => licenses(&String::from_utf8_lossy(&text)),
        // Some packages point to the one that they were built with.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("failed to read '{}'", path.display())),
    };
    Ok(Component {
        kind: "library",
        reference: purl.clone(),
        supplier: Some(Supplier { name: "Debian" }),
        name: package.name.clone(),
        version: package.version.clone(),
        hashes: vec![Hash { alg: "SHA-256", content: package.sha256.clone() }],
        licenses,
        cpe: None,
        purl: Some(purl),
    })
}

fn buildroot(built: &Built) -> Component {
    let purl = format!("pkg:generic/{}@{}", percent(&built.name), percent(&built.version));
    let licenses = Some(built.licenses.clone()).filter(|text| !text.is_empty());
    Component {
        kind: "library",
        reference: purl.clone(),
        supplier: None,
        name: built.name.clone(),
        version: built.version.clone(),
        hashes: Vec::new(),
        licenses: licenses.map(|name| License::Named { name }).into_iter().collect(),
        cpe: built.cpe.clone(),
        purl: Some(purl),
    }
}

fn cargo(found: &Crate) -> Component {
    let purl = format!("pkg:cargo/{}@{}", percent(&found.name), percent(&found.version));
    Component {
        kind: if found.own { "application" } else { "library" },
        reference: purl.clone(),
        supplier: None,
        name: found.name.clone(),
        version: found.version.clone(),
        hashes: Vec::new(),
        licenses: (!found.license.is_empty())
            .then(|| License::Expression(found.license.clone()))
            .into_iter()
            .collect(),
        cpe: None,
        // A crate of this repository is in no registry.
        purl: (!found.own).then_some(purl),
    }
}

/// The names of all licences in a copyright file in the machine-readable format (DEP-5). Other files give none: what
/// they say is for people.
fn licenses(copyright: &str) -> Vec<License> {
    if !copyright.lines().take(5).any(|line| line.starts_with("Format:")) {
        return Vec::new();
    }
    let names: BTreeSet<&str> = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    names.into_iter().map(|name| License::Named { name: name.to_owned() }).collect()
}

/// For a part of a package URL.
fn percent(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{self, Target};

    #[test]
    fn a_document_has_packages_and_crates_with_their_addresses() {
        let scratch = tempfile::tempdir().unwrap();
        let doc = scratch.path().join("usr/share/doc/crun");
        fs::create_dir_all(&doc).unwrap();
        let text =
            "Format: https://www.debian.org/doc/\n\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: LGPL-2.1+\n";
        fs::write(doc.join("copyright"), text).unwrap();
        let package = Package {
            name: "crun".into(),
            version: "1:1.21+b1".into(),
            sha256: "ab12".into(),
            depends: String::new(),
        };
        let target = Target::find(target::DEFAULT).unwrap();
        let identity =
            Identity { target: &target, build: "b".into(), debug: false, kernel: "6", packages: Vec::new() };
        let crates = ["serde", "k3sd"].map(|name| Crate {
            name: name.into(),
            version: "1.0.1".into(),
            license: "MIT OR Apache-2.0".into(),
            own: name == "k3sd",
        });
        let built = Built {
            name: "runc".into(),
            version: "1.2.6".into(),
            licenses: "Apache-2.0, GPL-2.0".into(),
            cpe: Some("cpe:2.3:a:linuxfoundation:runc:1.2.6:*:*:*:*:*:*:*".into()),
        };
        let text = write(&identity, &[(&package, scratch.path())], &[built], &crates).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&json["bomFormat"], &json["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
        let components = json["components"].as_array().unwrap();
        assert_eq!(components[0]["purl"], "pkg:deb/debian/crun@1%3A1.21%2Bb1?arch=amd64");
        assert_eq!(components[0]["licenses"][1]["license"]["name"], "LGPL-2.1+");
        assert_eq!(components[1]["purl"], "pkg:generic/runc@1.2.6");
        assert_eq!(components[1]["licenses"][0]["license"]["name"], "Apache-2.0, GPL-2.0");
        assert!(components[1]["cpe"].as_str().unwrap().starts_with("cpe:2.3:a:linuxfoundation:runc:"));
        assert_eq!(components[2]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(components[2]["purl"], "pkg:cargo/serde@1.0.1");
        assert!(components[3]["purl"].is_null(), "ours are in no registry");
        assert_eq!(json["dependencies"][0]["dependsOn"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_copyright_file_for_people_gives_no_licences() {
        assert_eq!(licenses("This is libfoo.\nLicense: see below\n"), []);
    }
}
