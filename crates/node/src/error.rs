//! Why a replica did not do what a client asked.

use std::time::Duration;

use quorate_raft::{LogIndex, NodeId};
use quorate_wire::peer::AdminRefused;

/// Why a request was refused. Texts that etcd has too are etcd's, because clients compare them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No leader within the request's time. The write did not happen.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The leader changed while a quorum was asked; ask again.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No answer in time. A write may have happened or may yet.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The same, and the leader was lost meanwhile.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// A snapshot was installed over the place where the write would have been seen: it may have happened.
    #[error("etcdserver: request timed out, possibly due to a snapshot installed over it")]
    OutcomeUnknown,
    /// A named limit is reached; the request did not happen.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// Larger than an entry may be.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// Disk or quota is full; reads, deletes and compaction go on.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The bound of a stale read cannot be kept.
    #[error("this node's state is {} old, more than the {} asked for", age(.staleness), millis(*.max))]
    StaleRead {
        /// How old it is; None = not known.
        staleness: Option<Duration>,
        /// What was asked for.
        max: Duration,
    },
    /// This node has no state yet: it joined or restarted and has not heard from a leader.
    #[error("this node has no state to read yet: it has not heard from a leader")]
    NoState,
    /// This node has left the cluster.
    #[error("this node was removed from the cluster")]
    NodeRemoved,
    /// This node's state diverged from the quorum's.
    #[error("this node is fenced: {0}")]
    Fenced(String),
    /// This node is stopping.
    #[error("etcdserver: server stopped")]
    Stopping,
    /// The configuration change at this index is not finished.
    #[error("another change of configuration is not finished (at log index {})", index.0)]
    MembershipBusy {
        /// Where it stands.
        index: LogIndex,
    },
    /// The configuration changed since the caller looked.
    #[error("the configuration has changed: it is now the one at log index {}", current.0)]
    StaleConfig {
        /// Where it stands.
        current: LogIndex,
    },
    /// No such member.
    #[error("node {0} is not a member of the cluster")]
    UnknownMember(NodeId),
    /// It left, and an id never comes back.
    #[error("node {0} was removed from the cluster for ever")]
    RemovedMember(NodeId),
    /// Only a voter can lead.
    #[error("node {0} is not a voter")]
    NotVoter(NodeId),
    /// The learner lags too far behind to become a voter.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    NotCaughtUp(NodeId),
    /// Too few of the voters that would remain are there: the change could not end.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Leadership did not move in time.
    #[error("leadership was not transferred: {0}")]
    TransferFailed(String),
}

impl From<AdminRefused> for NodeError {
    fn from(refused: AdminRefused) -> NodeError {
        match refused {
            AdminRefused::NotLeader => NodeError::LeaderChanged,
            AdminRefused::Busy { index } => NodeError::MembershipBusy { index },
            AdminRefused::StaleConfig { current } => NodeError::StaleConfig { current },
            AdminRefused::UnknownMember(id) => NodeError::UnknownMember(id),
            AdminRefused::Removed(id) => NodeError::RemovedMember(id),
            AdminRefused::NotVoter(id) => NodeError::NotVoter(id),
            AdminRefused::NotCaughtUp(id) => NodeError::NotCaughtUp(id),
            AdminRefused::Unhealthy => NodeError::Unhealthy,
            AdminRefused::Invalid(text) => NodeError::Invalid(text),
            AdminRefused::TransferFailed(text) => NodeError::TransferFailed(text),
            AdminRefused::TooManyRequests => NodeError::TooManyRequests,
        }
    }
}

fn age(staleness: &Option<Duration>) -> String {
    staleness.map_or_else(|| "of unknown age and possibly very".to_owned(), millis)
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
