//! A read that stalls between its permission and its check, as a paused process would (hazard 59).

use std::net::TcpListener;

use quorate_node::{Consistency, ReadOptions};
use tempfile::TempDir;

use super::*;
use crate::TokenOption;
use crate::auth::Authenticator;
use crate::runtime::ReplicaConfig;

/// Longest wait for anything; far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two voters and their folders.
async fn pair() -> (Vec<Replica>, Vec<TempDir>) {
    let (mut replicas, mut folders) = (Vec::new(), Vec::new());
    for number in 0..2 {
        let folder = TempDir::new().expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let config = ReplicaConfig::new(folder.path().to_owned(), format!("node-{number}"), listener);
        replicas.push(Replica::start(config).await.expect("starts"));
        folders.push(folder);
    }
    let members: Vec<_> = replicas.iter().map(|replica| replica.own_identity().member).collect();
    for replica in &replicas {
        replica.init(7, members.clone()).await.expect("an empty node accepts");
    }
    (replicas, folders)
}

/// The one that reads under its lease by now, and the other.
async fn leader_and_follower(replicas: &[Replica]) -> (Replica, Replica) {
    let looking = async {
        loop {
            for (leader, follower) in [(0, 1), (1, 0)] {
                let grant = replicas[leader].read(ReadOptions::default()).await;
                if grant.is_ok_and(|grant| grant.fence.is_some()) {
                    return (replicas[leader].clone(), replicas[follower].clone());
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("one is elected")
}

fn serve(replica: Replica) -> ClientApi {
    let authenticator = Authenticator::new(&TokenOption::default(), replica.tokens()).expect("no key to read");
    let access = Access::new(replica.clone(), authenticator, None);
    let writes = WriteLimits { max_request_bytes: 1024, max_leases: 1 };
    ClientApi::new(replica, access, writes, AnswerLimits::default(), Arc::new(Metrics::new()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_lease_ends_before_it_is_checked_is_made_again_with_a_quorum() {
    let (replicas, _folders) = pair().await;
    let (leader, follower) = leader_and_follower(&replicas).await;
    let api = serve(leader.clone());
    let successor = follower.own_identity().identity.expect("initialised").node_id;
    let reads = std::sync::atomic::AtomicU32::new(0);
    let served = api
        .read(ReadOptions::default(), || async {
            if reads.fetch_add(1, Ordering::SeqCst) == 0 {
                // The permission is there. Another may write by the time the state is read.
                leader.transfer_leader(Some(successor), None).await.expect("it is caught up");
            }
            Ok((leader.view().expect("it runs").revision(), None))
        })
        .await
        .expect("the next leader is asked");
    assert_eq!(reads.into_inner(), 2, "what was read first was read under a lease that had ended");
    assert_eq!((served.grant.effective, served.grant.fence), (Consistency::Consistent, None));
    let metrics = String::from_utf8(api.metrics.encode().expect("encodes")).expect("text");
    let counted = "quorate_reads_total{consistency=\"default\",outcome=\"served_after_retry\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    for replica in replicas {
        replica.halt().await;
    }
}
