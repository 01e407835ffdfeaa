//! Changes of the cluster itself: carried to the leader, served as the leader, and this node's own announcements.

use std::sync::Arc;

use quorate_raft::{Incarnation, NodeId, RequestId, Term, TransferFailed};
use quorate_wire::peer::{Admin, AdminOperation, AdminRefused, AdminReply, AdminSuccess, NodeState, PeerMessage};

use super::Node;
use crate::admin::{Asker, ServeRefused};
use crate::effect::Answer;
use crate::error::NodeError;

impl Node {
    /// Takes an administrator's request.
    pub(super) fn administrate(&mut self, request: RequestId, operation: AdminOperation) -> Result<(), NodeError> {
        self.admit()?;
        if self.admins.len() >= self.config.limits.max_admin_requests {
            return Err(NodeError::TooManyRequests);
        }
        let deadline = self.deadline();
        self.admins.push(Some(request), operation, deadline);
        Ok(())
    }

    /// Gives what waits to the leader, here or elsewhere. Without a leader it waits.
    pub(super) fn move_admin_requests(&mut self) {
        let Some(leader) = self.leader else { return };
        let resend_after = self.resend_after();
        for ready in self.admins.ready(leader, self.term, self.now, resend_after) {
            if leader == self.id {
                self.serve(Asker::Local(ready.number), ready.operation);
            } else {
                let admin = self.admins.message(ready);
                self.send(leader, PeerMessage::Admin(admin));
            }
        }
    }

    /// Another node asks this one as the leader.
    pub(super) fn serve_remote(&mut self, from: NodeId, admin: Admin) {
        // Silence where this node does not lead: the origin asks the next leader.
        if self.is_leader() && self.barred.is_none() {
            let asker = Asker::Remote { from, session: admin.session, request: admin.request };
            self.serve(asker, admin.operation);
        }
    }

    fn serve(&mut self, asker: Asker, operation: AdminOperation) {
        // For as many askers as each node may have waiting, twice over.
        let max = self.config.limits.max_admin_requests * 2 * (self.membership().members.len() + 1);
        let request = match self.admins.serve(asker, max) {
            Ok(request) => request,
            Err(ServeRefused::Again) => return,
            Err(ServeRefused::TooMany) => return self.admin_done(asker, Err(AdminRefused::TooManyRequests)),
        };
        self.raft(match operation {
            AdminOperation::SetVoters { target, expected } => {
                quorate_raft::Input::SetVoters { request, target, expected }
            }
            AdminOperation::ChangeMember(change) => quorate_raft::Input::ChangeMember { request, change },
            AdminOperation::UpdateMember { id, member } => quorate_raft::Input::UpdateMember { request, id, member },
            AdminOperation::RaiseVersion { version } => quorate_raft::Input::RaiseVersion { request, version },
            AdminOperation::TransferLeader { to } => quorate_raft::Input::TransferLeader { request, to },
        });
    }

    /// Consensus answered a request served here.
    pub(super) fn admin_done(&mut self, asker: Asker, result: Result<AdminSuccess, AdminRefused>) {
        match asker {
            Asker::Local(number) => self.admin_result(self.proposals.session(), number, result),
            Asker::Remote { from, session, request } => {
                self.send(from, PeerMessage::AdminReply(AdminReply { session, request, result }));
            }
        }
    }

    /// The leader answered a request of this node.
    pub(super) fn admin_answered(&mut self, reply: AdminReply) {
        // A node that no longer leads says so by accident only: the request stays and goes to the next leader.
        if reply.result != Err(AdminRefused::NotLeader) {
            self.admin_result(reply.session, reply.request, reply.result);
        }
    }

    fn admin_result(&mut self, session: Incarnation, number: u64, result: Result<AdminSuccess, AdminRefused>) {
        // None inside: this node's own announcement, which is made again if it did not work.
        let Some(Some(request)) = self.admins.answered(session, number) else { return };
        let answer = match result {
            Ok(AdminSuccess::Accepted { config_index }) => Answer::Accepted { config_index },
            Ok(AdminSuccess::Transferred) => Answer::Transferred,
            Err(refused) => Answer::Refused(refused.into()),
        };
        self.answer(request, answer);
    }

    pub(super) fn transfer_ended(&mut self, request: RequestId, result: Result<(), TransferFailed>) {
        self.proposals_blocked = false;
        self.transfer_for_stop_ended(request);
        if let Some(asker) = self.admins.served(request) {
            let result = match result {
                Ok(()) => Ok(AdminSuccess::Transferred),
                Err(failed) => Err(AdminRefused::TransferFailed(failed.to_string())),
            };
            self.admin_done(asker, result);
        }
    }

    /// Somebody leads a new term: transfers asked for in an earlier one have ended, one way or the other.
    pub(super) fn transfers_settled(&mut self, leader: NodeId, term: Term) {
        for (request, succeeded) in self.admins.leader_changed(leader, term) {
            let Some(request) = request else { continue };
            let answer = if succeeded {
                Answer::Transferred
            } else {
                Answer::Refused(NodeError::TransferFailed(format!("node {leader} leads now")))
            };
            self.answer(request, answer);
        }
    }

    /// Lets the configuration say about this node what is true, and as the leader raises the cluster version as soon as every
    /// member supports it.
    pub(super) fn announce(&mut self) {
        if self.leader.is_none() || self.now < self.announce_at || self.state() != NodeState::Member {
            return;
        }
        self.announce_at = self.now + self.resend_after();
        if self.admins.announcing() || self.raft.membership().0 != self.committed_membership.0 {
            return;
        }
        let deadline = self.deadline();
        let membership = Arc::clone(self.membership());
        // A node that was added before it was started comes by configurations that do not know its data directory yet.
        let known = membership.members.get(&self.id).filter(|known| known.is_bound() || mutant!(AnnouncesUnbound));
        if let Some(known) = known.filter(|known| **known != self.config.member) {
            assert_eq!(
                known.incarnation, self.config.member.incarnation,
                "the configuration knows this id under another incarnation"
            );
            let operation = AdminOperation::UpdateMember { id: self.id, member: self.config.member.clone() };
            self.admins.push(None, operation, deadline);
        } else if self.is_leader() {
            let started = membership.members.values().filter(|member| member.is_bound());
            let supported = started.map(|member| member.max_version).min();
            if let Some(version) = supported.filter(|version| *version > membership.cluster_version) {
                self.admins.push(None, AdminOperation::RaiseVersion { version }, deadline);
            }
        }
    }
}
