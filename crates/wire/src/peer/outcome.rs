//! What became of a write, for an origin that has left the cluster and no longer sees the log.

use quorate_kv::{
    Alarm, AlarmKind, AuthError, AuthResponse, DeleteRangeResponse, KeyValue, KvError, LeaseGrantResponse, PutResponse,
    RangeResponse, Response, ResponseBody, ResponseOp, Revision, TxnResponse,
};
use quorate_proto::quorate::peer::v1 as pb;
use quorate_raft::Incarnation;

use super::split_session;
use crate::DecodeError;
use crate::envelope::{MAX_TXN_DEPTH, join_session};

const WHAT: &str = "outcome";

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The run that took the request.
    pub session: Incarnation,
    /// Its number in the run.
    pub sequence: u64,
    /// Its answer, without the changes: the origin's watchers are no longer fed.
    pub outcome: quorate_kv::Outcome,
}

/// Names are for ever; a build that does not know one treats the answer as lost.
const ERRORS: &[(KvError, &str)] = &[
    (KvError::Compacted, "compacted"),
    (KvError::FutureRevision, "future_revision"),
    (KvError::EmptyKey, "empty_key"),
    (KvError::KeyNotFound, "key_not_found"),
    (KvError::ValueProvided, "value_provided"),
    (KvError::LeaseProvided, "lease_provided"),
    (KvError::LeaseNotFound, "lease_not_found"),
    (KvError::LeaseExists, "lease_exists"),
    (KvError::LeaseTtlTooLarge, "lease_ttl_too_large"),
    (KvError::TooManyLeases, "too_many_leases"),
    (KvError::TooManyOps, "too_many_ops"),
    (KvError::DuplicateKey, "duplicate_key"),
    (KvError::InvalidSortOption, "invalid_sort_option"),
    (KvError::InvalidCompare, "invalid_compare"),
    (KvError::StreamSorted, "stream_sorted"),
    (KvError::StreamFiltered, "stream_filtered"),
    (KvError::NoSpace, "no_space"),
    (KvError::Corrupt, "corrupt"),
    (KvError::Auth(AuthError::UserEmpty), "auth_user_empty"),
    (KvError::Auth(AuthError::RoleEmpty), "auth_role_empty"),
    (KvError::Auth(AuthError::PermissionDenied), "auth_permission_denied"),
    (KvError::Auth(AuthError::OldRevision), "auth_old_revision"),
    (KvError::Auth(AuthError::Failed), "auth_failed"),
    (KvError::Auth(AuthError::RootUserNotExist), "auth_root_user_not_exist"),
    (KvError::Auth(AuthError::RootRoleNotExist), "auth_root_role_not_exist"),
    (KvError::Auth(AuthError::UserExists), "auth_user_exists"),
    (KvError::Auth(AuthError::UserNotFound), "auth_user_not_found"),
    (KvError::Auth(AuthError::RoleExists), "auth_role_exists"),
    (KvError::Auth(AuthError::RoleNotFound), "auth_role_not_found"),
    (KvError::Auth(AuthError::RoleNotGranted), "auth_role_not_granted"),
    (KvError::Auth(AuthError::PermissionNotGranted), "auth_permission_not_granted"),
    (KvError::Auth(AuthError::PermissionNotGiven), "auth_permission_not_given"),
    (KvError::Auth(AuthError::InvalidManagement), "auth_invalid_management"),
    (KvError::Auth(AuthError::NotEnabled), "auth_not_enabled"),
];

/// In the place of an error. The write was done.
const WITHHELD: &str = "answer_withheld";

impl Outcome {
    pub(super) fn to_wire(&self) -> pb::Outcome {
        use pb::outcome::Result as Wire;
        let result = match &self.outcome.result {
            Ok(Response::Withheld) => Wire::Error(pb::OutcomeError { name: WITHHELD.to_owned() }),
            Ok(response) => Wire::Response(to_response(response)),
            Err(error) => {
                let name = ERRORS.iter().find(|(known, _)| known == error).map(|(_, name)| *name);
                let name = name.expect("every error has a name").to_owned();
                Wire::Error(pb::OutcomeError { name })
            }
        };
        let (session_high, session_low) = split_session(self.session);
        pb::Outcome {
            session_high,
            session_low,
            sequence: self.sequence,
            revision: self.outcome.revision.0,
            result: Some(result),
        }
    }

    pub(super) fn from_wire(outcome: pb::Outcome) -> Result<Outcome, DecodeError> {
        use pb::outcome::Result as Wire;
        let result = match outcome.result.ok_or_else(|| DecodeError::missing(WHAT, "the result"))? {
            Wire::Response(response) => Ok(from_response(response)?),
            Wire::Error(error) if error.name == WITHHELD => Ok(Response::Withheld),
            Wire::Error(error) => Err(ERRORS
                .iter()
                .find(|(_, name)| *name == error.name)
                .map(|(error, _)| *error)
                .ok_or_else(|| DecodeError::malformed(WHAT, "an unknown error"))?),
        };
        Ok(Outcome {
            session: join_session(outcome.session_high, outcome.session_low),
            sequence: outcome.sequence,
            outcome: quorate_kv::Outcome { result, revision: Revision(outcome.revision), changes: Vec::new() },
        })
    }
}

fn to_response(response: &Response) -> pb::OutcomeResponse {
    use pb::outcome_response::Body;
    let body = match response {
        Response::Put(put) => Body::Put(to_put(put)),
        Response::DeleteRange(delete) => Body::DeleteRange(to_delete(delete)),
        Response::Txn(txn) => Body::Txn(to_txn(txn)),
        Response::Compact => Body::Compact(pb::CompactOutcome {}),
        Response::Clock => Body::Clock(pb::ClockOutcome {}),
        Response::Auth(AuthResponse::Done) => Body::Auth(pb::AuthOutcome { login: None }),
        Response::Auth(AuthResponse::LoggedIn { user, password_revision, token }) => {
            let (user, token) = (user.clone(), token.clone());
            Body::Auth(pb::AuthOutcome {
                login: Some(pb::LoggedIn { user, token, password_revision: *password_revision }),
            })
        }
        Response::Alarm(alarms) => {
            let alarm = |alarm: &Alarm| pb::Alarm { kind: alarm.kind as u32, member: alarm.member };
            Body::Alarm(pb::AlarmOutcome { alarms: alarms.iter().map(alarm).collect() })
        }
        Response::LeaseGrant(granted) => {
            Body::LeaseGrant(pb::LeaseGrantOutcome { id: granted.id, ttl_seconds: granted.ttl_seconds })
        }
        Response::LeaseRevoke => Body::LeaseRevoke(pb::LeaseRevokeOutcome {}),
        Response::LeaseRenew { ttls_seconds } => {
            Body::LeaseRenew(pb::LeaseRenewOutcome { ttls_seconds: ttls_seconds.clone() })
        }
        Response::LeaseExpire { expired } => Body::LeaseExpire(pb::LeaseExpireOutcome { expired: *expired }),
        Response::Withheld => unreachable!("told by its name alone"),
    };
    pb::OutcomeResponse { revision: 0, body: Some(body) }
}

fn from_response(response: pb::OutcomeResponse) -> Result<Response, DecodeError> {
    use pb::outcome_response::Body;
    Ok(match response.body.ok_or_else(|| DecodeError::missing(WHAT, "the response"))? {
        Body::Put(put) => Response::Put(from_put(put)),
        Body::DeleteRange(delete) => Response::DeleteRange(from_delete(delete)),
        Body::Txn(txn) => Response::Txn(from_txn(txn, 1)?),
        Body::Compact(_) => Response::Compact,
        Body::Clock(_) => Response::Clock,
        Body::Auth(pb::AuthOutcome { login: None }) => Response::Auth(AuthResponse::Done),
        Body::Auth(pb::AuthOutcome { login: Some(login) }) => {
            let pb::LoggedIn { user, token, password_revision } = login;
            Response::Auth(AuthResponse::LoggedIn { user, password_revision, token })
        }
        Body::Alarm(outcome) => Response::Alarm(outcome.alarms.into_iter().map(from_alarm).collect::<Result<_, _>>()?),
        Body::LeaseGrant(granted) => {
            Response::LeaseGrant(LeaseGrantResponse { id: granted.id, ttl_seconds: granted.ttl_seconds })
        }
        Body::LeaseRevoke(_) => Response::LeaseRevoke,
        Body::LeaseRenew(renewed) => Response::LeaseRenew { ttls_seconds: renewed.ttls_seconds },
        Body::LeaseExpire(ended) => Response::LeaseExpire { expired: ended.expired },
        Body::Range(_) => return Err(DecodeError::malformed(WHAT, "a range is no write")),
    })
}

fn from_alarm(alarm: pb::Alarm) -> Result<Alarm, DecodeError> {
    let kind = AlarmKind::from_number(alarm.kind).ok_or_else(|| DecodeError::malformed(WHAT, "an unknown alarm"))?;
    Ok(Alarm { kind, member: alarm.member })
}

fn to_op(op: &ResponseOp) -> pb::OutcomeResponse {
    use pb::outcome_response::Body;
    let body = match &op.body {
        ResponseBody::Range(range) => Body::Range(pb::RangeOutcome {
            kvs: range.kvs.iter().map(to_kv).collect(),
            more: range.more,
            count: range.count,
            revision: range.revision.0,
        }),
        ResponseBody::Put(put) => Body::Put(to_put(put)),
        ResponseBody::DeleteRange(delete) => Body::DeleteRange(to_delete(delete)),
        ResponseBody::Txn(txn) => Body::Txn(to_txn(txn)),
    };
    pb::OutcomeResponse { revision: op.revision, body: Some(body) }
}

fn from_op(op: pb::OutcomeResponse, depth: usize) -> Result<ResponseOp, DecodeError> {
    use pb::outcome_response::Body;
    let body = match op.body.ok_or_else(|| DecodeError::missing(WHAT, "a nested response"))? {
        Body::Range(range) => ResponseBody::Range(RangeResponse {
            kvs: range.kvs.into_iter().map(from_kv).collect(),
            more: range.more,
            count: range.count,
            revision: Revision(range.revision),
        }),
        Body::Put(put) => ResponseBody::Put(from_put(put)),
        Body::DeleteRange(delete) => ResponseBody::DeleteRange(from_delete(delete)),
        Body::Txn(txn) => ResponseBody::Txn(from_txn(txn, depth + 1)?),
        Body::Compact(_)
        | Body::Clock(_)
        | Body::Auth(_)
        | Body::Alarm(_)
        | Body::LeaseGrant(_)
        | Body::LeaseRevoke(_)
        | Body::LeaseRenew(_)
        | Body::LeaseExpire(_) => {
            return Err(DecodeError::malformed(WHAT, "what no transaction does, in a transaction"));
        }
    };
    Ok(ResponseOp { revision: op.revision, body })
}

fn to_put(put: &PutResponse) -> pb::PutOutcome {
    pb::PutOutcome { prev_kv: put.prev_kv.as_ref().map(to_kv) }
}

fn from_put(put: pb::PutOutcome) -> PutResponse {
    PutResponse { prev_kv: put.prev_kv.map(from_kv) }
}

fn to_delete(delete: &DeleteRangeResponse) -> pb::DeleteRangeOutcome {
    pb::DeleteRangeOutcome { deleted: delete.deleted, prev_kvs: delete.prev_kvs.iter().map(to_kv).collect() }
}

fn from_delete(delete: pb::DeleteRangeOutcome) -> DeleteRangeResponse {
    DeleteRangeResponse { deleted: delete.deleted, prev_kvs: delete.prev_kvs.into_iter().map(from_kv).collect() }
}

fn to_txn(txn: &TxnResponse) -> pb::TxnOutcome {
    pb::TxnOutcome { succeeded: txn.succeeded, responses: txn.responses.iter().map(to_op).collect() }
}

fn from_txn(txn: pb::TxnOutcome, depth: usize) -> Result<TxnResponse, DecodeError> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError::malformed(WHAT, format_args!("transactions nest deeper than {MAX_TXN_DEPTH}")));
    }
    let responses = txn.responses.into_iter().map(|op| from_op(op, depth)).collect::<Result<_, _>>()?;
    Ok(TxnResponse { succeeded: txn.succeeded, responses })
}

fn to_kv(kv: &KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.clone(),
        lease: kv.lease,
    }
}

fn from_kv(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}
