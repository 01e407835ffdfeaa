//! File descriptors: how many this process may have, and how many of them connections to the client and metrics ports may take.
//!
//! Files and other nodes need theirs whatever happens on these two ports, so the ports never get all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for data files, peers and whatever an administrator needs.
const RESERVED: u64 = 256;
/// Even under the smallest limit a node serves this many clients.
const LEAST_CONNECTIONS: usize = 64;
/// Connections of a metrics port: far more than scrapers and probes open.
const METRICS_CONNECTIONS: usize = 256;
/// Even under the smallest limit a few of them get in.
const LEAST_METRICS_CONNECTIONS: usize = 8;
/// The metrics port gets no more than one in so many of a small share.
const METRICS_PART: usize = 8;

/// How many connections the ports of one node may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// To the client port.
    pub(crate) clients: usize,
    /// To the metrics port.
    pub(crate) metrics: usize,
}

/// Raises the limit as far as it may be raised, and says how many of `wanted` client connections each of `nodes` nodes
/// of this process may have, and how many to its metrics port beside them.
pub(crate) fn share_for_connections(wanted: usize, nodes: usize) -> Share {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to raise it, the limit stays what it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let Share { clients: allowed, metrics } = share(getrlimit(Resource::Nofile).current, nodes);
    // The default wants more than most limits give whole; what is left out matters when it is most of it.
    if allowed < wanted / 2 {
        tracing::warn!(wanted, allowed, "the limit of open files (ulimit -n) allows fewer client connections");
    }
    Share { clients: wanted.min(allowed), metrics }
}

/// `limit` is `None` if there is none.
fn share(limit: Option<u64>, nodes: usize) -> Share {
    let Some(limit) = limit else { return Share { clients: usize::MAX, metrics: METRICS_CONNECTIONS } };
    let free = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    let each = free / nodes.max(1);
    let metrics = METRICS_CONNECTIONS.min(each / METRICS_PART);
    Share { clients: (each - metrics).max(LEAST_CONNECTIONS), metrics: metrics.max(LEAST_METRICS_CONNECTIONS) }
}

#[cfg(test)]
mod tests {
    use super::{RESERVED, share};

    #[track_caller]
    fn check(limit: Option<u64>, nodes: usize, clients: usize, metrics: usize) {
        let share = share(limit, nodes);
        assert_eq!((share.clients, share.metrics), (clients, metrics), "{nodes} nodes under {limit:?}");
    }

    #[test]
    fn nodes_share_what_is_not_reserved() {
        check(None, 3, usize::MAX, 256);
        check(Some(1 << 20), 1, (1 << 20) - 512, 256);
        check(Some(1024), 1, 672, 96);
        check(Some(1024), 3, 224, 32);
        check(Some(100), 3, 64, 8);
    }

    #[test]
    fn both_ports_full_leave_what_is_reserved() {
        for (limit, nodes) in [(1024, 1), (1024, 3), (4096, 1), (65_536, 5)] {
            let share = share(Some(limit), nodes);
            let taken = u64::try_from((share.clients + share.metrics) * nodes).expect("small");
            assert!(taken + RESERVED <= limit, "{nodes} nodes under {limit} take {taken}");
        }
    }
}
