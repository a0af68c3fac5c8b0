//! Volumes of a pod: made before its sandbox, kept up to date while it runs, removed after its end.
//!
//! Directories are where upstream's kubelet has them, `<root>/pods/<uid>/volumes/<plugin>/<name>`. Secrets and
//! tokens lie in memory (tmpfs), never on a disk.

mod atomic;
mod files;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub(crate) use files::FileSource;
use files::Payload;
pub(crate) use token::{TokenError, Tokens};

use crate::objects::ObjectError;
use crate::pods::env::EnvError;
use crate::pods::resources::whole;

/// Why a volume is not there (yet).
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Something it is filled from is missing.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    SetUp {
        /// The volume's name.
        volume: String,
        /// What is wrong.
        source: SetUpError,
    },
}

/// What can go wrong with one volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    /// A file operation.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A ConfigMap or Secret.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A named key is not in it.
    #[error("references non-existent config key: {0}")]
    NoKey(String),
    /// A downward API field.
    #[error(transparent)]
    Field(#[from] EnvError),
    /// A service account token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// `hostPath.type` is not met.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType {
        /// The path.
        path: String,
        /// The wanted type.
        wanted: String,
    },
    /// A kind of volume this kubelet does not have.
    #[error("volumes of this type are not supported")]
    Unsupported,
}

/// The volumes of a pod that are ready for its containers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    /// Host path of each volume.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// When a token must be renewed.
    pub(crate) refresh_at: Option<Timestamp>,
}

/// Makes every volume of the pod, or brings its files up to date. Safe to repeat.
pub(crate) async fn prepare(
    pod: &Pod,
    pod_dir: &Path,
    source: &FileSource<'_>,
) -> Result<Mounted, VolumeError> {
    let mut mounted = Mounted::default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    for volume in volumes {
        let path = set_up(pod, pod_dir, volume, source, &mut mounted.refresh_at)
            .await
            .map_err(|source| VolumeError::SetUp { volume: volume.name.clone(), source })?;
        mounted.paths.insert(volume.name.clone(), path);
    }
    Ok(mounted)
}

async fn set_up(
    pod: &Pod,
    pod_dir: &Path,
    volume: &Volume,
    source: &FileSource<'_>,
    refresh_at: &mut Option<Timestamp>,
) -> Result<PathBuf, SetUpError> {
    let dir =
        |plugin: &str| pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name);
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.fs_group);
    if let Some(host_path) = &volume.host_path {
        return host_path_volume(host_path);
    }
    if let Some(empty_dir) = &volume.empty_dir {
        let path = dir("empty-dir");
        empty_dir_volume(&path, empty_dir)?;
        if let Some(group) = group {
            own_by_group(&path, group, true)?;
        }
        return Ok(path);
    }
    let (plugin, in_memory) = match volume {
        Volume { config_map: Some(_), .. } => ("configmap", false),
        Volume { downward_api: Some(_), .. } => ("downward-api", false),
        Volume { secret: Some(_), .. } => ("secret", true),
        Volume { projected: Some(_), .. } => ("projected", true),
        _ => return Err(SetUpError::Unsupported),
    };
    let payload = source.payload(volume).await?;
    let path = dir(plugin);
    write_files(&path, &payload, in_memory)?;
    if let Some(group) = group {
        own_by_group(&path, group, false)?;
    }
    if let Some(at) = payload.refresh_at {
        *refresh_at = Some(refresh_at.map_or(at, |earlier| earlier.min(at)));
    }
    Ok(path)
}

fn write_files(path: &Path, payload: &Payload, in_memory: bool) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if in_memory && !is_mount_point(path)? {
        mount_tmpfs(path, None)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    atomic::write(path, &payload.files)
}

fn empty_dir_volume(path: &Path, source: &EmptyDirVolumeSource) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") && !is_mount_point(path)? {
        mount_tmpfs(path, source.size_limit.as_ref().map(whole).filter(|size| *size > 0))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

fn host_path_volume(source: &HostPathVolumeSource) -> Result<PathBuf, SetUpError> {
    use std::os::unix::fs::FileTypeExt as _;
    let path = PathBuf::from(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        "FileOrCreate" if !path.exists() => std::fs::write(&path, b"")?,
        _ => {}
    }
    let kind = std::fs::metadata(&path).map(|metadata| metadata.file_type());
    let met = match (wanted, kind) {
        ("", _) => true,
        (_, Err(_)) => false,
        ("Directory" | "DirectoryOrCreate", Ok(kind)) => kind.is_dir(),
        ("File" | "FileOrCreate", Ok(kind)) => kind.is_file(),
        ("Socket", Ok(kind)) => kind.is_socket(),
        ("CharDevice", Ok(kind)) => kind.is_char_device(),
        ("BlockDevice", Ok(kind)) => kind.is_block_device(),
        _ => false,
    };
    if met {
        Ok(path)
    } else {
        Err(SetUpError::HostPathType { path: source.path.clone(), wanted: wanted.to_owned() })
    }
}

/// The host path of `sub` inside a volume, made as a directory when nothing is there. Never outside the volume:
/// symbolic links in the volume are resolved and checked.
pub(crate) fn sub_path(volume: &Path, sub: &str) -> io::Result<PathBuf> {
    let outside = || io::Error::new(io::ErrorKind::PermissionDenied, "it leads out of the volume");
    let relative = Path::new(sub);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let root = volume.canonicalize()?;
    let mut path = root.clone();
    for part in relative.components() {
        path.push(part);
        if path.symlink_metadata().is_err() {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        }
        path = path.canonicalize()?;
        if !path.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(path)
}

/// Hands a volume's files to a group (`fsGroup`), set-group-id on directories so that new files inherit it.
fn own_by_group(path: &Path, group: i64, writable: bool) -> io::Result<()> {
    let gid = u32::try_from(group).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let metadata = path.symlink_metadata()?;
    std::os::unix::fs::lchown(path, None, Some(gid))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let (bits, directory_bits) = if writable { (0o660, 0o2770) } else { (0o440, 0o2550) };
    let extra = if metadata.is_dir() { directory_bits } else { bits };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() | extra))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            own_by_group(&entry?.path(), group, writable)?;
        }
    }
    Ok(())
}

fn mount_tmpfs(path: &Path, size_bytes: Option<i64>) -> io::Result<()> {
    let options = size_bytes.map(|size| format!("size={size}"));
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())?)
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(path.metadata()?.dev() != parent.metadata()?.dev())
}

/// Unmounts what is mounted below a pod's directory and removes it. Refuses to delete through a mount that stays.
pub(crate) fn remove_pod_dir(pod_dir: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|path| path.starts_with(pod_dir))
        .collect();
    // Inner mounts come later in the table.
    below.reverse();
    for path in below {
        umount2(&path, MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let volume = tempfile::tempdir().unwrap();
        let made = sub_path(volume.path(), "a/b").unwrap();
        assert!(made.is_dir() && made.starts_with(volume.path().canonicalize().unwrap()));
        std::os::unix::fs::symlink("/etc", volume.path().join("out")).unwrap();
        for escape in ["../x", "/etc", "out", "a/../../x"] {
            assert!(sub_path(volume.path(), escape).is_err(), "{escape}");
        }
    }
}
