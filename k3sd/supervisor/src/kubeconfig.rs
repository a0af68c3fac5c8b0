//! Kubeconfigs: the administrator's, `k3s.yaml`, is self-contained, so that it works when copied to another machine; those of a
//! node's components point to files.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::files::{self, FileError};
use crate::pki::KeyPairFiles;

/// Where and how the kubeconfig is written.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// URL of the API server, such as `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// Name of cluster, user and context; K3s says `default`.
    pub name: &'a str,
    /// PEM bundle the server's certificate is checked against.
    pub ca: &'a Path,
    /// Who the user is.
    pub client: &'a KeyPairFiles,
    /// Mode of the file, `0o600` unless configured.
    pub mode: u32,
}

impl Kubeconfig<'_> {
    /// Writes the file, and its directory when there is none.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let parent = files::directory(path);
        std::fs::create_dir_all(parent).map_err(FileError::of("create", parent))?;
        let text = self.render()?;
        files::write(path, &text, self.mode)
    }

    fn render(&self) -> Result<String, FileError> {
        let data = |path: &Path| files::read(path).map(|text| STANDARD.encode(text.unwrap_or_default()));
        let (name, server) = (self.name, self.server);
        let (ca, cert, key) = (data(self.ca)?, data(&self.client.cert)?, data(&self.client.key)?);
        Ok(format!(
            "apiVersion: v1\n\
             clusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  name: {name}\n\
             contexts:\n- context:\n    cluster: {name}\n    user: {name}\n  name: {name}\n\
             current-context: {name}\n\
             kind: Config\n\
             users:\n- name: {name}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n"
        ))
    }
}

/// Writes the kubeconfig of a component, which names certificate files by their paths.
pub(crate) fn write_component(
    path: &Path,
    server: &str,
    ca: &Path,
    client: &KeyPairFiles,
) -> Result<(), FileError> {
    let (ca, cert, key) = (ca.display(), client.cert.display(), client.key.display());
    let text = format!(
        "apiVersion: v1\n\
         clusters:\n- cluster:\n    certificate-authority: {ca}\n    server: {server}\n  name: local\n\
         contexts:\n- context:\n    cluster: local\n    namespace: default\n    user: user\n  name: Default\n\
         current-context: Default\n\
         kind: Config\n\
         users:\n- name: user\n  user:\n    client-certificate: {cert}\n    client-key: {key}\n"
    );
    files::write(path, &text, 0o600)
}
