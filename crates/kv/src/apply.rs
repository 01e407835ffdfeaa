//! Commands, applied: the one place where the key space changes.
//!
//! Everything that can refuse a command is checked before its first change, so a refused command has no effect; after
//! that only storage can fail, and that ends the node.

use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{Actor, AuthCommand};
use crate::compare::{Decision, branch};
use crate::error::KvError;
use crate::interval::Interval;
use crate::keyspace::KeySpace;
use crate::precheck::{check_put, check_txn};
use crate::range::{RangePlan, fetch};
use crate::rationed::{RationedReadError, RationedReader};
use crate::record::{KeyValue, Record};
use crate::records::WriteRecords;
use crate::requests::{Command, CompactRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::responses::{
    Change, DeleteRangeResponse, Outcome, PutResponse, RangeResponse, Response, ResponseBody, ResponseOp, TxnResponse,
};
use crate::revision::{RecordKey, Revision};
use crate::room::AnswerRoom;
use crate::row::RowWriter;
use crate::validate::{Limits, validate};

impl KeySpace {
    /// Applies the next command of the log, which nobody in particular asked for.
    ///
    /// # Errors
    /// The storage's; key space and records are then of no use any more.
    pub fn apply<W: WriteRecords>(&mut self, records: &mut W, command: &Command) -> Result<Outcome, W::Error> {
        self.apply_for(records, &Actor::Anonymous, command, &AnswerRoom::unlimited())
    }

    /// Applies the next command of the log on behalf of `actor`. An answer that `room` has no room for is withheld.
    ///
    /// # Errors
    /// The storage's; key space and records are then of no use any more.
    pub fn apply_for<W: WriteRecords>(
        &mut self,
        records: &mut W,
        actor: &Actor,
        command: &Command,
        room: &AnswerRoom,
    ) -> Result<Outcome, W::Error> {
        let before = self.meta.revision;
        // Whoever proposed this checked it; an outcome must not depend on that.
        let (result, changes) = match self.admit(actor, command) {
            Err(refused) => (Err(refused), Vec::new()),
            Ok(()) => match command {
                Command::Compact(compact) => (self.compact(*compact), Vec::new()),
                Command::Clock(now) => {
                    self.set_clock(records, *now)?;
                    (Ok(Response::Clock), Vec::new())
                }
                Command::Auth(change) => (self.change_auth(records, change)?, Vec::new()),
                Command::Alarm(change) => {
                    (Ok(Response::Alarm(self.change_alarms(records, actor, *change)?)), Vec::new())
                }
                Command::LeaseGrant(grant) => {
                    (self.grant_lease(records, *grant)?.map(Response::LeaseGrant), Vec::new())
                }
                Command::LeaseRenew { ids } => {
                    let ttls_seconds = self.renew_leases(records, ids)?;
                    (Ok(Response::LeaseRenew { ttls_seconds }), Vec::new())
                }
                Command::LeaseRevoke { id } if !self.leases.contains(*id) => (Err(KvError::LeaseNotFound), Vec::new()),
                Command::LeaseRevoke { id } => {
                    self.write(records, room, |writer| writer.end_lease(*id, Response::LeaseRevoke))?
                }
                Command::LeaseExpire(due) if !self.has_run_out(*due) => {
                    (Ok(Response::LeaseExpire { expired: false }), Vec::new())
                }
                Command::LeaseExpire(due) => self
                    .write(records, room, |writer| writer.end_lease(due.id, Response::LeaseExpire { expired: true }))?,
                Command::Put(put) => self.write(records, room, |writer| writer.put_checked(put))?,
                Command::DeleteRange(delete) => {
                    self.write(records, room, |writer| Ok(Ok(Response::DeleteRange(writer.delete_range(delete)?))))?
                }
                Command::Txn(txn) => self.write(records, room, |writer| writer.txn_checked(txn))?,
            },
        };
        assert!(result.is_ok() || changes.is_empty(), "a refused command changed something");
        if !changes.is_empty() {
            self.meta.revision = Revision(before.0 + 1);
        }
        Ok(Outcome { result, revision: self.meta.revision, changes })
    }

    /// Everything that is looked at before a command is executed: the actor's rights, the alarms, the command itself.
    fn admit(&self, actor: &Actor, command: &Command) -> Result<(), KvError> {
        self.auth.judge(actor, command, &self.leases)?;
        self.alarms.admit(command)?;
        validate(command, &Limits::APPLICABLE)
    }

    fn change_auth<W: WriteRecords>(
        &mut self,
        records: &mut W,
        change: &AuthCommand,
    ) -> Result<Result<Response, KvError>, W::Error> {
        match Arc::make_mut(&mut self.auth).apply(change) {
            Ok((response, touched)) => {
                let mut rows = RowWriter { records, digest: &mut self.meta.digest };
                self.auth.store(&touched, &mut rows)?;
                Ok(Ok(Response::Auth(response)))
            }
            Err(refused) => Ok(Err(refused.into())),
        }
    }

    fn compact(&mut self, request: CompactRequest) -> Result<Response, KvError> {
        if request.revision <= self.meta.compact_revision.0 {
            return Err(KvError::Compacted);
        }
        if request.revision > self.meta.revision.0 && !mutant!(CompactsFuture) {
            return Err(KvError::FutureRevision);
        }
        self.meta.compact_revision = Revision(request.revision);
        self.meta.digest = self.meta.digest.with_compaction(self.meta.compact_revision);
        Ok(Response::Compact)
    }

    /// Runs `work` with a writer of the next revision; its changes come with the result.
    #[expect(clippy::type_complexity, reason = "an answer or a refusal, with the changes, or a storage error")]
    fn write<W: WriteRecords>(
        &mut self,
        records: &mut W,
        room: &AnswerRoom,
        work: impl FnOnce(&mut Writer<'_, W>) -> Result<Result<Response, KvError>, W::Error>,
    ) -> Result<(Result<Response, KvError>, Vec<Change>), W::Error> {
        let mut writer = Writer { space: self, records, room, changes: Vec::new() };
        let result = work(&mut writer)?;
        let changes = writer.changes;
        let is_answered = room.end_command();
        Ok((result.map(|response| if is_answered { response } else { Response::Withheld }), changes))
    }
}

fn range_op(response: RangeResponse) -> ResponseOp {
    ResponseOp { revision: response.revision.0, body: ResponseBody::Range(response) }
}

/// Makes the changes of one command, all of the revision after the store's.
struct Writer<'a, W> {
    space: &'a mut KeySpace,
    records: &'a mut W,
    room: &'a AnswerRoom,
    changes: Vec<Change>,
}

impl<W: WriteRecords> Writer<'_, W> {
    fn put_checked(&mut self, put: &PutRequest) -> Result<Result<Response, KvError>, W::Error> {
        if let Err(refused) = check_put(self.space, put) {
            return Ok(Err(refused));
        }
        Ok(Ok(Response::Put(self.put(put)?)))
    }

    fn txn_checked(&mut self, txn: &TxnRequest) -> Result<Result<Response, KvError>, W::Error> {
        let before = self.space.meta.revision;
        let decision = Decision::of(txn, self.space, self.records, before)?;
        if let Err(refused) = check_txn(self.space, txn, &decision, before) {
            return Ok(Err(refused));
        }
        Ok(Ok(Response::Txn(self.txn(txn, &decision)?)))
    }

    fn txn(&mut self, txn: &TxnRequest, decision: &Decision) -> Result<TxnResponse, W::Error> {
        let ops = branch(txn, decision.succeeded);
        let mut nested = decision.nested.iter();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                RequestOp::Range(range) => match self.range(range)? {
                    Some(response) => range_op(response),
                    None => continue,
                },
                RequestOp::Put(put) => {
                    let body = ResponseBody::Put(self.put(put)?);
                    ResponseOp { revision: self.visible().0, body }
                }
                RequestOp::DeleteRange(delete) => {
                    let body = ResponseBody::DeleteRange(self.delete_range(delete)?);
                    ResponseOp { revision: self.visible().0, body }
                }
                RequestOp::Txn(inner) => {
                    let mut decision = nested.next().expect("one decision a nested transaction");
                    let late;
                    if mutant!(NestedSeesWrites) {
                        late = Decision::of(inner, self.space, self.records, self.visible())?;
                        decision = &late;
                    }
                    ResponseOp { revision: 0, body: ResponseBody::Txn(self.txn(inner, decision)?) }
                }
            });
        }
        Ok(TxnResponse { succeeded: decision.succeeded, responses })
    }

    /// A range whose revision was checked before; `None` if there is no room for its answer.
    fn range(&self, range: &RangeRequest) -> Result<Option<RangeResponse>, W::Error> {
        let mut plan = RangePlan::within_txn(range, self.visible());
        self.read_answer(|space, records| {
            plan.walk_all(space);
            plan.finish(records)
        })
    }

    /// Reads a part of the answer; `None` if there is no room for it, and the whole answer is withheld.
    fn read_answer<T>(
        &self,
        read: impl FnOnce(&KeySpace, &RationedReader<'_, W>) -> Result<T, RationedReadError<W::Error>>,
    ) -> Result<Option<T>, W::Error> {
        if self.room.is_spent() {
            return Ok(None);
        }
        let allow = |bytes| self.room.take(bytes);
        match read(&*self.space, &RationedReader::new(&*self.records, &allow)) {
            Ok(part) => Ok(Some(part)),
            Err(RationedReadError::NotAllowed) => Ok(None),
            Err(RationedReadError::Read(error)) => Err(error),
        }
    }

    /// The revision an operation within the command sees: the next one as soon as something was changed.
    fn visible(&self) -> Revision {
        let before = self.space.meta.revision.0;
        Revision(if self.changes.is_empty() { before } else { before + 1 })
    }

    fn next_key(&self) -> RecordKey {
        let sub = u32::try_from(self.changes.len()).expect("fewer than 2^32 keys are changed at once");
        RecordKey { revision: self.space.meta.revision.0 + 1, sub }
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutResponse, W::Error> {
        let at = self.next_key();
        let mut value = put.value.clone();
        let mut lease = put.lease;
        let mut prev_kv = None;
        if put.prev_kv || put.ignore_value || put.ignore_lease {
            let previous = self.previous(&put.key)?;
            if let Some(previous) = &previous {
                value = if put.ignore_value { previous.value.clone() } else { value };
                lease = if put.ignore_lease && !mutant!(IgnoreLeaseDetaches) { previous.lease } else { lease };
            }
            let room = self.room;
            prev_kv = previous.filter(|kv| put.prev_kv && room.take(kv.answer_bytes()));
        }
        if !mutant!(MovedKeyKeepsLease) || self.space.lease_of(&put.key).is_none() {
            self.space.attach(self.records, &put.key, lease)?;
        }
        let lineage = self.space.index.put(&put.key, at);
        let record = Record {
            key: put.key.clone(),
            value,
            create_revision: lineage.create_revision,
            version: lineage.version,
            lease,
            tombstone: false,
        };
        self.store(at, record)?;
        Ok(PutResponse { prev_kv })
    }

    fn previous(&self, key: &[u8]) -> Result<Option<KeyValue>, W::Error> {
        let Some(live) = self.space.index.find(key, i64::MAX) else { return Ok(None) };
        let record = self.records.get(live.at)?.ok_or_else(|| W::missing(live.at))?;
        Ok(Some(record.into_key_value(live.at)))
    }

    fn delete_range(&mut self, delete: &DeleteRangeRequest) -> Result<DeleteRangeResponse, W::Error> {
        let first = self.next_key();
        let mut replaced = Vec::new();
        let mut keys = Vec::new();
        for (key, versions) in self.space.index.interval_mut(Interval::new(&delete.key, &delete.range_end)) {
            if let Some(live) = versions.live_at(i64::MAX) {
                let sub = first.sub + u32::try_from(keys.len()).expect("fewer than 2^32 keys are deleted at once");
                versions.delete(RecordKey { sub, ..first });
                keys.push(if key == delete.key { delete.key.clone() } else { Bytes::copy_from_slice(key) });
                replaced.push(live.at);
            }
        }
        let prev_kvs = if delete.prev_kv { self.read_answer(|_, records| fetch(records, &replaced))? } else { None };
        let prev_kvs = prev_kvs.unwrap_or_default();
        let deleted = i64::try_from(keys.len()).expect("memory holds fewer than 2^63 keys");
        for key in keys {
            self.space.attach(self.records, &key, 0)?;
            self.store(self.next_key(), Record::tombstone(key))?;
        }
        Ok(DeleteRangeResponse { deleted, prev_kvs })
    }

    /// Deletes the keys of a lease, in their order, then the lease.
    fn end_lease(&mut self, id: i64, done: Response) -> Result<Result<Response, KvError>, W::Error> {
        for key in self.space.keys_of_lease(id) {
            let one = DeleteRangeRequest { key: Bytes::copy_from_slice(&key), ..DeleteRangeRequest::default() };
            let deleted = self.delete_range(&one)?.deleted;
            assert_eq!(deleted, 1, "the key {key:02x?} of lease {id} is not alive");
        }
        self.space.end_lease(self.records, id)?;
        Ok(Ok(done))
    }

    fn store(&mut self, at: RecordKey, record: Record) -> Result<(), W::Error> {
        self.records.insert(at, &record)?;
        self.space.meta.digest = self.space.meta.digest.with_record(at, &record);
        self.changes.push(Change { at, record });
        Ok(())
    }
}
