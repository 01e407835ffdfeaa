//! `etcdserverpb.Maintenance`, as far as a store without housekeeping has a use for it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_kv::{Alarm, AlarmCommand, AlarmKind, Command, Response as KvResponse, Revision};
use quorate_node::NodeError;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::maintenance_server::Maintenance;
use quorate_raft::{NodeId, RoleKind};
use quorate_wire::etcd::EtcdError;
use quorate_wire::peer::NodeState;
use tokio::sync::mpsc;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status};

use super::downgrade;
use super::header::header;
use super::status::{etcd_status, node_status};
use super::{ETCD_STORAGE_VERSION, ETCD_VERSION};
use crate::access::{Action, Permit};
use crate::client_api::{ApiError, ClientApi, Image};
use crate::etcd_image::EtcdImage;
use crate::node_state::{shown_alarms, why_not_serving};
use crate::placed::{Placed, PlacedSender, placed};

/// Bytes of an image in one message. Some clients take no more than 4 MiB.
const SNAPSHOT_PART_BYTES: usize = 256 << 10;

/// Serves `Maintenance`.
#[derive(Debug)]
pub(super) struct MaintenanceService {
    api: Arc<ClientApi>,
}

impl MaintenanceService {
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        MaintenanceService { api }
    }

    async fn check(&self, headers: &HeaderMap, action: Action<'_>) -> Result<Permit, Status> {
        Ok(self.api.access().check(headers, action).await.map_err(ApiError::Denied)?)
    }

    async fn change_alarms(
        &self,
        headers: &HeaderMap,
        change: AlarmCommand,
        bytes: usize,
    ) -> Result<Vec<pb::AlarmMember>, Status> {
        let outcome = self.api.write(headers, Command::Alarm(change), bytes).await?;
        match outcome.result.map_err(ApiError::Kv)? {
            KvResponse::Alarm(alarms) => Ok(alarms.into_iter().map(alarm_member).collect()),
            other => unreachable!("a change of alarms is answered as one, not with {other:?}"),
        }
    }

    /// The alarms that stand, no older than this call. A barred node cannot ask what the others know, and tells of itself.
    async fn list_alarms(&self, wanted: Option<AlarmKind>) -> Result<Vec<pb::AlarmMember>, Status> {
        if !matches!(self.api.replica().standing().state, NodeState::Fenced | NodeState::Damaged) {
            self.api.confirm().await?;
        }
        let shown = shown_alarms(&self.api.replica().status()).into_iter();
        Ok(shown.filter(|alarm| wanted.is_none_or(|kind| kind == alarm.kind)).map(alarm_member).collect())
    }

    fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        Some(header(self.api.replica()).at(Revision(revision)))
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (headers, bytes) = (metadata.as_ref(), request.encoded_len());
        let alarm = alarm_kind(request.alarm()).map(|kind| Alarm { kind, member: request.member_id });
        let alarms = match (request.action(), alarm) {
            (AlarmAction::Get, _) => {
                let _admitted = self.check(headers, Action::Observe).await?;
                self.list_alarms(alarm_kind(request.alarm())).await?
            }
            (AlarmAction::Activate, Some(alarm)) => {
                self.change_alarms(headers, AlarmCommand::Raise(alarm), bytes).await?
            }
            (AlarmAction::Deactivate, Some(alarm)) => {
                self.change_alarms(headers, AlarmCommand::Clear(alarm), bytes).await?
            }
            (AlarmAction::Activate | AlarmAction::Deactivate, None) => {
                let _admitted = self.check(headers, Action::Maintain).await?;
                Vec::new()
            }
        };
        let header = self.header(self.api.replica().status().space.revision);
        Ok(Response::new(pb::AlarmResponse { header, alarms }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let _admitted = self.check(request.metadata().as_ref(), Action::Observe).await?;
        let status = self.api.replica().status();
        let mut errors = Vec::new();
        if status.state != NodeState::Member {
            errors.push(why_not_serving(&status));
        }
        let leader = status.raft.as_ref().and_then(|raft| raft.leader).map_or(0, |leader| leader.0);
        if leader == 0 {
            errors.push(NodeError::NoLeader.to_string());
        }
        // Its own disk is full; of the quota the alarm tells.
        if status.no_space && !status.alarms.is_raised(AlarmKind::NoSpace) {
            errors.push(NodeError::NoSpace.to_string());
        }
        errors.extend(shown_alarms(&status).into_iter().map(|alarm| {
            let shown = alarm_member(alarm);
            format!("memberID:{} alarm:{}", shown.member_id, shown.alarm().as_str_name())
        }));
        let own_id = status.identity.map(|identity| identity.node_id);
        let is_learner = match (&status.raft, own_id) {
            (Some(raft), Some(id)) => raft.membership.1.learners.contains(&id),
            _ => false,
        };
        let index = |of: fn(&crate::runtime::RaftView) -> u64| status.raft.as_ref().map_or(0, of);
        Ok(Response::new(pb::StatusResponse {
            header: self.header(status.space.revision),
            version: ETCD_VERSION.to_string(),
            // etcdctl divides by it, also on a node that has no files yet.
            db_size: as_i64(status.disk.state_allocated.max(1)),
            leader,
            raft_index: index(|raft| raft.commit.0),
            raft_term: index(|raft| raft.term.0),
            raft_applied_index: index(|raft| raft.applied.0),
            errors,
            db_size_in_use: as_i64(status.disk.state_in_use),
            is_learner,
            storage_version: ETCD_STORAGE_VERSION.to_string(),
            db_size_quota: as_i64(status.quota_bytes),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // Freed pages are used again as they are; there is nothing to do, and no reason to fail a scheduled job.
        let _admitted = self.check(request.metadata().as_ref(), Action::Maintain).await?;
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let _admitted = self.check(request.metadata().as_ref(), Action::Maintain).await?;
        self.api.view()?;
        let space = self.api.replica().status().space;
        let header = self.header(space.revision);
        Ok(Response::new(pb::HashResponse { header, hash: fold(space.digest) }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let _admitted = self.check(request.metadata().as_ref(), Action::Maintain).await?;
        let hashed = self.api.hash_at(request.get_ref().revision).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(self.api.replica().status().space.revision),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision.0,
            hash_revision: hashed.revision.0,
        }))
    }

    type SnapshotStream = Placed<pb::SnapshotResponse>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let connection = request.extensions().get().cloned().unwrap_or_default();
        let Image { info, chunks, place } = self.api.image(request.metadata().as_ref(), Action::Maintain).await?;
        let (sender, receiver) = placed(place, self.api.answer_limits().send_time, connection);
        tokio::spawn(send_snapshot(self.header(info.revision), info.expected_bytes, chunks, sender));
        Ok(Response::new(receiver))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let _admitted = self.check(metadata.as_ref(), Action::Administer).await?;
        let status = self.api.replica().status();
        let Some(raft) = status.raft.filter(|raft| raft.role == RoleKind::Leader) else {
            return Err(etcd_status(EtcdError::NotLeader));
        };
        let target = NodeId(request.target_id);
        if !raft.membership.1.voters.contains(&target) {
            return Err(bad_transferee());
        }
        // Only now: a node that does not lead says so without a leader, too.
        self.api.admit_change(metadata.as_ref()).await?;
        match self.api.replica().transfer_leader(Some(target), None).await {
            Ok(_) => Ok(Response::new(pb::MoveLeaderResponse { header: None })),
            Err(NodeError::UnknownMember(_) | NodeError::NotVoter(_) | NodeError::RemovedMember(_)) => {
                Err(bad_transferee())
            }
            Err(refused) => Err(node_status(&refused)),
        }
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let _admitted = self.check(request.metadata().as_ref(), Action::Maintain).await?;
        let request = request.get_ref();
        let version = downgrade::answer(request.action(), &request.version).map_err(etcd_status)?;
        let header = self.header(self.api.replica().status().space.revision);
        Ok(Response::new(pb::DowngradeResponse { header, version: version.to_string() }))
    }
}

/// Sends an image as etcd's clients keep it. They read the parts as they come, and look at nothing else in them.
async fn send_snapshot(
    header: Option<pb::ResponseHeader>,
    expected_bytes: u64,
    mut chunks: mpsc::Receiver<Result<Bytes, String>>,
    sender: PlacedSender<pb::SnapshotResponse>,
) {
    let part = |blob: Bytes, remaining_bytes| {
        let version = ETCD_STORAGE_VERSION.to_string();
        Ok(pb::SnapshotResponse { header, remaining_bytes, blob, version })
    };
    let (mut image, mut sent) = (EtcdImage::default(), 0);
    while let Some(chunk) = chunks.recv().await {
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(text) => {
                sender.send(Err(Status::data_loss(text))).await;
                return;
            }
        };
        image.add(&chunk);
        while !chunk.is_empty() {
            let blob = chunk.split_to(chunk.len().min(SNAPSHOT_PART_BYTES));
            sent += blob.len() as u64;
            // An estimate, and never 0 before the end.
            if !sender.send(part(blob, expected_bytes.saturating_sub(sent).max(1))).await {
                return;
            }
        }
    }
    let [filling, sum] = image.finish();
    if sender.send(part(filling, sum.len() as u64)).await {
        sender.send(part(sum, 0)).await;
    }
}

fn bad_transferee() -> Status {
    etcd_status(EtcdError::BadLeaderTransferee)
}

fn alarm_kind(kind: pb::AlarmType) -> Option<AlarmKind> {
    match kind {
        pb::AlarmType::None => None,
        pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
    }
}

fn alarm_member(alarm: Alarm) -> pb::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: alarm.member, alarm: kind.into() }
}

/// Thirty-two bits of the digest: clients only compare them between members.
fn fold(digest: u128) -> u32 {
    (digest ^ (digest >> 32) ^ (digest >> 64) ^ (digest >> 96)) as u32
}

fn as_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
