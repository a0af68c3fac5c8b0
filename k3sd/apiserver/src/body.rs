//! What responses are made of: whole documents, lists of shared chunks, and endless streams.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};

pub(crate) mod gather;

/// A boxed error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// A response body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Dropped with the body.
    _end: Option<Box<dyn Any + Send>>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    /// Known chunks, sent one frame each without copying: a list's objects are the cache's own allocations.
    Known { chunks: VecDeque<Bytes>, left: u64 },
    /// A watch or a log.
    Stream(Chunks),
    /// A body passed through from a kubelet.
    Incoming(hyper::body::Incoming),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Chunks that are known now.
    pub fn chunks(chunks: impl Into<VecDeque<Bytes>>) -> Self {
        let chunks = chunks.into();
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Kind::Known { chunks, left }.into()
    }

    /// Chunks as they come.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Kind::Stream(Box::pin(stream)).into()
    }

    /// The same body, and something to drop when it has been sent or given up.
    pub(crate) fn followed_by(self, end: impl Send + 'static) -> Self {
        Self { _end: Some(Box::new(end)), ..self }
    }

    /// All of it, if it is known and there is any. Copies it.
    pub(crate) fn known(&self) -> Option<Vec<u8>> {
        let Kind::Known { chunks, .. } = &self.kind else { return None };
        Some(chunks.iter().flatten().copied().collect())
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, _end: None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Self {
        if whole.is_empty() { Self::empty() } else { Self::chunks([whole]) }
    }
}

impl From<String> for Body {
    fn from(whole: String) -> Self {
        Bytes::from(whole).into()
    }
}

impl From<hyper::body::Incoming> for Body {
    fn from(incoming: hyper::body::Incoming) -> Self {
        Kind::Incoming(incoming).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Known { chunks, left } => Poll::Ready(chunks.pop_front().map(|chunk| {
                *left -= chunk.len() as u64;
                Ok(Frame::data(chunk))
            })),
            Kind::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|item| item.map(|chunk| chunk.map(Frame::data)))
            }
            Kind::Incoming(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|item| item.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Known { chunks, .. } => chunks.is_empty(),
            Kind::Stream(_) => false,
            Kind::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Known { left, .. } => SizeHint::with_exact(*left),
            Kind::Stream(_) => SizeHint::default(),
            Kind::Incoming(incoming) => incoming.size_hint(),
        }
    }
}
