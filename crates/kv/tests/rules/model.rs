//! A naive key space: every change in one list, every answer from the whole list, nothing clever.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_kv::{
    Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, KeyValue,
    KvError, LeaseGrantRequest, LeaseGrantResponse, Limits, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, Response, ResponseBody, ResponseOp, Revision, SortOrder, SortTarget, TxnRequest, TxnResponse, validate,
};

type State = BTreeMap<Bytes, KeyValue>;

/// The whole history.
pub(crate) struct Model {
    /// State after each revision; the index is the revision.
    states: Vec<State>,
    compacted: i64,
    clock: u64,
    /// Time to live in seconds and deadline of each lease; its keys are those whose newest version names it.
    leases: BTreeMap<i64, (i64, u64)>,
}

impl Default for Model {
    fn default() -> Self {
        Model { states: vec![State::new(), State::new()], compacted: -1, clock: 0, leases: BTreeMap::new() }
    }
}

impl Model {
    pub(crate) fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn newest(&self) -> &State {
        self.states.last().expect("there is always a state")
    }

    /// What the command answers, and the revision after it.
    pub(crate) fn apply(&mut self, command: &Command) -> (Result<Response, KvError>, Revision) {
        let result = validate(command, &Limits::default()).and_then(|()| self.run(command));
        (result, Revision(self.revision()))
    }

    fn run(&mut self, command: &Command) -> Result<Response, KvError> {
        if let Command::Compact(CompactRequest { revision, .. }) = command {
            if *revision <= self.compacted {
                return Err(KvError::Compacted);
            }
            if *revision > self.revision() {
                return Err(KvError::FutureRevision);
            }
            self.compacted = *revision;
            return Ok(Response::Compact);
        }
        if let Some(answer) = self.lease_command(command) {
            return answer;
        }
        // Works on a copy, so a refusal in the middle costs nothing.
        let mut work = Work { model: self, state: self.newest().clone(), changed: false };
        let response = match command {
            Command::Put(request) => Response::Put(work.put(request)?),
            Command::DeleteRange(request) => Response::DeleteRange(work.delete(request)),
            Command::Txn(request) => Response::Txn(work.txn(request)?),
            _ => unreachable!("answered above, or not of keys and leases"),
        };
        let Work { state, changed, .. } = work;
        if changed {
            self.states.push(state);
        }
        Ok(response)
    }

    fn lease_command(&mut self, command: &Command) -> Option<Result<Response, KvError>> {
        let clock = self.clock;
        let deadline = |ttl: i64| clock + ttl as u64 * 1000;
        Some(match command {
            Command::Clock(now) => {
                self.clock = clock.max(now.0);
                Ok(Response::Clock)
            }
            Command::LeaseGrant(grant) if self.leases.contains_key(&grant.id) => Err(KvError::LeaseExists),
            Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds }) => {
                let ttl_seconds = (*ttl_seconds).max(1);
                self.leases.insert(*id, (ttl_seconds, deadline(ttl_seconds)));
                Ok(Response::LeaseGrant(LeaseGrantResponse { id: *id, ttl_seconds }))
            }
            Command::LeaseRenew { ids } => {
                let renew = |id| {
                    let (ttl, until) = self.leases.get_mut(id)?;
                    *until = deadline(*ttl);
                    Some(*ttl)
                };
                Ok(Response::LeaseRenew {
                    ttls_seconds: ids.iter().map(renew).map(Option::unwrap_or_default).collect(),
                })
            }
            Command::LeaseRevoke { id } if !self.leases.contains_key(id) => Err(KvError::LeaseNotFound),
            Command::LeaseRevoke { id } => {
                self.end_lease(*id);
                Ok(Response::LeaseRevoke)
            }
            Command::LeaseExpire(due) => {
                let seen = self.leases.get(&due.id).is_some_and(|(_, until)| *until == due.deadline.0);
                let expired = seen && due.deadline.0 <= clock;
                if expired {
                    self.end_lease(due.id);
                }
                Ok(Response::LeaseExpire { expired })
            }
            _ => return None,
        })
    }

    fn end_lease(&mut self, id: i64) {
        let mut state = self.newest().clone();
        state.retain(|_, kv| kv.lease != id);
        if state.len() < self.newest().len() {
            self.states.push(state);
        }
        self.leases.remove(&id);
    }

    /// Each lease with its deadline and keys.
    pub(crate) fn leases(&self) -> Vec<(i64, u64, Vec<Bytes>)> {
        let keys = |id: i64| {
            let of = self.newest().values().filter(|kv| kv.lease == id);
            of.map(|kv| kv.key.clone()).collect()
        };
        self.leases.iter().map(|(id, (_, deadline))| (*id, *deadline, keys(*id))).collect()
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        let revision = if request.revision <= 0 { self.revision() } else { request.revision };
        if revision > self.revision() {
            return Err(KvError::FutureRevision);
        }
        if revision < self.compacted {
            return Err(KvError::Compacted);
        }
        Ok(answer(request, &self.states[revision as usize], self.revision()))
    }
}

fn inside(key: &[u8], first: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => key == first,
        [0] => key >= first,
        end => key >= first && key < end,
    }
}

/// Step by step as etcd does it: take, filter, sort, cut.
fn answer(request: &RangeRequest, state: &State, current: i64) -> RangeResponse {
    let found: Vec<&KeyValue> = state.values().filter(|kv| inside(&kv.key, &request.key, &request.range_end)).collect();
    let count = found.len() as i64;
    if request.count_only {
        return RangeResponse { kvs: Vec::new(), more: false, count, revision: Revision(current) };
    }
    let filtered =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
            != [0; 4];
    let mut taken: Vec<KeyValue> = found.into_iter().cloned().collect();
    if request.sort_order == SortOrder::None && !filtered && request.limit > 0 {
        taken.truncate(request.limit as usize + 1);
    }
    let fits = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    taken.retain(|kv| {
        fits(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && fits(kv.create_revision, request.min_create_revision, request.max_create_revision)
    });
    let order = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match request.sort_order {
        SortOrder::None | SortOrder::Ascend => taken.sort_by(order),
        SortOrder::Descend => taken.sort_by(|a, b| order(b, a)),
    }
    let more = request.limit > 0 && taken.len() > request.limit as usize;
    if more {
        taken.truncate(request.limit as usize);
    }
    if request.keys_only {
        taken.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse { kvs: taken, more, count, revision: Revision(current) }
}

/// One command under way, on a copy of the state.
struct Work<'a> {
    model: &'a Model,
    state: State,
    changed: bool,
}

impl Work<'_> {
    fn current(&self) -> i64 {
        self.model.revision() + i64::from(self.changed)
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, KvError> {
        if request.lease != 0 && !self.model.leases.contains_key(&request.lease) {
            return Err(KvError::LeaseNotFound);
        }
        let previous = self.state.get(&request.key).cloned();
        if (request.ignore_value || request.ignore_lease) && previous.is_none() {
            return Err(KvError::KeyNotFound);
        }
        let revision = self.model.revision() + 1;
        let (create_revision, version) =
            previous.as_ref().map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
        let value = match &previous {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match &previous {
            Some(kv) if request.ignore_lease => kv.lease,
            _ => request.lease,
        };
        let kv = KeyValue { key: request.key.clone(), create_revision, mod_revision: revision, version, value, lease };
        self.state.insert(request.key.clone(), kv);
        self.changed = true;
        Ok(PutResponse { prev_kv: previous.filter(|_| request.prev_kv) })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> =
            self.state.values().filter(|kv| inside(&kv.key, &request.key, &request.range_end)).cloned().collect();
        for kv in &gone {
            self.state.remove(&kv.key);
        }
        self.changed |= !gone.is_empty();
        DeleteRangeResponse { deleted: gone.len() as i64, prev_kvs: if request.prev_kv { gone } else { Vec::new() } }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, KvError> {
        let before = self.model.newest();
        let succeeded = request.compare.iter().all(|compare| holds(compare, before));
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = Vec::new();
        for op in ops {
            let body = match op {
                RequestOp::Range(range) => ResponseBody::Range(self.range(range)?),
                RequestOp::Put(put) => {
                    // A key is kept in part only if it was there before the transaction, too.
                    let kept = put.ignore_value || put.ignore_lease;
                    let known = put.lease == 0 || self.model.leases.contains_key(&put.lease);
                    if known && kept && !before.contains_key(&put.key) {
                        return Err(KvError::KeyNotFound);
                    }
                    ResponseBody::Put(self.put(put)?)
                }
                RequestOp::DeleteRange(delete) => ResponseBody::DeleteRange(self.delete(delete)),
                RequestOp::Txn(inner) => ResponseBody::Txn(self.txn(inner)?),
            };
            let revision = if matches!(body, ResponseBody::Txn(_)) { 0 } else { self.current() };
            responses.push(ResponseOp { revision, body });
        }
        Ok(TxnResponse { succeeded, responses })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        match request.revision {
            0 => Ok(answer(request, &self.state, self.current())),
            revision if revision > self.model.revision() => Err(KvError::FutureRevision),
            revision if revision < self.model.compacted => Err(KvError::Compacted),
            // Below zero and never compacted: the current state, as in etcd.
            revision if revision < 0 => Ok(answer(request, &self.state, self.current())),
            revision => Ok(answer(request, &self.model.states[revision as usize], self.current())),
        }
    }
}

fn holds(compare: &Compare, state: &State) -> bool {
    let relation = |order: Ordering| match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    };
    let zero =
        KeyValue { key: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, value: Bytes::new(), lease: 0 };
    let mut found: Vec<&KeyValue> =
        state.values().filter(|kv| inside(&kv.key, &compare.key, &compare.range_end)).collect();
    if found.is_empty() {
        if matches!(compare.target, CompareTarget::Value(_)) {
            return false;
        }
        found.push(&zero);
    }
    found.into_iter().all(|kv| {
        relation(match &compare.target {
            CompareTarget::Version(version) => kv.version.cmp(version),
            CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
            CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
            CompareTarget::Value(value) => kv.value.cmp(value),
            CompareTarget::Lease(lease) => kv.lease.cmp(lease),
        })
    })
}
