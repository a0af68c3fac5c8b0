//! Volumes of a pod: made before its sandbox, kept up to date while it runs, removed after its end.
//!
//! Directories are where upstream's kubelet has them, `<root>/pods/<uid>/volumes/<plugin>/<name>`. Secrets and
//! tokens lie in memory (tmpfs), never on a disk.

mod atomic;
mod files;
mod owner;
mod sub_path;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub(crate) use files::FileSource;
use files::Payload;
pub(crate) use sub_path::sub_path;
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
    let group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.fs_group)
        .map(owner::gid)
        .transpose()?;
    if let Some(host_path) = &volume.host_path {
        return host_path_volume(host_path);
    }
    if let Some(empty_dir) = &volume.empty_dir {
        let path = dir("empty-dir");
        empty_dir_volume(&path, empty_dir, group)?;
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
        owner::own_by_group(&path, group)?;
    }
    if let Some(at) = payload.refresh_at {
        *refresh_at = Some(refresh_at.map_or(at, |earlier| earlier.min(at)));
    }
    Ok(path)
}

fn write_files(path: &Path, payload: &Payload, in_memory: bool) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if in_memory && !is_mount_point(path)? {
        mount_tmpfs(path, "mode=0755")?;
    }
    atomic::write(path, &payload.files)
}

/// Makes an emptyDir that is not there. One that is belongs to the pod, its mode and owner included, so the mode and
/// group are set before the directory gets its name (or, in memory, by the mount itself).
fn empty_dir_volume(path: &Path, source: &EmptyDirVolumeSource, gid: Option<u32>) -> io::Result<()> {
    let mode = if gid.is_some() { 0o2777 } else { 0o777 };
    if source.medium.as_deref() == Some("Memory") {
        std::fs::create_dir_all(path)?;
        if is_mount_point(path)? {
            return Ok(());
        }
        let mut options = format!("mode={mode:04o}");
        if let Some(gid) = gid {
            options.push_str(&format!(",gid={gid}"));
        }
        if let Some(size) = source.size_limit.as_ref().map(whole).filter(|size| *size > 0) {
            options.push_str(&format!(",size={size}"));
        }
        return mount_tmpfs(path, &options);
    }
    if path.try_exists()? {
        return Ok(());
    }
    // Volume names have no dot, so this is no other volume's; one that is there was left by an interrupted round.
    let unfinished = path.with_extension("new");
    std::fs::create_dir_all(&unfinished)?;
    std::os::unix::fs::chown(&unfinished, None, gid)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&unfinished, path)
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

fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))?)
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
    fn an_empty_dir_keeps_the_mode_its_pod_gave_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volumes/kubernetes.io~empty-dir/data");
        let gid = Some(rustix::process::getegid().as_raw());
        let made = || {
            empty_dir_volume(&path, &EmptyDirVolumeSource::default(), gid).unwrap();
            path.metadata().unwrap().mode() & 0o7777
        };
        assert_eq!(made(), 0o2777);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(made(), 0o700);
    }
}
