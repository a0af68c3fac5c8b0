//! An image that is built again has the same bytes, and its programs do not tell who built them. Needs an image and what
//! it was built from: `./just test` has both, and runs these with `--ignored`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The compression of `image build --small`.
const SMALL: &str = "zstd,9";

fn directory(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("{name} is unset: run the tests through `./just test`")).into()
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("failed to read '{}': {error}", path.display()))
}

#[test]
#[ignore = "needs SKERRY_IMAGE and SKERRY_BINARIES"]
fn the_same_inputs_give_the_same_image_in_another_directory() {
    let (image, binaries) = (directory("SKERRY_IMAGE"), directory("SKERRY_BINARIES"));
    // It has the SHA-256 of every file of the image, and how it was built.
    let text = read(image.join("image.lock"));
    let lock: toml::Table = text.parse().unwrap();
    assert_eq!(
        lock["origin"].as_str(),
        Some("debian"),
        "only what Debian's packages gave can be built again here"
    );
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(binaries.join("image"));
    command.arg("build").arg("--out").arg(scratch.path()).arg("--binaries").arg(&binaries);
    // Newer packages would be other inputs.
    command.arg("--offline").arg("--target").arg(lock["target"].as_str().unwrap());
    if lock["debug"].as_bool().unwrap() {
        command.arg("--debug");
    }
    if lock["compression"].as_str().unwrap() == SMALL {
        command.arg("--small");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read(scratch.path().join("image.lock")), text);
}

/// Messages of panics name source files. Where those were on the machine that built them is nobody's concern, and would
/// make other bytes of the same sources.
#[test]
#[ignore = "needs SKERRY_BINARIES"]
fn programs_do_not_tell_where_they_were_built() {
    let binaries = directory("SKERRY_BINARIES");
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| directory("HOME").join(".cargo"));
    let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    for name in ["k3sd", "init", "pause", "demo"] {
        let program = fs::read(binaries.join(name)).unwrap();
        for place in [&home.join("registry"), &checkout, &binaries] {
            let place = place.to_str().unwrap().as_bytes();
            let found = program.windows(place.len()).position(|bytes| bytes == place);
            let text =
                |at: usize| String::from_utf8_lossy(&program[at..(at + 120).min(program.len())]).into_owned();
            assert_eq!(found.map(text), None, "in {name}");
        }
    }
}
