//! Globally unique identifiers, as partition tables have them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A GUID. The bytes are in the order that the text shows; the order on disk differs, see [`Guid::to_disk`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid(pub [u8; 16]);

/// A text that is no GUID.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no GUID: wanted 32 hexadecimal digits, as in 4f68bce3-e8cd-4db1-96e7-fbcaf984b709")]
pub struct ParseGuidError(String);

impl Guid {
    /// Of an entry that is not in use.
    pub const NIL: Self = Self([0; 16]);
    /// Type: EFI system partition.
    pub const ESP: Self = Self::from_u128(0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b);
    /// Type: root file system for x86-64.
    pub const ROOT_X86_64: Self = Self::from_u128(0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709);
    /// Type: verity hashes of a root file system for x86-64.
    pub const ROOT_VERITY_X86_64: Self = Self::from_u128(0x2c73_57ed_ebd2_46d9_aec1_23d4_37ec_2bf5);
    /// Type: root file system for AArch64.
    pub const ROOT_AARCH64: Self = Self::from_u128(0xb921_b045_1df0_41c3_af44_4c6f_280d_3fae);
    /// Type: verity hashes of a root file system for AArch64.
    pub const ROOT_VERITY_AARCH64: Self = Self::from_u128(0xdf33_00ce_d69f_4c92_978c_9bfb_0f38_d820);
    /// Type: any Linux file system.
    pub const LINUX_DATA: Self = Self::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);
    /// Type: variable data, what a system keeps below `/var`.
    pub const VARIABLE_DATA: Self = Self::from_u128(0x4d21_b016_b534_45c2_a9fb_5c16_e091_fd2d);
    /// Type: data of other systems, such as a FAT volume for configuration.
    pub const BASIC_DATA: Self = Self::from_u128(0xebd0_a0a2_b9e5_4433_87c0_68b6_b726_99c7);

    /// From the number whose hexadecimal digits are the text.
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// A GUID that follows from content: the first half of a SHA-256, with the bits of a version 8 UUID (RFC 9562)
    /// set. The same content gives the same GUID on every machine.
    pub fn from_content(parts: &[&[u8]]) -> Self {
        use sha2::{Digest, Sha256};
        let mut hasher = Sha256::new();
        for part in parts {
            // Lengths keep ("a", "bc") and ("ab", "c") apart.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest = hasher.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x80;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// From the order on disk, in which the first three groups are little endian.
    pub const fn from_disk(b: [u8; 16]) -> Self {
        Self([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
            b[15],
        ])
    }

    /// The order on disk, in which the first three groups are little endian.
    pub const fn to_disk(self) -> [u8; 16] {
        // Swapping twice gives the first order again.
        Self::from_disk(self.0).0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = ParseGuidError;

    /// Reads a GUID, with or without dashes, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
        // `from_str_radix` alone would take a sign.
        if digits.len() == 32
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            && let Ok(value) = u128::from_str_radix(&digits, 16)
        {
            return Ok(Self::from_u128(value));
        }
        Err(ParseGuidError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_disk_order_are_those_of_the_specification() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let guid: Guid = text.parse().unwrap();
        assert_eq!(guid, Guid::ESP);
        assert_eq!(guid.to_string(), text);
        // The bytes that every ESP in the world has.
        let disk =
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(guid.to_disk(), disk);
        assert_eq!(Guid::from_disk(disk), guid);
    }

    #[test]
    fn what_is_no_guid_is_refused() {
        for text in ["", "x", "c12a7328-f81f-11d2-ba4b-00a0c93ec93", "+12a7328f81f11d2ba4b00a0c93ec93b"] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
        assert_eq!("C12A7328F81F11D2BA4B00A0C93EC93B".parse(), Ok(Guid::ESP));
    }

    #[test]
    fn a_guid_from_content_depends_on_where_the_parts_end() {
        let a = Guid::from_content(&[b"a", b"bc"]);
        assert_ne!(a, Guid::from_content(&[b"ab", b"c"]));
        assert_eq!(a, Guid::from_content(&[b"a", b"bc"]));
        assert_eq!(a.to_string().as_bytes()[14], b'8');
    }
}
