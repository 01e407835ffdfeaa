//! Administrators' requests: carried to the leader until it answers, and answered for other nodes while leading.
//!
//! Every operation may be repeated without harm, so one is simply sent again when its answer stays away. The exception is a
//! transfer of leadership, which a later leader would carry out once more: it is settled by the change of leaders itself.
//!
//! The node's own announcements (changed addresses, a newer version) travel the same way, with nobody to answer.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_raft::{Incarnation, NodeId, Refused, RequestId, Term, Time};
use quorate_wire::peer::{Admin, AdminOperation, AdminRefused};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Admins {
    session: Incarnation,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    serving: BTreeMap<RequestId, Asker>,
}

#[derive(Debug)]
struct Pending {
    /// None = the node's own announcement.
    request: Option<RequestId>,
    operation: AdminOperation,
    deadline: Time,
    /// To whom it was given, in which term, and when.
    sent: Option<(NodeId, Term, Time)>,
}

/// Who is owed the answer to a request this node serves as the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This node's own pending request of this number.
    Local(u64),
    /// Another node's.
    Remote { from: NodeId, session: Incarnation, request: u64 },
}

/// A request that is ready to go.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) number: u64,
    pub(crate) operation: AdminOperation,
}

impl Admins {
    pub(crate) fn new(session: Incarnation) -> Admins {
        Admins { session, next: 1, pending: BTreeMap::new(), serving: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn push(&mut self, request: Option<RequestId>, operation: AdminOperation, deadline: Time) {
        let number = self.fresh();
        self.pending.insert(number, Pending { request, operation, deadline, sent: None });
    }

    /// Requests of clients that wait.
    pub(crate) fn clients(&self) -> usize {
        self.pending.values().filter(|pending| pending.request.is_some()).count()
    }

    /// Whether the node's own announcement is on its way.
    pub(crate) fn announcing(&self) -> bool {
        self.pending.values().any(|pending| pending.request.is_none())
    }

    /// Requests that the leader of `term` has not been asked yet, or too long ago; they count as asked now.
    pub(crate) fn ready(&mut self, leader: NodeId, term: Term, now: Time, resend_after: Duration) -> Vec<Ready> {
        let mut out = Vec::new();
        for (number, pending) in &mut self.pending {
            let due = match pending.sent {
                None => true,
                Some((to, of, sent)) => (to, of) != (leader, term) || sent + resend_after <= now,
            };
            if due {
                pending.sent = Some((leader, term, now));
                out.push(Ready { number: *number, operation: pending.operation.clone() });
            }
        }
        out
    }

    /// The message that carries a request to another node.
    pub(crate) fn message(&self, ready: Ready) -> Admin {
        Admin { session: self.session, request: ready.number, operation: ready.operation }
    }

    /// A handle for consensus, for a request this node serves. None = the same request is being served, or there are
    /// `max` already.
    pub(crate) fn serve(&mut self, asker: Asker, max: usize) -> Result<RequestId, ServeRefused> {
        if self.serving.values().any(|known| *known == asker) {
            return Err(ServeRefused::Again);
        }
        if self.serving.len() >= max {
            return Err(ServeRefused::TooMany);
        }
        let handle = RequestId(self.fresh());
        self.serving.insert(handle, asker);
        Ok(handle)
    }

    /// Consensus answered: who is owed it.
    pub(crate) fn served(&mut self, handle: RequestId) -> Option<Asker> {
        self.serving.remove(&handle)
    }

    /// A request of this node is answered: the client's handle, or None for an announcement. Outer None = not pending.
    pub(crate) fn answered(&mut self, session: Incarnation, number: u64) -> Option<Option<RequestId>> {
        if session != self.session {
            return None;
        }
        self.pending.remove(&number).map(|pending| pending.request)
    }

    /// The leader is `leader` of `term` now. Gives the transfers that this settles, and whether each succeeded.
    pub(crate) fn leader_changed(&mut self, leader: NodeId, term: Term) -> Vec<(Option<RequestId>, bool)> {
        // Whatever consensus was asked as an earlier leader is answered by nobody.
        self.serving.clear();
        let mut settled = Vec::new();
        self.pending.retain(|_, pending| {
            let AdminOperation::TransferLeader { to } = &pending.operation else { return true };
            let Some((from, of, _)) = pending.sent.filter(|(_, of, _)| *of < term) else { return true };
            assert!(of < term);
            settled.push((pending.request, to.map_or(leader != from, |to| to == leader)));
            false
        });
        settled
    }

    /// The stream to a node broke: what it was asked is asked again.
    pub(crate) fn peer_lost(&mut self, id: NodeId) {
        for pending in self.pending.values_mut() {
            if pending.sent.is_some_and(|(to, _, _)| to == id) {
                pending.sent = None;
            }
        }
    }

    pub(crate) fn cancel(&mut self, request: RequestId) {
        self.pending.retain(|_, pending| pending.request != Some(request));
    }

    /// Gives up requests whose time is over: the clients' handles, and whether a leader had been asked.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<(RequestId, bool)> {
        self.take(|pending| pending.deadline <= now)
    }

    /// Gives up everything.
    pub(crate) fn drain(&mut self) -> Vec<(RequestId, bool)> {
        self.take(|_| true)
    }

    /// The next moment after `now` at which time alone changes something. What is due to be sent again and was not, at
    /// `now`, waits for a leader.
    pub(crate) fn next_deadline(&self, now: Time, resend_after: Duration) -> Time {
        let due = |pending: &Pending| {
            let resend = pending.sent.map(|(_, _, sent)| sent + resend_after).filter(|at| *at > now);
            pending.deadline.min(resend.unwrap_or(Time::NEVER))
        };
        self.pending.values().map(due).min().unwrap_or(Time::NEVER)
    }

    fn take(&mut self, over: impl Fn(&Pending) -> bool) -> Vec<(RequestId, bool)> {
        let mut out = Vec::new();
        self.pending.retain(|_, pending| {
            let gone = over(pending);
            if gone {
                out.extend(pending.request.map(|request| (request, pending.sent.is_some())));
            }
            !gone
        });
        out
    }

    fn fresh(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServeRefused {
    /// It is being served: one answer is enough.
    Again,
    /// The limit is reached.
    TooMany,
}

/// The refusal to send to whoever asked; None = leave the request pending, another try may succeed.
pub(crate) fn refusal(reason: Refused) -> Option<AdminRefused> {
    Some(match reason {
        Refused::NotLeader { .. } | Refused::Transferring => return None,
        Refused::Busy { index } => AdminRefused::Busy { index },
        Refused::StaleConfig { current } => AdminRefused::StaleConfig { current },
        Refused::NotVoter { id } => AdminRefused::NotVoter(id),
        Refused::Removed { id } => AdminRefused::Removed(id),
        Refused::Unhealthy => AdminRefused::Unhealthy,
        Refused::NotCaughtUp { id } => AdminRefused::NotCaughtUp(id),
        Refused::UnknownMember { id } => AdminRefused::UnknownMember(id),
        Refused::Invalid(text) => AdminRefused::Invalid(text),
    })
}
