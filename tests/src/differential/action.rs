//! What is asked: one request, by whom and at which node.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::v3electionpb::{LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_proto::v3lockpb::{LockRequest, UnlockRequest};

use super::Stay;

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The node of Quorate that is asked; etcd has one.
    pub node: usize,
    /// Whose token goes along, if that user has logged in.
    pub user: Option<&'static str>,
    /// What is asked.
    pub call: Call,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `KV.Range`
    Range(pb::RangeRequest),
    /// `KV.RangeStream`, all chunks taken together
    RangeStream(pb::RangeRequest),
    /// `KV.Put`
    Put(pb::PutRequest),
    /// `KV.Put` with a value of so many bytes
    LargePut(usize),
    /// `KV.DeleteRange`
    DeleteRange(pb::DeleteRangeRequest),
    /// `KV.Txn`
    Txn(pb::TxnRequest),
    /// `KV.Compact`
    Compact(pb::CompactionRequest),
    /// `Lease.LeaseGrant`
    LeaseGrant(pb::LeaseGrantRequest),
    /// `Lease.LeaseRevoke`
    LeaseRevoke(pb::LeaseRevokeRequest),
    /// `Lease.LeaseKeepAlive`, one request and its answer
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    /// `Lease.LeaseTimeToLive`
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    /// `Lease.LeaseLeases`
    LeaseLeases(pb::LeaseLeasesRequest),
    /// `Watch.Watch`: everything until the watch has been told of all that is, then a cancel
    Watch(pb::WatchCreateRequest),
    /// The same of a client that closes its half of the stream at once; what ends it is that the client goes away
    HalfClosedWatch(pb::WatchCreateRequest),
    /// A request on one of the streams that stay open: what all watches there were told since the last one. A creation
    /// opens the stream; nothing asks only what they were told
    Watching(usize, Option<RequestUnion>),
    /// Ends such a stream
    WatchingEnds(usize),
    /// `Cluster.MemberList`
    MemberList(pb::MemberListRequest),
    /// `Cluster.MemberAdd`
    MemberAdd(pb::MemberAddRequest),
    /// `Cluster.MemberRemove`
    MemberRemove(pb::MemberRemoveRequest),
    /// `Cluster.MemberUpdate`
    MemberUpdate(pb::MemberUpdateRequest),
    /// `Cluster.MemberPromote`
    MemberPromote(pb::MemberPromoteRequest),
    /// `Maintenance.Alarm`
    Alarm(pb::AlarmRequest),
    /// `Maintenance.Status`
    Status(pb::StatusRequest),
    /// `Maintenance.Defragment`
    Defragment(pb::DefragmentRequest),
    /// `Maintenance.HashKV`
    HashKv(pb::HashKvRequest),
    /// `Maintenance.MoveLeader`
    MoveLeader(pb::MoveLeaderRequest),
    /// `Maintenance.Downgrade`
    Downgrade(pb::DowngradeRequest),
    /// `Auth.AuthEnable`
    AuthEnable(pb::AuthEnableRequest),
    /// `Auth.AuthDisable`
    AuthDisable(pb::AuthDisableRequest),
    /// `Auth.AuthStatus`
    AuthStatus(pb::AuthStatusRequest),
    /// `Auth.Authenticate`; the token is used from then on
    Authenticate(&'static str, pb::AuthenticateRequest),
    /// `Auth.UserAdd`
    UserAdd(pb::AuthUserAddRequest),
    /// `Auth.UserGet`
    UserGet(pb::AuthUserGetRequest),
    /// `Auth.UserList`
    UserList(pb::AuthUserListRequest),
    /// `Auth.UserDelete`
    UserDelete(pb::AuthUserDeleteRequest),
    /// `Auth.UserChangePassword`
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    /// `Auth.UserGrantRole`
    UserGrantRole(pb::AuthUserGrantRoleRequest),
    /// `Auth.UserRevokeRole`
    UserRevokeRole(pb::AuthUserRevokeRoleRequest),
    /// `Auth.RoleAdd`
    RoleAdd(pb::AuthRoleAddRequest),
    /// `Auth.RoleGet`
    RoleGet(pb::AuthRoleGetRequest),
    /// `Auth.RoleList`
    RoleList(pb::AuthRoleListRequest),
    /// `Auth.RoleDelete`
    RoleDelete(pb::AuthRoleDeleteRequest),
    /// `Auth.RoleGrantPermission`
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    /// `Auth.RoleRevokePermission`
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),
    /// A call that may stay, under a number
    Stay(usize, Stay),
    /// What has come of the call of that number
    SoFar(usize),
    /// Its caller goes away
    GiveUp(usize),
    /// `Lock.Lock` of a name that nobody else asks for
    Lock(LockRequest),
    /// `Lock.Unlock`
    Unlock(UnlockRequest),
    /// `Election.Leader`
    Leader(LeaderRequest),
    /// `Election.Proclaim`
    Proclaim(ProclaimRequest),
    /// `Election.Resign`
    Resign(ResignRequest),
    /// A call as JSON: path and body
    Json(&'static str, String),
    /// An HTTP endpoint
    Get(&'static str),
}

impl Call {
    /// Whether the node that is asked answers as of now by itself, however far behind it was.
    pub(super) fn is_current(&self) -> bool {
        match self {
            Call::Range(range) => !range.serializable,
            Call::RangeStream(range) => !range.serializable,
            Call::Alarm(request) => request.action() == AlarmAction::Get,
            Call::Put(_) | Call::LargePut(_) | Call::DeleteRange(_) | Call::Compact(_) => true,
            _ => false,
        }
    }
}
