//! Answers that are encoded before gRPC's own encoder sees them, because it would copy every value in them.
//!
//! A service answers with nothing and leaves the real body beside it, in the extensions of the response; whoever calls the
//! service puts it in its place with [`with_encoded_body`]. Never looks into a message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use quorate_wire::etcd;
use tokio_stream::Stream;
use tonic::codegen::http::{HeaderMap, Response};
use tonic::{Code, Status};

/// A body on its way from the service to the response. Extensions are cloned by type alone: the body is there once.
#[derive(Clone)]
struct Encoded(Arc<Mutex<Option<tonic::body::Body>>>);

/// `answer`, whose messages are `frames` in truth.
pub(crate) fn encoded<T>(
    mut answer: tonic::Response<T>,
    frames: impl Stream<Item = Result<etcd::Frame, Status>> + Send + Unpin + 'static,
) -> tonic::Response<T> {
    let body = tonic::body::Body::new(Frames { frames, pieces: Vec::new().into_iter(), ended: false });
    answer.extensions_mut().insert(Encoded(Arc::new(Mutex::new(Some(body)))));
    answer
}

/// The response with the body that the service left beside it, if it did.
pub(crate) fn with_encoded_body(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    if let Some(Encoded(body)) = response.extensions_mut().remove() {
        let body = body.lock().unwrap_or_else(PoisonError::into_inner).take();
        *response.body_mut() = body.expect("a response gets its body once");
    }
    response
}

/// Messages piece by piece, then the status.
struct Frames<S> {
    frames: S,
    /// What is left of the current message.
    pieces: std::vec::IntoIter<Bytes>,
    ended: bool,
}

impl<S> Body for Frames<S>
where
    S: Stream<Item = Result<etcd::Frame, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.pieces.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let status = match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(etcd::Frame(pieces))) => {
                    self.pieces = pieces.into_iter();
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::new(Code::Ok, ""),
            };
            self.ended = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.pieces.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data and status of a body.
    async fn read(mut body: tonic::body::Body) -> (Vec<u8>, Option<Code>) {
        let (mut data, mut code) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame.expect("sound").into_data() {
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    code = status.map(|status| status.code());
                }
            }
        }
        (data, code)
    }

    #[tokio::test]
    async fn the_encoded_body_takes_the_place_of_the_empty_one_and_ends_with_the_status() {
        let frame = |pieces: &[&'static str]| Ok(etcd::Frame(pieces.iter().map(|piece| (*piece).into()).collect()));
        for (last, code) in [(frame(&["e"]), Code::Ok), (Err(Status::aborted("no more")), Code::Aborted)] {
            let whole = if code == Code::Ok { "abcde" } else { "abcd" };
            let frames = tokio_stream::iter([frame(&["ab", "c"]), frame(&[]), frame(&["d"]), last]);
            let answer = encoded(tonic::Response::new(()), frames);
            let mut response = Response::new(tonic::body::Body::empty());
            *response.extensions_mut() = answer.into_parts().2;
            let read = read(with_encoded_body(response).into_body()).await;
            assert_eq!(read, (whole.as_bytes().to_vec(), Some(code)));
        }
    }

    #[tokio::test]
    async fn a_response_without_one_keeps_its_body() {
        let body = tonic::body::Body::new(axum::body::Body::from("own"));
        let response = with_encoded_body(Response::new(body));
        assert_eq!(read(response.into_body()).await, (b"own".to_vec(), None));
    }
}
