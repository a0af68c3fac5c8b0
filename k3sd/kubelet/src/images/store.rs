//! The few operations of containerd's content, image and lease services that an import needs.
//!
//! Everything happens in namespace `k8s.io`, where the CRI plug-in looks. A lease keeps blobs alive between
//! their upload and the moment an image record refers to them.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AbortRequest, CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image, Info,
    InfoRequest, UpdateImageRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use containerd_client::types::Descriptor;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// The containerd namespace of the CRI plug-in.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// Chunks in flight between the reader and the upload; the reader waits when it is full.
const CHUNKS_IN_FLIGHT: usize = 4;
/// A lease nobody deletes (power cut) is collected after this long.
const LEASE_LIFETIME: Duration = Duration::from_secs(3600);

/// Client of containerd's stores, writing under one lease.
#[derive(Clone)]
pub(crate) struct Store {
    content: ContentClient<Channel>,
    images: ImagesClient<Channel>,
    leases: LeasesClient<Channel>,
    lease: Option<MetadataValue<tonic::metadata::Ascii>>,
}

/// A blob on its way into the content store.
pub(crate) struct Upload {
    chunks: mpsc::Sender<WriteContentRequest>,
    reply: tokio::task::JoinHandle<Result<(), Status>>,
    reference: String,
    offset: i64,
}

impl Store {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            content: ContentClient::new(channel.clone()),
            images: ImagesClient::new(channel.clone()),
            leases: LeasesClient::new(channel),
            lease: None,
        }
    }

    /// A copy of this client whose writes are held by a new lease; end it with [`Store::release`].
    pub(crate) async fn leased(&self) -> Result<Self, Status> {
        let id = format!("skerry-import-{}", uuid::Uuid::new_v4());
        let expire = jiff::Timestamp::now() + LEASE_LIFETIME;
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expire.to_string())]);
        self.leases.clone().create(self.request(CreateRequest { id: id.clone(), labels })).await?;
        let lease = id.parse().map_err(|_| Status::internal("lease id is not ASCII"))?;
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// Gives the lease back; what no image refers to may be collected from now on.
    pub(crate) async fn release(&self) -> Result<(), Status> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let id = lease.to_str().unwrap_or_default().to_owned();
        self.leases.clone().delete(self.request(DeleteRequest { id, sync: false })).await?;
        Ok(())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    /// Size and labels of a blob; `None` when the store does not have it.
    pub(crate) async fn blob(&self, digest: &str) -> Result<Option<Info>, Status> {
        let request = self.request(InfoRequest { digest: digest.to_owned() });
        match self.content.clone().info(request).await {
            Ok(reply) => Ok(reply.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Adds labels to a blob, keeping those it has.
    pub(crate) async fn label_blob(&self, info: Info, labels: HashMap<String, String>) -> Result<(), Status> {
        if labels.iter().all(|(key, value)| info.labels.get(key) == Some(value)) {
            return Ok(());
        }
        let mut info = info;
        info.labels.extend(labels);
        let request = self.request(UpdateRequest { info: Some(info), update_mask: None });
        self.content.clone().update(request).await?;
        Ok(())
    }

    /// Begins an upload under `reference`, dropping what an interrupted one left.
    pub(crate) async fn begin(&self, reference: &str, total: i64) -> Result<Upload, Status> {
        let abort = self.request(AbortRequest { r#ref: reference.to_owned() });
        match self.content.clone().abort(abort).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status),
        }
        let (chunks, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let request = self.request(ReceiverStream::new(receiver));
        let mut content = self.content.clone();
        let reply = tokio::spawn(async move {
            let mut replies = content.write(request).await?.into_inner();
            while let Some(reply) = replies.next().await {
                reply?;
            }
            Ok(())
        });
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total,
            ..Default::default()
        };
        let upload = Upload { chunks, reply, reference: reference.to_owned(), offset: 0 };
        // A refused stream shows in the reply, which `commit` reads.
        let _ = upload.chunks.send(first).await;
        Ok(upload)
    }

    /// The image record `name` refers to; `None` when there is none.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Image>, Status> {
        let request = self.request(GetImageRequest { name: name.to_owned() });
        match self.images.clone().get(request).await {
            Ok(reply) => Ok(reply.into_inner().image),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Makes `name` point at `target`, with these labels.
    pub(crate) async fn put_image(
        &self,
        name: &str,
        target: Descriptor,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let image = Image { name: name.to_owned(), target: Some(target), labels, ..Default::default() };
        let create = CreateImageRequest { image: Some(image.clone()), source_date_epoch: None };
        match self.images.clone().create(self.request(create)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(status),
        }
        let update = UpdateImageRequest { image: Some(image), update_mask: None, source_date_epoch: None };
        self.images.clone().update(self.request(update)).await?;
        Ok(())
    }
}

impl Upload {
    /// Sends the next bytes; waits while the store is behind.
    pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<(), Status> {
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: self.reference.clone(),
            offset: self.offset,
            data,
            ..Default::default()
        };
        self.offset += length;
        if self.chunks.send(message).await.is_err() {
            // The store hung up: its status says why.
            return Err(match (&mut self.reply).await {
                Ok(Err(status)) => status,
                _ => Status::aborted("the content store ended the upload"),
            });
        }
        Ok(())
    }

    /// Ends the upload as blob `digest`. A blob that is there already is success.
    pub(crate) async fn commit(self, digest: &str, labels: HashMap<String, String>) -> Result<(), Status> {
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference,
            total: self.offset,
            offset: self.offset,
            expected: digest.to_owned(),
            labels,
            ..Default::default()
        };
        let _ = self.chunks.send(message).await;
        drop(self.chunks);
        match self.reply.await {
            Ok(Err(status)) if status.code() == Code::AlreadyExists => Ok(()),
            Ok(result) => result,
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}
