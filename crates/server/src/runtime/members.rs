//! One member at a time: what is asked goes to the leader, and is waited for here until a committed configuration shows it.

use std::time::Duration;

use quorate_node::{AdminOperation, Answer, ClientOp, NodeError};
use quorate_raft::{LogIndex, MemberChange, Membership, NodeId};
use tokio::time::Instant;

use super::clock::random_u128;
use super::core::Core;
use super::engine::Engine;
use super::replica::refused;

/// Pause before a change that another one is in the way of is asked for again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A removal or promotion has an election timeout's worth of phases; past this the caller looks for itself.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Adds a member that is not started yet and answers its id.
pub(super) async fn add(core: &Core, engine: &Engine, peer_address: String, rises: bool) -> Result<NodeId, NodeError> {
    let random = random_u128().map_err(|error| NodeError::Invalid(error.to_string()))?;
    let id = NodeId((random as u64).max(1));
    change(core, engine, MemberChange::Add { id, peer_address, rises }, |now| now.members.contains_key(&id)).await?;
    Ok(id)
}

/// Makes a learner a voter.
pub(super) async fn promote(core: &Core, engine: &Engine, id: NodeId) -> Result<(), NodeError> {
    change(core, engine, MemberChange::Promote { id }, |now| now.voters.contains(&id) && !now.is_joint()).await
}

/// Takes a member out.
pub(super) async fn remove(core: &Core, engine: &Engine, id: NodeId) -> Result<(), NodeError> {
    change(core, engine, MemberChange::Remove { id }, |now| !now.members.contains_key(&id)).await
}

/// Says where other nodes reach a member.
pub(super) async fn readdress(core: &Core, engine: &Engine, id: NodeId, peer_address: String) -> Result<(), NodeError> {
    let known = engine.membership().members.get(&id).cloned().ok_or(NodeError::UnknownMember(id))?;
    let member = quorate_raft::Member { peer_address: peer_address.clone(), ..known };
    let is_there = |now: &Membership| now.members.get(&id).is_some_and(|member| member.peer_address == peer_address);
    let index = submit(engine, AdminOperation::UpdateMember { id, member }).await?;
    wait_until(core, engine, index, is_there).await
}

async fn change(
    core: &Core,
    engine: &Engine,
    change: MemberChange,
    is_done: impl Fn(&Membership) -> bool,
) -> Result<(), NodeError> {
    let index = submit(engine, AdminOperation::ChangeMember(change)).await?;
    wait_until(core, engine, index, is_done).await
}

/// Asks until a leader takes it; waits while another change is under way.
async fn submit(engine: &Engine, operation: AdminOperation) -> Result<LogIndex, NodeError> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    loop {
        let error = match engine.ask(ClientOp::Admin(operation.clone())).await? {
            Answer::Accepted { config_index } => return Ok(config_index),
            other => refused(other),
        };
        if !matches!(error, NodeError::MembershipBusy { .. }) || Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Waits until a configuration that is committed, no older than the one at `index`, is as wanted.
async fn wait_until(
    core: &Core,
    engine: &Engine,
    index: LogIndex,
    is_done: impl Fn(&Membership) -> bool,
) -> Result<(), NodeError> {
    let mut changes = core.change.subscribe();
    let waiting = async {
        loop {
            changes.borrow_and_update();
            let seen = engine.published.status();
            let raft = &seen.status.raft;
            if raft.committed_membership_index >= index && is_done(&raft.committed_membership) {
                return Ok(());
            }
            // A node that leaves learns of its removal, not of the configuration without it.
            if changes.borrow().state == quorate_wire::peer::NodeState::Removed {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(NodeError::Stopping);
            }
        }
    };
    tokio::time::timeout(CHANGE_TIMEOUT, waiting).await.unwrap_or(Err(NodeError::Timeout))
}
