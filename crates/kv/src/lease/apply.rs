//! What commands do to leases and to the keys attached to them.

use std::sync::Arc;

use super::{ATTACHMENT_VERSION, DueLease, MAX_LEASES, attachment_key, lease_key};
use crate::error::KvError;
use crate::keyspace::KeySpace;
use crate::records::WriteRecords;
use crate::requests::LeaseGrantRequest;
use crate::responses::LeaseGrantResponse;
use crate::row::{RowBytes, RowWriter, Table};

impl KeySpace {
    /// Grants a lease that runs out one time to live after the present cluster clock.
    pub(crate) fn grant_lease<W: WriteRecords>(
        &mut self,
        records: &mut W,
        grant: LeaseGrantRequest,
    ) -> Result<Result<LeaseGrantResponse, KvError>, W::Error> {
        if self.leases.contains(grant.id) {
            return Ok(Err(KvError::LeaseExists));
        }
        if self.lease_count() >= MAX_LEASES {
            return Ok(Err(KvError::TooManyLeases));
        }
        let ttl_seconds = grant.ttl_seconds.max(1);
        let deadline = self.clock.after(std::time::Duration::from_secs(ttl_seconds.cast_unsigned()));
        let row = self.leases.insert(grant.id, ttl_seconds, deadline).row();
        RowWriter { records, digest: &mut self.meta.digest }.put(Table::Lease, &lease_key(grant.id), &row)?;
        Ok(Ok(LeaseGrantResponse { id: grant.id, ttl_seconds }))
    }

    /// Gives leases their whole time again, from the present cluster clock on. Answers the time to live of each, 0 for
    /// one that is not there.
    pub(crate) fn renew_leases<W: WriteRecords>(&mut self, records: &mut W, ids: &[i64]) -> Result<Vec<i64>, W::Error> {
        let mut renewed = Vec::with_capacity(ids.len());
        for &id in ids {
            let Some(lease) = self.leases.by_id.get(&id) else {
                renewed.push(0);
                continue;
            };
            renewed.push(lease.ttl_seconds);
            let deadline = self.clock.after(lease.time_to_live());
            // Several renewals at one reading of the clock are one.
            if deadline != lease.deadline {
                let row = self.leases.move_deadline(id, deadline).row();
                RowWriter { records, digest: &mut self.meta.digest }.put(Table::Lease, &lease_key(id), &row)?;
            }
        }
        Ok(renewed)
    }

    /// Whether an expiry still holds: the lease was not renewed since its deadline was seen, and the clock that all nodes
    /// share has reached it.
    pub(crate) fn has_run_out(&self, due: DueLease) -> bool {
        let seen = self
            .leases
            .by_id
            .get(&due.id)
            .is_some_and(|lease| lease.deadline == due.deadline || mutant!(ExpiryUnchecked));
        seen && self.clock >= due.deadline
    }

    /// Keys of a lease, in order.
    pub(crate) fn keys_of_lease(&self, id: i64) -> Vec<Arc<[u8]>> {
        self.leases.by_id.get(&id).map_or_else(Vec::new, |lease| lease.keys.iter().cloned().collect())
    }

    /// Forgets a lease whose keys are deleted.
    pub(crate) fn end_lease<W: WriteRecords>(&mut self, records: &mut W, id: i64) -> Result<(), W::Error> {
        self.leases.remove(id);
        RowWriter { records, digest: &mut self.meta.digest }.remove(Table::Lease, &lease_key(id))
    }

    /// Attaches a key to `lease` and to no other; 0 detaches.
    pub(crate) fn attach<W: WriteRecords>(&mut self, records: &mut W, key: &[u8], lease: i64) -> Result<(), W::Error> {
        let leases = &mut self.leases;
        let before = leases.attached.get(key).copied().unwrap_or(0);
        if before == lease {
            return Ok(());
        }
        let mut rows = RowWriter { records, digest: &mut self.meta.digest };
        let mut name = None;
        if before != 0 {
            name = leases.attached.remove_entry(key).map(|(name, _)| name);
            let known = leases.by_id.get_mut(&before).is_some_and(|lease| lease.keys.remove(key));
            assert!(known, "lease {before} does not know its key {key:02x?}");
            rows.remove(Table::Attachment, &attachment_key(before, key))?;
        }
        if lease != 0 {
            let name: Arc<[u8]> = name.unwrap_or_else(|| key.into());
            let to = leases.by_id.get_mut(&lease).expect("a put's lease was looked for before");
            to.keys.insert(name.clone());
            leases.attached.insert(name, lease);
            rows.put(Table::Attachment, &attachment_key(lease, key), &RowBytes::value(ATTACHMENT_VERSION))?;
        }
        Ok(())
    }
}
