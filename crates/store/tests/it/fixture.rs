//! A history of commands made from a seed, and what a key space in memory says after each of them.

use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::testing::MemoryRecords;
use quorate_kv::{
    ClusterTime, Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, Digest, KeySpace,
    LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, Revision, TxnRequest,
};
use quorate_raft::{Entry, HardState, Incarnation, LogIndex, Member, Membership, NodeId, Payload, Term};
use quorate_store::testing::{Choices, FaultyDisk};
use quorate_store::{Disk, LogOptions, LogWrite, OpenedStores, StateOptions, StateView, StoreOptions};
use quorate_wire::{Envelope, Identity, derive_node_id, encode_envelope};

use crate::dice::Dice;

pub(crate) const CLUSTER: u128 = 0xC1;
pub(crate) const INCARNATION: Incarnation = Incarnation(7);

/// Small caches, so that pages are evicted and written early.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        log: LogOptions { cache_bytes: 64 << 10, ..LogOptions::default() },
        state: StateOptions { cache_bytes: 128 << 10, ..StateOptions::default() },
    }
}

pub(crate) fn identity() -> Identity {
    Identity { cluster_id: CLUSTER, node_id: derive_node_id(CLUSTER, INCARNATION) }
}

pub(crate) fn membership() -> Arc<Membership> {
    let member = Member { incarnation: INCARNATION, name: "n1".to_owned(), max_version: 1, ..Member::default() };
    let id = identity().node_id;
    Arc::new(Membership {
        voters: [id].into(),
        members: [(id, member)].into(),
        cluster_version: 1,
        ..Membership::default()
    })
}

/// A new member of the cluster on a sound disk.
pub(crate) fn member(disk: &FaultyDisk) -> OpenedStores {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut opened = options().open(&disk, INCARNATION).expect("empty");
    opened.log.bootstrap(identity(), membership()).expect("no fault");
    opened.state.set_cluster_id(CLUSTER).expect("no fault");
    opened.recovered = opened.log.recovered();
    opened
}

/// The entry at `index` of the history `seed`: always the same one.
pub(crate) fn entry(seed: u64, index: u64) -> Entry {
    let mut dice = Dice::new(seed ^ index.wrapping_mul(0x1000_0000_01B3));
    let payload = match dice.below(20) {
        0 => Payload::Noop,
        1 => Payload::Membership(membership()),
        _ => Payload::Command(encode_envelope(&Envelope {
            origin: NodeId(1),
            incarnation: Incarnation(3),
            sequence: index,
            actor: quorate_kv::Actor::Anonymous,
            command: command(index, &mut dice),
        })),
    };
    Entry { term: Term(1 + index / 40), index: LogIndex(index), payload }
}

pub(crate) fn entries(seed: u64, range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    range.map(|index| entry(seed, index)).collect()
}

/// The write that appends these entries and commits all of them.
pub(crate) fn write(entries: Vec<Entry>) -> LogWrite {
    let last = entries.last().expect("not empty");
    LogWrite {
        hard_state: HardState { term: last.term, vote: None, commit: last.index, ..HardState::default() },
        entries,
    }
}

fn key(dice: &mut Dice) -> Bytes {
    Bytes::from(format!("key-{:02}", dice.below(40)))
}

fn lease_id(dice: &mut Dice) -> i64 {
    dice.below(6) as i64 - 7
}

fn put(dice: &mut Dice) -> PutRequest {
    let value = vec![dice.below(256) as u8; dice.below(1500) as usize];
    // Refused where there is no such lease.
    let lease = if dice.chance(3) { lease_id(dice) } else { 0 };
    PutRequest { key: key(dice), value: value.into(), lease, prev_kv: dice.chance(3), ..PutRequest::default() }
}

fn command(index: u64, dice: &mut Dice) -> Command {
    match dice.below(20) {
        // Rows beside the records.
        16 => Command::Clock(ClusterTime(index * 10)),
        17 => Command::LeaseGrant(LeaseGrantRequest { id: lease_id(dice), ttl_seconds: 1 + dice.below(9) as i64 }),
        18 => Command::LeaseRenew { ids: vec![lease_id(dice), lease_id(dice)] },
        19 => Command::LeaseRevoke { id: lease_id(dice) },
        // Often refused, which is an outcome like any other.
        0 => Command::Compact(CompactRequest { revision: (index as i64 / 2).max(1), physical: false }),
        1 => {
            let key = key(dice);
            let range_end = if dice.chance(4) { Bytes::from_static(b"key-99") } else { Bytes::new() };
            Command::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: dice.chance(2) })
        }
        2 | 3 => Command::Txn(TxnRequest {
            compare: vec![Compare {
                key: key(dice),
                range_end: Bytes::new(),
                target: CompareTarget::Version(1),
                result: CompareResult::Greater,
            }],
            success: vec![RequestOp::Put(put(dice)), RequestOp::Range(everything(0))],
            failure: vec![RequestOp::DeleteRange(DeleteRangeRequest {
                key: key(dice),
                ..DeleteRangeRequest::default()
            })],
        }),
        _ => Command::Put(put(dice)),
    }
}

pub(crate) fn everything(revision: i64) -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        revision,
        ..RangeRequest::default()
    }
}

/// The same history in memory.
pub(crate) struct Reference {
    seed: u64,
    space: KeySpace,
    records: MemoryRecords,
    /// Digest and revision after each index.
    after: Vec<(Digest, Revision)>,
}

impl Reference {
    pub(crate) fn new(seed: u64) -> Self {
        let space = KeySpace::new();
        Self { seed, after: vec![(space.digest(), space.revision())], space, records: MemoryRecords::new() }
    }

    pub(crate) fn last(&self) -> u64 {
        self.after.len() as u64 - 1
    }

    pub(crate) fn after(&self, index: LogIndex) -> (Digest, Revision) {
        self.after[index.0 as usize]
    }

    pub(crate) fn advance(&mut self, to: u64) {
        for index in self.last() + 1..=to {
            if let Payload::Command(bytes) = entry(self.seed, index).payload {
                let envelope = quorate_wire::decode_envelope(&bytes).expect("just encoded");
                let Ok(_) = self.space.apply(&mut self.records, &envelope.command);
            }
            self.after.push((self.space.digest(), self.space.revision()));
        }
    }

    pub(crate) fn range(&self, revision: i64) -> RangeResponse {
        let Ok(answer) = self.space.range(&self.records, &everything(revision));
        answer.expect("a readable revision")
    }

    /// A state that has applied as much answers reads alike, now and at earlier revisions.
    #[track_caller]
    pub(crate) fn assert_same(&self, view: &StateView) {
        assert_eq!(view.applied().0, self.last());
        assert_eq!(view.digest().1, self.space.digest());
        assert_eq!(view.compact_revision(), self.space.compact_revision());
        assert_eq!(view.lease_summary(), self.space.lease_summary());
        assert_eq!(view.leases_by_deadline(), self.space.leases_by_deadline());
        for id in self.space.leases_by_deadline() {
            assert_eq!(view.lease(id), self.space.lease(id));
        }
        let oldest = self.space.compact_revision().0.max(1);
        let newest = self.space.revision().0;
        let step = ((newest - oldest) / 6).max(1) as usize;
        for revision in (oldest..=newest).rev().step_by(step) {
            let answer = view.range(&everything(revision)).expect("sound").expect("readable");
            assert_eq!(answer, self.range(revision), "at revision {revision}");
        }
    }
}
