//! What a call to the peer port may send before it is welcome: one small message, soon, and few such calls at a time.
//!
//! Frames between members are large, and whoever reaches the port may begin calls. A stranger held to the limits of members
//! would have this node keep that much for each of its streams.
//!
//! Never looks into a message.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use quorate_wire::peer::MAX_FIRST_MESSAGE_BYTES;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use super::HELLO_TIMEOUT;
use super::guests::Badge;
use crate::framing::Framing;

/// One call, as its handler knows it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The connection it came over.
    pub(super) badge: Badge,
    welcome: Arc<AtomicBool>,
}

impl Caller {
    /// Its greeting was welcome: what it sends from now on is limited as a member's.
    pub(super) fn welcome(&self) {
        self.badge.welcome();
        self.welcome.store(true, Ordering::Relaxed);
    }
}

/// A service of the peer port whose calls are strangers' until they are welcome.
#[derive(Debug, Clone)]
pub(super) struct Guarded<S>(pub(super) S);

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        >,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        // Put there by the server for every connection of the listener.
        let badge = head.extensions.get::<Badge>().expect("a call comes over a connection").clone();
        let Some(waiting) = badge.wait() else {
            let refusal = Status::resource_exhausted("too many calls of this connection have not greeted yet");
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let caller = Caller { badge, welcome: Arc::default() };
        let first = FirstMessage::new(HELLO_TIMEOUT, waiting);
        let body = GuardedBody { body, welcome: Arc::clone(&caller.welcome), first: Some(first) };
        head.extensions.insert(caller);
        self.0.call(http::Request::from_parts(head, Body::new(body)))
    }
}

/// What a call sends.
struct GuardedBody<B> {
    body: B,
    welcome: Arc<AtomicBool>,
    /// `None` once the call is welcome.
    first: Option<FirstMessage>,
}

/// How much has come of the only message that a stranger may send.
struct FirstMessage {
    framing: Framing,
    deadline: Pin<Box<Sleep>>,
    _waiting: OwnedSemaphorePermit,
}

impl FirstMessage {
    fn new(time: Duration, waiting: OwnedSemaphorePermit) -> FirstMessage {
        FirstMessage { framing: Framing::default(), deadline: Box::pin(sleep(time)), _waiting: waiting }
    }

    /// Judges more bytes before anybody makes room for them.
    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        // The handler reads on only after it has said who is welcome, and where nobody has to be there is nothing to follow.
        if !data.is_empty() && self.framing.whole() > 0 {
            return Err(Status::invalid_argument("a call to the peer port begins with one message"));
        }
        self.framing.take(data);
        match self.framing.length() {
            Some(length) if self.framing.whole() == 0 && length > MAX_FIRST_MESSAGE_BYTES => {
                Err(Status::out_of_range(format!(
                    "the first message of a call to the peer port may have {MAX_FIRST_MESSAGE_BYTES} bytes, not {length}"
                )))
            }
            _ => Ok(()),
        }
    }
}

impl<B> HttpBody for GuardedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.welcome.load(Ordering::Relaxed) {
            this.first = None;
        }
        let Some(first) = &mut this.first else { return Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into) };
        if first.deadline.as_mut().poll(cx).is_ready() {
            let text = format!("the first message did not arrive within {HELLO_TIMEOUT:?}");
            return Poll::Ready(Some(Err(Status::deadline_exceeded(text).into())));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose().map_err(Into::into)?;
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            first.take(data)?;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;

    use super::super::guests::Guests;
    use super::*;

    /// What has come of a request whose rest never does.
    struct Stuck(VecDeque<Bytes>);

    impl HttpBody for Stuck {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.pop_front().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    fn guarded(parts: &[&[u8]]) -> GuardedBody<Stuck> {
        guarded_for(HELLO_TIMEOUT, parts)
    }

    fn guarded_for(time: Duration, parts: &[&[u8]]) -> GuardedBody<Stuck> {
        let (place, _) = Guests::new(1).enter(SocketAddr::from(([127, 0, 0, 1], 1)));
        let first = FirstMessage::new(time, place.badge().wait().expect("the first"));
        let parts = parts.iter().map(|part| Bytes::copy_from_slice(part)).collect();
        GuardedBody { body: Stuck(parts), welcome: Arc::default(), first: Some(first) }
    }

    async fn next(body: &mut GuardedBody<Stuck>) -> Result<usize, String> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.expect("no end");
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_length_is_judged_once_its_last_byte_is_there_however_it_comes() {
        // 65,536, or one more.
        for (last, fits) in [(0, true), (1, false)] {
            let mut body = guarded(&[&[0, 0], &[1, 0], &[last]]);
            assert_eq!((next(&mut body).await, next(&mut body).await), (Ok(2), Ok(2)));
            assert_eq!(next(&mut body).await.is_ok(), fits, "{last}");
        }
    }

    #[tokio::test]
    async fn a_second_message_needs_a_welcome() {
        let mut body = guarded(&[&[0, 0, 0, 0, 1, 7], &[0, 0, 0, 0, 0]]);
        assert_eq!(next(&mut body).await, Ok(6));
        let refused = next(&mut body).await.expect_err("a stranger's second message");
        assert!(refused.contains("begins with one message"), "{refused}");

        let mut body = guarded(&[&[0, 0, 0, 0, 1, 7], &[0, 0xff, 0, 0, 0]]);
        assert_eq!(next(&mut body).await, Ok(6));
        body.welcome.store(true, Ordering::Relaxed);
        assert_eq!(next(&mut body).await, Ok(5));
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_is_given_up_and_a_members_is_not() {
        let mut body = guarded_for(Duration::from_millis(1), &[&[0, 0, 0, 0]]);
        assert_eq!(next(&mut body).await, Ok(4));
        let error = next(&mut body).await.expect_err("given up");
        assert!(error.contains("did not arrive"), "{error}");

        // Its time is over, too.
        body.welcome.store(true, Ordering::Relaxed);
        let mut waiting = std::pin::pin!(next(&mut body));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
    }
}
