//! The header of every etcd answer: who answers, and in which term.

use quorate_wire::etcd::Header;

use crate::runtime::Replica;

/// What `replica` says of itself. Zeros while it belongs to no cluster.
pub(super) fn header(replica: &Replica) -> Header {
    let stamp = replica.stamp();
    // etcd has 8 bytes for what is 16 bytes here.
    Header { cluster_id: stamp.cluster_id as u64, member_id: stamp.node_id, raft_term: stamp.term }
}
