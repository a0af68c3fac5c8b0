//! A part of a file as a file of its own.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// A part of a larger file, such as a partition of a disk: begins at 0 and ends where the part ends.
#[derive(Debug)]
pub struct Slice<D> {
    disk: D,
    start: u64,
    bytes: u64,
    position: u64,
}

// === impl Slice ===

impl<D: Seek> Slice<D> {
    /// The part that begins at a byte and has a number of bytes.
    pub fn new(disk: D, start: u64, bytes: u64) -> Self {
        Self { disk, start, bytes, position: 0 }
    }

    /// Goes to the current position and says how much of a request is inside.
    fn clamp(&mut self, wanted: usize) -> io::Result<usize> {
        self.disk.seek(SeekFrom::Start(self.start + self.position))?;
        let left = self.bytes.saturating_sub(self.position);
        Ok(wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }
}

impl<D: Read + Seek> Read for Slice<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.clamp(buffer.len())?;
        let count = self.disk.read(&mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<D: Write + Seek> Write for Slice<D> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.clamp(buffer.len())?;
        let count = self.disk.write(&buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl<D: Seek> Seek for Slice<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.bytes.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
