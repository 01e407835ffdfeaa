//! Follows one declared change of the voters from addresses to its end.
//!
//! The change itself is the cluster's: it is replicated, and goes on whether or not anybody follows it. This task turns
//! addresses into nodes once, hands the target to the node, and then only watches configurations go by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_node::{AdminOperation, Answer, ClientOp, NodeError};
use quorate_raft::{LogIndex, Member, Membership, NodeId, VoterTarget};
use quorate_wire::derive_node_id;
use quorate_wire::peer::NodeState;
use tokio::sync::mpsc;

use super::admin::{SetVotersError, VoterPhase, VoterProgress, VoterSpec};
use super::core::Core;
use super::engine::Engine;
use super::published::Seen;
use super::replica::{followers, refused};
use crate::address::bare;
use crate::peer::{IdentifyError, identify};

/// Without a leader that takes the change for this long, the caller is told.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// A caller hears of progress at least this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// A change that this node has not heard of for this long after a leader took it was lost with that leader, or this node
/// is behind: asking again is right in both cases, for the same target again is no second change.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Why a change of the voters waits that could not end.
const TOO_FEW: &str = "too few of the voters asked for are heard of to agree on anything";
/// Voters one change may name.
const MAX_VOTERS: usize = 64;

type Progress = mpsc::Sender<Result<VoterProgress, SetVotersError>>;

/// Starts following; see [`super::Replica::set_voters`].
pub(super) fn set_voters(
    core: Arc<Core>,
    engine: Arc<Engine>,
    targets: Vec<VoterSpec>,
    expected: Option<LogIndex>,
) -> mpsc::Receiver<Result<VoterProgress, SetVotersError>> {
    let (progress, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let following = follow(&core, &engine, &targets, expected, &progress);
        let ended = tokio::select! {
            ended = following => ended,
            // Nobody listens any more; the change goes on.
            () = progress.closed() => return,
        };
        if let Err(error) = ended {
            // The receiver may have gone in this moment.
            let _ = progress.send(Err(error)).await;
        }
    });
    receiver
}

async fn follow(
    core: &Core,
    engine: &Engine,
    targets: &[VoterSpec],
    expected: Option<LogIndex>,
    progress: &Progress,
) -> Result<(), SetVotersError> {
    if targets.is_empty() || targets.len() > MAX_VOTERS {
        return Err(SetVotersError::Invalid(format!("a cluster has 1 to {MAX_VOTERS} voters, not {}", targets.len())));
    }
    let text = format!("asking who is at {}", counted(targets.len(), "address", "addresses"));
    report(progress, VoterPhase::Resolving, text, &engine.published.status()).await;
    let mut wanted = BTreeSet::new();
    let mut target = Vec::new();
    for spec in targets {
        let (id, voter) = resolve(core, engine, spec).await?;
        if !wanted.insert(id) {
            return Err(SetVotersError::Invalid(format!("node {id} is listed twice")));
        }
        target.push(voter);
    }
    loop {
        let accepted = submit(core, engine, &target, expected, progress).await?;
        if watch(core, engine, &wanted, accepted, progress).await? == Watched::Done {
            return Ok(());
        }
    }
}

/// How following an accepted change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// The wanted voters are committed.
    Done,
    /// Nothing was heard of the change: a leader answers when it has appended the entry, and may die with it.
    Lost,
}

/// The node a caller means, as consensus names it.
async fn resolve(core: &Core, engine: &Engine, spec: &VoterSpec) -> Result<(NodeId, VoterTarget), SetVotersError> {
    let membership = engine.membership();
    match spec {
        VoterSpec::Id(id) if membership.members.contains_key(id) => Ok((*id, VoterTarget::Existing(*id))),
        VoterSpec::Id(id) => Err(SetVotersError::Invalid(format!("node {id} is not a member of the cluster"))),
        VoterSpec::New(member) => Ok(admitted(engine, &membership, member.clone(), None)),
        VoterSpec::Address(address) => match identify(core.dialer, address).await {
            Ok(found) => {
                if let Some(identity) = found.identity
                    && identity.cluster_id != engine.identity.cluster_id
                {
                    let cluster = identity.cluster_id;
                    let text = format!("the node at {address} belongs to another cluster, {cluster:032x}");
                    return Err(SetVotersError::Invalid(text));
                }
                Ok(admitted(engine, &membership, found.member, found.identity.map(|identity| identity.node_id)))
            }
            // A member that is down is still the member at its address.
            Err(IdentifyError::Unreachable(_)) if member_at(&membership, address).is_some() => {
                let id = member_at(&membership, address).expect("just found");
                Ok((id, VoterTarget::Existing(id)))
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// `adopted` is the id that the node took already: it takes no other one.
fn admitted(
    engine: &Engine,
    membership: &Membership,
    member: Member,
    adopted: Option<NodeId>,
) -> (NodeId, VoterTarget) {
    let known = membership.members.iter().find(|(_, known)| known.incarnation == member.incarnation);
    if let Some((id, _)) = known {
        return (*id, VoterTarget::Existing(*id));
    }
    let id = adopted.unwrap_or_else(|| derive_node_id(engine.identity.cluster_id, member.incarnation));
    (id, VoterTarget::New { id, member })
}

fn member_at(membership: &Membership, address: &str) -> Option<NodeId> {
    let wanted = bare(address);
    let at = |member: &Member| {
        bare(&member.peer_address) == wanted || member.client_addresses.iter().any(|client| bare(client) == wanted)
    };
    membership.members.iter().find(|(_, member)| at(member)).map(|(id, _)| *id)
}

/// Asks until a leader takes the change; waits while another one is in its joint phase.
async fn submit(
    core: &Core,
    engine: &Engine,
    target: &[VoterTarget],
    expected: Option<LogIndex>,
    progress: &Progress,
) -> Result<LogIndex, SetVotersError> {
    let begun = Instant::now();
    let mut changes = core.change.subscribe();
    loop {
        changes.borrow_and_update();
        let operation = AdminOperation::SetVoters { target: target.to_vec(), expected };
        let answer = engine.ask(ClientOp::Admin(operation)).await;
        let error = match answer {
            Ok(Answer::Accepted { config_index }) => return Ok(config_index),
            Ok(other) => refused(other),
            Err(error) => error,
        };
        let text = match error {
            NodeError::MembershipBusy { .. } => "another change must finish first".to_owned(),
            NodeError::NoLeader | NodeError::LeaderChanged | NodeError::Timeout | NodeError::TimeoutLeaderFailure
                if begun.elapsed() < SUBMIT_TIMEOUT =>
            {
                format!("no leader has taken the change yet: {error}")
            }
            // A leader that has just been elected has heard of nobody yet.
            NodeError::Unhealthy if begun.elapsed() < SUBMIT_TIMEOUT => TOO_FEW.to_owned(),
            NodeError::Unhealthy => {
                return Err(SetVotersError::Unavailable(format!("{TOO_FEW}: start them, or ask for others")));
            }
            NodeError::StaleConfig { current } => return Err(SetVotersError::StaleConfig { current }),
            NodeError::NoLeader
            | NodeError::LeaderChanged
            | NodeError::Timeout
            | NodeError::TimeoutLeaderFailure
            | NodeError::TooManyRequests
            | NodeError::Stopping
            | NodeError::NodeRemoved => return Err(SetVotersError::Unavailable(error.to_string())),
            other => return Err(SetVotersError::Invalid(other.to_string())),
        };
        report(progress, VoterPhase::Resolving, text, &engine.published.status()).await;
        // A closed watch is a stopping node; the next answer says so.
        let _ = tokio::time::timeout(REPORT_INTERVAL, changes.changed()).await;
    }
}

/// Reports configurations until the wanted one is committed.
async fn watch(
    core: &Core,
    engine: &Engine,
    wanted: &BTreeSet<NodeId>,
    accepted: LogIndex,
    progress: &Progress,
) -> Result<Watched, SetVotersError> {
    let begun = Instant::now();
    let mut changes = core.change.subscribe();
    loop {
        changes.borrow_and_update();
        let seen = engine.published.status();
        let raft = &seen.status.raft;
        let committed = &raft.committed_membership;
        let reached = raft.committed_membership_index >= accepted;
        let settled = reached && !committed.is_joint() && committed.target.is_none();
        // A node that left learns of its removal, not of the configuration without it.
        let left = !wanted.contains(&engine.identity.node_id) && core.lifecycle().state() == NodeState::Removed;
        if left || (settled && committed.voters == *wanted) {
            let text = counted(wanted.len(), "voter", "voters");
            report(progress, VoterPhase::Done, text, &seen).await;
            return Ok(Watched::Done);
        }
        let current = &raft.membership;
        let (phase, text) = if raft.membership_index < accepted {
            if begun.elapsed() >= LOST_AFTER {
                return Ok(Watched::Lost);
            }
            (VoterPhase::Resolving, "this node has not heard of the change yet".to_owned())
        } else if current.target.as_ref().is_some_and(|target| target != wanted) || settled {
            return Err(SetVotersError::Superseded);
        } else if current.is_joint() {
            (VoterPhase::Joint, "both halves decide".to_owned())
        } else {
            (VoterPhase::CatchingUp, catching_up(raft))
        };
        report(progress, phase, text, &seen).await;
        let changed = tokio::time::timeout(REPORT_INTERVAL, changes.changed()).await;
        if matches!(changed, Ok(Err(_))) || engine.driver.is_ended() {
            return Err(SetVotersError::Unavailable("this node stops; the change goes on without it".into()));
        }
    }
}

fn catching_up(raft: &quorate_raft::Status) -> String {
    let behind = raft.membership.learners.iter().filter_map(|id| raft.peer(*id));
    let lag = behind.map(|peer| raft.last.0.saturating_sub(peer.matched.0)).max();
    let voters = raft.membership.target.iter().flatten();
    let there = voters.filter(|id| **id == raft.id || raft.peer(**id).is_some_and(|peer| peer.recently_active)).count();
    let wanted = raft.membership.target.as_ref().map_or(0, BTreeSet::len);
    match lag {
        Some(_) if 2 * there <= wanted => {
            format!("{there} of the {wanted} voters asked for are heard of: a majority is needed")
        }
        Some(lag) => format!("new voters copy the log: {lag} entries to go"),
        None if raft.membership.learners.is_empty() => "the new configuration is written".to_owned(),
        // Only the leader knows how far they are.
        None => "new voters copy the log".to_owned(),
    }
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

async fn report(progress: &Progress, phase: VoterPhase, text: String, seen: &Seen) {
    let raft = &seen.status.raft;
    let mut learners = followers(raft);
    learners.retain(|id, _| raft.membership.learners.contains(id));
    let step = VoterProgress { phase, text, config_index: raft.membership_index, learners };
    // A receiver that went away is noticed by the caller.
    let _ = progress.send(Ok(step)).await;
}
