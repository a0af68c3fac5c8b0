//! Small frames of a body sent together.
//!
//! Each frame costs a header, and perhaps a record of TLS and a call of the kernel: far more than to copy its bytes. Components in
//! process get the frames as they are, since they keep them: they are the watch cache's own allocations.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// What is sent at once where there is that much. A frame of this size or more goes as it is.
const GATHERED_BYTES: usize = 64 * 1024;

/// A body on its way to the network.
#[derive(Debug)]
pub(crate) struct Gathered<B: Body> {
    body: B,
    /// Taken from the body, and too much for what was sent before.
    held: Option<Result<Frame<Bytes>, B::Error>>,
    /// The body has said that it is over, and must not be asked again.
    ended: bool,
}

impl<B: Body> Gathered<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, held: None, ended: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Gathered<B>
where
    B::Error: Unpin,
{
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(held));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let next = Pin::new(&mut self.body).poll_frame(cx);
        self.ended = matches!(next, Poll::Ready(None));
        next
    }

    /// What is there already behind `first` and fits beside it.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut whole = Whole::One(first);
        while whole.len() < GATHERED_BYTES {
            let Poll::Ready(Some(next)) = self.next(cx) else { break };
            match next.map(Frame::into_data) {
                Ok(Ok(data)) if whole.len() + data.len() <= GATHERED_BYTES => whole.push(&data),
                Ok(Ok(data)) => {
                    self.held = Some(Ok(Frame::data(data)));
                    break;
                }
                Ok(Err(other)) => {
                    self.held = Some(Ok(other));
                    break;
                }
                Err(error) => {
                    self.held = Some(Err(error));
                    break;
                }
            }
        }
        whole.finish()
    }
}

enum Whole {
    One(Bytes),
    Many(BytesMut),
}

impl Whole {
    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, more: &[u8]) {
        if let Self::One(first) = self {
            let mut many = BytesMut::with_capacity(first.len() + more.len());
            many.extend_from_slice(first);
            *self = Self::Many(many);
        }
        if let Self::Many(many) = self {
            many.extend_from_slice(more);
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.next(cx).map_ok(|frame| match frame.into_data() {
            Ok(first) => Frame::data(this.gather(first, cx)),
            Err(other) => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.held {
            None => self.body.size_hint(),
            // Asked before the first frame is; later nobody needs it exact.
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream::{self, StreamExt};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn small_frames_go_together_large_ones_as_they_are_and_nothing_waits_for_more() {
        let large = Bytes::from(vec![b'x'; GATHERED_BYTES]);
        let ready = stream::iter(["a".into(), "b".into(), large.clone(), "c".into(), "d".into()]);
        let frames = ready.chain(stream::pending()).map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let mut body = Gathered::new(StreamBody::new(frames));
        let mut sent = Vec::new();
        for _ in 0..3 {
            sent.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(sent, [Bytes::from("ab"), large.clone(), "cd".into()]);
        assert_eq!(sent[1].as_ptr(), large.as_ptr(), "not copied");
    }
}
