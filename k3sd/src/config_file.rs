//! `config.yaml` and `config.yaml.d`: flags in files, by K3s's rules.
//!
//! Every key is a long flag name. A later file replaces an earlier value, or adds to it when the key ends in `+`. The
//! result is put in front of the command line's own flags, so those win. Rules: K3s's `pkg/configfilearg`.

use std::io;
use std::path::{Path, PathBuf};

use serde_yaml_ng::{Mapping, Value};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not YAML: {source}", path.display())]
    Parse { path: PathBuf, source: serde_yaml_ng::Error },
    #[error("{}: a map of flag names to values is expected at the top", path.display())]
    NotAMap { path: PathBuf },
    #[error("{}: {key}: a value or a list of values is allowed, not a {found}", path.display())]
    Nested { path: PathBuf, key: String, found: &'static str },
}

/// One key of the files after merging: the flag's name and its values, none of which is a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Long flag name without dashes.
    pub(crate) flag: String,
    /// Its values, in order.
    pub(crate) values: Vec<String>,
    /// The file that gave it last, for messages.
    pub(crate) path: PathBuf,
}

impl Setting {
    /// The setting as command line arguments.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = String> + '_ {
        self.values.iter().map(|value| format!("--{}={value}", self.flag))
    }
}

/// Reads `path` and the drop-ins of `path.d`; all of them may be absent.
pub(crate) fn load(path: &Path) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for file in files(path)? {
        match std::fs::read_to_string(&file) {
            Ok(text) => merge(&mut settings, &file, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == path => {}
            Err(source) => return Err(Error::Read { path: file, source }),
        }
    }
    Ok(settings)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let mut drop_ins = Vec::new();
    match std::fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let file = entry.map_err(|source| Error::Read { path: directory.clone(), source })?.path();
                let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                if ["yaml", "yml"].iter().any(|known| ending.eq_ignore_ascii_case(known)) {
                    drop_ins.push(file);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Read { path: directory, source }),
    }
    drop_ins.sort();
    Ok(std::iter::once(path.to_path_buf()).chain(drop_ins).collect())
}

fn merge(settings: &mut Vec<Setting>, path: &Path, text: &str) -> Result<(), Error> {
    let document: Value =
        serde_yaml_ng::from_str(text).map_err(|source| Error::Parse { path: path.to_path_buf(), source })?;
    let map = match document {
        Value::Null => Mapping::new(),
        Value::Mapping(map) => map,
        _ => return Err(Error::NotAMap { path: path.to_path_buf() }),
    };
    for (key, value) in map {
        let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
        let values = values(path, &key, value)?;
        let (flag, adds) = match key.strip_suffix('+') {
            Some(flag) => (flag, true),
            None => (key.as_str(), false),
        };
        match settings.iter_mut().find(|setting| setting.flag == flag) {
            Some(setting) => {
                if !adds {
                    setting.values.clear();
                }
                setting.values.extend(values);
                setting.path = path.to_path_buf();
            }
            None => settings.push(Setting { flag: flag.to_owned(), values, path: path.to_path_buf() }),
        }
    }
    Ok(())
}

fn values(path: &Path, key: &str, value: Value) -> Result<Vec<String>, Error> {
    let nested = |found| Error::Nested { path: path.to_path_buf(), key: key.to_owned(), found };
    match value {
        Value::Sequence(items) => items
            .into_iter()
            .map(|item| scalar(&item).ok_or_else(|| nested("map or list inside a list")))
            .collect(),
        value => Ok(vec![scalar(&value).ok_or_else(|| nested("map"))?]),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(settings: &[Setting], flag: &str) -> Vec<String> {
        settings.iter().filter(|setting| setting.flag == flag).flat_map(Setting::arguments).collect()
    }

    #[test]
    fn later_files_replace_unless_the_key_ends_in_plus() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.yaml");
        std::fs::write(&main, "token: one\ntls-san: [a, b]\nnode-label:\n- x=1\ndebug: true\n").unwrap();
        std::fs::create_dir(dir.path().join("config.yaml.d")).unwrap();
        let drop_in = |name: &str, text| std::fs::write(dir.path().join("config.yaml.d").join(name), text);
        drop_in("10.yaml", "token: two\ntls-san+: c\n").unwrap();
        drop_in("20.YML", "node-label: [y=2]\n").unwrap();
        drop_in("30.txt", "token: three\n").unwrap();
        let settings = load(&main).unwrap();
        assert_eq!(setting(&settings, "token"), ["--token=two"]);
        assert_eq!(setting(&settings, "tls-san"), ["--tls-san=a", "--tls-san=b", "--tls-san=c"]);
        assert_eq!(setting(&settings, "node-label"), ["--node-label=y=2"]);
        assert_eq!(setting(&settings, "debug"), ["--debug=true"]);
    }

    #[test]
    fn drop_ins_alone_are_enough_and_no_file_at_all_is_no_setting() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.yaml");
        assert_eq!(load(&main).unwrap(), []);
        std::fs::create_dir(dir.path().join("config.yaml.d")).unwrap();
        std::fs::write(dir.path().join("config.yaml.d/1.yaml"), "node-name: a").unwrap();
        assert_eq!(setting(&load(&main).unwrap(), "node-name"), ["--node-name=a"]);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.yaml");
        for (text, expected) in
            [("tls-san: {a: b}", "tls-san"), ("- a\n", "map of flag names"), ("a: [", "is not YAML")]
        {
            std::fs::write(&main, text).unwrap();
            let error = load(&main).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("config.yaml"), "{error}");
        }
    }
}
