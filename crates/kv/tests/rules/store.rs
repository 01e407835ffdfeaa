//! A key space with its records, and short ways to ask and to show what it answers.

use bytes::Bytes;
use quorate_kv::testing::MemoryRecords;
use quorate_kv::{
    Actor, AnswerRoom, Command, CompactRequest, DeleteRangeRequest, KeySpace, KeyValue, KvError, Outcome, PutRequest,
    RangeRequest, RangeResponse, RequestOp, Response, ResponseBody, ResponseOp, Step, TxnRequest, TxnResponse,
};

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) space: KeySpace,
    pub(crate) records: MemoryRecords,
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

pub(crate) fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

pub(crate) fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(range_end), ..RangeRequest::default() }
}

/// Every key there is.
pub(crate) fn everything() -> RangeRequest {
    range("\0", "\0")
}

pub(crate) fn at(revision: i64, range: RangeRequest) -> RangeRequest {
    RangeRequest { revision, ..range }
}

impl Store {
    /// Puts and deletions in order, each a command: `a=1` puts, `-a` deletes one key, `-` deletes all.
    #[track_caller]
    pub(crate) fn of(commands: &str) -> Store {
        let mut store = Store::default();
        store.run(commands);
        store
    }

    #[track_caller]
    pub(crate) fn run(&mut self, commands: &str) {
        for command in commands.split_whitespace() {
            let command = match (command.split_once('='), command.strip_prefix('-')) {
                (Some((key, value)), _) => Command::Put(put(key, value)),
                (None, Some("")) => Command::DeleteRange(delete("\0", "\0")),
                (None, Some(key)) => Command::DeleteRange(delete(key, "")),
                (None, None) => panic!("{command:?} is no command"),
            };
            self.apply(&command).result.expect("puts and deletions are not refused");
        }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.apply_for(&Actor::Anonymous, command)
    }

    pub(crate) fn apply_for(&mut self, actor: &Actor, command: &Command) -> Outcome {
        let Ok(outcome) = self.space.apply_for(&mut self.records, actor, command, &AnswerRoom::unlimited());
        self.space.check();
        outcome
    }

    pub(crate) fn try_range(&self, request: &RangeRequest) -> Result<RangeResponse, KvError> {
        let Ok(answer) = self.space.range(&self.records, request);
        answer
    }

    /// The answer as text: `current revision: keys (of count)`, with `+` if the limit cut it; or the refusal.
    pub(crate) fn range(&self, request: &RangeRequest) -> String {
        match self.try_range(request) {
            Ok(answer) => show_range(&answer),
            Err(refused) => refused.to_string(),
        }
    }

    /// Only the keys of the answer.
    pub(crate) fn keys(&self, request: &RangeRequest) -> String {
        let answer = self.try_range(request).expect("the range is not refused");
        let keys: Vec<_> = answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key)).collect();
        format!("{}{}", keys.join(" "), if answer.more { " +" } else { "" })
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<Response, KvError> {
        self.apply(&Command::Compact(CompactRequest { revision, physical: false })).result
    }

    /// Carries physical compaction to its end, one key a step.
    pub(crate) fn prune(&mut self) {
        while self.prune_some(1) == Step::More {}
    }

    pub(crate) fn prune_some(&mut self, max_keys: usize) -> Step {
        let Ok(step) = self.space.compact_step(&mut self.records, max_keys);
        self.space.check();
        step
    }

    /// Applies a transaction and shows its answer, or the refusal.
    pub(crate) fn txn(&mut self, txn: TxnRequest) -> String {
        match self.apply(&Command::Txn(txn)).result {
            Ok(Response::Txn(answer)) => show_txn(&answer),
            Ok(other) => panic!("a transaction is answered by {other:?}"),
            Err(refused) => refused.to_string(),
        }
    }

    /// Places of all records.
    pub(crate) fn places(&self) -> String {
        self.records.iter().map(|(at, _)| at.to_string()).collect::<Vec<_>>().join(" ")
    }
}

/// A transaction whose compares are none, so that it does `ops`.
pub(crate) fn always(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..TxnRequest::default() }
}

/// `key=value` with create revision, mod revision and version.
pub(crate) fn show(kv: &KeyValue) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}={}[{},{},{}]", text(&kv.key), text(&kv.value), kv.create_revision, kv.mod_revision, kv.version)
}

fn show_all(kvs: &[KeyValue]) -> String {
    kvs.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn show_range(answer: &RangeResponse) -> String {
    let more = if answer.more { "+" } else { "" };
    format!("{}: {}{} ({})", answer.revision, show_all(&answer.kvs), more, answer.count)
}

pub(crate) fn show_txn(answer: &TxnResponse) -> String {
    let ops: Vec<String> = answer.responses.iter().map(show_op).collect();
    format!("{} {{{}}}", if answer.succeeded { "then" } else { "else" }, ops.join("; "))
}

fn show_op(op: &ResponseOp) -> String {
    let body = match &op.body {
        ResponseBody::Range(range) => format!("range {}", show_range(range)),
        ResponseBody::Put(put) => format!("put {}", put.prev_kv.iter().map(show).collect::<String>()),
        ResponseBody::DeleteRange(delete) => format!("deleted {} {}", delete.deleted, show_all(&delete.prev_kvs)),
        ResponseBody::Txn(txn) => show_txn(txn),
    };
    format!("@{} {}", op.revision, body.trim_end())
}
