//! Power cuts at any storage call of the log, also while it recovers: what comes back is exactly what was acknowledged,
//! or that and the one operation in flight.

use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Membership, NodeId, Payload, SnapshotMeta, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{LogOptions, LogStore, LogWrite, NodeMark, RecoveredLog, WriteError};

use crate::dice::{Dice, seeds};

/// Each seed is one disk that loses power about a dozen times.
const SEEDS: u64 = 120;
const CRASHES_A_SEED: u32 = 12;

/// All that a log must remember.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    hard_state: HardState,
    base: (LogIndex, Term),
    entries: Vec<Entry>,
    mark: NodeMark,
}

impl Model {
    fn empty() -> Self {
        Self {
            hard_state: HardState::default(),
            base: (LogIndex(0), Term(0)),
            entries: Vec::new(),
            mark: NodeMark::None,
        }
    }

    fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.base.0, |entry| entry.index)
    }

    fn term_at(&self, index: LogIndex) -> Term {
        match index.0 - self.base.0.0 {
            0 => self.base.1,
            after => self.entries[after as usize - 1].term,
        }
    }

    fn write(&mut self, write: &LogWrite) {
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend_from_slice(&write.entries);
        }
        self.hard_state = write.hard_state;
    }

    fn truncate(&mut self, up_to: LogIndex) {
        if up_to > self.base.0 {
            self.base = (up_to, self.term_at(up_to));
            self.entries.retain(|entry| entry.index > up_to);
        }
    }

    fn of(log: &LogStore, recovered: &RecoveredLog) -> Self {
        let entries = log.entries(LogIndex(recovered.base.0.0 + 1), usize::MAX).expect("sound");
        let last = entries.last().map_or(recovered.base.0, |entry| entry.index);
        assert_eq!(last, recovered.last);
        Self { hard_state: recovered.hard_state, base: recovered.base, entries, mark: recovered.mark.clone() }
    }
}

/// A configuration that differs by the node it remembers as removed.
fn forgetting(node: u64) -> Arc<Membership> {
    Arc::new(Membership { removed: [NodeId(node)].into(), ..Membership::default() })
}

#[derive(Debug)]
enum Operation {
    Append(Vec<LogWrite>),
    Truncate(LogIndex),
    Reset(SnapshotMeta),
    Mark(NodeMark),
}

fn choose(model: &Model, dice: &mut Dice) -> Operation {
    match dice.below(12) {
        0 => Operation::Truncate(LogIndex(model.base.0.0 + dice.below(model.hard_state.commit.0 - model.base.0.0 + 1))),
        1 => {
            let ahead = dice.below(20) + 1;
            Operation::Reset(SnapshotMeta {
                index: LogIndex(model.last().0 + ahead),
                term: Term(model.hard_state.term.0 + dice.below(2)),
                membership: forgetting(3),
                membership_index: LogIndex(model.last().0 + dice.below(ahead + 1)),
            })
        }
        2 => Operation::Mark(match dice.below(3) {
            0 => NodeMark::None,
            1 => NodeMark::Removed,
            _ => NodeMark::Fenced { reason: format!("digest {}", dice.below(100)) },
        }),
        _ => {
            let mut after = model.clone();
            let writes = 1 + dice.below(3);
            Operation::Append((0..writes).map(|_| choose_write(&mut after, dice)).collect())
        }
    }
}

/// A write as Raft makes them: terms rise, committed entries stay, conflicting tails are replaced.
fn choose_write(model: &mut Model, dice: &mut Dice) -> LogWrite {
    let term = Term(model.hard_state.term.0.max(1) + u64::from(dice.chance(4)));
    let vote = if dice.chance(2) { None } else { Some(NodeId(1 + dice.below(5))) };
    let first = model.hard_state.commit.0 + 1 + dice.below(model.last().0 - model.hard_state.commit.0 + 1);
    let count = if dice.chance(4) { 0 } else { dice.below(9) };
    let entries = (0..count).map(|at| Entry {
        term,
        index: LogIndex(first + at),
        payload: match dice.below(10) {
            0 => Payload::Noop,
            1 => Payload::Membership(forgetting(1 + dice.below(9))),
            _ => Payload::Command(Bytes::from(vec![dice.below(256) as u8; dice.below(700) as usize])),
        },
    });
    let mut write = LogWrite {
        hard_state: HardState { term, vote, commit: model.hard_state.commit, ..HardState::default() },
        entries: entries.collect(),
    };
    model.write(&write);
    write.hard_state.commit =
        LogIndex(model.hard_state.commit.0 + dice.below(model.last().0 - model.hard_state.commit.0 + 1));
    model.hard_state = write.hard_state;
    write
}

/// What the operation makes of the model, and whether it is durable when it returns.
fn apply(model: &mut Model, operation: &Operation) -> bool {
    match operation {
        Operation::Append(writes) => writes.iter().for_each(|write| model.write(write)),
        Operation::Truncate(up_to) => model.truncate(*up_to),
        Operation::Reset(meta) => {
            let term = model.hard_state.term;
            model.hard_state = HardState {
                term: term.max(meta.term),
                vote: if meta.term > term { None } else { model.hard_state.vote },
                commit: meta.index,
                promise: model.hard_state.promise,
            };
            model.base = (meta.index, meta.term);
            model.entries.clear();
        }
        Operation::Mark(mark) => model.mark = mark.clone(),
    }
    !matches!(operation, Operation::Truncate(_))
}

fn run(log: &mut LogStore, operation: &Operation) -> Result<(), WriteError> {
    match operation {
        Operation::Append(writes) => log.append(writes),
        Operation::Truncate(up_to) => log.truncate_prefix(*up_to).map(|_| ()),
        Operation::Reset(meta) => log.reset_to(meta),
        Operation::Mark(mark) => log.set_mark(mark.clone()),
    }
}

/// Opens the log, with the power failing now and then while it does.
fn open(disk: &FaultyDisk, dice: &mut Dice) -> (LogStore, RecoveredLog) {
    let options = LogOptions { cache_bytes: 64 << 10, ..LogOptions::default() };
    loop {
        if dice.chance(3) {
            disk.cut_power_after(1 + dice.below(12));
        }
        let opened = LogStore::open(Arc::new(disk.clone()), Incarnation(7), options);
        if disk.is_power_cut() {
            drop(opened);
            disk.crash(dice);
            continue;
        }
        let (log, recovered) = opened.expect("a log that lost power opens");
        let entries = log.entries(recovered.base.0.next(), usize::MAX).expect("sound");
        let entry_bytes: usize = entries.iter().map(Entry::size).sum();
        assert_eq!(recovered.entry_bytes, entry_bytes as u64, "what the entries take is known from the start");
        return (log, recovered);
    }
}

#[test]
fn after_a_power_cut_the_log_holds_what_was_acknowledged() {
    let (mut in_flight_kept, mut in_flight_lost) = (0, 0);
    let seeds = seeds(SEEDS);
    for seed in 0..seeds {
        let mut dice = Dice::new(seed);
        let disk = FaultyDisk::new();
        let mut acknowledged = Model::empty();
        let (mut log, _) = open(&disk, &mut dice);
        let mut current = acknowledged.clone();
        for _ in 0..CRASHES_A_SEED {
            disk.cut_power_after(1 + dice.below(150));
            loop {
                let operation = choose(&current, &mut dice);
                let durable = apply(&mut current, &operation);
                match run(&mut log, &operation) {
                    Ok(()) if durable => acknowledged = current.clone(),
                    Ok(()) => {}
                    Err(error) => {
                        assert!(disk.is_power_cut(), "seed {seed}: {error}");
                        assert!(matches!(run(&mut log, &operation), Err(WriteError::Poisoned { .. })), "seed {seed}");
                        break;
                    }
                }
                log.check();
            }
            disk.crash(&mut dice);
            drop(log);
            let (reopened, recovered) = open(&disk, &mut dice);
            let found = Model::of(&reopened, &recovered);
            if found != acknowledged {
                assert_eq!(
                    found, current,
                    "seed {seed}: neither what was acknowledged nor that and the last operation"
                );
                in_flight_kept += 1;
            } else {
                in_flight_lost += 1;
            }
            acknowledged = found.clone();
            current = found;
            log = reopened;
        }
    }
    // Otherwise the faults are not where they hurt.
    assert!(in_flight_kept > seeds / 5 && in_flight_lost > seeds, "kept {in_flight_kept}, lost {in_flight_lost}");
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let disk = FaultyDisk::new();
        let mut model = Model::empty();
        let (mut log, _) =
            LogStore::open(Arc::new(disk.clone()), Incarnation(7), LogOptions::default()).expect("empty");
        for _ in 0..30 {
            let write = choose_write(&mut model, &mut dice);
            log.append(&[write]).expect("no fault");
        }
        disk.kill();
        drop(log);
        let (log, recovered) = LogStore::open(Arc::new(disk), Incarnation(8), LogOptions::default()).expect("sound");
        assert_eq!(recovered.incarnation, Incarnation(7), "a directory keeps its name");
        assert_eq!(Model::of(&log, &recovered), model, "seed {seed}");
    }
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    let run = |seed| {
        let mut dice = Dice::new(seed);
        let disk = FaultyDisk::new();
        let (mut log, _) = open(&disk, &mut dice);
        let mut model = Model::empty();
        for _ in 0..40 {
            let write = choose_write(&mut model, &mut dice);
            log.append(&[write]).expect("no fault");
        }
        disk.crash(&mut dice);
        (disk.calls(), disk.fingerprint())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_failed_sync_ends_the_log() {
    let disk = FaultyDisk::new();
    let (mut log, _) = LogStore::open(Arc::new(disk.clone()), Incarnation(1), LogOptions::default()).expect("empty");
    let mut model = Model::empty();
    let mut dice = Dice::new(1);
    disk.fail_sync(1);
    let write = choose_write(&mut model, &mut dice);
    assert!(matches!(log.append(std::slice::from_ref(&write)), Err(WriteError::Failed { .. })));
    // The next sync would succeed, and would prove nothing.
    assert!(matches!(log.append(&[write]), Err(WriteError::Poisoned { .. })));
    assert!(matches!(log.set_mark(NodeMark::Removed), Err(WriteError::Poisoned { .. })));
}

#[test]
fn a_full_disk_refuses_an_append_before_anything_is_written_and_heals() {
    let disk = FaultyDisk::new();
    let options = LogOptions { reserve_bytes: 1 << 20, ..LogOptions::default() };
    let (mut log, _) = LogStore::open(Arc::new(disk.clone()), Incarnation(1), options).expect("empty");
    let mut model = Model::empty();
    let mut dice = Dice::new(2);
    for _ in 0..5 {
        let write = choose_write(&mut model, &mut dice);
        log.append(&[write]).expect("there is room");
    }
    disk.set_limit_bytes(Some(disk.used_bytes() + (1 << 19)));
    let calls = disk.calls();
    let write = choose_write(&mut model.clone(), &mut dice);
    assert!(matches!(log.append(std::slice::from_ref(&write)), Err(WriteError::DiskFull { .. })));
    assert_eq!(disk.calls(), calls);
    assert_eq!(Model::of(&log, &log.recovered()), model);

    disk.set_limit_bytes(None);
    log.append(std::slice::from_ref(&write)).expect("there is room again");
    model.write(&write);
    assert_eq!(Model::of(&log, &log.recovered()), model);
}

/// Room to give room back is little, and where there is not even that, it is refused like any write.
#[test]
fn a_full_disk_refuses_to_cut_reset_or_mark_the_log_before_anything_is_written() {
    let disk = FaultyDisk::new();
    let (mut log, _) = LogStore::open(Arc::new(disk.clone()), Incarnation(1), LogOptions::default()).expect("empty");
    let mut model = Model::empty();
    let mut dice = Dice::new(4);
    for _ in 0..20 {
        let write = choose_write(&mut model, &mut dice);
        log.append(&[write]).expect("there is room");
    }
    let before = log.recovered();
    let commit = before.hard_state.commit;
    let meta = SnapshotMeta {
        index: LogIndex(before.last.0 + 10),
        term: before.hard_state.term,
        membership: Arc::default(),
        membership_index: LogIndex(0),
    };
    disk.set_limit_bytes(Some(disk.used_bytes()));
    let calls = disk.calls();
    let is_full = |done: Result<(), WriteError>| matches!(done, Err(WriteError::DiskFull { .. }));
    assert!(commit > before.base.0);
    assert!(is_full(log.truncate_prefix(commit).map(drop)));
    assert!(is_full(log.set_mark(NodeMark::Removed)));
    assert!(is_full(log.reset_to(&meta)));
    assert_eq!((log.recovered(), disk.calls()), (before, calls));

    // Far less than an append leaves.
    disk.set_limit_bytes(Some(disk.used_bytes() + (1 << 20)));
    log.truncate_prefix(commit).expect("there is room");
    log.set_mark(NodeMark::Removed).expect("there is room");
    log.reset_to(&meta).expect("there is room");
    assert_eq!(log.recovered().base.0, meta.index);
}
