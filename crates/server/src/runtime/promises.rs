//! Members that were added before they were started: the leader looks for an empty node at the address of each, and ties
//! the id to the data directory of the first one it finds.
//!
//! The tie is an entry of the log, and consensus makes it once: whatever is found there later, or by an earlier leader at
//! the same time, is another node. Nothing is sent to a member before its tie is in the log.

use std::sync::Arc;
use std::time::Duration;

use quorate_node::{AdminOperation, Answer, ClientOp};
use quorate_raft::{Member, NodeId};
use quorate_wire::peer::NodeState;

use super::core::Core;
use super::engine::Engine;
use crate::peer::identify;

/// How often the leader looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks as long as the node runs.
pub(super) async fn keep(core: Arc<Core>) {
    let mut changes = core.change.subscribe();
    let mut stop = core.stop.subscribe();
    loop {
        changes.borrow_and_update();
        let promised = promised(&core);
        for (id, member) in &promised {
            if let Some(engine) = core.engine() {
                look(&core, &engine, *id, member).await;
            }
        }
        let again = async {
            if promised.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        tokio::select! {
            () = again => {}
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Members without a data directory, if it is this node that has to look for them.
fn promised(core: &Core) -> Vec<(NodeId, Member)> {
    let Some(engine) = core.engine() else { return Vec::new() };
    if core.change.borrow().leader != Some(engine.identity.node_id) {
        return Vec::new();
    }
    let membership = engine.membership();
    let unbound = membership.members.iter().filter(|(_, member)| !member.is_bound());
    unbound.map(|(id, member)| (*id, member.clone())).collect()
}

async fn look(core: &Core, engine: &Engine, id: NodeId, member: &Member) {
    let address = &member.peer_address;
    // Nobody there is what is expected until somebody starts the node.
    let Ok(found) = identify(core.dialer, address).await else { return };
    // An id may have been given by a leader whose tie was lost with it.
    let is_given = found
        .identity
        .is_some_and(|identity| identity.cluster_id == engine.identity.cluster_id && identity.node_id == id);
    let is_free = found.identity.is_none() && found.state == NodeState::Uninitialised;
    if !is_given && !is_free {
        tracing::debug!(member = %id, %address, "the node there is not empty");
        return;
    }
    let operation = AdminOperation::UpdateMember { id, member: found.member };
    match engine.ask(ClientOp::Admin(operation)).await {
        Ok(Answer::Accepted { .. }) => tracing::info!(member = %id, %address, "started: its data directory is known"),
        // It is looked for again.
        answer => tracing::debug!(member = %id, %address, ?answer, "not tied to its data directory yet"),
    }
}
