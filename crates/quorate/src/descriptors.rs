//! File descriptors: how many this process may have, and how many of them clients may take.
//!
//! Files and other nodes need theirs whatever clients do, so clients never get all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for data files, peers and whatever an administrator needs.
const RESERVED: u64 = 256;
/// Even under the smallest limit a node serves this many clients.
const LEAST_CONNECTIONS: usize = 64;

/// Raises the limit as far as it may be raised, and says how many of `wanted` client connections each of `nodes` nodes
/// of this process may have.
pub(crate) fn share_for_connections(wanted: usize, nodes: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to raise it, the limit stays what it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = share(getrlimit(Resource::Nofile).current, nodes);
    // The default wants more than most limits give whole; what is left out matters when it is most of it.
    if allowed < wanted / 2 {
        tracing::warn!(wanted, allowed, "the limit of open files (ulimit -n) allows fewer client connections");
    }
    wanted.min(allowed)
}

/// `limit` is `None` if there is none.
fn share(limit: Option<u64>, nodes: usize) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let free = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    (free / nodes.max(1)).max(LEAST_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn nodes_share_what_is_not_reserved() {
        assert_eq!(share(None, 3), usize::MAX);
        assert_eq!(share(Some(1024), 1), 768);
        assert_eq!(share(Some(1024), 3), 256);
        assert_eq!(share(Some(100), 3), 64);
    }
}
