//! The cluster clock: the time by which leases run out, the same on all nodes at one applied index.
//!
//! Only entries of the log set it, and only forward. It counts the time during which some leader was at work, so it never
//! runs ahead of real time, and a cluster that was down or without a leader has lost none of it.

use std::fmt;
use std::time::Duration;

use crate::keyspace::KeySpace;
use crate::records::{ReadRows, WriteRecords};
use crate::row::{RowBytes, RowError, RowFields, RowWriter, Table};

/// Version of the clock's row.
const VERSION: u8 = 1;

/// A point on the cluster clock, in milliseconds from when the cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    /// The time `later`; stays at the last point there is.
    #[must_use]
    pub fn after(self, later: Duration) -> ClusterTime {
        ClusterTime(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time `earlier`; not before the beginning.
    #[must_use]
    pub fn before(self, earlier: Duration) -> ClusterTime {
        ClusterTime(self.0.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time from here to `deadline`; zero if it has passed.
    #[must_use]
    pub fn until(self, deadline: ClusterTime) -> Duration {
        Duration::from_millis(deadline.0.saturating_sub(self.0))
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl KeySpace {
    /// The cluster clock as the last entry set it.
    #[must_use]
    pub fn clock(&self) -> ClusterTime {
        self.clock
    }

    pub(crate) fn set_clock<W: WriteRecords>(&mut self, records: &mut W, now: ClusterTime) -> Result<(), W::Error> {
        if now <= self.clock {
            return Ok(());
        }
        self.clock = now;
        let mut rows = RowWriter { records, digest: &mut self.meta.digest };
        rows.put(Table::Clock, &RowBytes::key(), &RowBytes::value(VERSION).varint(now.0))
    }

    pub(crate) fn load_clock<R: ReadRows>(&mut self, rows: &R) -> Result<(), R::Error> {
        rows.scan_rows(Table::Clock, &mut |key, value| {
            let read = || {
                let mut fields = RowFields::value(value, VERSION)?;
                let now = ClusterTime(fields.varint()?);
                RowFields::key(key).end()?;
                fields.end()?;
                Ok(now)
            };
            self.clock = RowError::name(Table::Clock, key, read())?;
            Ok(())
        })
    }
}
