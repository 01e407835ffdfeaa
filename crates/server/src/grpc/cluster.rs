//! `etcdserverpb.Cluster`: the member list. Members are changed by `quorate.v1.Admin`, all at once.

use std::sync::Arc;

use quorate_kv::Revision;
use quorate_node::{Consistency, ReadOptions};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::cluster_server::Cluster;
use quorate_raft::{Membership, NodeId};
use tonic::{Request, Response, Status};

use super::header::header;
use crate::access::Action;
use crate::client_api::{ApiError, ClientApi};

/// Serves `Cluster`.
#[derive(Debug)]
pub(super) struct ClusterService {
    api: Arc<ClientApi>,
}

impl ClusterService {
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        ClusterService { api }
    }
}

fn one_by_one_is_not_offered() -> Status {
    Status::unimplemented(
        "members are changed all at once by one declared voter set: `quorate ctl set-voters HOST:PORT,…` \
         (quorate.v1.Admin/SetVoters)",
    )
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.api.access().check(metadata.as_ref(), Action::Observe).map_err(ApiError::Denied)?;
        if request.linearizable {
            let options = ReadOptions { consistency: Consistency::Consistent, ..ReadOptions::default() };
            self.api.confirm(options).await?;
        }
        let status = self.api.replica().status();
        let members = status.raft.map(|raft| members(&raft.membership.1)).unwrap_or_default();
        // etcd leaves the revision out of this service's headers.
        let header = Some(pb::ResponseHeader { revision: 0, ..header(self.api.replica()).at(Revision::EMPTY) });
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(one_by_one_is_not_offered())
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(one_by_one_is_not_offered())
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(Status::unimplemented("a member announces changed addresses by itself: start it with the new ones"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(Status::unimplemented("learners that are to vote are promoted by themselves once they have caught up"))
    }
}

fn members(membership: &Membership) -> Vec<pb::Member> {
    let is_learner = |id: &NodeId| membership.learners.contains(id);
    let member = |(id, member): (&NodeId, &quorate_raft::Member)| pb::Member {
        id: id.0,
        name: member.name.clone(),
        peer_ur_ls: vec![as_url(&member.peer_address)],
        client_ur_ls: member.client_addresses.iter().map(|address| as_url(address)).collect(),
        is_learner: is_learner(id),
    };
    membership.members.iter().map(member).collect()
}

/// etcd's clients connect to what they find here, and want a scheme.
fn as_url(address: &str) -> String {
    if address.contains("://") { address.to_string() } else { format!("http://{address}") }
}
