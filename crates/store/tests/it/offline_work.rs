//! Looking at, dumping, restoring and recovering the data of a stopped node.

use std::sync::Arc;

use quorate_kv::{KeySpace, KvError, RecordKey, Revision};
use quorate_raft::{HardState, Incarnation, LogIndex, Member, NodeId};
use quorate_store::offline::{
    NewCluster, OfflineError, Recovered, UncommittedTail, dump_applied, inspect, recover, restore, unfinished_recovery,
};
use quorate_store::testing::FaultyDisk;
use quorate_store::{Disk, LOG_FILE, LogWrite, OpenedStores, STATE_FILE};
use quorate_wire::derive_node_id;
use redb::{ReadableTable, TableDefinition};

use crate::dice::Dice;
use crate::fixture::{CLUSTER, INCARNATION, Reference, entries, identity, member, options};
use crate::log_damage::tamper_with;

const NEW_CLUSTER: u128 = 0xD2;

fn shared(disk: &FaultyDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// A node that was killed: 60 entries logged, 50 known to be committed, 30 applied durably, 20 more in memory only.
fn stopped() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut node = member(&disk);
    let all = entries(8, 1..=60);
    let term = all.last().expect("sixty").term;
    let hard_state = HardState { term, vote: Some(NodeId(5)), commit: LogIndex(50), ..HardState::default() };
    node.log.append(&[LogWrite { hard_state, entries: all.clone() }]).expect("no fault");
    node.state.apply(&all[..30]).expect("no fault");
    node.state.checkpoint().expect("no fault");
    node.state.apply(&all[30..50]).expect("no fault");
    disk.kill();
    disk
}

fn new_cluster() -> NewCluster {
    let member =
        Member { name: "n1".to_owned(), peer_address: "n1:2380".to_owned(), max_version: 1, ..Member::default() };
    NewCluster { cluster_id: NEW_CLUSTER, member, revision_bump: 1000 }
}

fn dump(disk: &FaultyDisk) -> Vec<String> {
    let mut lines = Vec::new();
    dump_applied(shared(disk), |line| {
        lines.push(line.to_owned());
        Ok(())
    })
    .expect("sound");
    lines
}

#[test]
fn a_dump_has_a_line_with_its_revision_for_each_committed_entry_and_changes_nothing() {
    let disk = stopped();
    let before = disk.fingerprint();
    let lines = dump(&disk);
    assert_eq!(lines.len(), 50);
    let mut reference = Reference::new(8);
    reference.advance(50);
    for (line, index) in lines.iter().zip(1..) {
        let Revision(revision) = reference.after(LogIndex(index)).1;
        let term = crate::fixture::entry(8, index).term;
        let start = format!(r#"{{"index":{index},"term":{term},"revision":{revision},"request":{{"#);
        assert!(line.starts_with(&start), "{line}");
    }
    assert_eq!(disk.fingerprint(), before);
}

#[test]
fn a_dump_begins_where_the_log_does() {
    let disk = stopped();
    let mut node = options().open(&shared(&disk), INCARNATION).expect("sound");
    node.log.truncate_prefix(LogIndex(20)).expect("no fault");
    drop(node);
    let lines = dump(&disk);
    assert_eq!(lines.len(), 30);
    assert!(lines[0].starts_with(r#"{"index":21,"#));
}

#[test]
fn an_inspection_shows_the_uncommitted_tail_and_changes_nothing() {
    let disk = stopped();
    let before = disk.fingerprint();
    let found = inspect(shared(&disk)).expect("sound");
    assert_eq!(disk.fingerprint(), before);
    assert_eq!(found.identity, Some(identity()));
    assert_eq!((found.applied, found.hard_state.commit, found.last), (LogIndex(30), LogIndex(50), LogIndex(60)));
    assert_eq!(found.uncommitted, entries(8, 51..=60));
    assert!(matches!(inspect(shared(&FaultyDisk::new())), Err(OfflineError::NoData)));
}

/// The node after a recovery: opens, has a new identity, votes alone, and holds what history has at `applied`.
#[track_caller]
fn assert_sole_voter(disk: &FaultyDisk, recovered: &Recovered, incarnation: Incarnation, reference: &Reference) {
    let OpenedStores { log, recovered: found, state } = options().open(&shared(disk), Incarnation(0)).expect("sound");
    let id = derive_node_id(NEW_CLUSTER, incarnation);
    assert_eq!(found.identity, Some(recovered.identity));
    assert_eq!((recovered.identity.cluster_id, recovered.identity.node_id), (NEW_CLUSTER, id));
    assert_eq!(state.cluster_id(), Some(NEW_CLUSTER));
    assert_eq!(found.base, (recovered.meta.index, recovered.meta.term));
    assert_eq!(found.base_membership.1, recovered.meta.membership);
    assert_eq!(found.base_membership.1.voters, [id].into());
    assert_eq!(found.base_membership.1.cluster_version, crate::fixture::membership().cluster_version);
    assert_eq!(found.base_membership.1.members[&id].peer_address, "n1:2380");
    assert_eq!((found.hard_state.vote, found.hard_state.commit, found.last), (None, found.base.0, found.base.0));
    let (digest, Revision(revision)) = reference.after(LogIndex(reference.last()));
    assert_eq!(state.view().digest().1, digest);
    assert_eq!(state.view().revision(), Revision(revision + 1000));
    assert_eq!(recovered.revision, Revision(revision + 1000));
    // All that was there is there, and only now: whoever knows an older revision is told so.
    let compacted = state.view().compact_revision();
    assert_eq!(compacted, recovered.revision);
    let answer = state.view().range(&crate::fixture::everything(compacted.0)).expect("sound").expect("readable");
    assert_eq!(answer.kvs, reference.range(revision).kvs);
    assert!(!answer.kvs.is_empty());
    for old in [revision, compacted.0 - 1] {
        let answer = state.view().range(&crate::fixture::everything(old)).expect("sound");
        assert_eq!(answer, Err(KvError::Compacted), "at revision {old}");
    }
    log.check();
}

#[test]
fn recovery_applies_or_discards_the_uncommitted_tail() {
    for (tail, last) in [(UncommittedTail::Apply, 60), (UncommittedTail::Discard, 50)] {
        let disk = stopped();
        let recovered = recover(shared(&disk), new_cluster(), tail).expect("sound");
        let mut reference = Reference::new(8);
        reference.advance(last);
        assert_eq!(recovered.meta.index, LogIndex(last));
        assert_sole_voter(&disk, &recovered, INCARNATION, &reference);
        let again = recover(shared(&disk), new_cluster(), tail);
        assert!(matches!(again, Err(OfflineError::SameCluster(NEW_CLUSTER))));
    }
}

/// A start believes the image of the index, so the only copy of a cluster's data would be found short one read at a time.
#[test]
fn a_copy_that_lacks_a_record_or_has_a_rotten_one_is_not_recovered() {
    const RECORDS: TableDefinition<'static, [u8; RecordKey::ENCODED_LEN], &[u8]> = TableDefinition::new("records");
    for is_missing in [true, false] {
        let disk = stopped();
        let OpenedStores { state, log, .. } = options().open(&shared(&disk), INCARNATION).expect("sound");
        state.close().expect("no fault");
        drop(log);
        inspect(shared(&disk)).expect("sound");
        tamper_with(&disk, STATE_FILE, |transaction| {
            let mut records = transaction.open_table(RECORDS).expect("there");
            let (at, record) = {
                let first = records.first().expect("no fault").expect("not empty");
                (first.0.value(), first.1.value().to_vec())
            };
            if is_missing {
                records.remove(at).expect("no fault");
            } else {
                records.insert(at, &record[1..]).expect("no fault");
            }
        });
        drop(options().open(&shared(&disk), INCARNATION).expect("nobody has looked at the record"));
        let found = if is_missing { "is in the key index, but not in the file" } else { "fails its checksum" };
        let refused = inspect(shared(&disk)).expect_err("damaged").to_string();
        assert!(refused.contains(found), "{refused}");
        let refused = recover(shared(&disk), new_cluster(), UncommittedTail::Apply).expect_err("damaged").to_string();
        assert!(refused.contains(found), "{refused}");
        let owner = options().open(&shared(&disk), INCARNATION).expect("as it was").recovered.identity;
        assert_eq!(owner, Some(identity()), "it is still of its old cluster");
    }
}

#[test]
fn an_interrupted_recovery_is_finished_by_the_same_call() {
    let (mut finished_by_second, mut told_unfinished) = (0, 0);
    for cut_after in 1.. {
        let disk = stopped();
        disk.cut_power_after(cut_after);
        let first = recover(shared(&disk), new_cluster(), UncommittedTail::Apply);
        let cut = disk.is_power_cut();
        let mut dice = Dice::new(cut_after);
        disk.crash(&mut dice);
        let mut reference = Reference::new(8);
        reference.advance(60);
        let unfinished = unfinished_recovery(shared(&disk)).expect("both files are sound");
        assert!([None, Some(NEW_CLUSTER)].contains(&unfinished), "cut after {cut_after}: {unfinished:?}");
        // What a node would refuse is what a recovery knows to finish, and nothing else.
        assert_eq!(inspect(shared(&disk)).is_err(), unfinished.is_some(), "cut after {cut_after}");
        told_unfinished += u32::from(unfinished.is_some());
        let recovered = match (first, recover(shared(&disk), new_cluster(), UncommittedTail::Apply)) {
            (_, Ok(second)) => {
                finished_by_second += 1;
                second
            }
            (Ok(first), Err(OfflineError::SameCluster(_))) => first,
            // Done but for its last answer.
            (Err(_), Err(OfflineError::SameCluster(_))) => continue,
            (_, Err(error)) => panic!("cut after {cut_after}: {error}"),
        };
        assert_sole_voter(&disk, &recovered, INCARNATION, &reference);
        if !cut {
            break;
        }
    }
    assert!(finished_by_second > 5, "{finished_by_second}");
    assert!(told_unfinished > 0, "no cut fell between the two files");
}

#[test]
fn an_image_is_restored_into_an_empty_directory_only() {
    let mut sender = member(&FaultyDisk::new());
    sender.state.apply(&entries(8, 1..=80)).expect("no fault");
    let image: Vec<_> = sender.state.snapshot().expect("a member").map(|chunk| chunk.expect("sound")).collect();
    assert_ne!(CLUSTER, NEW_CLUSTER);

    let disk = FaultyDisk::new();
    let chunks = || image.iter().cloned().map(Ok);
    let recovered = restore(shared(&disk), chunks(), new_cluster(), Incarnation(77)).expect("whole");
    let mut reference = Reference::new(8);
    reference.advance(80);
    assert_sole_voter(&disk, &recovered, Incarnation(77), &reference);
    let again = restore(shared(&disk), chunks(), new_cluster(), Incarnation(78));
    assert!(matches!(again, Err(OfflineError::NotEmpty(_))));

    let cut = restore(shared(&FaultyDisk::new()), chunks().take(1), new_cluster(), Incarnation(79));
    assert!(matches!(cut, Err(OfflineError::Snapshot(_))), "{cut:?}");
}

#[test]
fn a_state_without_its_log_and_a_log_without_its_state_are_refused() {
    let disk = stopped();
    disk.remove(LOG_FILE).expect("there");
    let error = options().open(&shared(&disk), INCARNATION).expect_err("half of the data").to_string();
    assert!(error.contains("log.redb is damaged: it is missing"), "{error}");

    let disk = stopped();
    let mut node = options().open(&shared(&disk), INCARNATION).expect("sound");
    node.log.truncate_prefix(LogIndex(20)).expect("no fault");
    drop(node);
    disk.remove(STATE_FILE).expect("there");
    let error = options().open(&shared(&disk), INCARNATION).expect_err("half of the data").to_string();
    assert!(error.contains("state.redb is damaged: it is missing, but the log begins after entry 20"), "{error}");
}

#[test]
fn a_log_that_begins_after_the_state_is_refused() {
    let disk = stopped();
    let mut node = options().open(&shared(&disk), INCARNATION).expect("sound");
    // A bug of a caller: the state reflects 30 entries durably.
    node.log.truncate_prefix(LogIndex(40)).expect("no fault");
    drop(node);
    let error = options().open(&shared(&disk), INCARNATION).expect_err("a gap").to_string();
    assert!(error.contains("reflects entries up to 30, but the log begins after entry 40"), "{error}");
}

#[test]
fn an_empty_key_space_has_the_digest_of_a_new_node() {
    let node = member(&FaultyDisk::new());
    assert_eq!(node.state.view().digest(), (LogIndex(0), KeySpace::new().digest()));
}
