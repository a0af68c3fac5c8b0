//! What an image says of itself: os-release(5).

use disk::guid::Guid;

use crate::target::Target;

/// Version of the whole workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What tells one image from another.
#[derive(Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) target: &'a Target,
    /// Follows from the content: two images with the same build are the same.
    pub(crate) build: String,
    /// Has tools for looking around, and is not for production.
    pub(crate) debug: bool,
    pub(crate) kernel: &'a str,
    /// Packages with version that people ask for.
    pub(crate) packages: Vec<(&'a str, &'a str)>,
}

/// Packages whose versions os-release names.
const NAMED: [&str; 4] = ["containerd", "crun", "runc", "nftables"];

impl Identity<'_> {
    /// An identifier for a part of the image. Another build has another, so that no two are taken for each other.
    pub(crate) fn id(&self, part: &str) -> Guid {
        Guid::from_content(&[part.as_bytes(), self.target.name.as_bytes(), self.build.as_bytes()])
    }

    /// The text of os-release.
    pub(crate) fn os_release(&self) -> String {
        let (debug_name, variant) =
            if self.debug { (" (debug)", "VARIANT=Debug\nVARIANT_ID=debug\n") } else { ("", "") };
        let mut text = format!(
            "NAME=Skerry\n\
             ID=skerry\n\
             PRETTY_NAME=\"Skerry {VERSION}{debug_name}\"\n\
             VERSION=\"{VERSION}{debug_name}\"\n\
             VERSION_ID={VERSION}\n\
             BUILD_ID={build}\n\
             IMAGE_ID=skerry-{target}\n\
             IMAGE_VERSION={VERSION}\n\
             ARCHITECTURE={architecture}\n\
             {variant}\
             SKERRY_KERNEL=\"{kernel}\"\n",
            build = self.build,
            target = self.target.name,
            architecture = self.target.processor.name(),
            kernel = self.kernel,
        );
        for (name, version) in self.packages.iter().filter(|(name, _)| NAMED.contains(name)) {
            text.push_str(&format!("SKERRY_{}=\"{version}\"\n", name.to_ascii_uppercase()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(target: &Target, debug: bool) -> Identity<'_> {
        let packages = vec![("containerd", "1.7.24~ds1-6"), ("libc6", "2.41")];
        Identity { target, build: "abc".into(), debug, kernel: "6.12", packages }
    }

    #[test]
    fn os_release_has_version_build_and_what_runs_containers() {
        let target = Target::find(crate::target::DEFAULT).unwrap();
        let text = identity(&target, false).os_release();
        for line in ["ID=skerry", "BUILD_ID=abc", "SKERRY_CONTAINERD=\"1.7.24~ds1-6\"", "ARCHITECTURE=x86-64"]
        {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("debug") && !text.contains("LIBC6"), "{text}");
    }

    #[test]
    fn a_debug_image_says_so() {
        let target = Target::find(crate::target::DEFAULT).unwrap();
        let text = identity(&target, true).os_release();
        assert!(
            text.contains("PRETTY_NAME=\"Skerry 0.1.0 (debug)\"\n") && text.contains("VARIANT_ID=debug\n")
        );
    }
}
