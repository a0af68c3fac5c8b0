//! A network boot's files, served by QEMU itself: those of the image, with the machine's own command line.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::error::Error;
use crate::image::NETBOOT_SCRIPT;

/// Makes `served`: links to the bundle's files, and its script with `words` added to the kernel's.
pub(crate) fn serve(bundle: &Path, served: &Path, words: &str) -> Result<(), Error> {
    let script = bundle.join(NETBOOT_SCRIPT);
    if !script.is_file() {
        return Err(Error::ImageFileMissing(script));
    }
    link_all(bundle, served, words)
        .map_err(Error::host(format!("prepare the network boot of '{}'", bundle.display())))
}

fn link_all(bundle: &Path, served: &Path, words: &str) -> io::Result<()> {
    fs::create_dir(served)?;
    for entry in fs::read_dir(bundle)? {
        let entry = entry?;
        let target = served.join(entry.file_name());
        if entry.file_name() == NETBOOT_SCRIPT {
            fs::write(target, with_words(&fs::read_to_string(entry.path())?, words))?;
        } else {
            symlink(fs::canonicalize(entry.path())?, target)?;
        }
    }
    Ok(())
}

/// iPXE's `kernel URI ARGUMENTS... [|| COMMAND]`, with more arguments.
fn with_words(script: &str, words: &str) -> String {
    let mut text = String::new();
    for line in script.lines() {
        if line.split_whitespace().next() == Some("kernel") {
            let (kernel, rest) = line.split_at(line.find(" ||").unwrap_or(line.len()));
            text.push_str(&format!("{kernel} {words}{rest}"));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_served_script_gives_the_kernel_its_words() {
        let scratch = tempfile::tempdir().unwrap();
        let (bundle, served) = (scratch.path().join("netboot"), scratch.path().join("served"));
        fs::create_dir(&bundle).unwrap();
        assert!(matches!(serve(&bundle, &served, ""), Err(Error::ImageFileMissing(_))));
        let script = "#!ipxe\nkernel vmlinuz initrd=initramfs.img || shell\ninitrd initramfs.img\n";
        fs::write(bundle.join(NETBOOT_SCRIPT), script).unwrap();
        fs::write(bundle.join("vmlinuz"), "kernel").unwrap();
        serve(&bundle, &served, "a=1 b").unwrap();
        let script = fs::read_to_string(served.join(NETBOOT_SCRIPT)).unwrap();
        let expected = "#!ipxe\nkernel vmlinuz initrd=initramfs.img a=1 b || shell\ninitrd initramfs.img\n";
        assert_eq!(script, expected);
        assert_eq!(fs::read(served.join("vmlinuz")).unwrap(), b"kernel");
    }
}
