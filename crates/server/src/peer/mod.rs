//! The peer port: one long-lived outgoing stream to each other node, and the incoming streams of all of them.
//!
//! A node sends on streams it opened and receives on streams others opened; an answer travels on the answering node's own
//! stream. Snapshots have connections of their own, so that a heartbeat never waits behind one.
//!
//! Never decides who belongs to the cluster: every stream begins with a [`Hello`] that the [`Host`] judges. Consensus
//! tolerates loss, so every queue here may drop; it then says so with [`Host::peer_overrun`].
//!
mod dial;
mod greeting;
mod guests;
mod identify;
mod link;
mod listener;
mod outbox;
mod service;
mod snapshot;

use std::time::Duration;

use bytes::Bytes;
use quorate_raft::{LogIndex, NodeId, Term};
use quorate_wire::peer::{Hello, HelloRefused, PeerIdentity};
use quorate_wire::{Bootstrap, PeerMessage};

pub(crate) use dial::Dialer;
pub(crate) use guests::Guests;
pub use identify::IdentifyError;
pub(crate) use identify::identify;
pub(crate) use link::{Links, Peer};
pub(crate) use listener::serve;
pub(crate) use snapshot::send_snapshot;

/// A frame is closed once it holds this many bytes of messages.
pub(crate) const FRAME_TARGET_BYTES: usize = 1024 * 1024;
/// Bytes queued for one peer; past it the oldest messages are dropped.
pub(crate) const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// Messages queued for one peer; past it the oldest are dropped.
pub(crate) const MAX_QUEUED_MESSAGES: usize = 16 * 1024;
/// Messages kept for a peer while no stream to it is open: enough for an election, too few to matter.
pub(crate) const MAX_UNCONNECTED_MESSAGES: usize = 64;
/// A connection that does not come about in this time is given up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The first wait between two dials; it doubles up to [`MAX_REDIAL`].
pub(crate) const MIN_REDIAL: Duration = Duration::from_millis(20);
/// The longest wait between two dials of a peer that cannot be reached.
pub(crate) const MAX_REDIAL: Duration = Duration::from_millis(500);
/// The wait after a peer refused the stream: it will go on refusing until somebody acts.
pub(crate) const REFUSED_REDIAL: Duration = Duration::from_secs(2);
/// A peer is dialled again whose host acknowledges nothing of what was sent for this long, or takes nothing more. TCP counts: on a
/// narrow link with megabytes under way something is acknowledged all the time, though a question asked behind them has no
/// answer for long. Several [`PROBE_INTERVAL`]s, since a probe that is lost is not sent again.
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The host at the other end of an idle connection is asked this often whether it is there.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that leaves an HTTP/2 ping unanswered for this long is dialled again: its host is there, and it hangs.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing was read for this long is pinged.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Receive windows of a peer connection in bytes, of a stream and of all of them: several full appends in flight.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// What this host holds of a connection before the network takes it; the kernel keeps up to twice as much. A ping waits behind all
/// of it, so it has to be through in [`PING_TIMEOUT`].
pub(crate) const SEND_BUFFER_BYTES: usize = 512 * 1024;
/// The first message of a call must arrive in this time.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// So must the next part of an image: its sender may live and hang on its disk.
pub(crate) const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the peer port needs of the node behind it.
#[tonic::async_trait]
pub(crate) trait Host: Send + Sync + 'static {
    /// The greeting this node sends to `to`; `None` while it belongs to no cluster.
    fn hello(&self, to: Peer) -> Option<Hello>;
    /// Judges an incoming stream. Welcoming one may make an empty node adopt the id it is called by, durably, before this
    /// returns. Answers this node's own greeting.
    async fn welcome(&self, hello: &Hello) -> Result<Hello, HelloRefused>;
    /// Messages of a welcomed stream, in order. Waits while the node is behind with its input.
    async fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>);
    /// The stream to `id` broke: what was sent last may be lost.
    fn peer_lost(&self, id: NodeId);
    /// Messages to `id` were dropped, for too many wait for it.
    fn peer_overrun(&self, id: NodeId);
    /// `peer` refused this node's stream.
    fn refused_by(&self, peer: NodeId, refusal: HelloRefused);
    /// Answers `Identify`.
    fn identity(&self) -> PeerIdentity;
    /// Accepts a bootstrap configuration durably, or says why not.
    async fn bootstrap(&self, bootstrap: Bootstrap) -> Result<(), String>;
    /// Begins to receive a snapshot from `from`, leader of `term`.
    async fn receive_snapshot(&self, from: NodeId, term: Term) -> Result<Box<dyn ImageSink>, String>;
}

/// Takes the bytes of one image. Dropped before [`ImageSink::finish`], it forgets them.
#[tonic::async_trait]
pub(crate) trait ImageSink: Send {
    /// The next bytes of the image.
    async fn write(&mut self, data: Bytes) -> Result<(), String>;
    /// Resolves, with the reason, when another image is to be received in place of this one.
    async fn overtaken(&mut self) -> String;
    /// All bytes were written: verifies the image and hands it to the node. Answers its index.
    async fn finish(self: Box<Self>) -> Result<LogIndex, String>;
}
