//! Debian packages by a private apt configuration.
//!
//! Lists, state and downloads live under the cache directory, so that the host's apt is neither read for its
//! packages nor changed. From the host come only the mirror's address, the proxy settings and the archive keyring.
//! apt checks the lists' signatures; each package is checked against the lists' SHA-256 before it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};

use crate::cache::Cache;
use crate::digest;
use crate::manifest;

/// Lists younger than this are used as they are.
const LISTS_FRESH_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The keyring that Debian hosts have.
const HOST_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// When package lists are fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// When there are none, and when they are older than a day.
    WhenOld,
    /// In any case.
    Always,
    /// When there are none.
    Never,
}

/// One version of a package, as the signed lists describe it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    /// `Depends`, as written.
    pub(crate) depends: String,
}

/// A Debian archive, seen through apt.
#[derive(Debug)]
pub(crate) struct Archive {
    /// As Debian calls it.
    architecture: String,
    directory: PathBuf,
    configuration: PathBuf,
    unpacked: PathBuf,
}

impl Archive {
    /// Writes the private configuration and brings the package lists up to date. Old lists are good enough when the
    /// mirror cannot be reached.
    pub(crate) fn open(
        cache: &Cache,
        archive: &manifest::Archive,
        architecture: &str,
        refresh: Refresh,
    ) -> anyhow::Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            ensure!(
                on_path(program),
                "'{program}' is not installed: packages can be fetched on a Debian or Debian-derived host only"
            );
        }
        let name = format!("apt-{}-{architecture}", archive.suite);
        let directory = cache.directory(&name)?;
        for part in ["lists/partial", "archives/partial", "state", "etc/apt.conf.d", "etc/preferences.d"] {
            cache.directory(&format!("{name}/{part}"))?;
        }
        let this = Self {
            architecture: architecture.to_owned(),
            configuration: directory.join("apt.conf"),
            unpacked: cache.directory("unpacked")?,
            directory,
        };
        this.write_configuration()?;
        this.update(archive, refresh)?;
        Ok(this)
    }

    /// Looks packages up by name. The answer is in the order of the names.
    pub(crate) fn resolve(&self, names: &[String]) -> anyhow::Result<Vec<Package>> {
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions"])
            .args(names)
            .output()
            .context("failed to run apt-cache")?;
        let known: BTreeMap<String, Package> = parse_stanzas(&String::from_utf8_lossy(&output.stdout))
            .into_iter()
            .map(|package| (package.name.clone(), package))
            .collect();
        names
            .iter()
            .map(|name| known.get(name).cloned().ok_or_else(|| anyhow!("Debian has no package '{name}'")))
            .collect()
    }

    /// The directories that hold the packages' content, in the order given. Downloads and unpacks what is missing.
    pub(crate) fn unpack(&self, packages: &[Package]) -> anyhow::Result<Vec<PathBuf>> {
        let missing: Vec<&Package> = packages
            .iter()
            .filter(|package| !self.unpacked_path(package).is_dir())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !missing.is_empty() {
            let scratch =
                tempfile::tempdir_in(&self.directory).context("failed to make a scratch directory")?;
            self.download(&missing, scratch.path())?;
            for package in missing {
                self.unpack_one(package, scratch.path())?;
            }
        }
        Ok(packages.iter().map(|package| self.unpacked_path(package)).collect())
    }

    fn unpacked_path(&self, package: &Package) -> PathBuf {
        self.unpacked.join(&package.sha256)
    }

    fn download(&self, packages: &[&Package], into: &Path) -> anyhow::Result<()> {
        eprintln!("fetching {} packages", packages.len());
        let output = self
            .command("apt-get")
            .arg("download")
            .args(packages.iter().map(|package| format!("{}={}", package.name, package.version)))
            .current_dir(into)
            .output()
            .context("failed to run apt-get")?;
        check(&output, "failed to download packages")
    }

    /// Checks a downloaded package and unpacks it. The directory gets its name only when it is complete.
    fn unpack_one(&self, package: &Package, downloads: &Path) -> anyhow::Result<()> {
        // apt writes the version's ':' as '%3a', and the architecture may be "all".
        let prefix = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
        let file = fs::read_dir(downloads)?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .with_context(|| format!("apt-get downloaded no package '{prefix}*'"))?
            .path();
        let found = digest::of_file(&file).with_context(|| format!("failed to read '{}'", file.display()))?;
        ensure!(
            found == package.sha256,
            "package '{}' has the SHA-256 {found}, the signed list says {}",
            package.name,
            package.sha256
        );
        let scratch = tempfile::tempdir_in(&self.unpacked).context("failed to make a scratch directory")?;
        let output = Command::new("dpkg-deb")
            .arg("--extract")
            .args([&file, scratch.path()])
            .output()
            .context("failed to run dpkg-deb")?;
        check(&output, &format!("failed to unpack '{}'", file.display()))?;
        let target = self.unpacked_path(package);
        match fs::rename(scratch.path(), &target) {
            Ok(()) => {
                // It has its final name now and is not to be cleaned up.
                let _ = scratch.keep();
                Ok(())
            }
            // Another build was faster.
            Err(_) if target.is_dir() => Ok(()),
            Err(error) => Err(error).with_context(|| format!("failed to move into '{}'", target.display())),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration).env("LC_ALL", "C").arg("-q");
        command
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let directory = self.directory.display();
        let architecture = &self.architecture;
        let mut text = format!(
            "Dir \"{directory}/\";\n\
             Dir::State \"{directory}/state\";\n\
             Dir::State::status \"{directory}/state/status\";\n\
             Dir::State::lists \"{directory}/lists\";\n\
             Dir::Cache \"{directory}\";\n\
             Dir::Etc \"{directory}/etc\";\n\
             Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             APT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n"
        );
        let host = Command::new("apt-config").arg("dump").output().context("failed to run apt-config")?;
        for line in String::from_utf8_lossy(&host.stdout).lines().filter(|line| is_proxy_setting(line)) {
            text.push_str(line);
            text.push('\n');
        }
        write_if_changed(&self.configuration, &text)?;
        write_if_changed(&self.directory.join("state/status"), "")
    }

    fn update(&self, archive: &manifest::Archive, refresh: Refresh) -> anyhow::Result<()> {
        let stamp = self.directory.join("lists.stamp");
        let good_enough = match refresh {
            Refresh::WhenOld => is_fresh(&stamp),
            Refresh::Always => false,
            Refresh::Never => stamp.exists(),
        };
        if good_enough {
            return Ok(());
        }
        self.write_sources(archive, Path::new(HOST_KEYRING))?;
        let mut output = self.run_update()?;
        if output.status.success() && !lacks_key(&output) {
            fs::write(&stamp, "").with_context(|| format!("failed to write '{}'", stamp.display()))?;
            return Ok(());
        }
        if lacks_key(&output) {
            let keyring = self.newer_keyring()?;
            self.write_sources(archive, &keyring)?;
            output = self.run_update()?;
            if output.status.success() && !lacks_key(&output) {
                fs::write(&stamp, "").with_context(|| format!("failed to write '{}'", stamp.display()))?;
                return Ok(());
            }
        }
        if stamp.exists() {
            eprintln!("warning: the package lists could not be refreshed; going on with the last good ones");
            return Ok(());
        }
        check(&output, "failed to fetch the package lists")?;
        bail!("failed to fetch the package lists:\n{}", String::from_utf8_lossy(&output.stderr).trim())
    }

    /// Fetches the lists; a list that fails makes the whole run fail.
    fn run_update(&self) -> anyhow::Result<Output> {
        self.command("apt-get")
            .args(["-o", "APT::Update::Error-Mode=any", "update"])
            .output()
            .context("failed to run apt-get")
    }

    fn write_sources(&self, archive: &manifest::Archive, keyring: &Path) -> anyhow::Result<()> {
        let mirrors = Mirrors::of_host(archive)?;
        let suite = &archive.suite;
        let keyring = keyring.display();
        let text = format!(
            "deb [signed-by={keyring}] {} {suite} main\n\
             deb [signed-by={keyring}] {} {suite}-updates main\n\
             deb [signed-by={keyring}] {} {suite}-security main\n",
            mirrors.main, mirrors.main, mirrors.security
        );
        write_if_changed(&self.directory.join("sources.list"), &text)
    }

    /// A host of the release before may have a keyring that does not know the newer release yet. The host's own apt,
    /// which it trusts, has the newer keyring package.
    fn newer_keyring(&self) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join("keyring");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to make '{}'", directory.display()))?;
        let output = Command::new("apt-get")
            .args(["-q", "download", "debian-archive-keyring"])
            .current_dir(&directory)
            .output()
            .context("failed to run apt-get")?;
        check(&output, "failed to download a newer debian-archive-keyring")?;
        let package = fs::read_dir(&directory)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no debian-archive-keyring")?;
        let output = Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &directory])
            .output()
            .context("failed to run dpkg-deb")?;
        check(&output, &format!("failed to unpack '{}'", package.display()))?;
        Ok(directory.join(HOST_KEYRING.trim_start_matches('/')))
    }
}

/// Addresses of a Debian mirror and of its security updates.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn of_host(archive: &manifest::Archive) -> anyhow::Result<Self> {
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
            .env("LC_ALL", "C")
            .output()
            .context("failed to run apt-get")?;
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout), archive))
    }

    /// Picks Debian's own archives out of all that the host has; other repositories have other release names.
    fn parse(targets: &str, archive: &manifest::Archive) -> Self {
        let mut main = None;
        let mut security = None;
        for line in targets.lines() {
            let [uri, release, "main"] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let uri = uri.trim_end_matches('/');
            if let Some(codename) = release.strip_suffix("-security") {
                if is_debian_release(codename) {
                    security.get_or_insert_with(|| uri.to_owned());
                }
            } else if is_debian_release(release) {
                main.get_or_insert_with(|| uri.to_owned());
            }
        }
        Self {
            main: main.unwrap_or_else(|| archive.mirror.clone()),
            security: security.unwrap_or_else(|| archive.security_mirror.clone()),
        }
    }
}

fn is_debian_release(name: &str) -> bool {
    matches!(name, "bullseye" | "bookworm" | "trixie" | "forky" | "sid")
        || matches!(name, "oldstable" | "stable" | "testing" | "unstable")
}

fn is_proxy_setting(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    name.starts_with("acquire::") && name.contains("proxy")
}

fn is_fresh(stamp: &Path) -> bool {
    let modified = fs::metadata(stamp).and_then(|metadata| metadata.modified());
    modified
        .ok()
        .and_then(|time| SystemTime::now().duration_since(time).ok())
        .is_some_and(|age| age < LISTS_FRESH_FOR)
}

fn lacks_key(output: &Output) -> bool {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    text.contains("NO_PUBKEY") || text.contains("Missing key")
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn check(output: &Output, what: &str) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    bail!("{what} ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// Leaves a file that is right alone: apt takes a newer configuration as a reason to rebuild its caches.
fn write_if_changed(path: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("failed to write '{}'", path.display()))
}

/// Reads the stanzas that `apt-cache show` prints.
fn parse_stanzas(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_stanza(stanza: &str) -> Option<Package> {
    let fields: BTreeMap<&str, &str> = stanza.lines().filter_map(|line| line.split_once(": ")).collect();
    Some(Package {
        name: (*fields.get("Package")?).to_owned(),
        version: (*fields.get("Version")?).to_owned(),
        sha256: (*fields.get("SHA256")?).to_owned(),
        depends: fields.get("Depends").copied().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> manifest::Archive {
        manifest::Manifest::embedded().unwrap().archive
    }

    #[test]
    fn the_hosts_debian_mirror_is_taken_and_other_repositories_are_not() {
        let targets = "https://vendor.example/apt cloud-sdk-bookworm main\n\
                       https://vendor.example/node nodistro main\n\
                       http://mirror.example/debian/ bookworm main\n\
                       http://mirror.example/debian/ bookworm-updates main\n\
                       http://mirror.example/debian-security/ bookworm-security main\n";
        let expected = Mirrors {
            main: "http://mirror.example/debian".into(),
            security: "http://mirror.example/debian-security".into(),
        };
        assert_eq!(Mirrors::parse(targets, &archive()), expected);
    }

    #[test]
    fn a_host_without_debian_sources_gets_the_manifests_mirror() {
        let mirrors = Mirrors::parse("http://archive.example/ubuntu noble main\n", &archive());
        assert_eq!(mirrors.main, archive().mirror);
        assert_eq!(mirrors.security, archive().security_mirror);
    }

    #[test]
    fn stanzas_give_version_digest_and_dependencies() {
        let text = "Package: crun\nVersion: 1:1.21-1\nDepends: libc6 (>= 2.38), libcap2\nSHA256: ab12\n\
                    Description: x\n more: text\n\nPackage: broken\n";
        let packages = parse_stanzas(text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].version, "1:1.21-1");
        assert_eq!(packages[0].depends, "libc6 (>= 2.38), libcap2");
    }

    #[test]
    fn only_proxy_settings_come_from_the_host() {
        assert!(is_proxy_setting("Acquire::http::Proxy \"http://proxy.example:3128\";"));
        assert!(!is_proxy_setting("Acquire::Languages:: \"en\";"));
        assert!(!is_proxy_setting("APT::Update::Post-Invoke-Success:: \"...\";"));
    }
}
