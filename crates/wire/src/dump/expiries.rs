//! Which expiries of a log ended their lease, and which were void: the log alone says so where it still has the renewal.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_kv::{ClusterTime, Command, DueLease, LeaseGrantRequest};

/// Follows the clock and the deadlines through a log, entry by entry.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    /// The store's revision after the last entry; 0 = not known.
    revision: i64,
    clock: ClusterTime,
    /// Time to live in seconds, and the deadline if an entry of this log set it.
    leases: BTreeMap<i64, (i64, ClusterTime)>,
}

impl Expiries {
    /// Takes in the next entry, after which the store is at `revision`; true if it is an expiry that changed nothing.
    pub(super) fn is_void(&mut self, command: Option<&Command>, revision: i64) -> bool {
        let before = std::mem::replace(&mut self.revision, revision);
        match command {
            Some(Command::Clock(now)) => self.clock = self.clock.max(*now),
            Some(Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds })) => {
                let ttl_seconds = (*ttl_seconds).max(1);
                let deadline = self.deadline(ttl_seconds);
                // A second grant of an id was refused.
                self.leases.entry(*id).or_insert((ttl_seconds, deadline));
            }
            Some(Command::LeaseRenew { ids }) => ids.iter().for_each(|id| self.renew(*id)),
            Some(Command::LeaseRevoke { id }) => drop(self.leases.remove(id)),
            Some(Command::LeaseExpire(due)) => return self.expire(*due, before > 0 && revision > before),
            _ => {}
        }
        false
    }

    fn deadline(&self, ttl_seconds: i64) -> ClusterTime {
        self.clock.after(Duration::from_secs(ttl_seconds.cast_unsigned()))
    }

    /// A lease granted before this log begins has a time to live that the log does not tell: only when it was renewed is
    /// known.
    fn renew(&mut self, id: i64) {
        let ttl_seconds = self.leases.get(&id).map_or(0, |(ttl_seconds, _)| *ttl_seconds);
        let deadline = if ttl_seconds > 0 { self.deadline(ttl_seconds) } else { self.clock };
        self.leases.insert(id, (ttl_seconds, deadline));
    }

    fn expire(&mut self, due: DueLease, changed: bool) -> bool {
        let renewed = match self.leases.get(&due.id) {
            // Only a deadline at or before the clock of the renewal is surely an older one.
            Some((0, renewed_at)) => due.deadline <= *renewed_at,
            Some((_, deadline)) => *deadline != due.deadline,
            None => false,
        };
        // What deleted keys ended its lease, whatever the log still tells of it.
        let void = !changed && renewed;
        if !void {
            self.leases.remove(&due.id);
        }
        void
    }
}
