//! Differences that are meant. Each has a line in docs/etcd-compatibility.md.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use tonic::Code;

use super::{Action, Answer, Call};

/// Why the answers may differ; `None` if they may not.
pub(super) fn reason(action: &Action, etcd: &Answer, quorate: &Answer) -> Option<&'static str> {
    let both = |code| etcd.code() == Some(code) && quorate.code() == Some(code);
    match &action.call {
        call if both(Code::InvalidArgument) && possible_mistakes(call) > 1 => {
            Some("a request with several mistakes may be told any of them")
        }
        _ if is_of_the_caller(quorate) && !is_of_the_caller(etcd) && is_of_the_request(etcd) => {
            Some("who asks is looked at before what is asked")
        }
        _ if is_of_the_caller(quorate) && is_of_an_alarm(etcd) => {
            Some("who asks is looked at before an alarm is, and learns nothing of it")
        }
        Call::Txn(txn) if touches_nothing(txn) && etcd.code().is_none() && is_of_the_caller(quorate) => {
            Some("nobody without a name is served, whatever is asked")
        }
        call if is_denied(etcd) && !is_denied(quorate) && intervals(call).iter().any(is_reversed) => {
            Some("whether an interval with nothing in it is allowed is a matter of etcd's tree of permissions")
        }
        Call::Authenticate(..) if etcd.to_string().ends_with("password was given for no password user") => {
            Some("who logs in is not told which users have no password")
        }
        Call::Stay(..) | Call::SoFar(_) if quorate.to_string().ends_with("election: not leader") => {
            Some("a candidate whose lease has ended in the line is not told that it leads")
        }
        Call::LeaseGrant(_) if is_of_an_alarm(etcd) && quorate.to_string().ends_with("too large lease TTL") => {
            Some("a lease of too long a time is refused for that before an alarm is looked at")
        }
        Call::MoveLeader(_) if quorate.to_string().ends_with("not leader") => {
            Some("a follower was asked, and the etcd beside it has none")
        }
        Call::HashKv(request) if request.revision <= 0 => {
            Some("etcd tells the revision that was asked for as the one it hashed")
        }
        Call::HashKv(_) if etcd.code().is_none() && quorate.to_string().ends_with("revision has been compacted") => {
            Some("etcd remembers hashes that it made when it compacted")
        }
        Call::RangeStream(range) if range.sort_order() == SortOrder::None && range.sort_target() != SortTarget::Key => {
            Some("etcd sorts each chunk of a stream by itself and so loses keys; Quorate streams in key order")
        }
        Call::Get("/readyz") if differs_by_own_checks(etcd, quorate) => {
            Some("two checks more are made before a node is ready, and etcd lists its own in no order")
        }
        _ => None,
    }
}

/// Whether two lists of checks say the same but for those that Quorate alone makes, and that passed.
fn differs_by_own_checks(etcd: &Answer, quorate: &Answer) -> bool {
    let sorted = |answer: &Answer| {
        let text = answer.to_string();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !["[+]shutdown ok", "[+]member ok"].contains(&line.as_str()));
        lines.sort_unstable();
        lines
    };
    sorted(etcd) == sorted(quorate)
}

/// Whether a refusal is about who asks.
fn is_of_the_caller(answer: &Answer) -> bool {
    let text = answer.to_string();
    ["user name is empty", "invalid auth token", "permission denied", "revision of auth store is old"]
        .iter()
        .any(|refusal| text.contains(&format!("etcdserver: {refusal}")))
}

fn is_of_an_alarm(answer: &Answer) -> bool {
    ["corrupt cluster", "database space exceeded"].iter().any(|refusal| answer.to_string().contains(refusal))
}

fn is_denied(answer: &Answer) -> bool {
    answer.to_string().contains("etcdserver: permission denied")
}

/// Whether a transaction asks for no key at all.
fn touches_nothing(txn: &pb::TxnRequest) -> bool {
    let nothing = |operation: &pb::RequestOp| matches!(&operation.request, Some(Request::RequestTxn(txn)) if touches_nothing(txn));
    txn.compare.is_empty() && txn.success.iter().chain(&txn.failure).all(nothing)
}

/// A key and the end that goes with it.
type Interval<'a> = (&'a [u8], &'a [u8]);

/// Whether it is written as one that ends before it begins, or where it does.
fn is_reversed((key, range_end): &Interval<'_>) -> bool {
    !matches!(range_end, [] | [0]) && range_end <= key
}

/// All intervals that a request reads or deletes.
fn intervals(call: &Call) -> Vec<Interval<'_>> {
    match call {
        Call::Range(range) | Call::RangeStream(range) => vec![(&range.key, &range.range_end)],
        Call::DeleteRange(delete) => vec![(&delete.key, &delete.range_end)],
        Call::Watch(watch)
        | Call::HalfClosedWatch(watch)
        | Call::Watching(_, Some(RequestUnion::CreateRequest(watch))) => {
            vec![(&watch.key, &watch.range_end)]
        }
        Call::Txn(txn) => intervals_of_txn(txn),
        _ => Vec::new(),
    }
}

fn intervals_of_txn(txn: &pb::TxnRequest) -> Vec<Interval<'_>> {
    let compared = txn.compare.iter().map(|compare| vec![(&compare.key[..], &compare.range_end[..])]);
    let operations = txn.success.iter().chain(&txn.failure).map(|operation| match &operation.request {
        Some(Request::RequestRange(range)) => vec![(&range.key[..], &range.range_end[..])],
        Some(Request::RequestDeleteRange(delete)) => vec![(&delete.key[..], &delete.range_end[..])],
        Some(Request::RequestTxn(txn)) => intervals_of_txn(txn),
        Some(Request::RequestPut(_)) | None => Vec::new(),
    });
    compared.chain(operations).flatten().collect()
}

/// Whether a refusal is about what the request says by itself. As JSON its first line is a status.
fn is_of_the_request(answer: &Answer) -> bool {
    match answer {
        Answer::Message { text, .. } => matches!(text.lines().next(), Some("400" | "501")),
        Answer::Refused(code, _) => matches!(code, Code::InvalidArgument | Code::Unimplemented),
    }
}

/// How many things a request says that may be refused as wrong, whatever the store holds.
fn possible_mistakes(call: &Call) -> usize {
    match call {
        Call::Range(range) | Call::RangeStream(range) => in_range(range),
        Call::Put(put) => in_put(put),
        Call::DeleteRange(delete) => usize::from(delete.key.is_empty()),
        Call::Txn(txn) => in_txn(txn),
        _ => 0,
    }
}

fn in_range(range: &pb::RangeRequest) -> usize {
    let order = SortOrder::try_from(range.sort_order).is_err();
    let target = SortTarget::try_from(range.sort_target).is_err();
    usize::from(range.key.is_empty()) + usize::from(order || target)
}

fn in_put(put: &pb::PutRequest) -> usize {
    // What is to be kept may not be there.
    let kept = usize::from(put.ignore_value || put.ignore_lease);
    let given =
        usize::from(put.ignore_value && !put.value.is_empty()) + usize::from(put.ignore_lease && put.lease != 0);
    usize::from(put.key.is_empty()) + kept + given
}

fn in_txn(txn: &pb::TxnRequest) -> usize {
    let operations = || txn.success.iter().chain(&txn.failure);
    let within: usize = operations()
        .map(|operation| match &operation.request {
            None => 1,
            Some(Request::RequestRange(range)) => in_range(range),
            Some(Request::RequestPut(put)) => in_put(put),
            Some(Request::RequestDeleteRange(delete)) => usize::from(delete.key.is_empty()),
            Some(Request::RequestTxn(txn)) => in_txn(txn),
        })
        .sum();
    let compares = txn.compare.iter().filter(|compare| compare.key.is_empty()).count();
    let writes = operations().filter(|op| !matches!(op.request, Some(Request::RequestRange(_)))).count();
    let too_many = [txn.compare.len(), txn.success.len(), txn.failure.len()].into_iter().any(|count| count > 128);
    within + compares + usize::from(too_many) + usize::from(writes > 1)
}
