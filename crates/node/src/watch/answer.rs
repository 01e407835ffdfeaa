//! What watchers are told, and where it goes.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::Revision;

/// The id in answers that concern no watch or all watches of a stream.
pub(super) const NO_WATCH: i64 = -1;

/// One thing to tell a stream. They are told in the order they were put into its [`Outlet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The watch is there; its events follow.
    Created {
        /// Its id in this stream.
        id: i64,
        /// The current revision.
        revision: Revision,
    },
    /// There will be no watch.
    Refused {
        /// The current revision.
        revision: Revision,
        /// Why.
        reason: Refusal,
    },
    /// The watch ends because the client asked for it.
    Canceled {
        /// Its id.
        id: i64,
        /// The current revision.
        revision: Revision,
    },
    /// The watch ends because what it would be told next is forgotten.
    Compacted {
        /// Its id.
        id: i64,
        /// The oldest revision there is.
        compact_revision: Revision,
    },
    /// Everything up to `revision` was told.
    Progress {
        /// The watch, or -1 for all of the stream.
        id: i64,
        /// How far.
        revision: Revision,
    },
    /// Something happened.
    Events {
        /// The watches that are told, in order; never empty.
        ids: Arc<Vec<i64>>,
        /// The current revision.
        revision: Revision,
        /// What happened: one response, in the parts in which it is sent. Each watch is told all of them before the next one
        /// hears of the first, for clients put one response of a stream together at a time.
        parts: Arc<[Events]>,
    },
}

/// Events in their encoded form, shared by all who are told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The `events` fields of a response; [`quorate_wire::etcd::decode_events`] reads them.
    pub body: Bytes,
    /// How many.
    pub count: u32,
    /// The response goes on in the next part.
    pub fragment: bool,
}

impl Events {
    fn size(&self) -> usize {
        size_of::<Events>() + self.body.len()
    }
}

impl Answer {
    /// Bytes it keeps in memory while it waits, bodies shared with others included.
    #[must_use]
    pub fn size(&self) -> usize {
        let own = size_of::<Answer>();
        match self {
            Answer::Events { ids, parts, .. } => {
                own + parts.iter().map(Events::size).sum::<usize>() + size_of_val(&ids[..])
            }
            _ => own,
        }
    }
}

/// Why a watch was not created. The text is what the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key can be in the range.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The stream has a watch of this id.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    /// The first revision is negative.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeRevision,
    /// The stream has as many watches as one may have.
    #[error("etcdserver: too many watches on this stream: {limit} are allowed")]
    StreamFull {
        /// The limit.
        limit: usize,
    },
    /// The node has as many watches as one may have.
    #[error("etcdserver: too many watches on this node: {limit} are allowed")]
    NodeFull {
        /// The limit.
        limit: usize,
    },
    /// The caller may not read these keys; the text comes from whoever judged it.
    #[error("{0}")]
    Denied(String),
}

/// Why a stream ends though its client wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The client wants a leader to be known, and for long there was none.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The node stops, leaves the cluster or lost its state: another one serves.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// Where the answers of one stream go.
pub trait Outlet {
    /// Whether events may be put in. After a no, whoever empties the outlet has the driver look at
    /// [`super::Hub::behind`] again once there is room.
    fn has_room(&mut self) -> bool;

    /// Takes one answer. Those that are not events are taken without asking for room: each was asked for by the client.
    fn put(&mut self, answer: Answer);

    /// Nothing more comes.
    fn end(self, why: Ended);
}
