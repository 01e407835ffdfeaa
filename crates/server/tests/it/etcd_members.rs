//! Members one at a time over gRPC, and the hashes by which members compare themselves.

use std::collections::BTreeSet;

use quorate_proto::etcdserverpb::cluster_client::ClusterClient;
use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{
    CompactionRequest, DowngradeRequest, HashKvRequest, HashKvResponse, HashRequest, LeaseGrantRequest, Member,
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use quorate_wire::peer::NodeState;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cluster::PATIENCE;
use crate::served::{Served, range};

fn cluster(served: &Served) -> ClusterClient<Channel> {
    ClusterClient::new(served.channel())
}

fn maintenance(served: &Served) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(served.channel())
}

async fn list(served: &Served) -> Vec<Member> {
    let listed = cluster(served).member_list(MemberListRequest { linearizable: true }).await.expect("listed");
    listed.into_inner().members
}

fn peer_url(served: &Served) -> String {
    format!("http://{}", served.server.replica().own_identity().member.peer_address)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err(text);
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Waits until the list of members is as wanted.
async fn until(served: &Served, what: &str, holds: impl Fn(&[Member]) -> bool) {
    let looking = async {
        while !holds(&list(served).await) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("in time, {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_added_as_a_voter_is_one_by_itself_and_can_be_taken_out_again() {
    let first = Served::alone().await;
    first.put("a", "1").await;
    let second = Served::empty().await;
    let add = MemberAddRequest { peer_ur_ls: vec![peer_url(&second)], is_learner: false };
    let added = cluster(&first).member_add(add.clone()).await.expect("added").into_inner();
    let member = added.member.expect("the member");
    assert_ne!(member.id, 0);
    assert_eq!(member.peer_ur_ls, add.peer_ur_ls);
    assert_eq!(added.members.len(), 2);
    assert_eq!(added.header.expect("a header").revision, 0);
    refused(cluster(&first).member_add(add).await, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    until(&first, "it is a voter", |members| members.iter().all(|member| !member.is_learner)).await;
    let listed = list(&second).await;
    let own = listed.iter().find(|listed| listed.id == member.id).expect("listed by itself");
    assert_eq!((own.name.as_str(), own.client_ur_ls.len()), ("alone", 1));
    assert_eq!(second.server.replica().stamp().node_id, member.id, "the id it was promised");
    let read = second.kv().range(range("a")).await.expect("serves").into_inner();
    assert_eq!(read.kvs[0].value, "1");

    let unknown = MemberRemoveRequest { id: 4711 };
    refused(cluster(&second).member_remove(unknown).await, Code::NotFound, "etcdserver: member not found");
    let removed = cluster(&first).member_remove(MemberRemoveRequest { id: member.id }).await.expect("removed");
    assert_eq!(removed.into_inner().members.len(), 1);
    second.until("knows it was removed", |change| change.state == NodeState::Removed).await;
    let last = MemberRemoveRequest { id: first.server.replica().stamp().node_id };
    refused(
        cluster(&first).member_remove(last).await,
        Code::FailedPrecondition,
        "etcdserver: re-configuration failed due to not enough started members",
    );
    first.put("a", "2").await;
    second.server.stop().await;
    first.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_promotes_no_learner_and_one_in_sync_is_promoted_when_asked() {
    let first = Served::alone().await;
    let own = first.server.replica().stamp().node_id;
    let second = Served::empty().await;
    let add = MemberAddRequest { peer_ur_ls: vec![peer_url(&second)], is_learner: true };
    let id = cluster(&first).member_add(add).await.expect("added").into_inner().member.expect("the member").id;
    let another = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
    refused(
        cluster(&first).member_add(another).await,
        Code::FailedPrecondition,
        "etcdserver: too many learner members in cluster",
    );
    second.until("is a member", |change| change.state == NodeState::Member).await;
    let learners: Vec<_> = list(&first).await.into_iter().filter(|member| member.is_learner).collect();
    assert_eq!(learners.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
    // Another name of the same place, so that the cluster goes on.
    let renamed = peer_url(&second).replace("127.0.0.1", "localhost");
    let update = MemberUpdateRequest { id, peer_ur_ls: vec![renamed.clone()] };
    let updated = cluster(&first).member_update(update).await.expect("updated").into_inner();
    let member = updated.members.iter().find(|member| member.id == id).expect("listed");
    assert_eq!((&member.peer_ur_ls, member.is_learner), (&vec![renamed], true), "a new address promotes nobody");
    refused(
        cluster(&first).member_promote(MemberPromoteRequest { id: own }).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    refused(
        cluster(&first).member_promote(MemberPromoteRequest { id: 4711 }).await,
        Code::NotFound,
        "etcdserver: member not found",
    );
    // The leader hears with the next heartbeat that it has caught up.
    let promoted = loop {
        match cluster(&first).member_promote(MemberPromoteRequest { id }).await {
            Ok(promoted) => break promoted.into_inner(),
            Err(status) => refused(
                Err::<(), _>(status),
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
        }
    };
    assert!(promoted.members.iter().all(|member| !member.is_learner), "{:?}", promoted.members);

    let taken = MemberUpdateRequest { id, peer_ur_ls: vec![peer_url(&first)] };
    refused(
        cluster(&first).member_update(taken).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    let unknown = MemberUpdateRequest { id: 4711, peer_ur_ls: vec!["http://127.0.0.1:2".into()] };
    refused(cluster(&first).member_update(unknown).await, Code::NotFound, "etcdserver: member not found");
    first.put("a", "1").await;
    second.server.stop().await;
    first.server.replica().clone().halt().await;
}

async fn hash_kv(served: &Served, revision: i64) -> Result<HashKvResponse, Status> {
    Ok(maintenance(served).hash_kv(HashKvRequest { revision }).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_agree_on_the_hash_of_every_revision() {
    let nodes = Served::together(3).await;
    for number in 0..20 {
        nodes[number % 3].put(&format!("k{}", number % 7), &number.to_string()).await;
    }
    nodes[1].kv().compact(CompactionRequest { revision: 10, physical: true }).await.expect("compacted");
    // The clock of leases goes on while members are asked one after the other.
    let mut leases = quorate_proto::etcdserverpb::lease_client::LeaseClient::new(nodes[0].channel());
    leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 1 }).await.expect("granted");
    let mut hashes = BTreeSet::new();
    for revision in [10, 15, 20, 21, 0] {
        let mut told = Vec::new();
        for node in &nodes {
            // A member that is behind catches up first.
            node.kv().range(range("k0")).await.expect("read");
            let answer = hash_kv(node, revision).await.expect("hashed");
            assert_eq!(answer.header.expect("a header").revision, 21);
            told.push((answer.hash, answer.compact_revision, answer.hash_revision));
        }
        let expected = (told[0].0, 10, if revision == 0 { 21 } else { revision });
        assert_eq!(told, [expected; 3], "at {revision}");
        hashes.insert(told[0].0);
    }
    assert_eq!(hashes.len(), 4, "each revision has a hash of its own, and 0 is the current one");
    let text = "etcdserver: mvcc: required revision has been compacted";
    refused(hash_kv(&nodes[0], 9).await, Code::OutOfRange, text);
    let text = "etcdserver: mvcc: required revision is a future revision";
    refused(hash_kv(&nodes[0], 22).await, Code::OutOfRange, text);
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_everything_changes_with_a_write_and_is_the_same_on_all_members() {
    let nodes = Served::together(2).await;
    let hash = async |node: &Served| maintenance(node).hash(HashRequest {}).await.expect("hashed").into_inner().hash;
    let before = hash(&nodes[0]).await;
    nodes[1].put("a", "1").await;
    let agreeing = async {
        loop {
            // Entries of the cluster itself come in between.
            nodes[0].kv().range(range("a")).await.expect("read");
            let (one, other) = (hash(&nodes[0]).await, hash(&nodes[1]).await);
            if one == other {
                return one;
            }
        }
    };
    let after = tokio::time::timeout(PATIENCE, agreeing).await.expect("members agree");
    assert_ne!(after, before);
    for node in &nodes {
        node.server.replica().clone().halt().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_judged_and_never_entered_upon() {
    let served = Served::alone().await;
    let ask = async |action: DowngradeAction, version: &str| {
        let request = DowngradeRequest { action: action.into(), version: version.to_string() };
        maintenance(&served).downgrade(request).await
    };
    // To cancel what was never begun is no error to etcd 3.7.3.
    for (action, version) in [(DowngradeAction::Validate, "3.6.0"), (DowngradeAction::Cancel, "")] {
        let good = ask(action, version).await.expect("one version back").into_inner();
        assert_eq!(good.version, "3.7");
        assert!(good.header.is_some());
    }
    for (action, version, code, text) in [
        (DowngradeAction::Validate, "3.5.0", Code::InvalidArgument, "invalid downgrade target version"),
        (DowngradeAction::Validate, "x", Code::InvalidArgument, "wrong downgrade target version format"),
        (DowngradeAction::Enable, "3.6.0", Code::FailedPrecondition, "not capable"),
    ] {
        refused(ask(action, version).await, code, &format!("etcdserver: {text}"));
    }
    served.server.stop().await;
}
