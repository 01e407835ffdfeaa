//! Metrics of leases, counted where their commands are applied: every node counts all of them, as etcd's do.

use prometheus::{Histogram, IntCounter, IntGauge};
use quorate_kv::{Outcome, Response};

use super::make::Make;

/// What happens to leases. Fields marked "scrape" are set by [`super::Metrics::observe`].
#[derive(Debug)]
pub struct LeaseMetrics {
    /// Leases granted.
    pub granted_total: IntCounter,
    /// Leases ended, those that ran out included.
    pub revoked_total: IntCounter,
    /// Renewals.
    pub renewed_total: IntCounter,
    /// Leases that ran out.
    pub expired_total: IntCounter,
    /// Times to live that were granted, in seconds.
    pub ttl_seconds: Histogram,
    /// Scrape. Leases there are.
    pub live: IntGauge,
}

impl LeaseMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        LeaseMetrics {
            granted_total: make.counter("quorate_leases_granted_total", "Leases granted."),
            revoked_total: make.counter("quorate_leases_revoked_total", "Leases ended, those that ran out included."),
            renewed_total: make.counter("quorate_leases_renewed_total", "Renewals of leases."),
            expired_total: make.counter("quorate_leases_expired_total", "Leases that ran out."),
            ttl_seconds: make.spans("quorate_lease_ttl_seconds", "Times to live that were granted."),
            live: make.gauge("quorate_leases", "Leases there are."),
        }
    }

    /// Counts what an applied command did.
    pub(crate) fn applied(&self, outcome: &Outcome) {
        match &outcome.result {
            Ok(Response::LeaseGrant(granted)) => {
                self.granted_total.inc();
                self.ttl_seconds.observe(granted.ttl_seconds as f64);
            }
            Ok(Response::LeaseRenew { ttls_seconds }) => {
                self.renewed_total.inc_by(ttls_seconds.iter().filter(|ttl| **ttl > 0).count() as u64);
            }
            Ok(Response::LeaseRevoke) => self.revoked_total.inc(),
            Ok(Response::LeaseExpire { expired: true }) => {
                self.revoked_total.inc();
                self.expired_total.inc();
            }
            _ => {}
        }
    }
}
