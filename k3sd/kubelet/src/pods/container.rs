//! CRI's description of one container, from its spec.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};
use sha2::{Digest as _, Sha256};

use crate::pods::env::expand;
use crate::pods::resources::linux_resources;
use crate::pods::security;
use crate::runtime::labels;
use crate::volumes::sub_path;

/// Where a container finds the file for its last words unless it says otherwise.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// Why a container cannot be described; it waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A mount names a volume the pod does not have.
    #[error("volume \"{0}\" is not mounted")]
    NoVolume(String),
    /// A `subPath` that cannot be used.
    #[error("failed to prepare subPath for volumeMount \"{volume}\": {source}")]
    SubPath {
        /// The mount's volume.
        volume: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A file or directory of the container could not be made.
    #[error("failed to create '{}': {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// `runAsNonRoot` against what the image says.
    #[error(transparent)]
    RunAsNonRoot(#[from] security::RunAsRoot),
}

/// Everything a container's description is made from.
pub(crate) struct Source<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) restart_count: i32,
    pub(crate) environment: Vec<(String, String)>,
    /// Host path of each volume by its name.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    pub(crate) image: &'a cri::Image,
    /// The pod's own directory below the kubelet's root.
    pub(crate) pod_dir: &'a Path,
    pub(crate) node_memory: i64,
}

/// Identifies what a container was made from. A change of these fields replaces it; upstream hashes the same.
pub(crate) fn spec_hash(container: &Container) -> String {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Log of one incarnation, relative to the pod's log directory.
pub(crate) fn log_path(container: &str, restart_count: i32) -> String {
    format!("{container}/{restart_count}.log")
}

/// The labels by which pods find their containers again.
pub(crate) fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let metadata = &pod.metadata;
    [
        (labels::POD_NAME, &metadata.name),
        (labels::POD_NAMESPACE, &metadata.namespace),
        (labels::POD_UID, &metadata.uid),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
    .collect()
}

impl Source<'_> {
    /// The container's description, with the host files it mounts made.
    pub(crate) fn config(&self) -> Result<cri::ContainerConfig, ConfigError> {
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let container = self.container;
        let mut labels = pod_labels(self.pod);
        labels.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
        let attempt = u32::try_from(self.restart_count).unwrap_or(0);
        Ok(cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt }),
            image: Some(cri::ImageSpec {
                user_specified_image: container.image.clone().unwrap_or_default(),
                ..crate::cri::image_spec(&self.image.id)
            }),
            command: self.expanded(container.command.as_ref()),
            args: self.expanded(container.args.as_ref()),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs: self
                .environment
                .iter()
                .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() })
                .collect(),
            mounts: self.mounts()?,
            labels,
            annotations: self.annotations(spec),
            log_path: log_path(&container.name, self.restart_count),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(linux_resources(self.pod, container, self.node_memory)),
                security_context: Some(security::container(spec, container, self.image)?),
            }),
            ..cri::ContainerConfig::default()
        })
    }

    fn expanded(&self, words: Option<&Vec<String>>) -> Vec<String> {
        let lookup = |name: &str| self.lookup(name);
        words.into_iter().flatten().map(|word| expand(word, lookup)).collect()
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn annotations(&self, spec: &PodSpec) -> HashMap<String, String> {
        let container = self.container;
        let mut annotations = HashMap::from([
            (labels::CONTAINER_HASH.to_owned(), spec_hash(container)),
            (labels::RESTART_COUNT.to_owned(), self.restart_count.to_string()),
            (labels::TERMINATION_PATH.to_owned(), self.termination_path().to_owned()),
        ]);
        if let Some(policy) = &container.termination_message_policy {
            annotations.insert(labels::TERMINATION_POLICY.to_owned(), policy.clone());
        }
        if let Some(grace) = spec.termination_grace_period_seconds {
            annotations.insert(labels::GRACE_PERIOD.to_owned(), grace.to_string());
        }
        annotations
    }

    fn termination_path(&self) -> &str {
        self.container
            .termination_message_path
            .as_deref()
            .filter(|path| !path.is_empty())
            .unwrap_or(TERMINATION_PATH)
    }

    fn mounts(&self) -> Result<Vec<cri::Mount>, ConfigError> {
        let mut mounts = Vec::new();
        for mount in self.container.volume_mounts.iter().flatten() {
            mounts.push(self.volume_mount(mount)?);
        }
        let taken = |path: &str| mounts.iter().any(|mount: &cri::Mount| mount.container_path == path);
        let mut own = Vec::new();
        if !taken("/etc/hosts") {
            own.push(file_mount(self.pod_dir.join("etc-hosts"), "/etc/hosts"));
        }
        if !taken(self.termination_path()) {
            own.push(file_mount(self.termination_file()?, self.termination_path()));
        }
        mounts.extend(own);
        Ok(mounts)
    }

    fn volume_mount(&self, mount: &VolumeMount) -> Result<cri::Mount, ConfigError> {
        let volume =
            self.volumes.get(&mount.name).ok_or_else(|| ConfigError::NoVolume(mount.name.clone()))?.clone();
        let sub = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) if !expression.is_empty() => expand(expression, |name| self.lookup(name)),
            (_, Some(path)) => path.clone(),
            _ => String::new(),
        };
        let host_path = if sub.is_empty() {
            volume
        } else {
            sub_path(&volume, &sub)
                .map_err(|source| ConfigError::SubPath { volume: mount.name.clone(), source })?
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
            Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
            _ => cri::MountPropagation::PropagationPrivate,
        };
        let container_path = if mount.mount_path.starts_with('/') {
            mount.mount_path.clone()
        } else {
            format!("/{}", mount.mount_path)
        };
        Ok(cri::Mount {
            container_path,
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true) || self.is_ours_to_write(&mount.name),
            propagation: propagation.into(),
            ..cri::Mount::default()
        })
    }

    /// Whether the kubelet keeps writing this volume's files. Containers may not: a link they planted would lead those
    /// writes elsewhere. As upstream, which mounts these four kinds read-only whatever the pod says.
    fn is_ours_to_write(&self, volume: &str) -> bool {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        volumes.into_iter().flatten().filter(|candidate| candidate.name == volume).any(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.projected.is_some()
                || volume.downward_api.is_some()
        })
    }

    /// The file for the container's last words: writable by any user it runs as.
    fn termination_file(&self) -> Result<PathBuf, ConfigError> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = self.pod_dir.join("containers").join(&self.container.name);
        let path = dir.join(format!("termination-{}", self.restart_count));
        let make = || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(&path, b"")?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
        };
        make().map_err(|source| ConfigError::File { path: path.clone(), source })?;
        Ok(path)
    }
}

fn file_mount(host: PathBuf, container: &str) -> cri::Mount {
    cri::Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        ..cri::Mount::default()
    }
}
