//! The Buildroot tree, as far as it can be checked without Buildroot: it names what exists, and builds what the image takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Debian's package, and the symbols that select the same in Buildroot.
const PACKAGES: &[(&str, &[&str])] = &[
    ("containerd", &["BR2_PACKAGE_CONTAINERD", "BR2_PACKAGE_CONTAINERD_CRI"]),
    ("crun", &["BR2_PACKAGE_CRUN"]),
    ("runc", &["BR2_PACKAGE_RUNC"]),
    ("nftables", &["BR2_PACKAGE_NFTABLES"]),
    ("e2fsprogs", &["BR2_PACKAGE_E2FSPROGS", "BR2_PACKAGE_E2FSPROGS_RESIZE2FS"]),
    ("ca-certificates", &["BR2_PACKAGE_CA_CERTIFICATES"]),
];

/// Ours: in every configuration, whatever Debian has.
const OWN: &[&str] = &["BR2_PACKAGE_SKERRY_INIT", "BR2_PACKAGE_SKERRY_K3SD", "BR2_PACKAGE_SKERRY_IMAGE"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_owned()
}

fn tree() -> PathBuf {
    repository().join("buildroot")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read '{}': {error}", path.display()))
}

fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(tree().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *{ending} in {directory}");
    found
}

/// Name and value of each setting of a Kconfig file; `n` for `# NAME is not set`. Anything else fails.
fn settings(path: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (number, line) in read(path).lines().enumerate() {
        let place = || format!("{}:{}: {line:?}", path.display(), number + 1);
        if let Some(name) = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set")) {
            all.push((name.to_owned(), "n".to_owned()));
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{}: no setting", place()));
            let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
            let plain = matches!(value, "y" | "m") || value.parse::<i64>().is_ok();
            assert!(quoted || plain, "{}: neither y, m, a number nor a quoted text", place());
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    let names: BTreeSet<_> = all.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), all.len(), "{}: a setting is there twice", path.display());
    for name in names {
        let allowed =
            |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b.is_ascii_lowercase();
        assert!(name.bytes().all(allowed), "{}: {name:?} is no name of an option", path.display());
    }
    all
}

#[test]
fn defconfigs_are_well_formed_and_what_they_refer_to_exists() {
    for path in files("configs", "_defconfig") {
        for (name, value) in settings(&path) {
            assert!(name.starts_with("BR2_"), "{}: {name}", path.display());
            for word in value.trim_matches('"').split_whitespace() {
                if let Some(relative) = word.strip_prefix("$(BR2_EXTERNAL_SKERRY_PATH)/") {
                    assert!(
                        tree().join(relative).exists(),
                        "{}: {name}: there is no '{relative}'",
                        path.display()
                    );
                }
            }
        }
    }
}

#[test]
fn every_configuration_builds_what_the_image_takes() {
    let manifest: toml::Table = read(&repository().join("image/debian.toml")).parse().unwrap();
    let listed = manifest["files"].as_array().unwrap().iter().map(|files| files["package"].as_str().unwrap());
    let mut packages: BTreeSet<&str> = listed.collect();
    packages.insert(manifest["certificates"]["package"].as_str().unwrap());
    for path in files("configs", "_defconfig") {
        let on: BTreeSet<String> =
            settings(&path).into_iter().filter(|(_, value)| value == "y").map(|(name, _)| name).collect();
        for package in &packages {
            let (_, symbols) = PACKAGES
                .iter()
                .find(|(debian, _)| debian == package)
                .unwrap_or_else(|| panic!("no Buildroot package is known for Debian's {package}"));
            for symbol in *symbols {
                assert!(on.contains(*symbol), "{}: {symbol} is missing, for {package}", path.display());
            }
        }
        for symbol in OWN {
            assert!(on.contains(*symbol), "{}: {symbol} is missing", path.display());
        }
    }
}

#[test]
fn every_configuration_ends_in_an_image_for_a_target_that_exists() {
    for path in files("configs", "_defconfig") {
        let settings = settings(&path);
        let (_, target) =
            settings.iter().find(|(name, _)| name == "BR2_ROOTFS_POST_SCRIPT_ARGS").expect("a target");
        let target = target.trim_matches('"');
        let description = repository().join("image/targets").join(format!("{target}.toml"));
        assert!(description.is_file(), "{}: there is no target '{target}'", path.display());
        let loader = read(&description).contains("by = \"uefi\"");
        let grub = settings.iter().any(|(name, value)| name == "BR2_TARGET_GRUB2" && value == "y");
        assert_eq!(loader, grub, "{}: UEFI needs a loader, a board's firmware none", path.display());
    }
}

#[test]
fn the_pinned_kernel_has_a_checksum() {
    let hashes = read(&tree().join("patches/linux/linux.hash"));
    for path in files("configs", "_defconfig") {
        let version = settings(&path)
            .into_iter()
            .find_map(|(name, value)| (name == "BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE").then_some(value))
            .unwrap_or_else(|| panic!("{}: no kernel version", path.display()));
        let archive = format!("linux-{}.tar.xz", version.trim_matches('"'));
        let line = hashes.lines().find(|line| line.ends_with(&archive));
        let digest = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default();
        assert_eq!(digest.len(), 64, "{archive} has no SHA-256 in patches/linux/linux.hash");
    }
}

#[test]
fn the_release_is_pinned_by_version_and_sha256() {
    let text = read(&tree().join("release.env"));
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("release.env lacks {name}")).to_owned()
    };
    assert!(value("BUILDROOT_VERSION").split('.').all(|part| part.parse::<u32>().is_ok()));
    let digest = value("BUILDROOT_SHA256");
    assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
}

#[test]
fn every_package_is_sourced_and_defines_the_symbol_of_its_name() {
    let top = read(&tree().join("Config.in"));
    for entry in fs::read_dir(tree().join("package")).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_string_lossy().into_owned();
        assert!(top.contains(&format!("/package/{name}/Config.in\"")), "Config.in does not source {name}");
        let symbol = format!("BR2_PACKAGE_{}", name.to_uppercase().replace('-', "_"));
        let config = read(&directory.join("Config.in"));
        assert!(config.lines().any(|line| line == format!("config {symbol}")), "{name}: no {symbol}");
        let make = read(&directory.join(format!("{name}.mk")));
        assert!(make.contains("-package))"), "{name}: its makefile defines no package");
    }
    for line in top.lines().filter(|line| !line.trim().is_empty()) {
        let path =
            line.strip_prefix("source \"$BR2_EXTERNAL_SKERRY_PATH/").and_then(|rest| rest.strip_suffix('"'));
        let path = path.unwrap_or_else(|| panic!("Config.in: {line:?} sources nothing of this tree"));
        assert!(tree().join(path).is_file(), "Config.in: there is no '{path}'");
    }
}

/// A statement of Kconfig, so that a slip of the pen is found here and not an hour into a build.
#[test]
fn config_in_files_use_the_words_of_kconfig() {
    const WORDS: &[&str] = &["config", "bool", "depends", "select", "help", "comment", "source", "default"];
    for entry in fs::read_dir(tree().join("package")).unwrap() {
        let path = entry.unwrap().path().join("Config.in");
        let text = read(&path).replace("\\\n", " ");
        let mut in_help = false;
        for line in text.lines() {
            let word = line.split_whitespace().next().unwrap_or_default();
            in_help = (in_help && (line.is_empty() || line.starts_with("\t  "))) || word == "help";
            if !in_help && !word.is_empty() {
                assert!(WORDS.contains(&word), "{}: {line:?}", path.display());
                assert_eq!(line.matches('"').count() % 2, 0, "{}: {line:?}", path.display());
            }
        }
    }
}

#[test]
fn the_kernel_table_in_the_documentation_is_the_fragments() {
    let mut documented = BTreeSet::new();
    let mut fragment = String::new();
    for line in read(&repository().join("docs/kernel.md")).lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let name = heading.split('`').nth(1).unwrap_or_else(|| panic!("{line:?} names no fragment"));
            fragment = name.to_owned();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, options, value, why, _] = cells[..]
            && options.starts_with('`')
        {
            assert!(!why.is_empty(), "{line:?} gives no reason");
            for option in options.split_whitespace() {
                documented.insert((fragment.clone(), option.trim_matches('`').to_owned(), value.to_owned()));
            }
        }
    }
    let mut written = BTreeSet::new();
    for path in files("kernel", ".fragment") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for (option, value) in settings(&path) {
            let option = option.strip_prefix("CONFIG_").unwrap_or_else(|| panic!("{name}: {option}"));
            written.insert((name.clone(), option.to_owned(), value));
        }
    }
    assert_eq!(written, documented);
}

/// Buildroot's output may be below the checkout, and would be copied into itself. A host package inherits nothing here.
#[test]
fn what_is_copied_from_the_checkout_leaves_the_results_of_builds_out() {
    for entry in fs::read_dir(tree().join("package")).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_string_lossy().into_owned();
        let make = read(&directory.join(format!("{name}.mk")));
        let variable = name.to_uppercase().replace('-', "_");
        for (rule, prefix) in [("$(eval $(cargo-package))", ""), ("$(eval $(host-cargo-package))", "HOST_")] {
            let line = format!("{prefix}{variable}_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = $(SKERRY_EXCLUSIONS)");
            let has = |wanted: &str| make.lines().any(|line| line == wanted);
            assert!(!has(rule) || has(&line), "{name}: no '{line}'");
        }
    }
}

#[test]
fn the_kernel_reads_the_compression_of_the_root() {
    let fragment = settings(&tree().join("kernel/skerry.fragment"));
    let compression = read(&repository().join("image/src/erofs.rs"));
    assert!(compression.contains("Compression(\"zstd,"), "the root has another compression");
    assert!(fragment.contains(&("CONFIG_EROFS_FS_ZIP_ZSTD".into(), "y".into())));
}
