//! Users, capabilities, namespaces and seccomp, as the runtime wants to be told.
//!
//! A container's `securityContext` goes before the pod's; upstream's `pkg/securitycontext/util.go`.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

/// Parts of `/proc` and `/sys` a container must not read, unless it asks for `procMount: Unmasked`.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Parts of `/proc` it must not write.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `runAsNonRoot` is set and the container would be root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunAsRoot {
    /// `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy")]
    Asked,
    /// The image's user is root.
    #[error("container has runAsNonRoot and image will run as root")]
    Image,
    /// The image names a user, and names prove nothing.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root"
    )]
    Named(String),
}

fn value(number: i64) -> cri::Int64Value {
    cri::Int64Value { value: number }
}

/// Whether any container of the pod is privileged; its sandbox must be as well.
fn any_privileged(spec: &PodSpec) -> bool {
    let privileged = |container: &Container| {
        container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
    };
    spec.init_containers.iter().flatten().chain(&spec.containers).any(privileged)
}

/// Namespaces shared with the host or within the pod.
fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let node = |yes: Option<bool>| {
        let mode = if yes == Some(true) { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
        i32::from(mode)
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => cri::NamespaceMode::Node,
        (_, Some(true)) => cri::NamespaceMode::Pod,
        _ => cri::NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: node(spec.host_network),
        ipc: node(spec.host_ipc),
        pid: pid.into(),
        ..cri::NamespaceOption::default()
    }
}

/// Security context of the pod's sandbox.
pub(crate) fn sandbox(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
    let context = spec.security_context.clone().unwrap_or_default();
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: context.run_as_user.map(value),
        // The runtime takes a group only together with a user.
        run_as_group: context.run_as_user.and(context.run_as_group).map(value),
        supplemental_groups: supplemental_groups(&context),
        privileged: any_privileged(spec),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref())),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

fn supplemental_groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

/// Security context of one container.
pub(crate) fn container(
    spec: &PodSpec,
    container: &Container,
    image: &cri::Image,
) -> Result<cri::LinuxContainerSecurityContext, RunAsRoot> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let asked = own.run_as_user.or(pod.run_as_user);
    check_non_root(own.run_as_non_root.or(pod.run_as_non_root), asked, image)?;
    let user = asked.or(image.uid.map(|uid| uid.value));
    let username = if user.is_none() { image.username.clone() } else { String::new() };
    let group = own.run_as_group.or(pod.run_as_group);
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_group: if user.is_some() || !username.is_empty() { group.map(value) } else { None },
        run_as_user: user.map(value),
        run_as_username: username,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(&pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(if privileged {
            seccomp(None)
        } else {
            seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()))
        }),
        ..cri::LinuxContainerSecurityContext::default()
    })
}

fn check_non_root(wanted: Option<bool>, user: Option<i64>, image: &cri::Image) -> Result<(), RunAsRoot> {
    if wanted != Some(true) {
        return Ok(());
    }
    match (user, &image.uid) {
        (Some(0), _) => Err(RunAsRoot::Asked),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid.value == 0 => Err(RunAsRoot::Image),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => Err(RunAsRoot::Image),
        (None, None) => Err(RunAsRoot::Named(image.username.clone())),
    }
}

fn capabilities(context: &SecurityContext) -> cri::Capability {
    let capabilities = context.capabilities.clone().unwrap_or_default();
    cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..cri::Capability::default()
    }
}

/// Nothing said means unconfined, as the kubelet has it unless `seccompDefault` is on.
fn seccomp(profile: Option<&SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, reference) = match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => (ProfileType::RuntimeDefault, None),
        Some(profile) if profile.type_ == "Localhost" => {
            (ProfileType::Localhost, profile.localhost_profile.clone())
        }
        _ => (ProfileType::Unconfined, None),
    };
    // The runtime wants an absolute path; profiles live where upstream's kubelet has them.
    let localhost_ref = reference.map(|name| format!("/var/lib/kubelet/seccomp/{name}")).unwrap_or_default();
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(uid: Option<i64>, username: &str) -> cri::Image {
        cri::Image { uid: uid.map(value), username: username.to_owned(), ..cri::Image::default() }
    }

    #[test]
    fn run_as_non_root_refuses_root_and_names() {
        let root = |user, image: &cri::Image| check_non_root(Some(true), user, image).is_err();
        assert!(root(Some(0), &image(Some(1000), "")));
        assert!(root(None, &image(Some(0), "")));
        assert!(root(None, &image(None, "www")));
        assert!(!root(None, &image(Some(1000), "")));
        assert!(!root(Some(5), &image(Some(0), "")));
    }

    #[test]
    fn a_privileged_container_sees_all_of_proc() {
        let context = SecurityContext { privileged: Some(true), ..SecurityContext::default() };
        let spec = Container { security_context: Some(context), ..Container::default() };
        let privileged = container(&PodSpec::default(), &spec, &image(None, "")).unwrap();
        assert!(privileged.masked_paths.is_empty());
        let plain = container(&PodSpec::default(), &Container::default(), &image(None, "")).unwrap();
        assert!(plain.masked_paths.contains(&"/proc/kcore".to_owned()));
    }
}
