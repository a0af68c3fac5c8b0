//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::SetUpError;
use super::atomic::File;
use super::token::Tokens;
use crate::objects::{Kind, ObjectError, Objects, User};
use crate::pods::env::Fields;

/// Permission bits unless the volume says otherwise.
const DEFAULT_MODE: i32 = 0o644;

/// Everything volumes are filled from.
pub(crate) struct FileSource<'a> {
    pub(crate) fields: Fields<'a>,
    pub(crate) objects: &'a Objects,
    pub(crate) tokens: &'a Tokens,
    pub(crate) user: &'a User,
}

/// The files of one volume.
#[derive(Debug, Default)]
pub(super) struct Payload {
    pub(super) files: BTreeMap<String, File>,
    pub(super) refresh_at: Option<Timestamp>,
}

/// Reference to a ConfigMap or Secret with the keys wanted of it.
struct Reference<'a> {
    kind: Kind,
    name: &'a str,
    items: Option<&'a Vec<KeyToPath>>,
    optional: Option<bool>,
}

impl FileSource<'_> {
    /// Collects the files of a volume; the volume is one of the four kinds.
    pub(super) async fn payload(&self, volume: &Volume) -> Result<Payload, SetUpError> {
        let mut payload = Payload::default();
        if let Some(source) = &volume.config_map {
            let reference = Reference {
                kind: Kind::ConfigMap,
                name: &source.name,
                items: source.items.as_ref(),
                optional: source.optional,
            };
            self.object(&reference, source.default_mode, &mut payload).await?;
        } else if let Some(source) = &volume.secret {
            let reference = Reference {
                kind: Kind::Secret,
                name: source.secret_name.as_deref().unwrap_or_default(),
                items: source.items.as_ref(),
                optional: source.optional,
            };
            self.object(&reference, source.default_mode, &mut payload).await?;
        } else if let Some(source) = &volume.downward_api {
            self.downward(source.items.as_deref(), source.default_mode, &mut payload)?;
        } else if let Some(source) = &volume.projected {
            self.projected(source, &mut payload).await?;
        }
        Ok(payload)
    }

    async fn projected(
        &self,
        source: &ProjectedVolumeSource,
        payload: &mut Payload,
    ) -> Result<(), SetUpError> {
        for part in source.sources.iter().flatten() {
            self.projection(part, source.default_mode, payload).await?;
        }
        Ok(())
    }

    async fn projection(
        &self,
        part: &VolumeProjection,
        mode: Option<i32>,
        payload: &mut Payload,
    ) -> Result<(), SetUpError> {
        if let Some(map) = &part.config_map {
            let reference = Reference {
                kind: Kind::ConfigMap,
                name: &map.name,
                items: map.items.as_ref(),
                optional: map.optional,
            };
            return self.object(&reference, mode, payload).await;
        }
        if let Some(secret) = &part.secret {
            let reference = Reference {
                kind: Kind::Secret,
                name: &secret.name,
                items: secret.items.as_ref(),
                optional: secret.optional,
            };
            return self.object(&reference, mode, payload).await;
        }
        if let Some(downward) = &part.downward_api {
            return self.downward(downward.items.as_deref(), mode, payload);
        }
        if let Some(wanted) = &part.service_account_token {
            let token = self.tokens.get(self.fields.pod, wanted).await?;
            let mode = self.token_mode(mode);
            payload.refresh_at =
                Some(payload.refresh_at.map_or(token.refresh_at, |at| at.min(token.refresh_at)));
            payload.files.insert(wanted.path.clone(), File { content: token.token.into_bytes(), mode });
            return Ok(());
        }
        Err(SetUpError::Unsupported)
    }

    /// Tokens are for the pod's user alone: readable by it when all containers agree on who that is.
    fn token_mode(&self, mode: Option<i32>) -> u32 {
        let context = self.fields.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let grouped = context.is_some_and(|context| context.fs_group.is_some());
        if grouped { 0o600 } else { bits(mode) }
    }

    async fn object(
        &self,
        reference: &Reference<'_>,
        mode: Option<i32>,
        payload: &mut Payload,
    ) -> Result<(), SetUpError> {
        let optional = reference.optional == Some(true);
        let namespace = self.fields.pod.metadata.namespace.as_deref().unwrap_or_default();
        let data = match self.objects.get(self.user, reference.kind, namespace, reference.name).await {
            Err(ObjectError::NotFound { .. }) if optional => return Ok(()),
            result => result?,
        };
        let Some(items) = reference.items else {
            for (key, value) in &data.values {
                payload.files.insert(key.clone(), File { content: value.clone(), mode: bits(mode) });
            }
            return Ok(());
        };
        for item in items {
            match data.values.get(&item.key) {
                Some(value) => {
                    let file = File { content: value.clone(), mode: bits(item.mode.or(mode)) };
                    payload.files.insert(item.path.clone(), file);
                }
                None if optional => {}
                None => return Err(SetUpError::NoKey(item.key.clone())),
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
        payload: &mut Payload,
    ) -> Result<(), SetUpError> {
        for item in items.unwrap_or_default() {
            let text = if let Some(field) = &item.field_ref {
                self.fields.field(&field.field_path)?
            } else if let Some(resource) = &item.resource_field_ref {
                let empty = PodSpec::default();
                let spec = self.fields.pod.spec.as_ref().unwrap_or(&empty);
                let name = resource.container_name.as_deref().unwrap_or_default();
                let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                let container = all.clone().find(|container| container.name == name);
                let none = Container::default();
                self.fields.resource(
                    container.unwrap_or(&none),
                    &resource.resource,
                    resource.divisor.as_ref(),
                )?
            } else {
                continue;
            };
            let file = File { content: text.into_bytes(), mode: bits(item.mode.or(mode)) };
            payload.files.insert(item.path.clone(), file);
        }
        Ok(())
    }
}

fn bits(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}
