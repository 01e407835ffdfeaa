//! Power cuts at any storage call of a whole node: log, state, checkpoints, index images, compaction, installs.
//!
//! What must hold after each: the state is as of one index, no older than its last checkpoint; it is the state that
//! history has at that index; the log takes over where it ends; together they bring back all that was acknowledged.

use std::sync::Arc;

use quorate_kv::{Command, CompactRequest, Digest, PutRequest, Revision};
use quorate_raft::{Entry, HardState, LogIndex, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{Disk, LogWrite, OpenedStores, SnapshotSink, StateStore, WriteError};

use crate::dice::{Dice, seeds};
use crate::fixture::{
    CLUSTER, INCARNATION, Reference, entries, everything, identity, member, membership, options, write,
};
use crate::space::command;

const SEEDS: u64 = 40;
const CRASHES_A_SEED: u32 = 10;

/// What was promised to the world outside.
#[derive(Debug, Default)]
struct Promised {
    logged: u64,
    checkpointed: u64,
}

pub(crate) struct Run {
    seed: u64,
    dice: Dice,
    pub(crate) disk: FaultyDisk,
    node: Option<OpenedStores>,
    reference: Reference,
    promised: Promised,
    /// Another member, a little ahead, on a disk without faults.
    peer: OpenedStores,
    installs: u64,
}

pub(crate) type Stopped = Box<dyn std::error::Error>;

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = FaultyDisk::new();
        let node = Some(member(&disk));
        Self {
            seed,
            dice: Dice::new(seed),
            disk,
            node,
            reference: Reference::new(seed),
            promised: Promised::default(),
            peer: member(&FaultyDisk::new()),
            installs: 0,
        }
    }

    pub(crate) fn node(&mut self) -> &mut OpenedStores {
        self.node.as_mut().expect("open")
    }

    /// Writes what is applied, and promises it.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Stopped> {
        let durable = self.node().state.checkpoint()?;
        self.promised.checkpointed = durable.0;
        Ok(())
    }

    fn step(&mut self) -> Result<(), Stopped> {
        match self.dice.below(16) {
            0..6 => self.append(),
            6..10 => self.apply(),
            10 => self.checkpoint(),
            11 => {
                let keys = 1 + self.dice.below(20) as usize;
                self.node().state.compact_step(keys)?;
                Ok(())
            }
            12 => Ok(self.node().state.view().write_index_image()?),
            13 => {
                let durable = self.node().state.stats().durable_applied;
                self.node().log.truncate_prefix(durable)?;
                Ok(())
            }
            14 => self.install(),
            _ => self.restart(),
        }
    }

    pub(crate) fn append(&mut self) -> Result<(), Stopped> {
        let first = self.node().log.stats().last.0 + 1;
        let last = first + self.dice.below(8);
        self.reference.advance(last);
        let write = write(entries(self.seed, first..=last));
        self.node().log.append(&[write])?;
        self.promised.logged = last;
        Ok(())
    }

    pub(crate) fn apply(&mut self) -> Result<(), Stopped> {
        let max_bytes = 1 + self.dice.below(8000) as usize;
        let node = self.node();
        let next = LogIndex(node.state.position().index.0 + 1);
        let entries = node.log.entries(next, max_bytes)?;
        if !entries.is_empty() {
            node.state.apply(&entries)?;
        }
        Ok(())
    }

    pub(crate) fn install(&mut self) -> Result<(), Stopped> {
        let target = self.node().log.stats().last.0 + self.dice.below(5);
        let ahead = self.peer.state.position().index.0;
        if target > ahead {
            self.peer.state.apply(&entries(self.seed, ahead + 1..=target))?;
            self.peer.state.compact_step(15)?;
        }
        let target = self.peer.state.position().index.0;
        self.reference.advance(target);
        let source = self.peer.state.snapshot()?;
        let mut sink: SnapshotSink = self.node().state.receive_snapshot(CLUSTER)?;
        for chunk in source {
            sink.push(&chunk?)?;
        }
        let received = sink.finish()?;
        let meta = self.node().state.install(received)?;
        self.promised.checkpointed = meta.index.0;
        self.node().log.reset_to(&meta)?;
        self.promised.logged = meta.index.0;
        self.installs += 1;
        Ok(())
    }

    /// A clean stop and start, with its index image.
    fn restart(&mut self) -> Result<(), Stopped> {
        let OpenedStores { state, log, .. } = self.node.take().expect("open");
        let applied = state.position().index.0;
        let closed = state.close();
        drop(log);
        closed?;
        self.promised.checkpointed = applied;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.node = Some(options().open(&disk, INCARNATION)?);
        Ok(())
    }

    /// Loses power and starts again, with the power failing now and then during the start.
    pub(crate) fn crash(&mut self) {
        self.disk.crash(&mut self.dice);
        self.node = None;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        loop {
            if self.dice.chance(3) {
                self.disk.cut_power_after(1 + self.dice.below(25));
            }
            let opened = options().open(&disk, INCARNATION);
            if self.disk.is_power_cut() {
                drop(opened);
                self.disk.crash(&mut self.dice);
                continue;
            }
            self.node = Some(opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)));
            break;
        }
        self.disk.call_off_faults();
    }

    pub(crate) fn assert_recovered(&mut self) {
        let seed = self.seed;
        let node = self.node.as_mut().expect("open");
        let recovered = node.log.recovered();
        let applied = node.state.position().index;
        assert_eq!(recovered.identity, Some(identity()), "seed {seed}");
        assert_eq!(node.recovered.base, recovered.base, "seed {seed}");
        assert!(applied.0 >= self.promised.checkpointed, "seed {seed}: {applied} {:?}", self.promised);
        assert!(recovered.base.0 <= applied, "seed {seed}: entries between state and log are gone");
        assert!(recovered.last.0 >= self.promised.logged, "seed {seed}: {} {:?}", recovered.last, self.promised);
        let (digest, revision): (Digest, Revision) = self.reference.after(applied);
        assert_eq!(node.state.view().digest(), (applied, digest), "seed {seed}");
        assert_eq!(node.state.view().revision(), revision, "seed {seed}");
        node.state.check();
        node.log.check();
        // What was in flight and got lost is written again; then everything must be there.
        let missing = recovered.last.0 + 1..=self.reference.last();
        if !missing.is_empty() {
            node.log.append(&[write(entries(seed, missing))]).expect("no fault");
        }
        let rest = node.log.entries(LogIndex(applied.0 + 1), usize::MAX).expect("sound");
        if !rest.is_empty() {
            node.state.apply(&rest).expect("sound");
        }
        self.reference.assert_same(&node.state.view());
        self.promised.logged = self.reference.last();
        self.promised.checkpointed = node.state.stats().durable_applied.0;
    }
}

#[test]
fn after_a_power_cut_state_and_log_bring_back_what_was_acknowledged() {
    let mut installs = 0;
    let seeds = seeds(SEEDS);
    for seed in 0..seeds {
        let mut run = Run::new(seed);
        for _ in 0..CRASHES_A_SEED {
            let calls = 1 + run.dice.below(400);
            run.disk.cut_power_after(calls);
            loop {
                if let Err(error) = run.step() {
                    assert!(run.disk.is_power_cut(), "seed {seed}: {error}");
                    break;
                }
            }
            run.crash();
            run.assert_recovered();
        }
        installs += run.installs;
    }
    assert!(installs > seeds, "snapshots were installed {installs} times");
}

/// Each storage call of one install in turn is the last.
#[test]
fn an_install_that_is_cut_short_leaves_the_old_state_or_the_new() {
    let (mut old, mut new) = (0, 0);
    for cut_after in 1.. {
        let mut run = Run::new(1);
        for _ in 0..6 {
            run.append().expect("no fault");
            run.apply().expect("no fault");
        }
        run.promised.checkpointed = run.node().state.checkpoint().expect("no fault").0;
        let before = run.node().state.position().index;
        run.disk.cut_power_after(cut_after);
        let ended = run.install().is_ok();
        let after = run.peer.state.position().index;
        assert!(after > before);
        run.crash();
        let found = run.node().state.position().index;
        assert!(found == before || found == after, "cut after {cut_after}: {found}");
        if found == before {
            old += 1
        } else {
            new += 1
        }
        run.assert_recovered();
        if ended {
            break;
        }
    }
    assert!(old > 3 && new > 3, "old {old}, new {new}");
}

/// A process is killed at each storage call of an install in turn and starts again, on names that no sync has made durable:
/// what it then builds on them must outlive a loss of power.
#[test]
fn a_start_makes_names_durable_before_it_builds_on_them() {
    let mut new = 0;
    for cut_after in 1.. {
        let mut run = Run::new(4);
        run.append().expect("no fault");
        run.disk.cut_power_after(cut_after);
        let ended = run.install().is_ok();
        let installed = run.peer.state.position().index;
        run.disk.kill();
        run.node = None;
        let disk: Arc<dyn Disk> = Arc::new(run.disk.clone());
        let opened = options().open(&disk, INCARNATION).expect("sound");
        let found = opened.state.position().index;
        new += u64::from(found == installed);
        // Nothing survives but what was synced.
        run.disk.crash(&mut |bound: u64| bound - 1);
        drop(opened);
        let again = options().open(&disk, INCARNATION).unwrap_or_else(|error| panic!("cut after {cut_after}: {error}"));
        assert_eq!(again.state.position().index, found, "cut after {cut_after}");
        if ended {
            break;
        }
    }
    assert!(new > 1, "the new state was found {new} times");
}

#[test]
fn a_start_that_finds_the_state_ahead_finishes_the_reset_of_the_log() {
    let mut run = Run::new(2);
    run.append().expect("no fault");
    let peer_last = run.node().log.stats().last.0 + 50;
    run.peer.state.apply(&entries(2, 1..=peer_last)).expect("no fault");
    let mut sink = run.node().state.receive_snapshot(CLUSTER).expect("no fault");
    for chunk in run.peer.state.snapshot().expect("a member") {
        sink.push(&chunk.expect("sound")).expect("no fault");
    }
    let received = sink.finish().expect("whole");
    let meta = run.node().state.install(received).expect("no fault");
    // The process dies before it can reset the log.
    run.node = None;
    run.disk.kill();
    let disk: Arc<dyn Disk> = Arc::new(run.disk.clone());
    let opened = options().open(&disk, INCARNATION).expect("sound");
    assert_eq!(opened.recovered.base, (meta.index, meta.term));
    assert_eq!(opened.recovered.last, meta.index);
    assert_eq!(opened.recovered.base_membership, (meta.membership_index, meta.membership));
    assert_eq!(opened.recovered.hard_state.commit, meta.index);
}

/// The other way to find them apart: a log that reaches past the image, with entries of a deposed leader. Its base and its
/// commit index say nothing against it.
#[test]
fn a_longer_log_that_differs_from_the_installed_image_does_not_outlive_a_start() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    let mut log = entries(2, 1..=60);
    log.iter_mut().for_each(|entry| entry.term = Term(1));
    let hard_state = HardState { term: Term(1), vote: None, commit: LogIndex(30), ..HardState::default() };
    node.log.append(&[LogWrite { hard_state, entries: log.clone() }]).expect("no fault");
    node.state.apply(&log[..30]).expect("no fault");

    let mut peer = member(&FaultyDisk::new());
    peer.state.apply(&entries(2, 1..=50)).expect("no fault");
    let mut sink = node.state.receive_snapshot(CLUSTER).expect("no fault");
    for chunk in peer.state.snapshot().expect("a member") {
        sink.push(&chunk.expect("sound")).expect("no fault");
    }
    let meta = node.state.install(sink.finish().expect("whole")).expect("no fault");
    assert_eq!((meta.index, meta.term), (LogIndex(50), Term(2)));
    drop(node);
    disk.kill();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let opened = options().open(&disk, INCARNATION).expect("sound");
    assert_eq!((opened.recovered.base, opened.recovered.last), ((meta.index, meta.term), meta.index));
    assert_eq!(opened.recovered.hard_state.commit, meta.index);
}

#[test]
fn a_failed_sync_of_a_checkpoint_ends_the_state() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&entries(3, 1..=5)).expect("no fault");
    disk.fail_sync(1);
    assert!(matches!(node.state.checkpoint(), Err(WriteError::Failed { .. })));
    assert!(matches!(node.state.checkpoint(), Err(WriteError::Poisoned { .. })));
    assert!(node.state.apply(&entries(3, 6..=7)).is_err());
    assert_eq!(node.state.position().index, LogIndex(5));
}

#[test]
fn a_full_disk_puts_a_checkpoint_off() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&entries(3, 1..=5)).expect("no fault");
    disk.set_limit_bytes(Some(disk.used_bytes() + 4096));
    assert!(matches!(node.state.checkpoint(), Err(WriteError::DiskFull { .. })));
    node.state.apply(&entries(3, 6..=7)).expect("what is committed is applied");
    node.state.view().range(&everything(0)).expect("sound").expect("reads go on");
    disk.set_limit_bytes(None);
    assert_eq!(node.state.checkpoint().expect("there is room"), LogIndex(7));
}

/// One that is put off wants more each time it is tried again.
#[test]
fn a_checkpoint_presses_while_it_still_fits_and_not_before() {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    node.state.apply(&entries(3, 1..=20)).expect("no fault");
    let needed = node.state.stats().checkpoint_bytes;
    let dirty = needed - options().state.reserve_bytes;
    for (free, presses) in [(needed - 1, false), (needed, true), (needed + dirty, true), (needed + dirty + 2, false)] {
        leave_free(&disk, free);
        assert_eq!(
            node.state.is_checkpoint_pressing().expect("no fault"),
            presses,
            "{free} bytes free, {needed} needed"
        );
    }
    leave_free(&disk, needed);
    node.state.checkpoint().expect("it fits");
    assert!(!node.state.is_checkpoint_pressing().expect("no fault"), "nothing waits");
}

/// A state of `count` records, every other of them hidden by a compaction, so that all its pages change when they go. The keys that
/// have all of those are few, and the last ones: one step of any number of keys removes nearly everything.
fn half_hidden(disk: &FaultyDisk, count: u64) -> OpenedStores {
    let mut node = member(disk);
    let put = |index: u64| {
        let key = if index.is_multiple_of(2) { format!("hot-{}", index % 20) } else { format!("cold-{index:06}") };
        command(index, Command::Put(PutRequest { key: key.into(), value: vec![7; 250].into(), ..Default::default() }))
    };
    let puts: Vec<Entry> = (1..=count).map(put).collect();
    puts.chunks(100).for_each(|batch| drop(node.state.apply(batch).expect("no fault")));
    let revision = node.state.view().revision().0;
    let compact = command(count + 1, Command::Compact(CompactRequest { revision, physical: false }));
    node.state.apply(&[compact]).expect("no fault");
    node.state.checkpoint().expect("no fault");
    node
}

/// Leaves so many bytes of the disk free.
fn leave_free(disk: &FaultyDisk, bytes: u64) {
    disk.set_limit_bytes(Some(disk.used_bytes() + bytes));
}

/// What is left of [`half_hidden`] when it is pruned.
#[track_caller]
fn assert_pruned(state: &StateStore, count: u64) {
    let view = state.view();
    assert_eq!(view.pruned(), view.compact_revision());
    assert_eq!(state.stats().totals.count, count / 2 + 10);
    let answer = view.range(&everything(0)).expect("sound").expect("readable");
    assert_eq!(answer.count as u64, count / 2 + 10);
    state.check();
}

#[test]
fn a_compaction_on_a_full_disk_waits_for_room_and_ends_nobody() {
    const COUNT: u64 = 12_000;
    let disk = FaultyDisk::new();
    let mut node = half_hidden(&disk, COUNT);
    for free in [0, 1 << 20, options().state.reserve_bytes] {
        leave_free(&disk, free);
        let (before, calls) = (node.state.stats(), disk.calls());
        assert!(!node.state.compact_step(COUNT as usize).expect("no failure"), "nobody is to ask again at once");
        assert_eq!((node.state.stats(), disk.calls()), (before, calls), "with {free} bytes free");
        assert!(node.state.view().pruned() < node.state.view().compact_revision());
    }
    node.state.checkpoint().expect("its reserve is left");

    // Far less than all pages that change, and less than the log needs for another write.
    leave_free(&disk, 7 << 20);
    while node.state.compact_step(1_000).expect("no failure") {}
    node.state.checkpoint().expect("a step leaves room for it");
    assert_pruned(&node.state, COUNT);
}

/// Once a second at most the state is made durable, and entries come between.
#[test]
fn a_checkpoint_has_room_after_any_number_of_compaction_steps_and_a_batch() {
    const COUNT: u64 = 12_000;
    let disk = FaultyDisk::new();
    let mut node = half_hidden(&disk, COUNT);
    for free_mib in [5, 8, 12, 20] {
        leave_free(&disk, free_mib << 20);
        for _ in 0..5 {
            node.state.compact_step(1_500).expect("no failure");
        }
        let next = node.state.position().index.0 + 1;
        let batch =
            Command::Put(PutRequest { key: "hot-0".into(), value: vec![7; 100_000].into(), ..Default::default() });
        node.state.apply(&[command(next, batch)]).expect("no failure");
        node.state.checkpoint().expect("a step leaves room for it");
    }
}

/// A step that is too large for the room there is makes itself durable in parts.
#[test]
fn a_compaction_in_parts_that_is_cut_short_loses_nothing() {
    const COUNT: u64 = 3_000;
    let mut parts = 0;
    for cut_after in (1..).step_by(97) {
        let disk = FaultyDisk::new();
        let mut node = half_hidden(&disk, COUNT);
        leave_free(&disk, 2 * options().state.reserve_bytes + (5 << 18));
        disk.cut_power_after(cut_after);
        let pruned = node.state.compact_step(COUNT as usize).is_ok();
        parts = node.state.stats().file.syncs;
        disk.set_limit_bytes(None);
        disk.crash(&mut Dice::new(cut_after));
        drop(node);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut node = options().open(&shared, INCARNATION).expect("sound");
        while node.state.compact_step(100).expect("no fault") {}
        assert_pruned(&node.state, COUNT);
        if pruned {
            break;
        }
    }
    assert!(parts > 6, "{parts} syncs");
}

#[test]
fn a_bootstrap_is_kept_with_the_identity() {
    let disk = FaultyDisk::new();
    let node = member(&disk);
    drop(node);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let opened = options().open(&disk, INCARNATION).expect("sound");
    assert_eq!(opened.recovered.identity, Some(identity()));
    assert_eq!(opened.recovered.base_membership, (LogIndex(0), membership()));
}
