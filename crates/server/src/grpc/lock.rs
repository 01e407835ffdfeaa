//! `v3lockpb.Lock`: one holder a name, as long as its lease lives.

use bytes::Bytes;
use quorate_proto::v3lockpb as pb;
use quorate_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use super::claims::Caller;
use crate::inside::Inside;

/// Serves `Lock`.
#[derive(Debug)]
pub(super) struct LockService {
    inside: Inside,
}

impl LockService {
    pub(super) fn new(inside: Inside) -> Self {
        LockService { inside }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self.inside.clone(), &metadata);
        let claim = caller.claim(&request.name, request.lease, Bytes::new()).await?;
        let Some(header) = claim.wait().await? else {
            return Err(Status::unknown("mutex: session is expired"));
        };
        let key = claim.key.clone();
        claim.keep();
        Ok(Response::new(pb::LockResponse { header: Some(header), key }))
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let deleted = Caller::new(self.inside.clone(), &metadata).delete(request.key).await?;
        Ok(Response::new(pb::UnlockResponse { header: deleted.header }))
    }
}
