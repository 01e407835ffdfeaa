//! Space: the quota, which is the cluster's matter, and the free space of a disk, which is its node's.
//!
//! A node whose live bytes pass the quota raises the alarm NOSPACE through the log, so every node refuses the same commands;
//! it takes it back by itself below a low-water mark. A full disk is told to the node here alone.
//!
//! Never decides what is refused: that is the key space's word for the alarm, and the node's for the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_kv::{Actor, Alarm, AlarmCommand, AlarmKind, Command, Raised};
use quorate_node::{ClientOp, Input};
use quorate_raft::{NodeId, RoleKind};
use quorate_store::StateStore;

use super::core::Core;
use super::engine::Engine;

/// Writes are refused below this much free space, well before the log itself finds no room: deletes, compaction and
/// elections go on in what is left.
const MIN_FREE_BYTES: u64 = 32 * 1024 * 1024;
/// The alarm is taken back when live bytes are below this part of the quota, in percent.
const LOW_WATER_PERCENT: u64 = 90;
/// From this part of the quota on the log of the node warns, in percent. etcd's alert for the same begins at 95.
const WARN_PERCENT: u64 = 80;

impl Core {
    /// Compares the live bytes with the quota and the free space with what the log needs.
    pub(crate) fn look_at_space(&self, engine: &Arc<Engine>, store: &StateStore) {
        self.look_at_disk(engine);
        self.look_at_quota(engine, store.stats().totals.bytes);
        self.show_space(engine);
    }

    /// Tells the node whether its disk has room.
    pub(crate) fn tell_space(&self, engine: &Engine) {
        engine.tell(Input::DiskFull { yes: engine.is_disk_full() });
        self.show_space(engine);
    }

    fn look_at_disk(&self, engine: &Engine) {
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        let was = engine.disk_full.load(Ordering::Relaxed);
        let full = free < if was { 2 * MIN_FREE_BYTES } else { MIN_FREE_BYTES };
        if full != was {
            if full {
                tracing::error!(free, "the disk is full: writes are refused until there is space");
            } else {
                tracing::info!(free, "the disk has space again");
            }
            engine.disk_full.store(full, Ordering::Relaxed);
            self.tell_space(engine);
        }
    }

    fn look_at_quota(&self, engine: &Arc<Engine>, live: u64) {
        let quota = self.settings.quota_bytes;
        let own = Alarm { kind: AlarmKind::NoSpace, member: engine.identity.node_id.0 };
        let alarms = engine.view.alarms();
        if let Some(change) = due(live, quota, alarms.raised(own), own) {
            match change {
                AlarmCommand::Raise(_) => tracing::error!(live, quota, "the quota is passed: alarm NOSPACE"),
                AlarmCommand::Clear(_) => tracing::info!(live, quota, "below the low-water mark: no alarm any more"),
            }
            self.submit(engine, change);
            return;
        }
        let near = quota > 0 && live > percent(quota, WARN_PERCENT);
        if near != engine.near_quota.swap(near, Ordering::Relaxed) && near {
            tracing::warn!(live, quota, "more than {WARN_PERCENT} % of the quota are used");
        }
        // Whoever left cannot take its alarm back.
        let seen = engine.published.status();
        if seen.status.raft.role == RoleKind::Leader {
            let membership = engine.membership();
            let mut left = alarms.iter().filter(|alarm| !membership.is_member(NodeId(alarm.member)));
            if let Some(left) = left.find(|alarm| alarms.raised(*alarm) == Some(Raised::ByNode)) {
                self.submit(engine, AlarmCommand::Clear(left));
            }
        }
    }

    /// Proposes a change of alarms; one at a time. If it fails, the next look proposes it again.
    fn submit(&self, engine: &Arc<Engine>, change: AlarmCommand) {
        if engine.alarm_under_way.swap(true, Ordering::Relaxed) {
            return;
        }
        let engine = Arc::clone(engine);
        self.runtime.spawn(async move {
            let op = ClientOp::Write { actor: Actor::Node, command: Command::Alarm(change) };
            if let Err(error) = engine.ask(op).await {
                tracing::warn!(%error, "the alarm could not be changed yet");
            }
            engine.alarm_under_way.store(false, Ordering::Relaxed);
        });
    }

    fn show_space(&self, engine: &Engine) {
        let none = engine.has_no_space();
        self.change.send_if_modified(|change| std::mem::replace(&mut change.no_space, none) != none);
    }
}

impl Engine {
    fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed) || self.published.log_full()
    }

    /// Whether puts are refused here: for want of disk, or by the alarm of any member.
    pub(crate) fn has_no_space(&self) -> bool {
        self.is_disk_full() || self.view.alarms().is_raised(AlarmKind::NoSpace)
    }
}

/// What is to become of this node's alarm. One raised by hand is taken back by hand.
fn due(live: u64, quota: u64, raised: Option<Raised>, own: Alarm) -> Option<AlarmCommand> {
    match raised {
        None if quota > 0 && live > quota => Some(AlarmCommand::Raise(own)),
        Some(Raised::ByNode) if quota == 0 || live < percent(quota, LOW_WATER_PERCENT) => {
            Some(AlarmCommand::Clear(own))
        }
        _ => None,
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    of / 100 * percent + of % 100 * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Alarm = Alarm { kind: AlarmKind::NoSpace, member: 7 };

    #[track_caller]
    fn check(live: u64, quota: u64, raised: Option<Raised>, expected: Option<AlarmCommand>) {
        assert_eq!(due(live, quota, raised, OWN), expected, "{live} of {quota}, {raised:?}");
    }

    #[test]
    fn the_alarm_comes_above_the_quota_and_goes_below_the_low_water_mark() {
        check(1000, 1000, None, None);
        check(1001, 1000, None, Some(AlarmCommand::Raise(OWN)));
        check(1001, 1000, Some(Raised::ByNode), None);
        check(900, 1000, Some(Raised::ByNode), None);
        check(899, 1000, Some(Raised::ByNode), Some(AlarmCommand::Clear(OWN)));
        // Between the marks an alarm that was cleared by hand stays cleared.
        check(950, 1000, None, None);
    }

    #[test]
    fn an_alarm_raised_by_hand_is_left_to_hands() {
        check(0, 1000, Some(Raised::ByHand), None);
        check(2000, 1000, Some(Raised::ByHand), None);
    }

    #[test]
    fn without_a_quota_there_is_no_alarm() {
        check(u64::MAX, 0, None, None);
        check(u64::MAX, 0, Some(Raised::ByNode), Some(AlarmCommand::Clear(OWN)));
    }
}
