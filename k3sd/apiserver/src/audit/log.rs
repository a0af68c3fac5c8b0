//! The file that audit events go to, a line each, and the older files it leaves behind.
//!
//! Names and limits are those of upstream's flags: `audit.log` grows to a size, is renamed after the time (`audit-TIME.log`), and
//! renamed files go when they are too many or too old.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// How the time is written in the names of older files.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Where events are written, and how much is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The file; `-` is standard output, which nothing else is done to.
    pub path: PathBuf,
    /// The file is renamed before it gets bigger.
    pub max_bytes: u64,
    /// How many older files are kept; 0: all.
    pub max_backups: usize,
    /// How long older files are kept; zero: for ever.
    pub max_age: Duration,
}

#[derive(Debug)]
pub(super) struct Log {
    settings: LogFile,
    /// None for standard output.
    file: Option<File>,
    size: u64,
}

impl Log {
    pub(super) fn open(settings: LogFile) -> io::Result<Self> {
        if settings.path == Path::new("-") {
            return Ok(Self { settings, file: None, size: 0 });
        }
        if let Some(directory) = settings.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = append(&settings.path)?;
        let size = file.metadata()?.len();
        Ok(Self { settings, file: Some(file), size })
    }

    /// Adds one line, which `line` ends with.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return io::stdout().lock().write_all(line);
        }
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.settings.max_bytes {
            self.rotate()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(line)?;
        }
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let now = Timestamp::now();
        fs::rename(&self.settings.path, self.older(&now.strftime(TIME).to_string()))?;
        self.file = Some(append(&self.settings.path)?);
        self.size = 0;
        self.prune(now)
    }

    fn older(&self, time: &str) -> PathBuf {
        let (stem, ending) = self.name_parts();
        self.settings.path.with_file_name(format!("{stem}-{time}{ending}"))
    }

    /// `audit` and `.log`.
    fn name_parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let ending = self.settings.path.extension().map(|ending| format!(".{}", ending.to_string_lossy()));
        (text(self.settings.path.file_stem()), ending.unwrap_or_default())
    }

    /// Removes the older files that are too many or too old.
    fn prune(&self, now: Timestamp) -> io::Result<()> {
        let mut older = self.backups()?;
        older.sort();
        let surplus = match self.settings.max_backups {
            0 => 0,
            keep => older.len().saturating_sub(keep),
        };
        let max_age = self.settings.max_age;
        for (index, (written, path)) in older.iter().enumerate() {
            let age = Duration::try_from(now.duration_since(*written)).unwrap_or_default();
            if index < surplus || (!max_age.is_zero() && age > max_age) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn backups(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let (stem, ending) = self.name_parts();
        let directory = self.settings.path.parent().filter(|path| !path.as_os_str().is_empty());
        let mut found = Vec::new();
        for entry in fs::read_dir(directory.unwrap_or(Path::new(".")))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&ending));
            if let Some(written) = time.and_then(parse_time) {
                found.push((written, path));
            }
        }
        Ok(found)
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(TIME, text).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// What is recorded may be secret.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let day = Duration::from_secs(86_400);
        let settings = LogFile { path: path.clone(), max_bytes: 30, max_backups: 2, max_age: 30 * day };
        fs::create_dir(dir.path().join("logs")).unwrap();
        // One too old, one that is somebody else's.
        for name in ["audit-2001-01-01T00-00-00.000.log", "audit-notes.log"] {
            fs::write(dir.path().join("logs").join(name), "x").unwrap();
        }
        let mut log = Log::open(settings.clone()).unwrap();
        for _ in 0..3 {
            log.write(b"0123456789abcde\n").unwrap();
            // Names have milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(fs::read(&path).unwrap(), b"0123456789abcde\n");
        assert_eq!(names(path.parent().unwrap()).len(), 4, "{:?}", names(path.parent().unwrap()));
        // What is there counts after a restart.
        let mut log = Log::open(settings).unwrap();
        for _ in 0..4 {
            log.write(b"0123456789abcde\n").unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        let names = names(path.parent().unwrap());
        assert_eq!(names.len(), 4, "two older ones, the file, and the stranger: {names:?}");
        assert!(
            !names.iter().any(|name| name.contains("2001")) && names.contains(&"audit-notes.log".to_owned())
        );
    }
}
