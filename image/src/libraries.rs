//! The closure of shared libraries: from the programs, to what they need, to what that needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::elf;

/// Why the closure could not be made.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("failed to read '{}'", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to read '{}' as a program", path.display())]
    Elf { path: PathBuf, source: elf::Error },
    #[error("'{}' needs {}, which no package under [libraries] of debian.toml has", by.display(), library)]
    Missing { library: String, by: PathBuf },
    #[error("'{}' wants the loader {}, the image has {}", by.display(), wanted, provided.display())]
    Loader { by: PathBuf, wanted: String, provided: PathBuf },
    #[error("'{}' is not static: it needs {}; build it with -C target-feature=+crt-static", path.display(), needed.join(", "))]
    NotStatic { path: PathBuf, needed: Vec<String> },
}

/// Finds every library that the programs need, directly or not: its name and the file that has it.
///
/// `directories` are searched in order; `loader` is the one the image has.
pub(crate) fn closure(
    programs: &[PathBuf],
    directories: &[PathBuf],
    loader: &Path,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    let mut queue: Vec<PathBuf> = programs.to_vec();
    while let Some(path) = queue.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let dynamic = read(&path)?;
        if let Some(wanted) = dynamic.interpreter.filter(|wanted| Path::new(wanted) != loader) {
            return Err(Error::Loader { by: path, wanted, provided: loader.to_owned() });
        }
        for library in dynamic.needed {
            let file = directories
                .iter()
                .map(|directory| directory.join(&library))
                .find(|candidate| candidate.is_file())
                .ok_or_else(|| Error::Missing { library: library.clone(), by: path.clone() })?;
            queue.push(file.clone());
            found.insert(library, file);
        }
    }
    Ok(found)
}

/// Checks that a program of ours runs without any library.
pub(crate) fn check_static(path: &Path) -> Result<(), Error> {
    let dynamic = read(path)?;
    match (dynamic.interpreter, dynamic.needed) {
        (None, needed) if needed.is_empty() => Ok(()),
        (interpreter, mut needed) => {
            needed.extend(interpreter);
            Err(Error::NotStatic { path: path.to_owned(), needed })
        }
    }
}

fn read(path: &Path) -> Result<elf::Dynamic, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    elf::dynamic(&bytes).map_err(|source| Error::Elf { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_the_program_that_needs_it() {
        let program = std::env::current_exe().unwrap();
        let loader = read(&program).unwrap().interpreter.unwrap();
        let error = closure(std::slice::from_ref(&program), &[], Path::new(&loader)).unwrap_err();
        let Error::Missing { by, .. } = &error else { panic!("{error}") };
        assert_eq!(*by, program);
    }

    #[test]
    fn a_dynamic_program_is_not_taken_for_a_static_one() {
        let error = check_static(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(error.to_string().contains("crt-static"), "{error}");
    }
}
