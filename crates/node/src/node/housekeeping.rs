//! What a replica does for itself: image streams, the length of its log, the comparison of state hashes.

use quorate_kv::{Alarm, AlarmCommand, AlarmKind, Command, Digest};
use quorate_raft::{LogIndex, NodeId, ReplicationState, Status};
use quorate_wire::peer::{NodeState, PeerMessage};

use super::Node;
use crate::divergence::Verdict;
use crate::effect::Effect;
use crate::input::AppliedState;

impl Node {
    pub(super) fn begin_streams(&mut self) {
        while let Some(to) = self.streams.begin(self.applied.index, self.config.limits.max_snapshot_streams) {
            self.effects.push(Effect::SendSnapshot { to, term: self.term });
        }
    }

    /// Lets go of the part of the log that nobody needs.
    pub(super) fn cut_log(&mut self) {
        // The followers' needs cost a copy of the status: looked up only when there may be something to cut.
        let retention = &self.config.retention;
        let applied = self.applied.index;
        if !self.log_size.may_cut(retention, applied, self.durable_applied) || mutant!(LogNeverCut) {
            return;
        }
        let status = self.raft.status();
        // Consensus counts an image as applied only when every earlier write is done.
        let durable_applied = self.durable_applied.min(status.applied);
        let needed = self.needed_after(&status);
        if let Some(up_to) = self.log_size.cut(&self.config.retention, applied, durable_applied, needed) {
            self.raft(quorate_raft::Input::Compact { up_to });
        }
    }

    /// The log after this index is still needed by a follower that is alive: without it an image would be sent again and
    /// again, each outdated when it arrives (hashicorp/consul#9609). Nobody's on a node that does not lead.
    fn needed_after(&self, status: &Status) -> Option<LogIndex> {
        let alive = status.peers.iter().filter(|(_, peer)| peer.recently_active);
        let needs = alive.filter_map(|(id, peer)| match peer.state {
            ReplicationState::Snapshot => Some(self.streams.needed_after(*id).unwrap_or(self.applied.index)),
            // What it lacks is gone: it will get an image, however much of the log is kept.
            _ if peer.next < status.first => None,
            // Its disk may have confirmed nothing yet. Right after an image was sent, entries by the thousand may come before
            // it does: cut by what is confirmed, they would cost it a second image, and a third.
            ReplicationState::Probe => Some(peer.next.previous()),
            ReplicationState::Replicate => Some(peer.matched),
        });
        needs.min()
    }

    /// The state machine stands at a new place: if it is one to compare, tell the leader, or judge.
    pub(super) fn compare_digest(&mut self, state: AppliedState) {
        if !self.divergence.applied(state.index, state.digest) {
            return;
        }
        if self.is_leader() {
            self.judge(self.id, state.index, state.digest);
        } else if let Some(leader) = self.leader {
            self.send(leader, PeerMessage::Digest { index: state.index, digest: state.digest });
        }
    }

    /// A node tells this one as the leader what its state hash is.
    pub(super) fn digest_reported(&mut self, from: NodeId, index: LogIndex, digest: Digest) {
        if self.is_leader() {
            self.judge(from, index, digest);
        }
    }

    fn judge(&mut self, from: NodeId, index: LogIndex, digest: Digest) {
        match self.divergence.report(from, index, digest, self.raft.membership().1) {
            None => {}
            Some(Verdict::Undecided) => self.alarm_of_doubt(),
            Some(Verdict::Agreed { index, digest, divergent }) => {
                for id in divergent {
                    if id == self.id {
                        self.fence(index, digest);
                    } else {
                        self.send(id, PeerMessage::Diverged { index, digest });
                    }
                }
            }
        }
    }

    /// Nobody knows whose state is right: the whole cluster stops serving data until somebody has looked. As in etcd, member 0
    /// stands for "one of them".
    fn alarm_of_doubt(&mut self) {
        if self.doubt_alarmed {
            return;
        }
        let alarm = Command::Alarm(AlarmCommand::Raise(Alarm { kind: AlarmKind::Corrupt, member: 0 }));
        // Where it cannot be proposed now, the next comparison does.
        self.doubt_alarmed = self.propose_own(&[alarm]).is_some();
    }

    /// The leader says that a quorum has another state hash. This node's own record decides.
    pub(super) fn diverged(&mut self, from: NodeId, index: LogIndex, digest: Digest) {
        if self.leader == Some(from) && self.divergence.contradicts(index, digest) {
            self.fence(index, digest);
        }
    }

    fn fence(&mut self, index: LogIndex, digest: Digest) {
        let reason = format!(
            "its state differs from the quorum's at log index {index}, where that has the hash {digest}: \
             reset this node and let it be seeded again"
        );
        self.bar(NodeState::Fenced, reason);
    }
}
