//! An image that is built again has the same bytes. Needs an image and what it was built from, which `./just test` has.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn the_same_inputs_give_the_same_image_in_another_directory() {
    let directory = |name| env::var_os(name).map(PathBuf::from);
    let (Some(image), Some(binaries)) = (directory("SKERRY_IMAGE"), directory("SKERRY_BINARIES")) else {
        eprintln!("SKERRY_IMAGE and SKERRY_BINARIES do not say what to compare with");
        return;
    };
    let read = |path: PathBuf| {
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("failed to read '{}': {error}", path.display()))
    };
    // It has the SHA-256 of every file of the image.
    let lock = read(image.join("image.lock"));
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(binaries.join("image"));
    command.arg("build").arg("--out").arg(scratch.path()).arg("--binaries").arg(&binaries);
    if lock.lines().any(|line| line == "debug = true") {
        command.arg("--debug");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read(scratch.path().join("image.lock")), lock);
}
