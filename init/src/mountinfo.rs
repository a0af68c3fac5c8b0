//! `/proc/self/mountinfo`: which mounts there are, and in which order they come off again.

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) target: String,
    /// File system type, such as `ext4`.
    pub(crate) fs_type: String,
    /// Device or other source.
    pub(crate) source: String,
}

/// Kernel file systems without data of ours, which stay mounted so that `/proc` and the console work to the end.
const KERNEL_TYPES: &[&str] = &[
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup2",
    "rootfs",
    "securityfs",
    "tracefs",
    "debugfs",
    "bpf",
    "mqueue",
    "pstore",
    "efivarfs",
    "configfs",
    "hugetlbfs",
];

/// The mounts of this process now, oldest first.
pub(crate) fn read() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// Parses mountinfo text; lines that do not parse are skipped.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

/// What shutdown unmounts, in order: newest first, so that nothing is unmounted under something else.
pub(crate) fn unmount_order(mounts: Vec<Mount>) -> Vec<Mount> {
    mounts
        .into_iter()
        .rev()
        .filter(|mount| mount.target != "/" && !KERNEL_TYPES.contains(&mount.fs_type.as_str()))
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`; the fields before the dash vary in number.
fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let target = unescape(before.split(' ').nth(4)?);
    let mut rest = after.split(' ');
    Some(Mount { target, fs_type: rest.next()?.to_owned(), source: unescape(rest.next()?) })
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()))
            .flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1 1 254:0 / / ro - erofs /dev/vda ro
20 1 0:5 / /dev rw shared:2 - devtmpfs devtmpfs rw
21 1 0:20 / /run rw - tmpfs tmpfs rw
22 1 254:16 / /var rw shared:9 master:3 - ext4 /dev/vdb rw
23 22 254:16 /lib/skerry/rancher /etc/rancher rw - ext4 /dev/vdb rw
24 21 0:31 / /run/k3s/a\\040b\\134c rw - overlay overlay rw,lowerdir=/x
";

    #[test]
    fn newest_mounts_come_off_first_and_root_and_kernel_mounts_stay() {
        let targets: Vec<_> = unmount_order(parse(TEXT)).into_iter().map(|mount| mount.target).collect();
        assert_eq!(targets, ["/run/k3s/a b\\c", "/etc/rancher", "/var", "/run"]);
    }

    #[test]
    fn optional_fields_do_not_shift_type_and_source() {
        let var = parse(TEXT).into_iter().find(|mount| mount.target == "/var").unwrap();
        assert_eq!((var.fs_type.as_str(), var.source.as_str()), ("ext4", "/dev/vdb"));
    }
}
