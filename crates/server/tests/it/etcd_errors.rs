//! Every error that etcd's API knows, provoked with a real request to a real node, or listed with the reason why no request
//! can. Code and exact text are compared: etcd's clients tell errors apart by nothing else.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::authpb::permission::Type;
use quorate_proto::authpb::{Permission, UserAddOptions};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_raft::{NodeId, RoleKind};
use quorate_server::server::ServerConfig;
use quorate_wire::etcd::EtcdError;
use tonic::Status;
use tonic::transport::Channel;

use crate::cluster::PATIENCE;
use crate::etcd_auth::{As, user_with};
use crate::etcd_gate::with;
use crate::served::{MAX_REQUEST_BYTES, Served, put, range};
use crate::watcher::{Watcher, watch};

/// Errors that no request to Quorate ends with, and why.
const NEVER: [(EtcdError, &str); 12] = [
    (EtcdError::MemberExists, "a member's id is drawn, not derived from its address: two members never share one"),
    (
        EtcdError::ClusterIdMismatch,
        "etcd's peers say it to each other; here a peer of another cluster is refused by name",
    ),
    (EtcdError::NotSupportedForLearner, "a learner serves every request, as any follower does"),
    (EtcdError::ClusterVersionUnavailable, "the version of the cluster is known from its first entry on"),
    (EtcdError::DowngradeInProgress, "no downgrade is ever entered upon"),
    (EtcdError::NoInflightDowngrade, "etcd 3.7.3 itself takes the cancelling of nothing for done"),
    (EtcdError::LeaderChanged, "a read whose leader changed is asked again by the node until its time is over"),
    (EtcdError::TimeoutDueToConnectionLost, "a node does not guess why no answer came but for a leader that it lost"),
    (EtcdError::TimeoutWaitAppliedIndex, "a read waits for the state as it waits for the leader: it times out as one"),
    (EtcdError::WatchCanceled, "etcd says it to a client that has gone; here nothing is sent to one"),
    (EtcdError::RequestCanceled, "etcd says it to a client that has gone; here nothing is sent to one"),
    (EtcdError::DeadlineExceeded, "a client's own library ends its calls in time, and tells the node by a reset"),
];

const DOCUMENT: &str = include_str!("../../../../docs/etcd-compatibility.md");

/// What was provoked, and what came instead.
#[derive(Default)]
struct Table {
    told: BTreeSet<EtcdError>,
    wrong: Vec<String>,
}

impl Table {
    /// One row: the request that was made must have ended with this error.
    fn row<T: Debug>(&mut self, error: EtcdError, answer: Result<T, Status>) {
        let expected = (error.code().number(), error.message());
        match answer {
            Err(status) if (status.code() as i32, status.message()) == expected => {
                self.told.insert(error);
            }
            other => self.wrong.push(format!("{error:?}: {other:?}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_of_etcd_is_told_with_its_code_and_text_or_cannot_come_up() {
    let mut table = Table::default();
    let served = Served::adjusted(|config| config.replica.request_timeout = Duration::from_millis(500)).await;
    keys(&served, &mut table).await;
    transactions(&served, &mut table).await;
    leases(&served, &mut table).await;
    users_and_roles(&served, &mut table).await;
    members(&served, &mut table).await;
    maintenance(&served, &mut table).await;
    alarms(&served, &mut table).await;
    stopping(served, &mut table).await;
    limits(&mut table).await;
    tokens(&mut table).await;
    without_one(&mut table).await;
    without_the_leader(&mut table).await;
    assert!(table.wrong.is_empty(), "{:#?}", table.wrong);
    let never: BTreeSet<EtcdError> = NEVER.iter().map(|(error, _)| *error).collect();
    let both: Vec<_> = never.intersection(&table.told).collect();
    assert!(both.is_empty(), "told, though there is a reason why they cannot be: {both:?}");
    let all: BTreeSet<EtcdError> = EtcdError::ALL.iter().copied().collect();
    let missing: Vec<_> = all.iter().filter(|error| !never.contains(error) && !table.told.contains(error)).collect();
    assert!(missing.is_empty(), "neither provoked nor excused: {missing:?}");
    let untold: Vec<_> = never.iter().filter(|error| !DOCUMENT.contains(&format!("`{}`", error.message()))).collect();
    assert!(untold.is_empty(), "excused, and docs/etcd-compatibility.md does not say so: {untold:?}");
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn lease_client(served: &Served) -> LeaseClient<Channel> {
    LeaseClient::new(served.channel())
}

fn maintenance_client(served: &Served) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(served.channel())
}

async fn keys(served: &Served, table: &mut Table) {
    let mut kv = served.kv();
    let revision = served.put("a", "1").await;
    table.row(EtcdError::EmptyKey, kv.range(range("")).await);
    table.row(EtcdError::KeyNotFound, kv.put(pb::PutRequest { ignore_value: true, ..put("none", "") }).await);
    table.row(EtcdError::ValueProvided, kv.put(pb::PutRequest { ignore_value: true, ..put("a", "1") }).await);
    let ignored = pb::PutRequest { lease: 1, ignore_lease: true, ..put("a", "1") };
    table.row(EtcdError::LeaseProvided, kv.put(ignored).await);
    table.row(EtcdError::LeaseNotFound, kv.put(pb::PutRequest { lease: 1, ..put("a", "1") }).await);
    table.row(EtcdError::InvalidSortOption, kv.range(pb::RangeRequest { sort_target: 9, ..range("a") }).await);
    let future = pb::RangeRequest { revision: revision + 1, ..range("a") };
    table.row(EtcdError::FutureRevision, kv.range(future).await);
    kv.compact(pb::CompactionRequest { revision, physical: false }).await.expect("compacted");
    let before = pb::RangeRequest { revision: revision - 1, ..range("a") };
    table.row(EtcdError::Compacted, kv.range(before).await);
    let sorted = pb::RangeRequest { sort_order: 2, ..range("a") };
    table.row(EtcdError::StreamSorted, kv.range_stream(sorted).await);
    let filtered = pb::RangeRequest { max_create_revision: 1, ..range("a") };
    table.row(EtcdError::StreamFiltered, kv.range_stream(filtered).await);
    let large = put("a", &"v".repeat(MAX_REQUEST_BYTES));
    table.row(EtcdError::RequestTooLarge, kv.put(large).await);
    let later: &[(&str, &[u8])] = &[("quorate-min-revision", b"1000")];
    table.row(EtcdError::Timeout, kv.range(with(range("a"), later)).await);
    let version: &[(&str, &[u8])] = &[("client-api-version", b"\xff")];
    table.row(EtcdError::InvalidClientApiVersion, kv.range(with(range("a"), version)).await);
}

async fn transactions(served: &Served, table: &mut Table) {
    let mut kv = served.kv();
    let of = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    let twice = of(vec![op(Op::RequestPut(put("a", "1"))), op(Op::RequestPut(put("a", "2")))]);
    table.row(EtcdError::DuplicateKey, kv.txn(twice).await);
    let many = of(vec![op(Op::RequestRange(range("a"))); 129]);
    table.row(EtcdError::TooManyOps, kv.txn(many).await);
    let compare = vec![pb::Compare { key: "a".into(), result: 9, ..Default::default() }];
    table.row(EtcdError::InvalidCompare, kv.txn(pb::TxnRequest { compare, ..Default::default() }).await);
}

async fn leases(served: &Served, table: &mut Table) {
    let mut client = lease_client(served);
    let grant = |id: i64, ttl: i64| pb::LeaseGrantRequest { id, ttl };
    table.row(EtcdError::LeaseTtlTooLarge, client.lease_grant(grant(1, 9_000_000_001)).await);
    client.lease_grant(grant(1, 60)).await.expect("granted");
    table.row(EtcdError::LeaseExists, client.lease_grant(grant(1, 60)).await);
    table.row(EtcdError::LeaseNotFound, client.lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await);
}

async fn limits(table: &mut Table) {
    let served = Served::adjusted(|config| config.replica.max_pending_requests = 0).await;
    table.row(EtcdError::TooManyRequests, served.kv().put(put("a", "1")).await);
    table.row(EtcdError::TooManyRequests, served.kv().range(range("a")).await);
    served.server.stop().await;

    let served = Served::adjusted(|config| config.replica.max_leases = 0).await;
    let grant = lease_client(&served).lease_grant(pb::LeaseGrantRequest { id: 0, ttl: 60 }).await;
    table.row(EtcdError::TooManyLeases, grant);
    served.server.stop().await;
}

async fn alarms(served: &Served, table: &mut Table) {
    let member_id = served.server.replica().stamp().node_id;
    for (alarm, error) in [(pb::AlarmType::Nospace, EtcdError::NoSpace), (pb::AlarmType::Corrupt, EtcdError::Corrupt)] {
        let raise = pb::AlarmRequest { action: AlarmAction::Activate.into(), member_id, alarm: alarm.into() };
        maintenance_client(served).alarm(raise).await.expect("raised");
        table.row(error, served.kv().put(put("a", "1")).await);
        table.row(error, lease_client(served).lease_grant(pb::LeaseGrantRequest { id: 0, ttl: 60 }).await);
    }
}

async fn users_and_roles(served: &Served, table: &mut Table) {
    let mut auth = served.auth_as(&As(None));
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    let role = |name: &str| pb::AuthRoleAddRequest { name: name.into() };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    table.row(EtcdError::AuthNotEnabled, served.log_in("root", "x").await.map(drop));
    table.row(EtcdError::RootUserNotExist, auth.auth_enable(pb::AuthEnableRequest {}).await);
    table.row(EtcdError::UserEmpty, auth.user_add(user("")).await);
    auth.user_add(user("root")).await.expect("a new user");
    table.row(EtcdError::UserAlreadyExists, auth.user_add(user("root")).await);
    table.row(EtcdError::RootRoleNotExist, auth.auth_enable(pb::AuthEnableRequest {}).await);
    table.row(EtcdError::UserNotFound, auth.user_get(pb::AuthUserGetRequest { name: "nobody".into() }).await);
    table.row(EtcdError::RoleEmpty, auth.role_add(role("")).await);
    auth.role_add(role("r")).await.expect("a new role");
    table.row(EtcdError::RoleAlreadyExists, auth.role_add(role("r")).await);
    table.row(EtcdError::RoleNotFound, auth.user_grant_role(grant("root", "none")).await);
    let revoke = pb::AuthUserRevokeRoleRequest { name: "root".into(), role: "r".into() };
    table.row(EtcdError::RoleNotGranted, auth.user_revoke_role(revoke).await);
    let revoke = pb::AuthRoleRevokePermissionRequest { role: "r".into(), key: "a".into(), range_end: Bytes::new() };
    table.row(EtcdError::PermissionNotGranted, auth.role_revoke_permission(revoke).await);
    let nothing = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: None };
    table.row(EtcdError::PermissionNotGiven, auth.role_grant_permission(nothing).await);
    let no_key = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(Permission::default()) };
    table.row(EtcdError::InvalidAuthManagement, auth.role_grant_permission(no_key).await);
}

async fn tokens(table: &mut Table) {
    let secret = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secret.path(), "secret").expect("written");
    let option = format!("jwt,sign-method=HS256,priv-key={}", secret.path().display());
    // A token that is signed says at which revision of rights it was made.
    let (served, root) = Served::with_root_adjusted(|config| config.auth_token = option.parse().expect("sound")).await;
    table.row(EtcdError::UserEmpty, served.kv().range(range("a")).await);
    table.row(EtcdError::AuthFailed, served.log_in("root", "wrong").await.map(drop));
    table.row(EtcdError::InvalidAuthToken, served.kv_as(&As::token("a.b.c")).range(range("a")).await);
    let delete = pb::AuthUserDeleteRequest { name: "root".into() };
    table.row(EtcdError::InvalidAuthManagement, served.auth_as(&root).user_delete(delete).await);
    served.auth_as(&root).role_add(pb::AuthRoleAddRequest { name: "other".into() }).await.expect("root may");
    table.row(EtcdError::AuthOldRevision, served.kv_as(&root).range(range("a")).await);
    served.server.stop().await;

    let (served, root) = Served::with_root().await;
    let user = user_with(&served, &root, Type::Readwrite, "mine", "").await;
    table.row(EtcdError::PermissionDenied, served.kv_as(&user).range(range("other")).await);
    served.server.stop().await;
}

async fn members(served: &Served, table: &mut Table) {
    let mut cluster = ClusterClient::new(served.channel());
    let own = served.server.replica().stamp().node_id;
    let add = |url: &str| pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner: true };
    table.row(EtcdError::MemberBadUrls, cluster.member_add(add("127.0.0.1:1")).await);
    table.row(EtcdError::MemberNotFound, cluster.member_remove(pb::MemberRemoveRequest { id: 1 }).await);
    let last = pb::MemberRemoveRequest { id: own };
    table.row(EtcdError::MemberNotEnoughStarted, cluster.member_remove(last).await);
    table.row(EtcdError::MemberNotLearner, cluster.member_promote(pb::MemberPromoteRequest { id: own }).await);
    let added = cluster.member_add(add("http://127.0.0.1:1")).await.expect("added").into_inner();
    let id = added.member.expect("the member").id;
    table.row(EtcdError::PeerUrlExists, cluster.member_add(add("http://127.0.0.1:1")).await);
    table.row(EtcdError::TooManyLearners, cluster.member_add(add("http://127.0.0.1:2")).await);
    table.row(EtcdError::LearnerNotReady, cluster.member_promote(pb::MemberPromoteRequest { id }).await);
}

async fn maintenance(served: &Served, table: &mut Table) {
    let mut client = maintenance_client(served);
    let downgrade = |action: DowngradeAction, version: &str| pb::DowngradeRequest {
        action: action.into(),
        version: version.into(),
    };
    let unreadable = downgrade(DowngradeAction::Validate, "x");
    table.row(EtcdError::WrongDowngradeVersionFormat, client.downgrade(unreadable).await);
    let too_old = downgrade(DowngradeAction::Validate, "3.5.0");
    table.row(EtcdError::InvalidDowngradeTargetVersion, client.downgrade(too_old).await);
    table.row(EtcdError::NotCapable, client.downgrade(downgrade(DowngradeAction::Enable, "3.6.0")).await);
    let nobody = pb::MoveLeaderRequest { target_id: 1 };
    table.row(EtcdError::BadLeaderTransferee, client.move_leader(nobody).await);
}

/// Which of them leads, as soon as one does.
async fn leader(nodes: &[Served]) -> usize {
    let leads = |node: &Served| node.server.replica().status().raft.is_some_and(|raft| raft.role == RoleKind::Leader);
    let leading = async {
        loop {
            match nodes.iter().position(leads) {
                Some(position) => return position,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, leading).await.expect("one leads")
}

fn id(node: &Served) -> NodeId {
    NodeId(node.server.replica().stamp().node_id)
}

/// A leader of three that knows that it has lost one.
async fn without_one(table: &mut Table) {
    // Among other tests a node may get no processor for longer than the usual timeout: the leader must not take the one that
    // stays for lost, nor take what the lost one sent last for a sign of life. Should it lose its lead all the same, the
    // request outlives the election, and whoever leads then has not heard from the lost one either.
    let patient = |_, config: &mut ServerConfig| {
        config.replica.election_timeout = Duration::from_secs(3);
        config.replica.request_timeout = PATIENCE;
    };
    let nodes = Served::together_adjusted(3, patient).await;
    let leads = leader(&nodes).await;
    let (gone, stays) = (&nodes[(leads + 1) % 3], &nodes[(leads + 2) % 3]);
    let (leads, lost) = (&nodes[leads], id(gone));
    let until_heard = |heard: bool| async move {
        let hears = || {
            let status = leads.server.replica().status().raft.expect("runs");
            status.followers.get(&lost).is_some_and(|follower| follower.active)
        };
        while hears() != heard {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Else its first answer might come when it is missed already.
    tokio::time::timeout(PATIENCE, until_heard(true)).await.expect("the leader hears it");
    gone.server.replica().clone().halt().await;
    tokio::time::timeout(PATIENCE, until_heard(false)).await.expect("the leader notices");
    // Who would be left could not decide anything.
    let remove = pb::MemberRemoveRequest { id: id(stays).0 };
    table.row(EtcdError::Unhealthy, ClusterClient::new(leads.channel()).member_remove(remove).await);
    for node in [leads, stays] {
        node.server.replica().clone().halt().await;
    }
}

/// A follower whose leader goes away under a write, and then has none.
async fn without_the_leader(table: &mut Table) {
    // Long enough to notice the loss.
    let patient = |_, config: &mut ServerConfig| config.replica.request_timeout = Duration::from_secs(2);
    let nodes = Served::together_adjusted(2, patient).await;
    let leads = leader(&nodes).await;
    let (follower, leads) = (&nodes[1 - leads], &nodes[leads]);
    let transfer = pb::MoveLeaderRequest { target_id: id(leads).0 };
    table.row(EtcdError::NotLeader, maintenance_client(follower).move_leader(transfer).await);
    let writing = async {
        loop {
            if let Err(refused) = follower.kv().put(put("a", "2")).await {
                return refused;
            }
        }
    };
    let (refused, ()) = tokio::join!(writing, leads.server.replica().clone().halt());
    table.row(EtcdError::TimeoutDueToLeaderFail, Err::<(), _>(refused));
    let wants: &[(&str, &[u8])] = &[("hasleader", b"true")];
    table.row(EtcdError::NoLeader, follower.kv().range(with(range("a"), wants)).await);
    table.row(EtcdError::NoLeader, follower.kv().put(put("a", "3")).await);
    follower.server.replica().clone().halt().await;
}

async fn stopping(served: Served, table: &mut Table) {
    let mut watcher = Watcher::open(served.channel()).await;
    watcher.create(watch("a", 0)).await;
    let ((), ended) = tokio::join!(served.server.stop(), watcher.try_next());
    table.row(EtcdError::Stopped, ended);
}
