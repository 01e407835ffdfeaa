//! Generators of everything that has a wire format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use quorate_kv::auth::{PasswordHash, Permission, PermissionKind};
use quorate_kv::{
    Actor, Alarm, AlarmCommand, AlarmKind, AuthCommand, ClusterTime, Command, CompactRequest, Compare, CompareResult,
    CompareTarget, DeleteRangeRequest, Digest, DueLease, LeaseGrantRequest, PutRequest, RangeRequest, Record,
    RecordKey, RequestOp, Row, SortOrder, SortTarget, Table, TxnRequest,
};
use quorate_raft::{
    AppendResult, Body, Echo, Entry, Incarnation, LogIndex, Member, MemberChange, Membership, Message, NodeId, Payload,
    ReadId, Round, Term, Time, VoterTarget,
};
use quorate_wire::peer::{
    Admin, AdminOperation, AdminRefused, AdminReply, AdminSuccess, Forward, ForwardRefused, ForwardReply, PeerMessage,
};
use quorate_wire::{Envelope, FORMAT_VERSION};

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

pub(crate) fn node_id() -> impl Strategy<Value = NodeId> {
    (1..=u64::MAX).prop_map(NodeId)
}

fn index() -> impl Strategy<Value = LogIndex> {
    (0..u64::MAX / 4).prop_map(LogIndex)
}

pub(crate) fn member() -> impl Strategy<Value = Member> {
    (any::<u128>(), ".{0,8}", ".{0,8}", vec(".{0,8}", 0..3), any::<u32>()).prop_map(
        |(incarnation, name, peer_address, client_addresses, max_version)| Member {
            incarnation: Incarnation(incarnation),
            name,
            peer_address,
            client_addresses,
            max_version,
        },
    )
}

/// Sound configurations of every shape: plain, with learners, with a target, joint, empty.
pub(crate) fn membership() -> impl Strategy<Value = Membership> {
    let ids = btree_set(1_u64..1000, 0..9);
    let records = vec(member(), 9);
    (
        ids,
        records,
        0_usize..4,
        btree_set(1000_u64..2000, 0..4).prop_map(Vec::from_iter).prop_shuffle(),
        0..=FORMAT_VERSION,
    )
        .prop_map(|(ids, records, shape, removed, cluster_version)| {
            let ids: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
            let (first, second) = ids.split_at(ids.len().div_ceil(2));
            let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<NodeId>>();
            let mut membership = Membership {
                voters: set(first),
                members: ids.iter().copied().zip(records).collect::<BTreeMap<_, _>>(),
                removed: removed.into_iter().map(NodeId).collect(),
                cluster_version,
                ..Membership::default()
            };
            if shape == 2 && !second.is_empty() {
                membership.outgoing = set(second);
                membership.target = Some(set(first));
            } else {
                membership.learners = set(second);
                membership.target = (shape == 1 && !second.is_empty()).then(|| set(second));
            }
            membership.standing = membership.learners.iter().step_by(2).copied().collect();
            membership.rising = membership.standing.iter().step_by(2).copied().collect();
            if let Some(unbound) = membership.rising.first() {
                membership.members.entry(*unbound).or_default().incarnation = Incarnation::UNKNOWN;
            }
            membership.check();
            membership
        })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        bytes().prop_map(Payload::Command),
        membership().prop_map(|membership| Payload::Membership(Arc::new(membership))),
    ]
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    (any::<u64>(), index(), payload()).prop_map(|(term, index, payload)| Entry { term: Term(term), index, payload })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let orders = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let targets = prop_oneof![
        Just(SortTarget::Key),
        Just(SortTarget::Version),
        Just(SortTarget::Create),
        Just(SortTarget::Mod),
        Just(SortTarget::Value)
    ];
    (bytes(), bytes(), any::<[i64; 6]>(), orders, targets, any::<[bool; 3]>()).prop_map(
        |(key, range_end, numbers, sort_order, sort_target, flags)| RangeRequest {
            key,
            range_end,
            limit: numbers[0],
            revision: numbers[1],
            sort_order,
            sort_target,
            serializable: flags[0],
            keys_only: flags[1],
            count_only: flags[2],
            min_mod_revision: numbers[2],
            max_mod_revision: numbers[3],
            min_create_revision: numbers[4],
            max_create_revision: numbers[5],
        },
    )
}

fn put() -> impl Strategy<Value = PutRequest> {
    (bytes(), bytes(), any::<i64>(), any::<[bool; 3]>()).prop_map(|(key, value, lease, flags)| PutRequest {
        key,
        value,
        lease,
        prev_kv: flags[0],
        ignore_value: flags[1],
        ignore_lease: flags[2],
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (bytes(), bytes(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let targets = prop_oneof![
        any::<i64>().prop_map(CompareTarget::Version),
        any::<i64>().prop_map(CompareTarget::Create),
        any::<i64>().prop_map(CompareTarget::Mod),
        bytes().prop_map(CompareTarget::Value),
        any::<i64>().prop_map(CompareTarget::Lease),
    ];
    let results = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual)
    ];
    (bytes(), bytes(), targets, results).prop_map(|(key, range_end, target, result)| Compare {
        key,
        range_end,
        target,
        result,
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range().prop_map(RequestOp::Range),
        put().prop_map(RequestOp::Put),
        delete().prop_map(RequestOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(3, 16, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compare, success, failure)| RequestOp::Txn(TxnRequest { compare, success, failure }))
    });
    (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        put().prop_map(Command::Put),
        delete().prop_map(Command::DeleteRange),
        txn().prop_map(Command::Txn),
        (any::<i64>(), any::<bool>())
            .prop_map(|(revision, physical)| Command::Compact(CompactRequest { revision, physical })),
        any::<u64>().prop_map(|milliseconds| Command::Clock(ClusterTime(milliseconds))),
        any::<(i64, i64)>().prop_map(|(id, ttl_seconds)| Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds })),
        any::<i64>().prop_map(|id| Command::LeaseRevoke { id }),
        vec(any::<i64>(), 0..4).prop_map(|ids| Command::LeaseRenew { ids }),
        any::<(i64, u64)>()
            .prop_map(|(id, deadline)| { Command::LeaseExpire(DueLease { id, deadline: ClusterTime(deadline) }) }),
        auth_change().prop_map(Command::Auth),
        (any::<bool>(), any::<bool>(), any::<u64>()).prop_map(|(raise, corrupt, member)| {
            let alarm = Alarm { kind: if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace }, member };
            Command::Alarm(if raise { AlarmCommand::Raise(alarm) } else { AlarmCommand::Clear(alarm) })
        }),
    ]
}

fn auth_change() -> impl Strategy<Value = AuthCommand> {
    let name = || "[a-z]{0,4}";
    let hash = || vec(any::<u8>(), 0..8).prop_map(|hash| PasswordHash(hash.into()));
    let kinds = [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite];
    let permission = (0..3_usize, bytes(), bytes()).prop_map(move |(kind, key, range_end)| Permission {
        kind: kinds[kind],
        key,
        range_end,
    });
    prop_oneof![
        Just(AuthCommand::Enable),
        Just(AuthCommand::Disable),
        (name(), option::of(hash())).prop_map(|(name, password)| AuthCommand::UserAdd { name, password }),
        name().prop_map(|name| AuthCommand::UserDelete { name }),
        (name(), hash()).prop_map(|(name, password)| AuthCommand::UserChangePassword { name, password }),
        (name(), name()).prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
        (name(), name()).prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
        name().prop_map(|name| AuthCommand::RoleAdd { name }),
        name().prop_map(|name| AuthCommand::RoleDelete { name }),
        (name(), permission).prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
        (name(), bytes(), bytes()).prop_map(|(role, key, range_end)| AuthCommand::RoleRevokePermission {
            role,
            key,
            range_end
        }),
        (name(), any::<u64>(), bytes()).prop_map(|(user, password_revision, token)| AuthCommand::Login {
            user,
            password_revision,
            token
        }),
    ]
}

fn actor() -> impl Strategy<Value = Actor> {
    prop_oneof![
        Just(Actor::Anonymous),
        ("[a-z]{0,4}", any::<u64>()).prop_map(|(name, auth_revision)| Actor::User { name, auth_revision }),
        Just(Actor::Node),
    ]
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    (node_id(), any::<u128>(), any::<u64>(), actor(), command()).prop_map(|(origin, run, sequence, actor, command)| {
        Envelope { origin, incarnation: Incarnation(run), sequence, actor, command }
    })
}

fn append() -> impl Strategy<Value = Body> {
    let entries = vec((0_u64..3, payload()), 0..5);
    (any::<u64>(), index(), 0..1000_u64, entries, index(), option::of((any::<u64>(), any::<bool>()))).prop_map(
        |(round, prev_index, prev_term, payloads, commit, echo)| {
            let mut term = prev_term;
            let entries = (1..).zip(payloads).map(|(offset, (rise, payload))| {
                term += rise;
                Entry { term: Term(term), index: LogIndex(prev_index.0 + offset), payload }
            });
            Body::Append {
                round: Round(round),
                prev_index,
                prev_term: Term(prev_term),
                entries: entries.collect(),
                commit,
                echo: echo.map(|(probe, leased)| Echo { probe: Time(probe), leased }),
            }
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let result = prop_oneof![
        index().prop_map(|up_to| AppendResult::Matched { up_to }),
        (index(), any::<u64>(), index()).prop_map(|(hint_index, term, last_index)| AppendResult::Conflict {
            hint_index,
            hint_term: Term(term),
            last_index,
        }),
    ];
    prop_oneof![
        (any::<[bool; 2]>(), index(), any::<u64>()).prop_map(|(flags, last_index, term)| Body::RequestVote {
            pre: flags[0],
            last_index,
            last_term: Term(term),
            transfer: flags[1],
        }),
        any::<[bool; 2]>().prop_map(|flags| Body::VoteReply { pre: flags[0], granted: flags[1] }),
        append(),
        (any::<[u64; 3]>(), result).prop_map(|([round, probe, promise_us], result)| Body::AppendReply {
            round: Round(round),
            result,
            probe: Time(probe),
            promise: Duration::from_micros(promise_us),
        }),
        Just(Body::TimeoutNow),
        any::<u64>().prop_map(|read| Body::ReadIndex { read: ReadId(read) }),
        (any::<u64>(), option::of(index()))
            .prop_map(|(read, index)| Body::ReadIndexReply { read: ReadId(read), index }),
    ]
}

fn operation() -> impl Strategy<Value = AdminOperation> {
    let target = prop_oneof![
        node_id().prop_map(VoterTarget::Existing),
        (node_id(), member()).prop_map(|(id, member)| VoterTarget::New { id, member }),
    ];
    prop_oneof![
        (vec(target, 0..5), option::of(index()))
            .prop_map(|(target, expected)| AdminOperation::SetVoters { target, expected }),
        (node_id(), ".{0,20}", any::<bool>()).prop_map(|(id, peer_address, rises)| {
            AdminOperation::ChangeMember(MemberChange::Add { id, peer_address, rises })
        }),
        node_id().prop_map(|id| AdminOperation::ChangeMember(MemberChange::Promote { id })),
        node_id().prop_map(|id| AdminOperation::ChangeMember(MemberChange::Remove { id })),
        (node_id(), member()).prop_map(|(id, member)| AdminOperation::UpdateMember { id, member }),
        any::<u32>().prop_map(|version| AdminOperation::RaiseVersion { version }),
        option::of(node_id()).prop_map(|to| AdminOperation::TransferLeader { to }),
    ]
}

fn admin_result() -> impl Strategy<Value = Result<AdminSuccess, AdminRefused>> {
    prop_oneof![
        index().prop_map(|config_index| Ok(AdminSuccess::Accepted { config_index })),
        Just(Ok(AdminSuccess::Transferred)),
        Just(Err(AdminRefused::NotLeader)),
        index().prop_map(|index| Err(AdminRefused::Busy { index })),
        index().prop_map(|current| Err(AdminRefused::StaleConfig { current })),
        node_id().prop_map(|id| Err(AdminRefused::UnknownMember(id))),
        node_id().prop_map(|id| Err(AdminRefused::Removed(id))),
        node_id().prop_map(|id| Err(AdminRefused::NotVoter(id))),
        node_id().prop_map(|id| Err(AdminRefused::NotCaughtUp(id))),
        Just(Err(AdminRefused::Unhealthy)),
        ".{0,20}".prop_map(|text| Err(AdminRefused::Invalid(text))),
        ".{0,20}".prop_map(|text| Err(AdminRefused::TransferFailed(text))),
        Just(Err(AdminRefused::TooManyRequests)),
    ]
}

pub(crate) fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let run = || any::<u128>().prop_map(Incarnation);
    prop_oneof![
        (node_id(), node_id(), 0..=1_u64 << 62, body()).prop_map(|(from, to, term, body)| PeerMessage::Raft(Message {
            from,
            to,
            term: Term(term),
            body
        })),
        (any::<u64>(), run(), any::<u64>(), vec((any::<u64>(), bytes()), 0..4)).prop_map(
            |(term, session, settled_below, writes)| {
                PeerMessage::Forward(Forward { term: Term(term), session, settled_below, writes })
            }
        ),
        (any::<u64>(), run(), vec(any::<u64>(), 0..4), any::<bool>()).prop_map(|(term, session, sequences, full)| {
            let reason = if full { ForwardRefused::NoSpace } else { ForwardRefused::TooManyRequests };
            PeerMessage::ForwardReply(ForwardReply { term: Term(term), session, sequences, reason })
        }),
        (run(), any::<u64>(), operation()).prop_map(|(session, request, operation)| PeerMessage::Admin(Admin {
            session,
            request,
            operation
        })),
        (run(), any::<u64>(), admin_result())
            .prop_map(|(session, request, result)| PeerMessage::AdminReply(AdminReply { session, request, result })),
        (index(), any::<u128>()).prop_map(|(index, digest)| PeerMessage::Digest { index, digest: Digest(digest) }),
        (index(), any::<u128>()).prop_map(|(index, digest)| PeerMessage::Diverged { index, digest: Digest(digest) }),
        index().prop_map(|config_index| PeerMessage::Removed { config_index }),
    ]
}

/// Rows in rising order.
pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let places = btree_set((0..Table::ALL.len(), vec(any::<u8>(), 0..6)), 0..20);
    (places, vec(bytes(), 20)).prop_map(|(places, values)| {
        let row =
            |((table, key), value): ((usize, Vec<u8>), Bytes)| Row { table: Table::ALL[table], key: key.into(), value };
        places.into_iter().zip(values).map(row).collect()
    })
}

/// Records in rising order.
pub(crate) fn records() -> impl Strategy<Value = Vec<(RecordKey, Record)>> {
    let record = (vec(any::<u8>(), 1..10), bytes(), any::<[i64; 3]>(), any::<bool>()).prop_map(
        |(key, value, numbers, tombstone)| Record {
            key: key.into(),
            value,
            create_revision: numbers[0],
            version: numbers[1],
            lease: numbers[2],
            tombstone,
        },
    );
    (btree_set((0_i64..1000, any::<u32>()), 0..30), vec(record, 30)).prop_map(|(places, records)| {
        let places = places.into_iter().map(|(revision, sub)| RecordKey { revision, sub });
        places.zip(records).collect()
    })
}
