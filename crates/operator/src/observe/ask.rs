//! Asking every node for its status, in an order in which the answers can be compared.
//!
//! A node that is being taken in knows it only after its leader does. Were the leader's answer older than the node's, the node
//! would look like one with data of an earlier life, and be emptied in the middle of the change that takes it in. So whoever
//! leads is asked again when all others have answered.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use quorate_proto::quorate::v1::{RaftRole, StatusResponse};

use super::kubernetes::KubernetesView;
use crate::admin::{Admin, Target};
use crate::plan::Ordinal;

/// What each node says. One that does not answer is missing.
pub(super) async fn ask_nodes<A: Admin>(admin: &A, kubernetes: &KubernetesView) -> BTreeMap<Ordinal, StatusResponse> {
    let Some(token) = &kubernetes.token else { return BTreeMap::new() };
    let pods = kubernetes.pods.iter().filter(|(_, pod)| !pod.terminating);
    let nodes: BTreeMap<Ordinal, Target> = pods
        .filter_map(|(ordinal, pod)| Some((*ordinal, Target { address: pod.address.clone()?, token: token.clone() })))
        .collect();
    let mut answers = ask(admin, &nodes).await;
    let leads = |ordinal: &Ordinal| answers.get(ordinal).is_some_and(|answer| answer.role() == RaftRole::Leader);
    let leaders: BTreeMap<Ordinal, Target> = nodes.into_iter().filter(|(ordinal, _)| leads(ordinal)).collect();
    answers.retain(|ordinal, _| !leaders.contains_key(ordinal));
    answers.extend(ask(admin, &leaders).await);
    answers
}

async fn ask<A: Admin>(admin: &A, nodes: &BTreeMap<Ordinal, Target>) -> BTreeMap<Ordinal, StatusResponse> {
    let calls = nodes.iter().map(|(ordinal, node)| async move { (*ordinal, admin.status(node).await) });
    let mut answers = BTreeMap::new();
    for (ordinal, answer) in join_all(calls).await {
        match answer {
            Ok(status) => drop(answers.insert(ordinal, status)),
            Err(error) => tracing::debug!(ordinal = ordinal.0, %error, "a node does not answer"),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use quorate_proto::quorate::v1::{InitRequest, ResetRequest, SetVotersRequest, TransferLeaderRequest};

    use super::*;
    use crate::admin::AdminError;
    use crate::observe::PodView;
    use crate::plan::PodState;

    /// Nodes whose term is the number of answers given before; the first of them leads.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Admin for Counting {
        async fn status(&self, node: &Target) -> Result<StatusResponse, AdminError> {
            let role = if node.address == "pod-0" { RaftRole::Leader } else { RaftRole::Follower };
            let term = self.0.fetch_add(1, Ordering::Relaxed);
            Ok(StatusResponse { role: role.into(), term, ..StatusResponse::default() })
        }
        async fn init(&self, _: &Target, _: InitRequest) -> Result<(), AdminError> {
            unreachable!("asking changes nothing")
        }
        async fn set_voters(&self, _: &Target, _: SetVotersRequest) -> Result<(), AdminError> {
            unreachable!("asking changes nothing")
        }
        async fn transfer_leader(&self, _: &Target, _: TransferLeaderRequest) -> Result<(), AdminError> {
            unreachable!("asking changes nothing")
        }
        async fn reset(&self, _: &Target, _: ResetRequest) -> Result<(), AdminError> {
            unreachable!("asking changes nothing")
        }
    }

    #[tokio::test]
    async fn no_answer_is_newer_than_the_leaders() {
        let pod = |ordinal: u32| PodView {
            state: PodState { ready: true, serving: true, ..PodState::default() },
            address: Some(format!("pod-{ordinal}")),
            ..PodView::default()
        };
        let kubernetes = KubernetesView {
            pods: (0..3).map(|ordinal| (Ordinal(ordinal), pod(ordinal))).collect(),
            token: Some("token".to_string()),
            ..KubernetesView::default()
        };
        let answers = ask_nodes(&Counting::default(), &kubernetes).await;
        let times: Vec<u64> = answers.values().map(|answer| answer.term).collect();
        assert_eq!(times.len(), 3);
        assert!(times[1..].iter().all(|time| *time < times[0]), "{times:?}");
    }
}
