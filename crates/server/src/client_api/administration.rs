//! What administrators ask for: changes of the cluster, and images of everything in it.
//!
//! Neither is judged again by the log, as a write is, so a node that is behind must not judge by what it happens to know:
//! users may have been given rights since.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::codegen::http::HeaderMap;

use super::{ApiError, ClientApi};
use crate::access::Action;
use crate::runtime::SnapshotInfo;

/// An image of the whole state that is about to be sent.
#[derive(Debug)]
pub(crate) struct Image {
    /// What it holds.
    pub info: SnapshotInfo,
    /// Its parts.
    pub chunks: mpsc::Receiver<Result<Bytes, String>>,
    /// Kept until the client has everything.
    pub place: OwnedSemaphorePermit,
}

impl ClientApi {
    /// Admits a change of the cluster by rights that are no older than this call.
    ///
    /// The admin token needs no such confirmation: with it the cluster can be seen to while it has no leader.
    ///
    /// # Errors
    /// [`ApiError`], also if nobody confirms the rights.
    pub(crate) async fn admit_change(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let permit = self.access.check(headers, Action::Administer).await?;
        if permit.is_by_admin_token() {
            return Ok(());
        }
        self.access.permitted(headers, Action::Administer, || self.confirm()).await
    }

    /// Opens an image for whoever may do `action`. A node without a quorum gives its own, which is judged by the rights in it:
    /// what can be saved of such a cluster, must be.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn image(&self, headers: &HeaderMap, action: Action<'_>) -> Result<Image, ApiError> {
        let open = || async {
            self.access.catch_up().await;
            let place = self.download_place()?;
            let (info, chunks) = self.replica.snapshot().await?;
            Ok(Image { info, chunks, place })
        };
        self.access.permitted(headers, action, open).await
    }
}
