//! Opening the real stores, comparing them with the model of the log, and losing power over them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_node::{AppliedState, Barred, Lifecycle};
use quorate_raft::{Incarnation, LogIndex, Membership, SnapshotMeta};
use quorate_store::testing::{rot_log_record, rot_state_record};
use quorate_store::{LogOptions, LogStore, NodeMark, OpenError, OpenedStores, StateOptions, StateStore, StoreOptions};
use quorate_wire::Identity;
use quorate_wire::peer::NodeState;

use super::watching::Watching;
use super::{CLUSTER, Course, Disk, FullTier, LogJob, Process, stray};
use crate::context::Context;
use crate::coverage::{Handler, Reached, Struck};
use crate::log_model::{LogImage, LogModel};
use crate::random::Random;
use crate::run::endure;
use crate::tier::Harm;

/// The files that bits flip in.
const LOG_NAME: &str = "log.redb";
const STATE_NAME: &str = "state.redb";

/// Small caches: a run opens thousands of stores.
const CACHE_BYTES: usize = 1 << 20;

/// Without a cache every read comes from the disk, and decay is met where it stands.
fn options(seed: u64) -> StoreOptions {
    let cache_bytes = if seed.is_multiple_of(4) { 0 } else { CACHE_BYTES };
    StoreOptions {
        log: LogOptions { cache_bytes, ..LogOptions::default() },
        // A disk that is filled has little left, and images are to meet its end half-way.
        state: StateOptions { cache_bytes, image_reserve_bytes: 2 << 20, ..StateOptions::default() },
    }
}

/// Accepts the bootstrap configuration on an empty disk, durably.
pub(super) fn bootstrap(disk: &Disk, membership: &Membership) {
    let files: Arc<dyn quorate_store::Disk> = Arc::new(disk.files.clone());
    let mut opened = options(1).open(&files, disk.incarnation).expect("an empty disk opens");
    let identity = Identity { cluster_id: CLUSTER, node_id: disk.node };
    opened.log.bootstrap(identity, Arc::new(membership.clone())).expect("an empty disk takes a configuration");
    opened.state.set_cluster_id(CLUSTER).expect("an empty disk takes a cluster");
}

/// Opens the stores of a starting process; none if the power goes meanwhile.
pub(super) fn open(context: &mut Context<FullTier>, disk: &mut Disk) -> Option<Process> {
    let (failures_before, failed_syncs_before) = (disk.files.failures(), disk.files.failed_syncs());
    let files: Arc<dyn quorate_store::Disk> = Arc::new(disk.files.clone());
    if context.faulty && context.random.chance(50_000) {
        // A crash in recovery.
        disk.files.cut_power_after(context.random.between(1, 40));
    }
    let options = options(context.plan.seed);
    // Decay may make the code below this one panic as well: a process that dies at its start refuses to start.
    let opened = if disk.doubtful {
        endure(|| options.open(&files, disk.incarnation)).ok()
    } else {
        Some(options.open(&files, disk.incarnation))
    };
    if disk.files.is_power_cut() {
        context.coverage.struck(Struck::Killed, Handler::Open);
        return None;
    }
    let sound = matches!(opened, Some(Ok(_)));
    assert!(!(sound && disk.rotten), "I-16: node {} starts on a log with a rotten record", disk.node);
    let OpenedStores { log, recovered, state } = match opened {
        Some(Ok(opened)) => opened,
        None => {
            disk.refused = true;
            return None;
        }
        Some(Err(error)) => {
            context.trace.line(context.now(), || format!("host {} does not start: {error}", context.host.0));
            if disk.files.failures() > failures_before {
                context.coverage.struck(Struck::Failed, Handler::Open);
                return None;
            }
            if let OpenError::DiskFull { .. } = error {
                assert!(disk.files.is_limited(), "I-16: node {} has room and does not start: {error}", disk.node);
                context.coverage.struck(Struck::Full, Handler::Open);
                return None;
            }
            let harmed = is_harmed_by_sync(disk);
            assert!(disk.doubtful || harmed, "I-16: node {} cannot start: {error}", disk.node);
            if !disk.doubtful {
                context.coverage.hit(Reached::RefusedAfterSync);
            }
            disk.refused = true;
            return None;
        }
    };
    disk.files.call_off_power_cut();
    if disk.rotten_state {
        // A start reads no record that the image of the index knows; whoever reads the files through finds it.
        let found = stray::verify_files(&log, &state).is_err();
        assert!(found, "I-16: node {} reads its state through, and passes over a rotten record", disk.node);
        context.coverage.hit(Reached::RotFound);
        disk.refused = true;
        let_go(disk, (log, state));
        return None;
    }
    // A damaged node serves nothing; a page that is whole and out of its place may pass for data, so nothing is served from
    // such a disk either.
    if disk.strayed || matches!(recovered.mark, NodeMark::Damaged { .. }) {
        let found = stray::verify_files(&log, &state).is_err();
        context.coverage.hit(if found { Reached::DecayFound } else { Reached::DecayUnnoticed });
        disk.refused = true;
        let_go(disk, (log, state));
        return None;
    }
    if !adopt_log(context, disk, (&log, &state), failures_before) {
        let_go(disk, (log, state));
        return None;
    }
    let position = state.position();
    if !disk.diverged {
        context.clients.check_state(disk.node, position.index, position.term, &state.view());
    }
    let committed = recovered.memberships.iter().rev().find(|(index, _)| *index <= recovered.hard_state.commit);
    let committed = committed.map_or(&recovered.base_membership.1, |(_, membership)| membership);
    let committed = (!committed.is_empty()).then_some(&**committed);
    let lifecycle = Lifecycle::new(recovered.incarnation, recovered.identity, None, barred(&recovered.mark), committed);
    let membership = recovered.memberships.last().map_or(&recovered.base_membership.1, |(_, membership)| membership);
    Some(Process {
        started_at: recovered.hard_state.commit,
        files: disk.files.clone(),
        failures_before,
        failed_syncs_before,
        doubtful: disk.doubtful,
        course: if disk.diverged { Course::Strayed(Vec::new()) } else { Course::True },
        full: false,
        in_doubt: 0,
        node: None,
        queued: Vec::new(),
        cancelled: BTreeSet::new(),
        lifecycle,
        membership: Arc::clone(membership),
        log,
        state,
        log_jobs: VecDeque::new(),
        state_jobs: VecDeque::new(),
        writing: false,
        applying: false,
        dirty: true,
        received: None,
        sending: BTreeMap::new(),
        images: 0,
        peers: BTreeMap::new(),
        requests: 0,
        pending: BTreeMap::new(),
        streamed: None,
        watching: Watching::new(&context.plan),
    })
}

/// What a sync failed to write was read from memory until the power went, and more was written upon it.
fn is_harmed_by_sync(disk: &Disk) -> bool {
    disk.files.failed_syncs() > disk.syncs_without_harm
}

/// Closes stores. Those of rotten files are dropped as a panic drops them, in which case redb puts nothing in order: a commit
/// may fail on such pages in the midst of a destructor, which ends the process.
pub(super) fn let_go<T>(disk: &Disk, stores: T) {
    if disk.doubtful || disk.files.decays() > 0 {
        let _ = endure(|| {
            let _closed_while_unwinding = stores;
            std::panic::resume_unwind(Box::new("the process dies"));
        });
    }
}

pub(super) fn barred(mark: &NodeMark) -> Option<Barred> {
    let (state, reason) = match mark {
        NodeMark::None => return None,
        NodeMark::Removed => (NodeState::Removed, "it was removed".to_owned()),
        NodeMark::Fenced { reason } => (NodeState::Fenced, reason.clone()),
        NodeMark::Damaged { reason } => (NodeState::Damaged, reason.clone()),
    };
    Some(Barred { state, reason })
}

/// I-16: the opened log is the one that was durable, or that with the one write under way; the model goes on from it.
fn adopt_log(
    context: &mut Context<FullTier>,
    disk: &mut Disk,
    (log, state): (&LogStore, &StateStore),
    failures_before: u64,
) -> bool {
    let recovered = log.recovered();
    let entries = match log.entries(recovered.base.0.next(), usize::MAX) {
        Ok(entries) => entries,
        Err(error) => {
            let planned = disk.files.failures() > failures_before || is_harmed_by_sync(disk);
            assert!(disk.doubtful || planned, "an opened log cannot be read: {error}");
            disk.refused = disk.doubtful;
            return false;
        }
    };
    let base_chain = match context.oracle.committed_at(recovered.base.0) {
        Some((term, chain)) if term == recovered.base.1 => chain,
        _ if disk.doubtful => {
            disk.refused = true;
            return false;
        }
        other => {
            panic!("I-16: the log of node {} begins at {:?}, committed there: {other:?}", disk.node, recovered.base)
        }
    };
    let real =
        LogImage::read(recovered.hard_state, recovered.base, base_chain, recovered.base_membership.clone(), entries);
    let position = state.position();
    let durable = context.log().durable().clone();
    let models = [Some(&durable), disk.torn.as_ref()];
    let agrees = models.into_iter().flatten().any(|model| agree(&real, model) || starts_over(&real, model, &position));
    if !agrees && disk.doubtful {
        // An older commit passes for the newest where that one has decayed: nobody but the disk's owner can tell, and the node
        // counts as lost already.
        context.coverage.hit(Reached::DecayUnnoticed);
        disk.refused = true;
        return false;
    }
    assert!(
        agrees,
        "I-16: node {} comes back with a log from {:?} to {} and {:?}; durable was {:?} to {} and {:?}",
        disk.node,
        real.base,
        real.last(),
        real.hard_state,
        durable.base,
        durable.last(),
        durable.hard_state
    );
    disk.torn = None;
    context.cluster.logs[context.host.0] = LogModel::new(real);
    context.oracle.synced(context.node, &context.cluster.logs[context.host.0]);
    true
}

/// The same log, but for how much of its prefix is still there, as cutting that costs no sync, and for a commit index
/// that the store raised to what it knows to be applied.
fn agree(real: &LogImage, model: &LogImage) -> bool {
    let (a, b) = (real.hard_state, model.hard_state);
    real.last() == model.last()
        && real.at(real.last()) == model.at(model.last())
        && (a.term, a.vote) == (b.term, b.vote)
        && a.commit >= b.commit
        && real.base.0 <= model.base.0
}

/// The log begins anew where the state stands: an image took its place, or the state was checkpointed before the log was written.
/// Of a log that holds the entry there nothing may go, and what was promised stays in any case.
fn starts_over(real: &LogImage, model: &LogImage, position: &SnapshotMeta) -> bool {
    let (a, b) = (real.hard_state, model.hard_state);
    let at = position.index;
    let held = at <= model.base.0 || model.at(at).is_some_and(|(term, _)| term == position.term);
    // Nobody has voted in a term that came with the state.
    let vote = b.vote.filter(|_| b.term >= position.term);
    !held
        && real.base == (at, position.term)
        && real.last() == at
        && (a.term, a.vote) == (b.term.max(position.term), vote)
        && a.commit >= b.commit
}

/// Where a state store stands, as the replica counts it.
pub(super) fn applied_state(state: &StateStore) -> AppliedState {
    let position = state.position();
    let view = state.view();
    AppliedState {
        index: position.index,
        term: position.term,
        revision: view.revision(),
        digest: view.digest().1,
        leases: view.lease_summary(),
    }
}

/// The process dies: by a kill, which leaves the disk all that was written, or by a loss of power, which does not.
pub(super) fn crash(context: &mut Context<FullTier>, disk: &mut Disk, process: Option<Process>) {
    let mut choices = context.random.fork(7);
    // It lives until its files are dead: closed while they still take writes, a store would put itself in order.
    let mut process = process;
    if let Some(process) = &mut process {
        disk.diverged = process.has_strayed();
        for pending in std::mem::take(&mut process.pending).into_values() {
            let now = context.queue.now();
            context.clients.lost(pending, now, &mut context.coverage);
        }
        context.clients.died(context.node);
        if process.in_doubt > 0 {
            disk.torn = Some(context.log().after(process.in_doubt));
        }
        // After a failed sync what can be read is not what is on the medium.
        if disk.files.failed_syncs() > process.failed_syncs_before && choices.coin() {
            disk.doubtful = true;
        } else if disk.files.is_power_cut() || disk.files.decays() > 0 || disk.doubtful {
            // The power went already; and what rotten files do to a write is for redb to say.
        } else if choices.chance(300_000) {
            tear_checkpoint(context, disk, process, &mut choices);
        } else if process.in_doubt == 0 {
            tear_write(context, disk, process, &mut choices);
        }
    }
    if choices.chance(300_000) || disk.doubtful {
        disk.files.kill();
    } else {
        disk.files.crash(&mut |bound| choices.below(bound));
        if process.as_ref().is_some_and(|process| process.failed_syncs_before == disk.syncs_without_harm) {
            // What could not be synced is gone before anything was written upon it.
            disk.syncs_without_harm = disk.files.failed_syncs();
        }
    }
    let_go(disk, process);
    let log = context.log();
    let lost = log.pending();
    log.forget_after(0);
    if lost > 0 {
        context.coverage.hit(Reached::UnsyncedLost);
    }
}

/// Lets the power go in the middle of a checkpoint.
fn tear_checkpoint(context: &mut Context<FullTier>, disk: &Disk, process: &mut Process, choices: &mut Random) {
    disk.files.cut_power_after(choices.between(1, 24));
    if process.state.checkpoint().is_err() {
        context.coverage.struck(Struck::Killed, Handler::Checkpoint);
    }
}

/// Does harm to a disk.
pub(super) fn harm(_context: &mut Context<FullTier>, disk: &mut Disk, harm: Harm, random: &mut Random) -> bool {
    match harm {
        Harm::WriteError => disk.files.fail_write(random.between(1, 60)),
        Harm::SyncError => disk.files.fail_sync(random.between(1, 6)),
        Harm::ReadError => disk.files.fail_read(random.between(1, 60)),
        Harm::DirectoryError => disk.files.fail_directory(random.between(1, 4)),
        Harm::RottenRecord => {
            let (sound, of_log) = (!disk.doubtful, random.coin());
            let name = if of_log { LOG_NAME } else { STATE_NAME };
            if disk.files.written_pages(name).is_empty() {
                // A disk that was wiped, and whose node never started since.
                return false;
            }
            let rot = if of_log { rot_log_record } else { rot_state_record };
            if sound && !of_log {
                leave_index_image(disk);
            }
            match endure(|| rot(&disk.files, &mut |bound| random.below(bound))) {
                Ok(Ok(false)) => return false,
                // Of a disk that was in doubt before, what is read may be another record.
                Ok(Ok(true)) if of_log => disk.rotten = sound,
                Ok(Ok(true)) => disk.rotten_state = sound,
                Ok(Err(_)) | Err(_) => {}
            }
            disk.doubtful = true;
        }
        Harm::BitFlip | Harm::ZeroSector | Harm::Misdirect | Harm::StalePage => {
            let name = if random.coin() { LOG_NAME } else { STATE_NAME };
            let pages = disk.files.written_pages(name);
            let (Some(&page), Some(&other)) = (random.pick(&pages), random.pick(&pages)) else { return false };
            let at = page + random.below(4_096);
            match harm {
                // One bit, or a page that is going bad all over.
                Harm::BitFlip => {
                    for _ in 0..*random.pick(&[1, 1, 40]).expect("choices") {
                        disk.files.flip_bit(name, page + random.below(4_096), random.below(8) as u8);
                    }
                }
                Harm::ZeroSector => disk.files.zero_sector(name, at),
                Harm::Misdirect if page != other && disk.files.misdirect_page(name, page, other) => {}
                Harm::StalePage if disk.files.revert_page(name, page) => {}
                _ => return false,
            }
            disk.doubtful = true;
            disk.strayed |= harm != Harm::BitFlip;
        }
        Harm::Full => disk.files.set_limit_bytes(Some(disk.files.used_bytes() + random.below(9 << 20))),
        Harm::SpaceBack => disk.files.set_limit_bytes(None),
        Harm::Repair => {
            disk.files.set_limit_bytes(None);
            disk.files.call_off_faults();
        }
    }
    true
}

/// What a process leaves that stops in good order: with an image of the index a start reads few records, and does not find the one
/// that rots.
fn leave_index_image(disk: &Disk) {
    let files: Arc<dyn quorate_store::Disk> = Arc::new(disk.files.clone());
    if let Ok(state) = StateStore::open(files, options(1).state) {
        // On a full disk there is none.
        let _ = state.view().write_index_image();
    }
}

/// Lets the power go in the middle of the write that would come next.
fn tear_write(context: &mut Context<FullTier>, disk: &mut Disk, process: &mut Process, choices: &mut Random) {
    let mut batch = Vec::new();
    for job in &process.log_jobs {
        match job {
            LogJob::Write { write, .. } => batch.push(write.clone()),
            _ => break,
        }
    }
    batch.truncate(choices.below(batch.len() as u64 + 1) as usize);
    if batch.is_empty() {
        return;
    }
    disk.torn = Some(context.log().after(batch.len()));
    disk.files.cut_power_after(choices.between(1, 12));
    context.coverage.struck(Struck::Killed, Handler::LogWrite);
    if process.log.append(&batch).is_ok() {
        // It was done before the power went, and nobody heard of it.
        for _ in 0..batch.len() {
            context.sync_one();
        }
        disk.torn = None;
        context.coverage.hit(Reached::UnsyncedKept);
    }
}

/// Names nothing but this run of a process.
pub(super) fn session(context: &mut Context<FullTier>) -> Incarnation {
    Incarnation((u128::from(context.random.next()) << 64) | u128::from(context.random.next()))
}

/// First index that the state does not reflect.
pub(super) fn first_unapplied(state: &StateStore) -> LogIndex {
    state.position().index.next()
}
