//! Sends one image of the state to one peer, on a connection of its own.
//!
//! The image is read by a blocking task a few chunks ahead of the network; HTTP/2 flow control holds it back. The receiver
//! answers after it has verified the whole image, so "sent" means "lies beside the receiver's state".

use bytes::Bytes;
use quorate_proto::quorate::peer::v1 as proto;
use quorate_proto::quorate::peer::v1::peer_client::PeerClient;
use quorate_raft::{LogIndex, Term};
use quorate_wire::peer::Hello;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Dialer;
use super::dial::innermost;

/// Why a snapshot did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// The peer cannot be reached, or the connection broke.
    #[error("{0}")]
    Broken(String),
    /// The peer did not want it, or found it damaged.
    #[error("the peer refused the snapshot: {0}")]
    Refused(String),
    /// The image could not be read here.
    #[error("the image cannot be read: {0}")]
    Unreadable(String),
}

/// Sends what `chunks` yields to `address`; answers the index the peer acknowledged.
pub(crate) async fn send_snapshot(
    dialer: Dialer,
    address: &str,
    hello: &Hello,
    term: Term,
    chunks: mpsc::Receiver<Result<Bytes, String>>,
    sent_bytes: prometheus::IntCounter,
) -> Result<LogIndex, SendError> {
    let channel = dialer.connect(address).await.map_err(SendError::Broken)?;
    let mut start = Some(proto::SnapshotStart { hello: Some(hello.to_wire()), term: term.0 });
    let (unreadable, mut read_error) = mpsc::channel(1);
    // An unreadable image ends the stream early; the receiver then finds it not whole and forgets it.
    let stream = ReceiverStream::new(chunks).map_while(move |chunk| match chunk {
        Ok(data) => {
            sent_bytes.inc_by(data.len() as u64);
            Some(proto::SnapshotChunk { start: start.take(), data })
        }
        Err(text) => {
            // The channel has room for the one error there can be.
            let _ = unreadable.try_send(text);
            None
        }
    });
    let answer = PeerClient::new(channel).snapshot(stream).await;
    if let Ok(text) = read_error.try_recv() {
        return Err(SendError::Unreadable(text));
    }
    let answer = answer.map_err(|status| SendError::Broken(format!("{address}: {}", innermost(&status))))?.into_inner();
    if answer.accepted { Ok(LogIndex(answer.index)) } else { Err(SendError::Refused(answer.refusal)) }
}
