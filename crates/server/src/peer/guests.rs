//! Who is connected to the peer port, how well each is known, and who has to go when there are too many.
//!
//! Nobody is ever kept out by those who say nothing: a newcomer is let in, and the one that is known least goes, the oldest
//! of those first. A peer shows who it is in its first packets, so it is the oldest of the silent for a moment at most.
//!
//! Never reads from a connection.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::transport::server::Connected;

use crate::preface::Begun;

/// Calls of one connection at a time that have not been welcome yet. A member begins one on each.
const MAX_WAITING: usize = 4;

/// How well a connection is known; the first to go comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has not shown what it speaks.
    Silent,
    /// It speaks HTTP/2.
    Stranger,
    /// It greeted this node, and was welcome.
    Welcome,
}

/// All connections of one peer port.
#[derive(Debug, Clone)]
pub(crate) struct Guests {
    limit: usize,
    entered: Arc<Mutex<Entered>>,
}

#[derive(Debug, Default)]
struct Entered {
    last: u64,
    by_number: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    /// Dropped to send the connection away.
    _stay: oneshot::Sender<()>,
}

impl Guests {
    /// Room for `limit` connections.
    pub(crate) fn new(limit: usize) -> Guests {
        Guests { limit: limit.max(1), entered: Arc::default() }
    }

    /// A place for the next connection, and what resolves when it has to go. Sends another away if there are too many.
    pub(super) fn enter(&self, from: SocketAddr) -> (Place, oneshot::Receiver<()>) {
        let (stay, leave) = oneshot::channel();
        let mut entered = self.lock();
        if entered.by_number.len() >= self.limit {
            let least = entered.by_number.iter().min_by_key(|(number, entry)| (entry.standing, **number));
            if let Some(number) = least.map(|(number, _)| *number) {
                entered.by_number.remove(&number);
            }
        }
        entered.last += 1;
        let number = entered.last;
        entered.by_number.insert(number, Entry { standing: Standing::Silent, _stay: stay });
        drop(entered);
        (Place(Badge { guests: self.clone(), number, from, waiting: Arc::new(Semaphore::new(MAX_WAITING)) }), leave)
    }

    fn lock(&self) -> MutexGuard<'_, Entered> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names one connection, for the calls that come over it.
#[derive(Debug, Clone)]
pub(super) struct Badge {
    guests: Guests,
    number: u64,
    /// The other end.
    pub(super) from: SocketAddr,
    /// Its calls may still begin to wait for a welcome.
    waiting: Arc<Semaphore>,
}

impl Badge {
    /// It speaks HTTP/2.
    pub(super) fn spoke(&self) {
        self.rise_to(Standing::Stranger);
    }

    /// Its greeting was welcome.
    pub(super) fn welcome(&self) {
        self.rise_to(Standing::Welcome);
    }

    /// A call begins, which is not welcome yet; held until it is. `None` if there are too many.
    pub(super) fn wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    fn rise_to(&self, standing: Standing) {
        if let Some(entry) = self.guests.lock().by_number.get_mut(&self.number) {
            entry.standing = entry.standing.max(standing);
        }
    }
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(super) struct Place(Badge);

impl Place {
    pub(super) fn badge(&self) -> &Badge {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.guests.lock().by_number.remove(&self.0.number);
    }
}

/// A connection in its place; it breaks when it has to go.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) stream: Begun<TcpStream>,
    pub(super) place: Place,
    pub(super) leave: oneshot::Receiver<()>,
}

impl Connected for Guest {
    type ConnectInfo = Badge;

    fn connect_info(&self) -> Badge {
        self.place.badge().clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so this is where it learns of its end at once.
        if !self.leave.is_terminated() && Pin::new(&mut self.leave).poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    type Visitor = (Place, oneshot::Receiver<()>);

    fn enter(guests: &Guests) -> Visitor {
        guests.enter(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn has_to_go(visitor: &mut Visitor) -> bool {
        visitor.1.try_recv() == Err(TryRecvError::Closed)
    }

    #[test]
    fn as_many_as_the_limit_stay_and_one_more_sends_the_oldest_silent_one_away() {
        for count in [4, 5, 6] {
            let guests = Guests::new(5);
            let mut visitors: Vec<Visitor> = (0..count).map(|_| enter(&guests)).collect();
            let gone: Vec<usize> = (0..count).filter(|number| has_to_go(&mut visitors[*number])).collect();
            let expected: &[usize] = if count == 6 { &[0] } else { &[] };
            assert_eq!(gone, expected, "{count} came");
        }
    }

    #[test]
    fn whoever_is_known_better_stays_longer() {
        let guests = Guests::new(3);
        let (mut peer, mut stranger, mut silent) = (enter(&guests), enter(&guests), enter(&guests));
        peer.0.badge().welcome();
        peer.0.badge().spoke();
        stranger.0.badge().spoke();
        let mut next = enter(&guests);
        assert!(has_to_go(&mut silent), "the silent one goes first, though it came last");
        next.0.badge().spoke();
        let _newest = enter(&guests);
        assert!(has_to_go(&mut stranger) && !has_to_go(&mut next) && !has_to_go(&mut peer));
    }

    #[test]
    fn a_place_is_free_when_its_connection_ends() {
        let guests = Guests::new(2);
        let mut stays = enter(&guests);
        for _ in 0..10 {
            drop(enter(&guests));
        }
        assert!(!has_to_go(&mut stays));
    }
}
