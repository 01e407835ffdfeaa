//! `etcdserverpb.Cluster`: members one at a time, for etcd's clients. `quorate.v1.Admin` changes them all at once.
//!
//! A member is added before it is started, as etcd has it, and gets its id at once. It counts for nothing until a node runs
//! at its address and has caught up, so the checks by which etcd keeps a half-added voter from costing the quorum have
//! nothing to check here.

use std::sync::Arc;

use quorate_kv::Revision;
use quorate_node::NodeError;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::cluster_server::Cluster;
use quorate_raft::{Membership, NodeId};
use quorate_wire::etcd::EtcdError;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status};

use super::header::header;
use super::status::etcd_status;
use crate::access::{Action, Permit};
use crate::address::{as_url, bare};
use crate::client_api::{ApiError, ClientApi};

/// Learners that etcd allows at a time.
const MAX_LEARNERS: usize = 1;

/// Serves `Cluster`.
#[derive(Debug)]
pub(super) struct ClusterService {
    api: Arc<ClientApi>,
}

impl ClusterService {
    pub(super) fn new(api: Arc<ClientApi>) -> Self {
        ClusterService { api }
    }

    async fn check(&self, headers: &HeaderMap, action: Action<'_>) -> Result<Permit, Status> {
        Ok(self.api.access().check(headers, action).await.map_err(ApiError::Denied)?)
    }

    /// The committed configuration, no older than this call.
    async fn current(&self) -> Result<Arc<Membership>, ApiError> {
        self.api.confirm().await?;
        Ok(self.known())
    }

    /// The committed configuration, no older than this call, for a caller who may change it.
    async fn admit_change(&self, headers: &HeaderMap) -> Result<Arc<Membership>, Status> {
        let access = self.api.access();
        Ok(access.permitted(headers, Action::Administer, || self.current()).await?)
    }

    /// The committed configuration, as far as this node knows.
    fn known(&self) -> Arc<Membership> {
        self.api.replica().status().raft.map(|raft| raft.membership.1).unwrap_or_default()
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        // etcd leaves the revision out of this service's headers.
        Some(pb::ResponseHeader { revision: 0, ..header(self.api.replica()).at(Revision::EMPTY) })
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let _admitted = self.check(metadata.as_ref(), Action::Observe).await?;
        let membership = if request.linearizable { self.current().await? } else { self.known() };
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members: members(&membership) }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let before = self.admit_change(metadata.as_ref()).await?;
        let address = peer_address(&request.peer_ur_ls)?;
        if before.members.values().any(|member| bare(&member.peer_address) == address) {
            return Err(etcd_status(EtcdError::PeerUrlExists));
        }
        let learners = before.learners.difference(&before.rising).count();
        if request.is_learner && learners >= MAX_LEARNERS {
            return Err(etcd_status(EtcdError::TooManyLearners));
        }
        let added = self.api.replica().add_member(address.to_string(), !request.is_learner).await;
        let id = added.map_err(ApiError::Node)?;
        let members = members(&self.known());
        let member = members.iter().find(|member| member.id == id.0).cloned();
        Ok(Response::new(pb::MemberAddResponse { header: self.header(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let before = self.admit_change(metadata.as_ref()).await?;
        let id = NodeId(request.id);
        if !before.members.contains_key(&id) {
            return Err(etcd_status(EtcdError::MemberNotFound));
        }
        if before.is_only_voter(id) {
            return Err(etcd_status(EtcdError::MemberNotEnoughStarted));
        }
        self.api.replica().remove_member(id).await.map_err(etcd_refusal)?;
        let mut members = members(&self.known());
        // A node that took itself out may not have heard of the configuration without it.
        members.retain(|member| member.id != id.0);
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let before = self.admit_change(metadata.as_ref()).await?;
        let id = NodeId(request.id);
        if !before.members.contains_key(&id) {
            return Err(etcd_status(EtcdError::MemberNotFound));
        }
        let address = peer_address(&request.peer_ur_ls)?;
        if before.members.iter().any(|(other, member)| *other != id && bare(&member.peer_address) == address) {
            return Err(etcd_status(EtcdError::PeerUrlExists));
        }
        self.api.replica().readdress_member(id, address.to_string()).await.map_err(etcd_refusal)?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members: members(&self.known()) }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let before = self.admit_change(metadata.as_ref()).await?;
        let id = NodeId(request.id);
        if !before.members.contains_key(&id) {
            return Err(etcd_status(EtcdError::MemberNotFound));
        }
        if !before.learners.contains(&id) {
            return Err(etcd_status(EtcdError::MemberNotLearner));
        }
        let promoted = self.api.replica().promote_member(id).await.map_err(etcd_refusal);
        let etcd = &self.api.metrics().etcd;
        match &promoted {
            Ok(()) => etcd.learner_promote_successes.inc(),
            Err(refused) => {
                etcd.learner_promote_failures.with_label_values(&[format!("{:?}", refused.code())]).inc();
            }
        }
        promoted?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members: members(&self.known()) }))
    }
}

/// What etcd says where consensus names a member.
fn etcd_refusal(refused: NodeError) -> Status {
    match refused {
        NodeError::UnknownMember(_) | NodeError::RemovedMember(_) => etcd_status(EtcdError::MemberNotFound),
        other => ApiError::Node(other).into(),
    }
}

/// In order of their ids, as etcd lists them. One that is not started has no name, by which etcd's clients tell.
fn members(membership: &Membership) -> Vec<pb::Member> {
    let member = |(id, member): (&NodeId, &quorate_raft::Member)| pb::Member {
        id: id.0,
        name: member.name.clone(),
        peer_ur_ls: vec![as_url(&member.peer_address)],
        client_ur_ls: member.client_addresses.iter().map(|address| as_url(address)).collect(),
        is_learner: membership.learners.contains(id),
    };
    membership.members.iter().map(member).collect()
}

/// The address that a list of URLs names: by the first of them, since a node here listens for its peers at one place.
fn peer_address(urls: &[String]) -> Result<&str, Status> {
    let bad = || etcd_status(EtcdError::MemberBadUrls);
    for url in urls {
        let (scheme, address) = url.trim().split_once("://").ok_or_else(bad)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        // What stands before an @ would be taken for a user, and another host dialled than the one named first.
        let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        if !matches!(scheme, "http" | "https") || !is_host || port.parse::<u16>().is_err() {
            return Err(bad());
        }
    }
    urls.first().map(|url| bare(url.trim())).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(urls: &[&str], expected: Option<&str>) {
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(peer_address(&urls).ok(), expected, "{urls:?}");
    }

    #[test]
    fn peer_urls_name_a_host_and_a_port() {
        check(&["http://10.0.0.1:2380"], Some("10.0.0.1:2380"));
        check(&[" https://[::1]:2380", "http://b:1"], Some("[::1]:2380"));
        let bad = [
            "10.0.0.1:2380",
            "http://10.0.0.1",
            "ftp://a:1",
            "http://a:1/path",
            "http://:1",
            "http://a:x",
            "http://a:1@b:2",
        ];
        for bad in bad {
            check(&[bad], None);
            check(&["http://a:1", bad], None);
        }
        check(&[], None);
    }
}
