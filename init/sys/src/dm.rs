//! Device mapper (include/uapi/linux/dm-ioctl.h): make a device, give it a table, start it, replace the table, remove it.

use std::fs::{File, OpenOptions};
use std::io;

use rustix::ioctl::{self, Opcode, Updater, opcode};

/// The control node, which exists once the module `dm_mod` is in.
const CONTROL: &str = "/dev/mapper/control";
const GROUP: u8 = 0xFD;
/// The interface version we speak; the kernel refuses another major one.
const VERSION: [u32; 3] = [4, 0, 0];
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1 << 0;
/// `DM_SKIP_LOCKFS_FLAG`: file systems on the device are not frozen.
const SKIP_LOCK_FS: u32 = 1 << 10;
/// `sizeof(struct dm_ioctl)`, and with it the opcodes.
const HEADER_LEN: usize = 312;
/// Room for one table line of any target.
const PAYLOAD_LEN: usize = 4096;
const NAME_LEN: usize = 128;
/// `sizeof(struct dm_target_spec)`.
const TARGET_SPEC_LEN: usize = 40;
const TARGET_TYPE_LEN: usize = 16;

/// Opens and sizes are checked by the kernel against the opcode's size, which is the header's alone.
const fn command(number: u8) -> Opcode {
    opcode::read_write::<[u8; HEADER_LEN]>(GROUP, number)
}

const REMOVE_ALL: Opcode = command(1);
const DEV_CREATE: Opcode = command(3);
const DEV_REMOVE: Opcode = command(4);
const DEV_SUSPEND: Opcode = command(6);
const TABLE_LOAD: Opcode = command(9);
const TABLE_STATUS: Opcode = command(12);

/// `struct dm_ioctl`, then room for a table or a status.
#[repr(C)]
struct Request {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_number: u32,
    padding: u32,
    device: u64,
    name: [u8; NAME_LEN],
    uuid: [u8; 129],
    data: [u8; 7],
    payload: [u8; PAYLOAD_LEN],
}

/// One line of a device's table: a whole device made by one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's name, such as `verity`.
    pub kind: &'a str,
    /// What the target makes of it.
    pub parameters: &'a str,
}

/// The way to the device mapper.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    /// Opens `/dev/mapper/control`.
    ///
    /// # Errors
    /// If there is none, or the caller is not privileged.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(CONTROL).map(Self)
    }

    /// Makes an empty device called `name` and returns its minor number: it is `/dev/dm-MINOR`.
    ///
    /// # Errors
    /// `EBUSY` if there is one of that name.
    pub fn create(&self, name: &str) -> io::Result<u32> {
        let mut request = Request::for_device(name)?;
        self.call::<DEV_CREATE>(&mut request)?;
        // The 32-bit encoding of new_encode_dev(): minor bits below and above the 12 of the major number.
        let device = request.device as u32;
        Ok(device & 0xFF | (device >> 12) & 0xF_FF00)
    }

    /// Gives the device a read-only table of one target, which counts from the next [`Control::resume`].
    ///
    /// # Errors
    /// `EINVAL` if the target does not like its parameters, of which the kernel's log says more.
    pub fn load_read_only(&self, name: &str, target: &Target<'_>) -> io::Result<()> {
        let mut request = Request::for_device(name)?;
        request.flags = READ_ONLY;
        request.target_count = 1;
        request.put_target(target)?;
        self.call::<TABLE_LOAD>(&mut request)
    }

    /// Starts the device, with the table that was loaded last. One that runs goes on with the new table at once, also while it
    /// is mounted.
    ///
    /// # Errors
    /// If there is no such device or no table.
    pub fn resume(&self, name: &str) -> io::Result<()> {
        let mut request = Request::for_device(name)?;
        // Nothing is written through a read-only device, so no file system has to be made quiet first.
        request.flags = SKIP_LOCK_FS;
        self.call::<DEV_SUSPEND>(&mut request)
    }

    /// What the device's target says of its state.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn status(&self, name: &str) -> io::Result<String> {
        let mut request = Request::for_device(name)?;
        self.call::<TABLE_STATUS>(&mut request)?;
        Ok(request.first_status())
    }

    /// Removes a device that nobody uses.
    ///
    /// # Errors
    /// `EBUSY` if somebody does.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call::<DEV_REMOVE>(&mut Request::for_device(name)?)
    }

    /// Removes every device that nobody uses; the others stay.
    ///
    /// # Errors
    /// If the kernel refuses as a whole.
    pub fn remove_unused(&self) -> io::Result<()> {
        self.call::<REMOVE_ALL>(&mut Request::empty())
    }

    fn call<const COMMAND: Opcode>(&self, request: &mut Request) -> io::Result<()> {
        // SAFETY: the opcodes of this group read and write a `dm_ioctl` and up to `data_size` bytes from its start;
        // `Request` begins with one and `data_size` is its own size.
        unsafe { Ok(ioctl::ioctl(&self.0, Updater::<COMMAND, Request>::new(request))?) }
    }
}

impl Request {
    fn empty() -> Self {
        Self {
            version: VERSION,
            data_size: size_of::<Self>() as u32,
            data_start: HEADER_LEN as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_number: 0,
            padding: 0,
            device: 0,
            name: [0; NAME_LEN],
            uuid: [0; 129],
            data: [0; 7],
            payload: [0; PAYLOAD_LEN],
        }
    }

    fn for_device(name: &str) -> io::Result<Self> {
        let mut request = Self::empty();
        put_text(&mut request.name, name)?;
        Ok(request)
    }

    /// Writes a `struct dm_target_spec` and its parameters, ended by a zero byte.
    fn put_target(&mut self, target: &Target<'_>) -> io::Result<()> {
        let (spec, parameters) = self.payload.split_at_mut(TARGET_SPEC_LEN);
        spec[8..16].copy_from_slice(&target.sectors.to_ne_bytes());
        put_text(&mut spec[24..24 + TARGET_TYPE_LEN], target.kind)?;
        put_text(parameters, target.parameters)
    }

    fn first_status(&self) -> String {
        let text = self.payload.get(TARGET_SPEC_LEN..).unwrap_or_default();
        let len = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        String::from_utf8_lossy(&text[..len]).into_owned()
    }
}

/// Copies `text` to the start of `field`, where it must leave room for the zero byte after it.
fn put_text(field: &mut [u8], text: &str) -> io::Result<()> {
    if text.len() >= field.len() || text.bytes().any(|byte| byte == 0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_structure_is_the_kernels() {
        assert_eq!(offset_of!(Request, device), 40);
        assert_eq!(offset_of!(Request, uuid), 176);
        assert_eq!(offset_of!(Request, payload), HEADER_LEN);
    }

    #[test]
    fn a_target_is_laid_out_as_the_kernel_reads_it() {
        let mut request = Request::for_device("root").unwrap();
        request.put_target(&Target { sectors: 8, kind: "verity", parameters: "1 a b" }).unwrap();
        assert_eq!(&request.name[..5], b"root\0");
        assert_eq!(&request.payload[..16], &[0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&request.payload[24..31], b"verity\0");
        assert_eq!(&request.payload[40..46], b"1 a b\0");
        assert_eq!(request.first_status(), "1 a b");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_the_kernel_sees_it() {
        assert!(Request::for_device(&"x".repeat(NAME_LEN)).is_err());
        let long = "x".repeat(PAYLOAD_LEN);
        let target = Target { sectors: 8, kind: "verity", parameters: &long };
        assert!(Request::empty().put_target(&target).is_err());
    }
}
