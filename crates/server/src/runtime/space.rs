//! Space: the quota, which is the cluster's matter, and the free space of a disk, which is its node's.
//!
//! A node whose live bytes pass the quota raises the alarm NOSPACE through the log, so every node refuses the same commands;
//! it takes it back by itself below a low-water mark, and the leader does it for whoever left or is away. A full disk is told to
//! the node here alone.
//!
//! Never decides what is refused: that is the key space's word for the alarm, and the node's for the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_kv::{Actor, Alarm, AlarmCommand, AlarmKind, Command, Raised};
use quorate_node::{ClientOp, Input};
use quorate_raft::{Membership, NodeId, RoleKind};
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
        let stats = store.stats();
        self.look_at_disk(engine, stats.checkpoint_bytes);
        self.look_at_quota(engine, stats.totals.bytes);
        self.show_space(engine);
    }

    /// Tells the node whether its disk has room.
    pub(crate) fn tell_space(&self, engine: &Engine) {
        engine.tell(Input::DiskFull { yes: engine.is_disk_full() });
        self.show_space(engine);
    }

    fn look_at_disk(&self, engine: &Engine, checkpoint_bytes: u64) {
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        let was = engine.disk_full.load(Ordering::Relaxed);
        let full = is_full(free, checkpoint_bytes, was);
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
        let seen = engine.published.status();
        let raft = &seen.status.raft;
        if raft.role == RoleKind::Leader {
            let by_nodes = alarms.iter().filter(|alarm| alarms.raised(*alarm) == Some(Raised::ByNode));
            let is_away = |id| raft.peer(id).is_some_and(|peer| !peer.recently_active);
            if let Some(alarm) = orphaned(by_nodes, &raft.membership, is_away, is_roomy(live, quota)) {
                tracing::info!(member = alarm.member, "its node left or is away: no alarm NOSPACE any more");
                self.submit(engine, AlarmCommand::Clear(alarm));
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

/// Whether growing writes are refused. Also for want of room for the next checkpoint, whatever took it: until one is made, the log
/// cannot be cut, and each write makes the next want more.
fn is_full(free: u64, checkpoint_bytes: u64, was_full: bool) -> bool {
    let needed = MIN_FREE_BYTES.max(checkpoint_bytes);
    free < if was_full { 2 * needed } else { needed }
}

/// What is to become of this node's alarm. One raised by hand is taken back by hand.
fn due(live: u64, quota: u64, raised: Option<Raised>, own: Alarm) -> Option<AlarmCommand> {
    match raised {
        None if quota > 0 && live > quota => Some(AlarmCommand::Raise(own)),
        Some(Raised::ByNode) if is_roomy(live, quota) => Some(AlarmCommand::Clear(own)),
        _ => None,
    }
}

/// An alarm for the leader to take back, among those that nodes raised, because its node cannot: it has left, or it is away while
/// there is room again. Should that node see it differently, it raises the alarm anew when it is back.
///
/// Alarms of other kinds stay: CORRUPT of the member 0 says that nobody knows whose state is right.
fn orphaned(
    mut by_nodes: impl Iterator<Item = Alarm>,
    membership: &Membership,
    is_away: impl Fn(NodeId) -> bool,
    roomy: bool,
) -> Option<Alarm> {
    by_nodes.find(|alarm| {
        let member = NodeId(alarm.member);
        alarm.kind == AlarmKind::NoSpace && (!membership.is_member(member) || roomy && is_away(member))
    })
}

fn is_roomy(live: u64, quota: u64) -> bool {
    quota == 0 || live < percent(quota, LOW_WATER_PERCENT)
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
    fn a_disk_is_full_below_what_the_log_or_the_next_checkpoint_needs_and_has_space_again_at_twice_that() {
        const MIB: u64 = 1 << 20;
        for (checkpoint_mib, needed_mib) in [(2, 32), (52, 52)] {
            let full = |free_mib, was| is_full(free_mib * MIB, checkpoint_mib * MIB, was);
            assert!(full(needed_mib - 1, false) && !full(needed_mib, false), "{checkpoint_mib}");
            assert!(full(2 * needed_mib - 1, true) && !full(2 * needed_mib, true), "{checkpoint_mib}");
        }
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
    fn the_leader_takes_back_what_a_node_that_left_or_is_away_cannot() {
        let members = [1, 2, 3].map(|id| (NodeId(id), quorate_raft::Member::default()));
        let membership = Membership { members: members.into(), ..Membership::default() };
        let cleared = |kind, member, roomy| {
            let by_nodes = [Alarm { kind, member }].into_iter();
            orphaned(by_nodes, &membership, |id| id == NodeId(3), roomy).is_some()
        };
        let full = AlarmKind::NoSpace;
        assert!(cleared(full, 9, false), "it has left");
        assert!(cleared(full, 3, true) && !cleared(full, 3, false), "away, and there is room, or none");
        assert!(!cleared(full, 2, true), "it does so itself");
        assert!(!cleared(AlarmKind::Corrupt, 0, true), "the doubt of all stays until somebody has looked");
    }

    #[test]
    fn without_a_quota_there_is_no_alarm() {
        check(u64::MAX, 0, None, None);
        check(u64::MAX, 0, Some(Raised::ByNode), Some(AlarmCommand::Clear(OWN)));
    }
}
