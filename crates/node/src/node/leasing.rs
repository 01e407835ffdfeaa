//! What a leader does for leases: it stamps the commands that count from the clock, keeps the clock in the log while there
//! is a lease, and proposes the end of those whose deadline has come.
//!
//! The leases themselves are in the state machine. Which are due is asked of the caller, a batch at a time; the next batch
//! waits until the one before is applied, else the same leases would be found again. A leader that fails half-way leaves
//! nothing behind: the next one finds what is still due.
//!
//! A leader whose state machine is so far behind that it refuses renewals ends no lease either, and none for a moment after:
//! whoever was refused asks again. That moment counts for leases that were not due in the backlog, too: they are refused all the
//! same. The clock goes on all the while, so a lease that nobody renews is due then at once. A backlog that does not end holds
//! each batch for a while only: else who died would keep its locks as long as others are busy.
//!
//! The same holds while writes wait for room at the leader, or are refused for want of it: an expiry waits for nothing, and would
//! come before a renewal that was there in time. Under a load that goes on for longer than leases are held, renewals get through
//! because they are taken past the limits of other writes, and what the leader took from others is proposed first.
//!
//! Never: a word while there is no lease.

use std::time::Duration;

use bytes::Bytes;
use quorate_kv::{Actor, ClusterTime, Command, DueLease};
use quorate_raft::{LogIndex, Time};
use quorate_wire::{Envelope, encode_envelope};

use super::Node;
use crate::effect::Effect;

/// How long after its deadline a lease is looked for: those that run out in this time end together, and an answer on its
/// way to the holder has this much.
const GATHERING: Duration = Duration::from_millis(100);

/// For how long after a backlog no lease is ended: etcd's clients renew again half a second after a renewal was refused.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// For how long at most a backlog keeps due leases alive.
const MOST_HELD: Duration = Duration::from_secs(10);

/// Leases ended by one batch of entries.
const MAX_EXPIRIES: usize = 1000;

/// Numbers of the commands that a leader makes itself stand apart from those of requests.
const FIRST_OWN_SEQUENCE: u64 = 1 << 63;

/// How far the search for due leases is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Expiring {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The caller was asked which leases are due.
    Asked,
    /// The state machine has to get past this index first.
    Applying { past: LogIndex },
    /// Leases are due, and renewals were refused until just now: nothing is asked before that is a moment ago, or `most` has come.
    Held { most: Time },
}

impl Node {
    /// A leader's duties for leases, once it has proposed what it has room for.
    pub(super) fn move_leases(&mut self) {
        if !self.is_leader() {
            return;
        }
        if self.is_behind() || self.writes_wait() {
            self.hold_leases();
        }
        if self.proposals_blocked {
            return;
        }
        if !self.clock.has_begun() {
            if self.applied.term != self.term {
                return;
            }
            self.clock.begin(self.now);
        }
        if let Expiring::Applying { past } = self.expiring
            && self.applied.index >= past
        {
            self.expiring = Expiring::Idle;
        }
        let Some(deadline) = self.applied.leases.next_deadline else { return };
        let is_due = self.expire_at(deadline).is_some_and(|at| at <= self.now);
        if !is_due && matches!(self.expiring, Expiring::Held { .. }) {
            // They were renewed. What falls due next was refused until just now as they were.
            self.expiring = Expiring::Idle;
        }
        if is_due && self.may_ask() {
            let until = self.clock.now(self.now).expect("a deadline has come").before(GATHERING);
            let max = MAX_EXPIRIES.min(self.config.raft.max_append_entries.max(2) - 1);
            self.expiring = Expiring::Asked;
            self.effects.push(Effect::FindDueLeases { until, max });
        }
        if self.clock.log_at(deadline).is_some_and(|at| at <= self.now) {
            self.propose_own(&[]);
        }
    }

    /// Renewals are refused, or wait, at this moment.
    pub(super) fn hold_leases(&mut self) {
        self.renewals_refused_until = self.now + SECOND_CHANCE;
    }

    /// Whether it is time to ask which leases are due, of which there are some. Refused renewals put it off.
    fn may_ask(&mut self) -> bool {
        let most = match self.expiring {
            Expiring::Asked | Expiring::Applying { .. } => return false,
            Expiring::Idle if self.renewals_refused_until <= self.now => return true,
            Expiring::Idle => self.now + MOST_HELD,
            Expiring::Held { most } => most,
        };
        self.expiring = Expiring::Held { most };
        self.renewals_refused_until.min(most) <= self.now
    }

    /// The caller found these leases due.
    pub(super) fn leases_due(&mut self, due: Vec<DueLease>) {
        if self.expiring != Expiring::Asked {
            // Asked by this node in an earlier term.
            return;
        }
        // Nothing: they ended in what is being applied.
        let mut past = self.applied.index.next();
        if !due.is_empty() && self.is_leader() {
            let commands: Vec<Command> = due.into_iter().map(Command::LeaseExpire).collect();
            past = self.propose_own(&commands).unwrap_or(past);
        }
        self.expiring = Expiring::Applying { past };
    }

    /// When time alone makes a leader do something for leases.
    pub(super) fn next_lease_deadline(&self) -> Time {
        let Some(deadline) = self.applied.leases.next_deadline.filter(|_| !self.proposals_blocked) else {
            return Time::NEVER;
        };
        let expire = match self.expiring {
            Expiring::Idle => self.expire_at(deadline),
            Expiring::Held { most } => Some(self.renewals_refused_until.min(most)),
            Expiring::Asked | Expiring::Applying { .. } => None,
        };
        expire.unwrap_or(Time::NEVER).min(self.clock.log_at(deadline).unwrap_or(Time::NEVER))
    }

    fn expire_at(&self, deadline: ClusterTime) -> Option<Time> {
        self.clock.when(deadline.after(GATHERING))
    }

    /// The role or the term changed.
    pub(super) fn forget_lease_duties(&mut self) {
        self.clock.end();
        self.expiring = Expiring::Idle;
    }

    /// The command that says what time it is, if the log does not say so yet.
    pub(super) fn stamp(&mut self) -> Option<(ClusterTime, Bytes)> {
        let clock = self.clock.stamp(self.now)?;
        Some((clock, self.own_envelope(Command::Clock(clock))))
    }

    /// Proposes commands that no request asked for, with the clock in front; gives the index of the last.
    pub(super) fn propose_own(&mut self, commands: &[Command]) -> Option<LogIndex> {
        let stamp = self.stamp();
        let envelopes = commands.iter().map(|command| self.own_envelope(command.clone())).collect();
        self.append(stamp, envelopes).ok().map(|appended| appended.last)
    }

    fn own_envelope(&mut self, command: Command) -> Bytes {
        self.own_commands += 1;
        encode_envelope(&Envelope {
            origin: self.id,
            incarnation: self.proposals.session(),
            sequence: FIRST_OWN_SEQUENCE + self.own_commands,
            actor: Actor::Node,
            command,
        })
    }
}
