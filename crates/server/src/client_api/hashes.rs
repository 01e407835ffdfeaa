//! The hash of the records as of a revision, the same for all protocols.

use std::sync::Arc;

use quorate_store::RevisionHash;

use super::{ApiError, ClientApi};
use crate::blocking::with_permit;

impl ClientApi {
    /// Hashes what this node holds as of `revision`, 0 or less for the current one. A caller that goes away ends it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn hash_at(&self, revision: i64) -> Result<RevisionHash, ApiError> {
        let view = self.view()?;
        let turn = Arc::new(self.turn_to_read().await);
        let hasher = with_permit(Arc::clone(&turn), move || view.hash_at(revision)).await?;
        let mut hasher = hasher.map_err(|error| self.unread(error))??;
        loop {
            let (step, rest) = with_permit(Arc::clone(&turn), move || (hasher.step(), hasher)).await?;
            if let Some(hash) = step.map_err(|error| self.unread(error))? {
                return Ok(hash?);
            }
            hasher = rest;
        }
    }
}
