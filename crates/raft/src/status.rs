//! What a node can be asked about itself. Owns the shapes; a status is a copy and steers nothing.

use std::sync::Arc;

use crate::ids::{LogIndex, NodeId, Term, Time};
use crate::membership::Membership;

/// A role without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads its term.
    Leader,
}

/// How a leader feeds one follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicationState {
    /// Looks for the place where the logs agree, one append at a time.
    Probe,
    /// Streams entries ahead of the answers.
    Replicate,
    /// Waits for an image to arrive.
    Snapshot,
}

/// A leader's view of one follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// The follower's disk holds the leader's log up to here.
    pub matched: LogIndex,
    /// The next index to send.
    pub next: LogIndex,
    /// How it is fed.
    pub state: ReplicationState,
    /// Heard from within the last election timeout.
    pub recently_active: bool,
    /// Entry bytes sent and not yet answered.
    pub inflight_bytes: usize,
}

/// A node's view of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// The leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Its vote in the term.
    pub vote: Option<NodeId>,
    /// First entry still held; one after `last` if none is.
    pub first: LogIndex,
    /// Last entry.
    pub last: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Last entry on disk.
    pub durable: LogIndex,
    /// Committed up to here.
    pub commit: LogIndex,
    /// Applied up to here.
    pub applied: LogIndex,
    /// The configuration in force.
    pub membership: Arc<Membership>,
    /// The entry that set it.
    pub membership_index: LogIndex,
    /// The newest committed configuration.
    pub committed_membership: Arc<Membership>,
    /// The entry that set it.
    pub committed_membership_index: LogIndex,
    /// The followers, on a leader, in the order of their ids.
    pub peers: Vec<(NodeId, PeerStatus)>,
    /// End of the lease, on a leader that has one; may be past.
    pub lease_until: Option<Time>,
    /// When the newest round was sent that a quorum has answered, on a leader.
    pub last_quorum_round: Option<Time>,
    /// To whom leadership is being handed over.
    pub transferring_to: Option<NodeId>,
    /// Bytes of appended entries that are not committed.
    pub pending_bytes: usize,
    /// Whether the node neither asks for votes nor grants them.
    pub campaigning_stopped: bool,
}

impl Status {
    /// The leader's view of `id`; None on a node that does not lead, and of who is no follower.
    pub fn peer(&self, id: NodeId) -> Option<&PeerStatus> {
        let at = self.peers.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.peers[at].1)
    }
}
