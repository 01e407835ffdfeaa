//! `quorate.v1.Admin`: bootstrap, membership, leadership, snapshots.
//!
//! Every call but `Identify` needs the admin token, if one is configured. The peer port answers `Identify`, too, and a
//! node that admits another one has no token for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_node::{InitRefused, ResetRefused};
use quorate_proto::quorate::v1 as pb;
use quorate_proto::quorate::v1::admin_server::Admin;
use quorate_raft::{Incarnation, LogIndex, Member, Membership, NodeId, RoleKind};
use quorate_wire::peer::NodeState;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::ETCD_VERSION;
use super::status::node_status;
use crate::access::Action;
use crate::client_api::{ApiError, ClientApi, Image};
use crate::placed::{Placed, placed};
use crate::runtime::{
    FollowerView, InitError, RaftView, ReplicaStatus, ResetError, SetVotersError, VoterPhase, VoterProgress, VoterSpec,
};

/// Steps of a membership change that wait for their client.
const PROGRESS_AHEAD: usize = 16;

/// Serves `Admin`.
#[derive(Debug)]
pub(super) struct AdminService {
    api: Arc<ClientApi>,
}

impl AdminService {
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        AdminService { api }
    }

    /// The message, if the caller may.
    async fn admit<T: Send>(&self, request: Request<T>, action: Action<'_>) -> Result<T, Status> {
        let _admitted = self.api.access().check(request.metadata().as_ref(), action).await.map_err(ApiError::Denied)?;
        Ok(request.into_inner())
    }

    /// The message, if the caller may have the leader change the cluster. The other calls are this node's own affair, and
    /// are answered without a cluster, too.
    async fn admit_change<T: Send>(&self, request: Request<T>) -> Result<T, Status> {
        self.api.admit_change(request.metadata().as_ref()).await?;
        Ok(request.into_inner())
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn identify(&self, request: Request<pb::IdentifyRequest>) -> Result<Response<pb::IdentifyResponse>, Status> {
        self.admit(request, Action::Identify).await?;
        let own = self.api.replica().own_identity();
        Ok(Response::new(pb::IdentifyResponse {
            incarnation: id_bytes(own.member.incarnation.0),
            state: to_state(own.state).into(),
            name: own.member.name,
            peer_address: own.member.peer_address,
            client_addresses: own.member.client_addresses,
            cluster_id: own.identity.map(|identity| id_bytes(identity.cluster_id)).unwrap_or_default(),
            node_id: own.identity.map_or(0, |identity| identity.node_id.0),
            max_version: own.member.max_version,
        }))
    }

    async fn init(&self, request: Request<pb::InitRequest>) -> Result<Response<pb::InitResponse>, Status> {
        let request = self.admit(request, Action::Administer).await?;
        let cluster_id = parse_id("cluster_id", &request.cluster_id)?;
        let members = request.members.into_iter().map(|member| {
            Ok(Member {
                incarnation: Incarnation(parse_id("incarnation", &member.incarnation)?),
                name: member.name,
                peer_address: required("peer_address", member.peer_address)?,
                client_addresses: member.client_addresses,
                max_version: member.max_version,
            })
        });
        let members: Vec<Member> = members.collect::<Result<_, Status>>()?;
        let node_id = self.api.replica().init(cluster_id, members).await.map_err(|error| init_status(&error))?;
        Ok(Response::new(pb::InitResponse { node_id: node_id.0 }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.admit(request, Action::Administer).await?;
        Ok(Response::new(to_status(self.api.replica().status())))
    }

    type SetVotersStream = ReceiverStream<Result<pb::SetVotersProgress, Status>>;

    async fn set_voters(
        &self,
        request: Request<pb::SetVotersRequest>,
    ) -> Result<Response<Self::SetVotersStream>, Status> {
        let request = self.admit_change(request).await?;
        let targets: Vec<VoterSpec> = request.targets.into_iter().map(parse_target).collect::<Result<_, _>>()?;
        if targets.is_empty() {
            return Err(Status::invalid_argument("no voter is listed"));
        }
        let expected = (request.expected_config_index > 0).then_some(LogIndex(request.expected_config_index));
        let replica = self.api.replica().clone();
        let mut steps = replica.set_voters(targets, expected).await.map_err(|error| set_voters_status(&error))?;
        let (sender, receiver) = mpsc::channel(PROGRESS_AHEAD);
        tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                let last = replica.status().raft.map_or(LogIndex(0), |raft| raft.last);
                let step = step.map(|step| to_progress(step, last)).map_err(|error| set_voters_status(&error));
                // A client that is gone ends the following, not the change.
                if sender.send(step).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = self.admit_change(request).await?;
        let to = (request.node_id != 0).then_some(NodeId(request.node_id));
        let expected = (request.expected_config_index > 0).then_some(LogIndex(request.expected_config_index));
        let transferred = self.api.replica().transfer_leader(to, expected).await;
        let (leader, term) = transferred.map_err(|refused| node_status(&refused))?;
        Ok(Response::new(pb::TransferLeaderResponse { leader: leader.0, term: term.0 }))
    }

    type SnapshotStream = Placed<pb::SnapshotChunk>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let connection = request.extensions().get().cloned().unwrap_or_default();
        let Image { info, chunks, place } = self.api.image(request.metadata().as_ref(), Action::Administer).await?;
        let mut info = Some(pb::SnapshotInfo {
            cluster_id: id_bytes(info.cluster_id),
            index: info.index.0,
            term: info.term.0,
            revision: info.revision,
            format_version: info.format_version,
        });
        let mut chunks = ReceiverStream::new(chunks);
        let (sender, receiver) = placed(place, self.api.answer_limits().send_time, connection);
        tokio::spawn(async move {
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map(|data| pb::SnapshotChunk { data, info: info.take() }).map_err(Status::data_loss);
                if !sender.send(chunk).await {
                    return;
                }
            }
        });
        Ok(Response::new(receiver))
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<pb::ResetResponse>, Status> {
        let request = self.admit(request, Action::Administer).await?;
        let cluster_id = parse_id("cluster_id", &request.cluster_id)?;
        let incarnation = self.api.replica().reset(cluster_id, NodeId(request.node_id)).await;
        let incarnation = incarnation.map_err(|error| reset_status(&error))?;
        Ok(Response::new(pb::ResetResponse { incarnation: id_bytes(incarnation.0) }))
    }
}

fn id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

fn parse_id(what: &str, bytes: &[u8]) -> Result<u128, Status> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| Status::invalid_argument(format!("{what} has {} bytes, not the 16 of an id", bytes.len())))?;
    match u128::from_be_bytes(bytes) {
        0 => Err(Status::invalid_argument(format!("{what} is zero"))),
        id => Ok(id),
    }
}

fn required(what: &str, text: String) -> Result<String, Status> {
    if text.is_empty() { Err(Status::invalid_argument(format!("{what} is missing"))) } else { Ok(text) }
}

fn parse_target(target: pb::Target) -> Result<VoterSpec, Status> {
    match target.voter {
        Some(pb::target::Voter::NodeId(0)) => Err(Status::invalid_argument("a voter's id is zero")),
        Some(pb::target::Voter::NodeId(id)) => Ok(VoterSpec::Id(NodeId(id))),
        Some(pb::target::Voter::Address(address)) => Ok(VoterSpec::Address(required("address", address)?)),
        Some(pb::target::Voter::NewVoter(voter)) => Ok(VoterSpec::New(Member {
            incarnation: Incarnation(parse_id("incarnation", &voter.incarnation)?),
            name: voter.name,
            peer_address: required("peer_address", voter.peer_address)?,
            client_addresses: voter.client_addresses,
            max_version: voter.max_version,
        })),
        None => Err(Status::invalid_argument("a voter is given neither by id nor by address nor as a new one")),
    }
}

fn init_status(error: &InitError) -> Status {
    let code = match error {
        InitError::Invalid(_) | InitError::Refused(InitRefused::NotListed { .. }) => Code::InvalidArgument,
        InitError::Refused(_) => Code::FailedPrecondition,
        InitError::Storage(_) => Code::DataLoss,
    };
    Status::new(code, error.to_string())
}

fn set_voters_status(error: &SetVotersError) -> Status {
    let code = match error {
        SetVotersError::Invalid(_) => Code::InvalidArgument,
        SetVotersError::StaleConfig { .. } | SetVotersError::Identify(_) => Code::FailedPrecondition,
        SetVotersError::Superseded => Code::Aborted,
        SetVotersError::Unavailable(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn reset_status(error: &ResetError) -> Status {
    let code = match error {
        ResetError::Refused(ResetRefused::OtherNode { .. }) => Code::InvalidArgument,
        ResetError::Refused(_) => Code::FailedPrecondition,
        ResetError::Storage(_) => Code::DataLoss,
    };
    Status::new(code, error.to_string())
}

fn to_state(state: NodeState) -> pb::NodeState {
    match state {
        NodeState::Uninitialised => pb::NodeState::Uninitialised,
        NodeState::Joining => pb::NodeState::Joining,
        NodeState::Member => pb::NodeState::Member,
        NodeState::Removed => pb::NodeState::Removed,
        NodeState::Fenced => pb::NodeState::Fenced,
        NodeState::Damaged => pb::NodeState::Damaged,
    }
}

fn to_role(role: RoleKind) -> pb::RaftRole {
    match role {
        RoleKind::Follower => pb::RaftRole::Follower,
        RoleKind::PreCandidate => pb::RaftRole::PreCandidate,
        RoleKind::Candidate => pb::RaftRole::Candidate,
        RoleKind::Leader => pb::RaftRole::Leader,
    }
}

fn to_status(status: ReplicaStatus) -> pb::StatusResponse {
    let raft = status.raft.as_ref();
    pb::StatusResponse {
        node_id: status.identity.map_or(0, |identity| identity.node_id.0),
        incarnation: id_bytes(status.incarnation.0),
        cluster_id: status.identity.map(|identity| id_bytes(identity.cluster_id)).unwrap_or_default(),
        name: status.name,
        state: to_state(status.state).into(),
        state_reason: status.state_reason,
        role: raft.map_or(pb::RaftRole::Unspecified, |raft| to_role(raft.role)).into(),
        term: raft.map_or(0, |raft| raft.term.0),
        leader: raft.and_then(|raft| raft.leader).map_or(0, |leader| leader.0),
        configuration: raft.map(|raft| to_configuration(raft.membership.0, &raft.membership.1)),
        log: raft.map(|raft| pb::LogPosition {
            first: raft.first.0,
            last: raft.last.0,
            commit: raft.commit.0,
            applied: raft.applied.0,
            last_term: raft.last_term.0,
        }),
        revision: status.space.revision,
        compact_revision: status.space.compact_revision,
        state_hash: raft
            .map(|_| pb::StateHash { hash: id_bytes(status.space.digest), index: status.space.digest_index.0 }),
        followers: raft.map(followers).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        etcd_version: ETCD_VERSION.to_string(),
        max_version: status.max_version,
        cluster_version: raft.map_or(0, |raft| raft.membership.1.cluster_version),
        peer_address: status.peer_address,
        client_addresses: status.client_addresses,
        lease_valid: raft.is_some_and(|raft| raft.lease_valid),
        staleness_ms: raft
            .and_then(|raft| raft.staleness)
            .map(|staleness| u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)),
        disk_bytes: status.disk.state_allocated + status.disk.log_allocated,
        disk_bytes_in_use: status.disk.state_in_use + status.disk.log_in_use,
    }
}

fn to_configuration(index: LogIndex, membership: &Membership) -> pb::Configuration {
    let role = |id: &NodeId| {
        if membership.voters.contains(id) {
            pb::MemberRole::Voter
        } else if membership.outgoing.contains(id) {
            pb::MemberRole::Outgoing
        } else {
            pb::MemberRole::Learner
        }
    };
    let member = |(id, member): (&NodeId, &Member)| pb::Member {
        node_id: id.0,
        incarnation: id_bytes(member.incarnation.0),
        name: member.name.clone(),
        peer_address: member.peer_address.clone(),
        client_addresses: member.client_addresses.clone(),
        role: role(id).into(),
        max_version: member.max_version,
    };
    pb::Configuration {
        index: index.0,
        members: membership.members.iter().map(member).collect(),
        joint: membership.is_joint(),
        target: membership.target.iter().flatten().map(|id| id.0).collect(),
    }
}

fn followers(raft: &RaftView) -> Vec<pb::Follower> {
    to_followers(&raft.followers, raft.last)
}

fn to_followers(views: &BTreeMap<NodeId, FollowerView>, last: LogIndex) -> Vec<pb::Follower> {
    let follower = |(id, view): (&NodeId, &FollowerView)| pb::Follower {
        node_id: id.0,
        match_index: view.matched.0,
        lag_entries: last.0.saturating_sub(view.matched.0),
        active: view.active,
        snapshot: view.snapshot,
    };
    views.iter().map(follower).collect()
}

fn to_progress(progress: VoterProgress, last: LogIndex) -> pb::SetVotersProgress {
    let phase = match progress.phase {
        VoterPhase::Resolving => pb::SetVotersPhase::Resolving,
        VoterPhase::CatchingUp => pb::SetVotersPhase::CatchingUp,
        VoterPhase::Joint => pb::SetVotersPhase::Joint,
        VoterPhase::Done => pb::SetVotersPhase::Done,
    };
    pb::SetVotersProgress {
        phase: phase.into(),
        text: progress.text,
        config_index: progress.config_index.0,
        learners: to_followers(&progress.learners, last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_sixteen_bytes_and_are_not_zero() {
        assert_eq!(parse_id("cluster_id", &id_bytes(7)).expect("an id"), 7);
        for bytes in [&[][..], &[1; 15], &[1; 17], &[0; 16]] {
            let refused = parse_id("cluster_id", bytes).expect_err("no id");
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn a_target_names_somebody() {
        assert!(parse_target(pb::Target { voter: None }).is_err());
        assert!(parse_target(pb::Target { voter: Some(pb::target::Voter::NodeId(0)) }).is_err());
        assert!(parse_target(pb::Target { voter: Some(pb::target::Voter::Address(String::new())) }).is_err());
        let by_id = parse_target(pb::Target { voter: Some(pb::target::Voter::NodeId(3)) });
        assert_eq!(by_id.expect("a target"), VoterSpec::Id(NodeId(3)));
    }
}
