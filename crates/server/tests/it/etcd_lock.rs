//! `v3lockpb.Lock` and `v3electionpb.Election` over gRPC: one holder at a time, in the order of coming, and none that lost
//! its lease.

use std::collections::VecDeque;

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3electionpb::{CampaignRequest, CampaignResponse, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_proto::v3lockpb::lock_client::LockClient;
use quorate_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::cluster::PATIENCE;
use crate::served::{Served, put, range};
use crate::watcher::{Watcher, watch_prefix};

impl Served {
    /// A lease that outlives the test unless it is revoked.
    async fn lease(&self) -> i64 {
        let request = pb::LeaseGrantRequest { ttl: 600, id: 0 };
        LeaseClient::new(self.channel()).lease_grant(request).await.expect("granted").into_inner().id
    }

    async fn revoke(&self, id: i64) {
        LeaseClient::new(self.channel()).lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("revoked");
    }

    /// Stands in line for `name`, on a connection of its own.
    fn lock(&self, lease: i64) -> JoinHandle<Result<LockResponse, Status>> {
        let mut client = LockClient::new(self.channel());
        let request = LockRequest { name: "name".into(), lease };
        tokio::spawn(async move { Ok(client.lock(request).await?.into_inner()) })
    }

    async fn unlock(&self, key: &[u8]) {
        let request = UnlockRequest { key: key.to_vec().into() };
        LockClient::new(self.channel()).unlock(request).await.expect("unlocked");
    }

    fn campaign(&self, lease: i64, value: &str) -> JoinHandle<Result<CampaignResponse, Status>> {
        let mut client = ElectionClient::new(self.channel());
        let request = CampaignRequest { name: "name".into(), lease, value: value.to_owned().into() };
        tokio::spawn(async move { Ok(client.campaign(request).await?.into_inner()) })
    }

    async fn leader(&self) -> Result<String, Status> {
        let answer = ElectionClient::new(self.channel()).leader(LeaderRequest { name: "name".into() }).await?;
        let value = answer.into_inner().kv.expect("a key").value;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Those in line, in the order of coming.
    async fn line(&self) -> Vec<quorate_proto::mvccpb::KeyValue> {
        let everybody = pb::RangeRequest {
            range_end: "name0".into(),
            sort_target: pb::range_request::SortTarget::Create.into(),
            sort_order: pb::range_request::SortOrder::Ascend.into(),
            ..range("name/")
        };
        self.kv().range(everybody).await.expect("read").into_inner().kvs
    }

    /// Waits until so many stand in line.
    async fn until_in_line(&self, count: usize) {
        let mut watcher = Watcher::open(self.channel()).await;
        watcher.create(watch_prefix("name/", 0)).await;
        while self.line().await.len() != count {
            watcher.next().await;
        }
    }
}

/// What came of standing in line.
async fn came<T>(waiting: JoinHandle<T>) -> T {
    timeout(PATIENCE, waiting).await.expect("answered in time").expect("runs to its end")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, text: &str) {
    let status = result.expect_err(text);
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
}

/// A transaction that puts `guarded` if `key` was created at `revision`.
async fn guarded(served: &Served, key: &[u8], revision: i64) -> bool {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        range_end: Default::default(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    };
    let success = vec![pb::RequestOp { request: Some(Op::RequestPut(put("guarded", "1"))) }];
    let txn = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
    served.kv().txn(txn).await.expect("judged").into_inner().succeeded
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_holder_and_passes_on_in_the_order_of_coming() {
    let served = Served::alone().await;
    let mut tasks = VecDeque::new();
    for count in 1..=4 {
        let lease = served.lease().await;
        tasks.push_back((lease, served.lock(lease)));
        served.until_in_line(count).await;
    }
    let mut token = 0;
    while let Some((lease, task)) = tasks.pop_front() {
        let locked = came(task).await.expect("its turn");
        assert_eq!(locked.key, format!("name/{lease:x}"));
        let line = served.line().await;
        assert_eq!((line[0].key.clone(), line[0].lease), (locked.key.clone(), lease), "the first in line holds it");
        assert!(line[0].create_revision > token, "the fencing token rises");
        token = line[0].create_revision;
        assert!(tasks.iter().all(|(_, task)| !task.is_finished()), "nobody else holds it");
        served.unlock(&locked.key).await;
    }
    assert_eq!(served.line().await.len(), 0);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_without_a_lease_is_given_one_of_a_minute_and_a_second_call_finds_it() {
    let served = Served::alone().await;
    let locked = came(served.lock(0)).await.expect("free");
    let lease = served.line().await[0].lease;
    assert_eq!(locked.key, format!("name/{lease:x}"));
    let request = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
    let left = LeaseClient::new(served.channel()).lease_time_to_live(request).await.expect("told").into_inner();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![locked.key.clone()]));
    let before = served.line().await[0].create_revision;
    let again = came(served.lock(lease)).await.expect("held already");
    assert_eq!((again.key, served.line().await[0].create_revision), (locked.key, before));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_lease_in_the_line_is_told_that_its_session_is_expired() {
    let served = Served::alone().await;
    let (first, second) = (served.lease().await, served.lease().await);
    let held = came(served.lock(first)).await.expect("free").key;
    let waiting = served.lock(second);
    served.until_in_line(2).await;
    served.revoke(second).await;
    served.unlock(&held).await;
    refused(came(waiting).await, "mutex: session is expired");
    assert_eq!(served.line().await.len(), 0);
    refused(came(served.lock(second)).await, "etcdserver: requested lease not found");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_while_it_waits_leaves_the_line() {
    let served = Served::alone().await;
    let held = came(served.lock(served.lease().await)).await.expect("free").key;
    let leaving = served.lock(served.lease().await);
    served.until_in_line(2).await;
    let staying = served.lock(served.lease().await);
    served.until_in_line(3).await;
    leaving.abort();
    served.until_in_line(2).await;
    served.unlock(&held).await;
    came(staying).await.expect("its turn");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_does_not_strand_those_in_line() {
    let served = Served::alone().await;
    let held = came(served.lock(served.lease().await)).await.expect("free").key;
    let waiting = served.lock(served.lease().await);
    served.until_in_line(2).await;
    let revision = served.put("other", "1").await;
    served.kv().compact(pb::CompactionRequest { revision, physical: true }).await.expect("compacted");
    served.unlock(&held).await;
    came(waiting).await.expect("its turn");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_fence_is_refused_in_a_guarded_transaction() {
    // etcd#11456, etcd#11457: a holder whose lease ended does not know it, and writes.
    let served = Served::alone().await;
    let first = served.lease().await;
    let stale = came(served.lock(first)).await.expect("free").key;
    let token = served.line().await[0].create_revision;
    assert!(guarded(&served, &stale, token).await);
    let waiting = served.lock(served.lease().await);
    served.until_in_line(2).await;
    served.revoke(first).await;
    let held = came(waiting).await.expect("its turn").key;
    assert!(!guarded(&served, &stale, token).await, "the former holder");
    let next = served.line().await[0].create_revision;
    assert!(next > token && guarded(&served, &held, next).await, "the holder");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_has_one_leader_and_passes_on_in_the_order_of_coming() {
    let served = Served::alone().await;
    refused(served.leader().await, "election: no leader");
    let leases = [served.lease().await, served.lease().await];
    let first = came(served.campaign(leases[0], "first")).await.expect("nobody before").leader.expect("a key");
    assert_eq!((first.key.clone(), first.lease), (format!("name/{:x}", leases[0]).into(), leases[0]));
    let again = came(served.campaign(leases[0], "changed")).await.expect("leads already").leader.expect("a key");
    assert_eq!((again.rev, served.leader().await.expect("leads")), (first.rev, "changed".into()));
    let waiting = served.campaign(leases[1], "second");
    served.until_in_line(2).await;
    let mut election = ElectionClient::new(served.channel());
    let proclaim = |leader, value: &str| ProclaimRequest { leader: Some(leader), value: value.to_owned().into() };
    election.proclaim(proclaim(first.clone(), "still")).await.expect("leads");
    assert_eq!((served.leader().await.expect("leads"), waiting.is_finished()), ("still".into(), false));
    election.resign(ResignRequest { leader: Some(first.clone()) }).await.expect("leads");
    let second = came(waiting).await.expect("its turn").leader.expect("a key");
    assert!(second.rev > first.rev, "the fencing token rises");
    assert_eq!(served.leader().await.expect("leads"), "second");
    let late = election.proclaim(proclaim(first.clone(), "late")).await.map(Response::into_inner);
    refused(late, "election: not leader");
    election.resign(ResignRequest { leader: Some(first) }).await.expect("nothing to resign is no error");
    assert_eq!(served.leader().await.expect("leads"), "second", "the resignation of another changes nothing");
    let unnamed = election.resign(ResignRequest { leader: None }).await.map(Response::into_inner);
    refused(unnamed, "\"leader\" field must be provided");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_whose_lease_ended_in_the_line_is_not_won_and_one_that_is_given_up_leaves_the_line() {
    let served = Served::alone().await;
    let leases = [served.lease().await, served.lease().await, served.lease().await];
    let first = came(served.campaign(leases[0], "first")).await.expect("nobody before").leader;
    let (expired, left) = (served.campaign(leases[1], "second"), served.campaign(leases[2], "third"));
    served.until_in_line(3).await;
    left.abort();
    served.until_in_line(2).await;
    served.revoke(leases[1]).await;
    ElectionClient::new(served.channel()).resign(ResignRequest { leader: first }).await.expect("leads");
    refused(came(expired).await, "election: not leader");
    refused(served.leader().await, "election: no leader");
    served.server.stop().await;
}
