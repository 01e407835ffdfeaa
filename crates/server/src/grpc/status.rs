//! Errors as gRPC statuses. Codes and texts that etcd has too are etcd's: its clients compare whole texts.

use std::sync::Arc;

use quorate_node::NodeError;
use quorate_wire::etcd::EtcdError;
use tonic::{Code, Status};

use crate::access::Denied;
use crate::client_api::ApiError;

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        match error {
            ApiError::Kv(refused) => etcd_status(refused.into()),
            ApiError::Node(refused) => node_status(&refused),
            ApiError::Denied(denied) => denied_status(&denied),
            ApiError::Choice(bad) => Status::invalid_argument(bad.to_string()),
            ApiError::NotServing(_) => Status::unavailable(error.to_string()),
            ApiError::NoRoom(_) => Status::resource_exhausted(error.to_string()),
            ApiError::Storage(_) => Status::data_loss(error.to_string()),
            ApiError::NoSigningKey => Status::failed_precondition(error.to_string()),
            // Not as what was not done: who does it again does it twice.
            ApiError::AnswerWithheld(_) => Status::internal(error.to_string()),
            ApiError::Interrupted(_) | ApiError::NoRandomness => Status::internal(error.to_string()),
        }
    }
}

/// An error of etcd's own.
pub(super) fn etcd_status(error: EtcdError) -> Status {
    Status::new(Code::from_i32(error.code().number()), error.message())
}

/// The status of a caller who may not.
pub(super) fn denied_status(denied: &Denied) -> Status {
    let code = match denied {
        Denied::Auth(refused) => return etcd_status((*refused).into()),
        Denied::InvalidToken => return etcd_status(EtcdError::InvalidAuthToken),
        Denied::NoToken | Denied::WrongToken => Code::Unauthenticated,
        Denied::NoTokenFile { .. } => Code::PermissionDenied,
    };
    Status::new(code, denied.to_string())
}

/// The status of what a replica did not do.
pub(super) fn node_status(refused: &NodeError) -> Status {
    let code = match refused {
        NodeError::NoLeader
        | NodeError::LeaderChanged
        | NodeError::Timeout
        | NodeError::TimeoutLeaderFailure
        | NodeError::OutcomeUnknown
        | NodeError::NoState
        | NodeError::NodeRemoved
        | NodeError::Fenced(_)
        | NodeError::TransferFailed(_)
        | NodeError::Unhealthy
        | NodeError::Stopping => Code::Unavailable,
        NodeError::TooManyRequests | NodeError::NoSpace => Code::ResourceExhausted,
        NodeError::TooLarge | NodeError::Invalid(_) => Code::InvalidArgument,
        NodeError::StaleRead { .. }
        | NodeError::MembershipBusy { .. }
        | NodeError::StaleConfig { .. }
        | NodeError::RemovedMember(_)
        | NodeError::NotCaughtUp(_)
        | NodeError::NotVoter(_) => Code::FailedPrecondition,
        NodeError::UnknownMember(_) => Code::NotFound,
    };
    let mut status = Status::new(code, refused.to_string());
    if matches!(refused, NodeError::NodeRemoved) {
        // For the relay, which sends such a call to a member instead.
        status.set_source(Arc::new(refused.clone()));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refused: &NodeError, code: Code, text: &str) {
        let status = node_status(refused);
        assert_eq!((status.code(), status.message()), (code, text));
    }

    #[test]
    fn clients_of_etcd_know_these_by_code_and_text() {
        check(&NodeError::NoLeader, Code::Unavailable, "etcdserver: no leader");
        check(&NodeError::LeaderChanged, Code::Unavailable, "etcdserver: leader changed");
        check(&NodeError::Timeout, Code::Unavailable, "etcdserver: request timed out");
        check(
            &NodeError::TimeoutLeaderFailure,
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        );
        check(&NodeError::Stopping, Code::Unavailable, "etcdserver: server stopped");
        check(&NodeError::TooManyRequests, Code::ResourceExhausted, "etcdserver: too many requests");
        check(&NodeError::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        check(&NodeError::TooLarge, Code::InvalidArgument, "etcdserver: request is too large");
    }
}
