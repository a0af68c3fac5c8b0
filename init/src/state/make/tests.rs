//! Tests of the making, with power cuts.

use std::os::unix::fs::FileExt;
use std::process::Command as HostCommand;

use super::*;

const SIZE: u64 = 300 << 20;

/// What mke2fs makes of a sparse file, with the environment that PID 1 gives it.
fn image(dir: &Path) -> File {
    let path = dir.join("image");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    let mut command = HostCommand::new("mke2fs");
    let status = command.env("UNIX_IO_NOZEROOUT", "1").args(OPTIONS).args(["-L", NAME]).arg(&path).status();
    assert!(status.expect("e2fsprogs is installed").success());
    File::open(&path).unwrap()
}

/// Whether a file system is whole, in the eyes of e2fsck.
fn is_whole(path: &Path) -> bool {
    HostCommand::new("e2fsck").arg("-fn").arg(path).output().unwrap().status.success()
}

/// A device that notes what is written between two syncs.
#[derive(Default)]
struct Recorder {
    at: u64,
    epochs: Vec<Vec<(u64, Vec<u8>)>>,
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.epochs.is_empty() {
            self.epochs.push(Vec::new());
        }
        self.epochs.last_mut().unwrap().push((self.at, bytes.to_owned()));
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
}

fn recorded(from: &mut File) -> Recorder {
    let mut recorder = Recorder::default();
    install(from, &mut recorder, |recorder| {
        recorder.epochs.push(Vec::new());
        Ok(())
    })
    .unwrap();
    recorder
}

#[test]
fn what_is_made_over_leftovers_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let noise: Vec<u8> =
        (0..1 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut to = File::options().read(true).write(true).create_new(true).open(&target).unwrap();
    for at in (0..SIZE).step_by(noise.len()) {
        to.write_all_at(&noise, at).unwrap();
    }
    install(&mut image(dir.path()), &mut to, |to| to.sync_all()).unwrap();
    assert!(is_whole(&target));
    assert!(!is_unfinished(&target).unwrap());
    let mut boot_block = [1; BOOT_BLOCK];
    to.read_exact_at(&mut boot_block, 0).unwrap();
    assert_eq!(boot_block, [0; BOOT_BLOCK]);
}

/// Of what was not yet synced any part may have reached the disk: tried are all beginnings, and each last write alone.
#[test]
fn a_power_cut_at_any_moment_leaves_what_the_next_boot_makes_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = image(dir.path());
    let target = dir.path().join("target");
    let to = File::options().read(true).write(true).create_new(true).open(&target).unwrap();
    to.set_len(SIZE).unwrap();
    let nothing_happened = |what: &str| {
        let mut head = [0; FIRST_BLOCK];
        to.read_exact_at(&mut head, 0).unwrap();
        let untouched = head.iter().all(|&byte| byte == 0);
        assert!(untouched || is_unfinished(&target).unwrap(), "{what}");
    };
    let recorder = recorded(&mut from);
    let last_epoch = recorder.epochs.iter().rposition(|epoch| !epoch.is_empty()).unwrap();
    for (number, epoch) in recorder.epochs.iter().enumerate() {
        // A disk may write the last first; undone again, as if only it had been lost.
        if let Some((at, bytes)) = epoch.last().filter(|_| number < last_epoch) {
            let mut before = vec![0; bytes.len()];
            to.read_exact_at(&mut before, *at).unwrap();
            to.write_all_at(bytes, *at).unwrap();
            nothing_happened(&format!("the last write of step {number} alone"));
            to.write_all_at(&before, *at).unwrap();
        }
        for (at, bytes) in epoch {
            nothing_happened(&format!("before the write at {at} in step {number}"));
            to.write_all_at(bytes, *at).unwrap();
        }
    }
    assert!(is_whole(&target) && !is_unfinished(&target).unwrap(), "the last write completes it");

    // The next boot after a cut in the middle of the content.
    to.write_all_at(&recorder.epochs[0][0].1, 0).unwrap();
    to.write_all_at(&[0xFF; 4096], 64 * 4096).unwrap();
    assert!(is_unfinished(&target).unwrap());
    install(&mut from, &mut File::options().write(true).open(&target).unwrap(), |to| to.sync_all()).unwrap();
    assert!(is_whole(&target) && !is_unfinished(&target).unwrap());
}
