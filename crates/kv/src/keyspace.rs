//! The key space: index, revision counters and digest, and the reads on them.
//!
//! Invariants, checked by [`KeySpace::check`]: `compact_revision <= revision`; `pruned <= pruning <= compact_revision`;
//! no record lies after
//! `revision`.

use std::sync::Arc;

use crate::alarm::Alarms;
use crate::auth::AuthState;
use crate::clock::ClusterTime;
use crate::compact::Pass;
use crate::digest::Digest;
use crate::error::KvError;
use crate::image::IndexImage;
use crate::index::{KeyIndex, Lineage, Stamp, Walked};
use crate::lease::Leases;
use crate::range::RangePlan;
use crate::records::{ReadRecords, ReadRows};
use crate::requests::RangeRequest;
use crate::responses::RangeResponse;
use crate::revision::{RecordKey, Revision};

/// The numbers of a key space that are stored beside its records, in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpaceMeta {
    /// Revision of the last change.
    pub revision: Revision,
    /// Oldest readable revision. The same on all nodes at one applied index.
    pub compact_revision: Revision,
    /// Compaction that this node has carried out in its storage: its own matter, not the same on all nodes.
    pub pruned: Revision,
    /// Compaction that this node has begun to carry out; `pruned` follows when it is done.
    pub pruning: Revision,
    /// Hash of all changes so far.
    pub digest: Digest,
}

impl Default for KeySpaceMeta {
    fn default() -> Self {
        KeySpaceMeta {
            revision: Revision::EMPTY,
            compact_revision: Revision::NEVER_COMPACTED,
            pruned: Revision::NEVER_COMPACTED,
            pruning: Revision::NEVER_COMPACTED,
            digest: Digest::default(),
        }
    }
}

impl KeySpaceMeta {
    /// Bytes of an encoded meta.
    pub const ENCODED_LEN: usize = 8 + 8 + 8 + 8 + 16;

    /// Big-endian bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::ENCODED_LEN] {
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[..8].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.compact_revision.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.pruned.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.pruning.0.to_be_bytes());
        bytes[32..].copy_from_slice(&self.digest.0.to_be_bytes());
        bytes
    }

    /// Reads what [`KeySpaceMeta::to_bytes`] wrote; `None` if the numbers cannot belong together.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::ENCODED_LEN]) -> Option<KeySpaceMeta> {
        let revision =
            |at: usize| Revision(i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes of 48")));
        let digest = Digest(u128::from_be_bytes(bytes[32..].try_into().expect("sixteen bytes of 48")));
        let meta = KeySpaceMeta {
            revision: revision(0),
            compact_revision: revision(8),
            pruned: revision(16),
            pruning: revision(24),
            digest,
        };
        meta.is_sound().then_some(meta)
    }

    /// The numbers of a cluster that goes on from this state under another id. Nothing before its first revision can be read
    /// or watched: a client of the old cluster would otherwise go on as if the revisions between had been told to it.
    #[must_use]
    pub fn raised(self, bump: i64) -> KeySpaceMeta {
        let revision = Revision(self.revision.0.saturating_add(bump));
        KeySpaceMeta { revision, compact_revision: revision, ..self }
    }

    fn is_sound(&self) -> bool {
        self.revision >= Revision::EMPTY
            && self.pruned >= Revision::NEVER_COMPACTED
            && self.pruned <= self.pruning
            && self.pruning <= self.compact_revision
            && self.compact_revision <= self.revision
    }
}

/// The state machine: see the crate's page.
#[derive(Debug, Default)]
pub struct KeySpace {
    pub(crate) index: KeyIndex,
    pub(crate) meta: KeySpaceMeta,
    pub(crate) clock: ClusterTime,
    /// Shared with readers, who judge requests by it; copied when it changes under them.
    pub(crate) auth: Arc<AuthState>,
    pub(crate) alarms: Alarms,
    pub(crate) leases: Leases,
    /// Physical compaction in progress.
    pub(crate) pass: Option<Pass>,
    /// Snapshots in progress: while there is one, nothing is pruned.
    pub(crate) pins: usize,
}

impl KeySpace {
    /// An empty key space, at revision 1.
    #[must_use]
    pub fn new() -> KeySpace {
        KeySpace::default()
    }

    /// A key space from its stored numbers, all its records and all its rows.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Panics
    /// If `meta` is not sound: [`KeySpaceMeta::from_bytes`] is where stored bytes are judged.
    pub fn rebuild<R: ReadRows>(meta: KeySpaceMeta, records: &R) -> Result<KeySpace, R::Error> {
        Self::scan_onto(KeyIndex::default(), RecordKey { revision: 0, sub: 0 }, meta, records)
    }

    /// Like [`KeySpace::rebuild`], reading only the records after `image`, which must be of the same history.
    ///
    /// # Errors
    /// The storage's.
    ///
    /// # Panics
    /// If the image is newer than `meta`; [`crate::KeySpace::decode_index`] refuses such a one.
    pub fn rebuild_on<R: ReadRows>(image: IndexImage, meta: KeySpaceMeta, records: &R) -> Result<KeySpace, R::Error> {
        assert!(
            image.revision <= meta.revision,
            "an index image of {} for a store at {}",
            image.revision,
            meta.revision
        );
        let from = RecordKey::first_of(Revision(image.revision.0 + 1));
        // Versions pruned after the image was made are in it still: the index must be walked again.
        let pruned = meta.pruned.min(image.pruned);
        Self::scan_onto(image.index, from, KeySpaceMeta { pruned, ..meta }, records)
    }

    fn scan_onto<R: ReadRows>(
        index: KeyIndex,
        from: RecordKey,
        meta: KeySpaceMeta,
        records: &R,
    ) -> Result<KeySpace, R::Error> {
        assert!(meta.is_sound(), "numbers of a key space that cannot be: {meta:?}");
        let mut space = KeySpace { index, meta, ..KeySpace::default() };
        let mut newest = 0;
        records.scan(from, &mut |at, record| {
            let stamp = Stamp { revision: at.revision, sub: at.sub, tombstone: record.tombstone };
            let lineage = Lineage { create_revision: record.create_revision, version: record.version };
            space.index.restore(&record.key, stamp, lineage);
            if !record.tombstone {
                newest = newest.max(at.revision);
            }
            true
        })?;
        if mutant!(RevisionOfRecords) && newest > 0 {
            space.meta.revision = Revision(newest);
        }
        space.load_clock(records)?;
        space.auth = Arc::new(AuthState::load(records)?);
        space.load_alarms(records)?;
        space.load_leases(records)?;
        Ok(space)
    }

    /// The numbers to store beside the records.
    #[must_use]
    pub fn meta(&self) -> KeySpaceMeta {
        self.meta
    }

    /// Revision of the last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.meta.revision
    }

    /// Oldest readable revision.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.meta.compact_revision
    }

    /// Hash of every change applied so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.meta.digest
    }

    /// Users, roles and the switch.
    #[must_use]
    pub fn auth(&self) -> &Arc<AuthState> {
        &self.auth
    }

    /// Keys in the index, those with only a tombstone included.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.index.len()
    }

    /// Number of records the index names.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        let mut count = 0;
        self.index.walk_all(None, usize::MAX, |_, versions| count += versions.stamps().count() as u64);
        count
    }

    /// Where the records of up to `max_keys` keys after `after` are, and the last of those keys; `None` after the last of all.
    /// Without those that compaction hides: after a start from an image the index may name some that are gone already.
    #[must_use]
    pub fn records_of_keys(&self, after: Option<&[u8]>, max_keys: usize) -> (Vec<RecordKey>, Option<Box<[u8]>>) {
        let (mut records, compacted) = (Vec::new(), self.meta.compact_revision.0);
        let walked = self.index.walk_all(after, max_keys, |_, versions| {
            records.extend(versions.kept(compacted).map(Stamp::at));
        });
        match walked {
            Walked::Until(key) => (records, Some(key)),
            Walked::All => (records, None),
        }
    }

    /// Where the version of `key` is that a read at `revision` sees, if the key is alive there: what a watcher needs
    /// for `prev_kv`.
    /// `None` also if that version may have been compacted away.
    #[must_use]
    pub fn locate(&self, key: &[u8], revision: Revision) -> Option<RecordKey> {
        if revision < self.meta.compact_revision {
            return None;
        }
        self.index.find(key, revision.0).map(|live| live.at)
    }

    /// Whether the record at `at` is the live version of `key` at `revision`. Unlike [`KeySpace::locate`] it knows revisions
    /// that were compacted since, as long as a pin that was made before holds up their removal.
    #[must_use]
    pub fn sees(&self, at: RecordKey, key: &[u8], revision: Revision) -> bool {
        self.index.find(key, revision.0).is_some_and(|live| live.at == at)
    }

    /// Answers a range at the current revision or the one asked for.
    ///
    /// # Errors
    /// The inner error refuses the request; the outer is the storage's.
    pub fn range<R: ReadRecords>(
        &self,
        records: &R,
        request: &RangeRequest,
    ) -> Result<Result<RangeResponse, KvError>, R::Error> {
        match self.plan_range(request) {
            Ok(plan) => plan.finish(records).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// The index part of a range, all at once.
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    pub fn plan_range(&self, request: &RangeRequest) -> Result<RangePlan, KvError> {
        let mut plan = self.begin_range(request, self.meta.revision)?;
        plan.walk_all(self);
        Ok(plan)
    }

    /// Begins a range that takes `visible` for the current revision: the newest whose records the caller can read. Then
    /// [`RangePlan::advance`] walks the index in steps, between which the caller may let go of its lock.
    ///
    /// # Errors
    /// If the revision is compacted or in the future.
    ///
    /// # Panics
    /// If `visible` was not reached yet.
    pub fn begin_range(&self, request: &RangeRequest, visible: Revision) -> Result<RangePlan, KvError> {
        let at = self.read_revision(request.revision, visible)?;
        Ok(RangePlan::new(request.clone(), at, visible))
    }

    /// The revision a request for `asked` reads at.
    pub(crate) fn read_revision(&self, asked: i64, visible: Revision) -> Result<Revision, KvError> {
        assert!(
            visible <= self.meta.revision,
            "revision {visible} is to be visible, but the store is at {}",
            self.meta.revision
        );
        match asked {
            ..=0 => Ok(visible),
            asked if asked > visible.0 => Err(KvError::FutureRevision),
            asked if asked < self.meta.compact_revision.0 => Err(KvError::Compacted),
            asked => Ok(Revision(asked)),
        }
    }

    /// Panics if an invariant is broken.
    pub fn check(&self) {
        assert!(self.meta.is_sound(), "numbers of a key space that cannot be: {:?}", self.meta);
        self.index.check(self.meta.revision.0);
        self.auth.check_invariants();
        self.leases.check(&self.index);
    }
}
