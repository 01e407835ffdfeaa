//! What the configurations of a change look like: pure functions from one configuration to the next.
//!
//! Never decides whether a step may be taken: that is `change`.

use std::collections::{BTreeMap, BTreeSet};

use crate::effect::Refused;
use crate::ids::NodeId;
use crate::input::VoterTarget;
use crate::membership::{MAX_REMOVED, Member, Membership};

/// Voters one configuration may ask for.
pub(crate) const MAX_VOTERS: usize = 15;

/// A target that makes sense: who shall vote, and who of them has to be admitted.
pub(crate) struct Admission {
    pub(crate) voters: BTreeSet<NodeId>,
    admitted: BTreeMap<NodeId, Member>,
}

/// Looks up what a target asks for.
///
/// # Errors
/// The refusal to give to the caller, if the target names nodes that cannot become voters.
pub(crate) fn resolve(now: &Membership, target: &[VoterTarget]) -> Result<Admission, Refused> {
    if target.is_empty() || target.len() > MAX_VOTERS {
        return Err(Refused::Invalid(format!("a cluster has 1 to {MAX_VOTERS} voters, not {}", target.len())));
    }
    let mut admission = Admission { voters: BTreeSet::new(), admitted: BTreeMap::new() };
    for wanted in target {
        let id = wanted.id();
        if now.removed.contains(&id) {
            return Err(Refused::Removed { id });
        }
        if !admission.voters.insert(id) {
            return Err(Refused::Invalid(format!("node {id} is named twice")));
        }
        match (wanted, now.members.get(&id)) {
            (VoterTarget::Existing(_), Some(_)) => {}
            (VoterTarget::Existing(_), None) => return Err(Refused::UnknownMember { id }),
            (VoterTarget::New { member, .. }, Some(known)) if known.incarnation == member.incarnation => {}
            (VoterTarget::New { .. }, Some(_)) => {
                return Err(Refused::Invalid(format!("node {id} was admitted with another data directory")));
            }
            (VoterTarget::New { member, .. }, None) => {
                check_newcomer(now, &admission, id, member)?;
                admission.admitted.insert(id, member.clone());
            }
        }
    }
    Ok(admission)
}

fn check_newcomer(now: &Membership, admission: &Admission, id: NodeId, member: &Member) -> Result<(), Refused> {
    let mut others = admission.admitted.iter();
    if let Some((other, _)) = others.find(|(_, other)| other.incarnation == member.incarnation) {
        return Err(Refused::Invalid(format!("the data directory of node {id} belongs to node {other}")));
    }
    check_member(now, id, member)
}

/// A member has a data directory of its own and must be able to read what the cluster writes.
pub(crate) fn check_member(now: &Membership, id: NodeId, member: &Member) -> Result<(), Refused> {
    if !member.is_bound() {
        return Err(Refused::Invalid(format!("node {id} has no data directory")));
    }
    let twin = now.members.iter().find(|(other, known)| **other != id && known.incarnation == member.incarnation);
    if let Some((other, _)) = twin {
        return Err(Refused::Invalid(format!("the data directory of node {id} belongs to node {other}")));
    }
    if member.max_version < now.cluster_version {
        let (supported, needed) = (member.max_version, now.cluster_version);
        return Err(Refused::Invalid(format!(
            "node {id} supports versions up to {supported}, the cluster is at {needed}"
        )));
    }
    Ok(())
}

/// The first entry of a change: newcomers as learners and the target; or, if nobody has to catch up, the joint or final
/// configuration at once. Learners of a superseded target leave, and so do standing ones: a target is the whole truth.
pub(crate) fn begin(now: &Membership, admission: Admission) -> Membership {
    let mut next = now.clone();
    for (id, member) in admission.admitted {
        next.learners.insert(id);
        next.members.insert(id, member);
    }
    let superseded: Vec<NodeId> = next.learners.difference(&admission.voters).copied().collect();
    remove(&mut next, superseded);
    if next.voters == admission.voters {
        next.target = None;
        return next;
    }
    next.target = Some(admission.voters);
    if next.learners.is_empty() { enter_joint(&next) } else { next }
}

/// The configuration in which both the present voters and the target must agree.
pub(crate) fn enter_joint(now: &Membership) -> Membership {
    let mut next = now.clone();
    let target = next.target.clone().expect("a change has a target");
    for learners in [&mut next.learners, &mut next.standing, &mut next.rising] {
        learners.retain(|id| !target.contains(id));
    }
    next.outgoing = std::mem::replace(&mut next.voters, target);
    next
}

/// The configuration in which the target alone decides; everybody else but standing learners has left.
pub(crate) fn leave_joint(now: &Membership) -> Membership {
    let mut next = now.clone();
    next.outgoing.clear();
    next.target = None;
    let stands = |id: &NodeId| next.standing.contains(id) && !mutant!(StandingLearnerLeaves);
    let stays = |id: &NodeId| next.voters.contains(id) || stands(id);
    let leaving: Vec<NodeId> = next.members.keys().filter(|id| !stays(id)).copied().collect();
    remove(&mut next, leaving);
    next
}

pub(crate) fn remove(membership: &mut Membership, leaving: Vec<NodeId>) {
    for id in &leaving {
        for learners in [&mut membership.learners, &mut membership.standing, &mut membership.rising] {
            learners.remove(id);
        }
        membership.members.remove(id);
        membership.removed.push(*id);
    }
    // Those that left last are the ones that still have to hear of it.
    let forgotten = membership.removed.len().saturating_sub(MAX_REMOVED);
    membership.removed.drain(..forgotten);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn member(id: u64) -> Member {
        Member { incarnation: Incarnation(u128::from(id)), ..Member::default() }
    }

    fn voters(ids: &[u64]) -> Membership {
        let voters: BTreeSet<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
        let members = ids.iter().map(|id| (NodeId(*id), member(*id))).collect();
        Membership { voters, members, ..Membership::default() }
    }

    fn ask(now: &Membership, existing: &[u64], new: &[u64]) -> Result<Membership, Refused> {
        let existing = existing.iter().map(|id| VoterTarget::Existing(NodeId(*id)));
        let new = new.iter().map(|id| VoterTarget::New { id: NodeId(*id), member: member(*id) });
        let target: Vec<VoterTarget> = existing.chain(new).collect();
        let next = begin(now, resolve(now, &target)?);
        next.check();
        Ok(next)
    }

    #[test]
    fn growing_goes_through_learners_and_one_joint_phase() {
        let learning = ask(&voters(&[1, 2, 3]), &[1, 2, 3], &[4, 5]).unwrap();
        assert_eq!(learning.learners, [NodeId(4), NodeId(5)].into());
        let joint = enter_joint(&learning);
        joint.check();
        assert!(joint.is_joint() && joint.learners.is_empty());
        let last = leave_joint(&joint);
        last.check();
        assert_eq!(last.voters.len(), 5);
        assert!(last.removed.is_empty() && last.target.is_none());
    }

    #[test]
    fn shrinking_needs_no_learners_and_remembers_who_left() {
        let joint = ask(&voters(&[1, 2, 3, 4, 5]), &[1, 2, 3], &[]).unwrap();
        assert!(joint.is_joint());
        let last = leave_joint(&joint);
        last.check();
        assert_eq!(last.removed, [NodeId(4), NodeId(5)]);
        assert_eq!(ask(&last, &[1, 2, 3, 4], &[]), Err(Refused::Removed { id: NodeId(4) }));
    }

    #[test]
    fn who_leaves_now_is_remembered_though_many_left_before() {
        let mut before = voters(&[1, 2, 3]);
        before.removed = (1000..1000 + MAX_REMOVED as u64).map(NodeId).rev().collect();
        let last = leave_joint(&ask(&before, &[2, 3], &[]).unwrap());
        assert_eq!(last.removed.len(), MAX_REMOVED);
        assert_eq!((last.removed.first(), last.removed.last()), (before.removed.get(1), Some(&NodeId(1))));
    }

    #[test]
    fn a_superseded_learner_leaves() {
        let learning = ask(&voters(&[1, 2, 3]), &[1, 2], &[4]).unwrap();
        let other = ask(&learning, &[1, 2], &[5]).unwrap();
        assert_eq!(other.learners, [NodeId(5)].into());
        assert_eq!(other.removed, [NodeId(4)]);
        let back = ask(&other, &[1, 2, 3], &[]).unwrap();
        assert_eq!((back.target.clone(), back.learners.len()), (None, 0));
    }

    #[test]
    fn an_id_is_never_given_to_another_data_directory() {
        let now = voters(&[1, 2, 3]);
        let stranger = VoterTarget::New { id: NodeId(3), member: member(9) };
        assert!(matches!(resolve(&now, &[stranger]), Err(Refused::Invalid(_))));
        let twin = VoterTarget::New { id: NodeId(9), member: member(3) };
        assert!(matches!(resolve(&now, &[twin]), Err(Refused::Invalid(_))));
    }
}
