//! How much memory requests may take while they arrive, all of them together, and how long each may take.
//!
//! A request is held in memory until its last byte is there: a client that begins many large ones and ends none would fill
//! it. Past the limit requests are refused, and one that does not arrive in time is given up. Streams of requests (watches,
//! keepalives) have no end: in them it is a message that is held until its last byte is there, and has its time once it has
//! begun.
//!
//! Never looks into a request.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use crate::framing::Framing;
use crate::json_framing::JsonFraming;

/// Bytes of requests under way, of all connections of a port.
#[derive(Debug)]
pub(crate) struct Arriving {
    bytes: AtomicUsize,
    max_bytes: usize,
    time: Duration,
}

impl Arriving {
    pub(crate) fn new(max_bytes: usize, time: Duration) -> Arc<Arriving> {
        Arc::new(Arriving { bytes: AtomicUsize::new(0), max_bytes, time })
    }

    /// Counts `more` bytes, unless that is too many.
    fn add(&self, more: usize) -> bool {
        let before = self.bytes.fetch_add(more, Ordering::Relaxed);
        if before + more > self.max_bytes {
            self.bytes.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// What a request's bytes come from.
pub(crate) struct ArrivingBody<B = Incoming> {
    body: B,
    arriving: Arc<Arriving>,
    counted: usize,
    /// `None` until the rest of what has begun is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Of a stream.
    messages: Option<Messages>,
}

/// How the messages of a stream are told apart.
enum Messages {
    Grpc(Framing),
    Json(JsonFraming),
}

impl Messages {
    fn take(&mut self, data: &[u8]) {
        match self {
            Messages::Grpc(framing) => framing.take(data),
            Messages::Json(framing) => framing.take(data),
        }
    }

    fn whole(&self) -> u64 {
        match self {
            Messages::Grpc(framing) => framing.whole(),
            Messages::Json(framing) => framing.whole(),
        }
    }

    fn unfinished(&self) -> usize {
        match self {
            Messages::Grpc(framing) => framing.unfinished(),
            Messages::Json(framing) => framing.unfinished(),
        }
    }
}

impl<B> ArrivingBody<B> {
    /// A request that is to arrive in time.
    pub(crate) fn whole(body: B, arriving: Arc<Arriving>) -> Self {
        ArrivingBody { body, arriving, counted: 0, deadline: None, messages: None }
    }

    /// A stream of requests, of which there may be another at any time.
    pub(crate) fn stream(body: B, arriving: Arc<Arriving>) -> Self {
        let mut stream = ArrivingBody::whole(body, arriving);
        stream.messages = Some(Messages::Grpc(Framing::default()));
        stream
    }

    /// The same in JSON.
    pub(crate) fn json_stream(body: B, arriving: Arc<Arriving>) -> Self {
        let mut stream = ArrivingBody::whole(body, arriving);
        stream.messages = Some(Messages::Json(JsonFraming::default()));
        stream
    }

    /// Counts what has come; false if that is too much.
    fn count(&mut self, data: &[u8]) -> bool {
        let held = match &mut self.messages {
            None => self.counted + data.len(),
            Some(messages) => {
                let before = messages.whole();
                messages.take(data);
                // Each message has its own time.
                if messages.whole() > before {
                    self.deadline = None;
                }
                messages.unfinished()
            }
        };
        let fits = held <= self.counted || self.arriving.add(held - self.counted);
        if fits {
            self.arriving.bytes.fetch_sub(self.counted.saturating_sub(held), Ordering::Relaxed);
            self.counted = held;
        }
        fits
    }

    /// Whether something has begun that has not ended.
    fn is_under_way(&self) -> bool {
        self.messages.as_ref().is_none_or(|messages| messages.unfinished() > 0)
    }
}

impl<B> Drop for ArrivingBody<B> {
    fn drop(&mut self) {
        self.arriving.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl<B> Body for ArrivingBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: StdError + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending if this.is_under_way() => {
                let time = this.arriving.time;
                let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
                match deadline.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => {
                        let text = format!("the request did not arrive within {time:?}");
                        Poll::Ready(Some(Err(Status::deadline_exceeded(text).into())))
                    }
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if !frame.data_ref().is_none_or(|data| this.count(data)) {
                    let text = "etcdserver: too many requests: those that arrive take all the memory they may";
                    return Poll::Ready(Some(Err(Status::resource_exhausted(text).into())));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            ended => ended.map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A request of which this much has come, and whose rest never does.
    struct Stuck(Option<Bytes>);

    impl Body for Stuck {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    async fn next(body: &mut ArrivingBody<Stuck>) -> Result<usize, String> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.expect("no end");
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.to_string())
    }

    fn stuck(bytes: usize) -> Stuck {
        Stuck(Some(Bytes::from(vec![0; bytes])))
    }

    #[tokio::test]
    async fn requests_past_the_limit_are_refused_and_room_comes_back() {
        let arriving = Arriving::new(100, Duration::from_secs(30));
        for (bytes, fits) in [(99, true), (100, true), (101, false)] {
            let answer = next(&mut ArrivingBody::whole(stuck(bytes), Arc::clone(&arriving))).await;
            assert_eq!(answer.is_ok(), fits, "{bytes}");
        }
        let mut held = ArrivingBody::whole(stuck(60), Arc::clone(&arriving));
        next(&mut held).await.expect("there is room");
        assert!(next(&mut ArrivingBody::whole(stuck(41), Arc::clone(&arriving))).await.is_err());
        drop(held);
        next(&mut ArrivingBody::whole(stuck(41), arriving)).await.expect("there is room again");
    }

    #[tokio::test]
    async fn of_a_stream_the_message_that_arrives_is_counted_and_no_other() {
        let arriving = Arriving::new(100, Duration::from_secs(30));
        // The head of a message of 95 bytes.
        let begin = |more: usize| [&[0, 0, 0, 0, 95], &vec![0; more][..]].concat();
        for (more, fits) in [(94, true), (95, true), (96, true)] {
            let mut stream = ArrivingBody::stream(Stuck(Some(begin(more).into())), Arc::clone(&arriving));
            assert_eq!(next(&mut stream).await.is_ok(), fits, "{more}");
            let other = next(&mut ArrivingBody::whole(stuck(100), Arc::clone(&arriving))).await;
            assert_eq!(other.is_ok(), more == 95, "the one message is whole, and no other has begun: {more}");
        }
        let mut stream = ArrivingBody::stream(Stuck(Some(Bytes::from_static(&[0, 0, 0, 1, 0]))), Arc::clone(&arriving));
        next(&mut stream).await.expect("there is room");
        stream.body.0 = Some(vec![0; 95].into());
        next(&mut stream).await.expect("there is room for 100");
        stream.body.0 = Some(vec![0; 1].into());
        assert!(next(&mut stream).await.is_err(), "101");
        drop(stream);
        next(&mut ArrivingBody::whole(stuck(100), arriving)).await.expect("all room is there again");
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_given_up_and_a_stream_between_two_messages_is_not() {
        let arriving = Arriving::new(100, Duration::from_millis(1));
        let mut stream = ArrivingBody::stream(Stuck(Some(vec![0; 5].into())), Arc::clone(&arriving));
        next(&mut stream).await.expect("a message of no byte");
        let mut waiting = std::pin::pin!(next(&mut stream));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);

        let json = |text: &'static str| Stuck(Some(Bytes::from_static(text.as_bytes())));
        let mut quiet = ArrivingBody::json_stream(json("{}\n"), Arc::clone(&arriving));
        next(&mut quiet).await.expect("a message of no field");
        let mut waiting_too = std::pin::pin!(next(&mut quiet));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting_too.as_mut().poll(cx).is_pending())).await);

        for mut stuck in [
            ArrivingBody::whole(stuck(1), Arc::clone(&arriving)),
            ArrivingBody::stream(stuck(1), Arc::clone(&arriving)),
            ArrivingBody::json_stream(json("{}{"), Arc::clone(&arriving)),
        ] {
            next(&mut stuck).await.expect("the first byte");
            let error = next(&mut stuck).await.expect_err("given up");
            assert!(error.contains("did not arrive within 1ms"), "{error}");
        }
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting_too.as_mut().poll(cx).is_pending())).await);
    }
}
