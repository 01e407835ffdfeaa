//! Members one at a time, as etcd's calls ask for them: pure functions from one configuration to the next.
//!
//! A member may be added before it is started. It then has an id and an address and no data directory: a promise, which the
//! first empty node found at the address takes up, once, by an entry that names its incarnation. Until then it is sent
//! nothing and counts for nothing. A change of the voters goes through a joint phase here, too.
//!
//! Never decides whether a step may be taken: that is `change`.

use std::collections::BTreeSet;

use crate::effect::Refused;
use crate::ids::NodeId;
use crate::input::MemberChange;
use crate::membership::{Member, Membership};
use crate::plan::{MAX_VOTERS, enter_joint, remove};

/// Standing learners a configuration may have.
const MAX_STANDING: usize = 15;

/// What a change makes of the configuration in force; `None` if it is so already. `caught_up` are the learners that are
/// close enough to count at once.
///
/// # Errors
/// The refusal to give to the caller.
pub(crate) fn changed(
    now: &Membership,
    change: &MemberChange,
    caught_up: &BTreeSet<NodeId>,
) -> Result<Option<Membership>, Refused> {
    match change {
        MemberChange::Add { id, peer_address, rises } => added(now, *id, peer_address, *rises),
        MemberChange::Promote { id } => promoted(now, *id, caught_up),
        MemberChange::Remove { id } => without(now, *id, caught_up),
    }
}

fn added(now: &Membership, id: NodeId, peer_address: &str, rises: bool) -> Result<Option<Membership>, Refused> {
    if now.removed.contains(&id) {
        return Err(Refused::Removed { id });
    }
    match now.members.get(&id) {
        Some(known) if known.peer_address == peer_address => return Ok(None),
        Some(_) => return Err(Refused::Invalid(format!("node {id} is a member at another address"))),
        None => {}
    }
    if let Some((other, _)) = now.members.iter().find(|(_, member)| member.peer_address == peer_address) {
        return Err(Refused::Invalid(format!("node {other} is the member at {peer_address}")));
    }
    if now.standing.len() >= MAX_STANDING {
        return Err(Refused::Invalid(format!("there are {MAX_STANDING} learners already")));
    }
    if rises && coming_voters(now).len() >= MAX_VOTERS {
        return Err(Refused::Invalid(format!("there are {MAX_VOTERS} voters already, with those on their way")));
    }
    let mut next = now.clone();
    next.members.insert(id, Member { peer_address: peer_address.to_owned(), ..Member::default() });
    next.learners.insert(id);
    next.standing.insert(id);
    if rises {
        next.rising.insert(id);
    }
    Ok(Some(next))
}

/// The voters once every change in flight has ended and every member that is to rise has risen.
fn coming_voters(now: &Membership) -> BTreeSet<NodeId> {
    now.target.as_ref().unwrap_or(&now.voters).union(&now.rising).copied().collect()
}

fn promoted(now: &Membership, id: NodeId, caught_up: &BTreeSet<NodeId>) -> Result<Option<Membership>, Refused> {
    if now.voters.contains(&id) {
        return Ok(None);
    }
    if !now.members.contains_key(&id) {
        return Err(Refused::UnknownMember { id });
    }
    if !caught_up.contains(&id) {
        return Err(Refused::NotCaughtUp { id });
    }
    let next = risen(now, [id].into(), caught_up);
    let on_the_way = now.target.as_ref().is_some_and(|target| target.contains(&id));
    if next.is_none() && !on_the_way {
        return Err(Refused::Invalid(format!("there are {MAX_VOTERS} voters already")));
    }
    Ok(next)
}

/// Learners become voters, beside those whom a change in flight wants. `None` if it wants them already, or there is no room
/// for any.
pub(crate) fn risen(now: &Membership, who: BTreeSet<NodeId>, caught_up: &BTreeSet<NodeId>) -> Option<Membership> {
    let mut target = now.target.clone().unwrap_or_else(|| now.voters.clone());
    let room = MAX_VOTERS.saturating_sub(target.len());
    let before = target.len();
    target.extend(who.into_iter().take(room));
    (target.len() > before).then(|| towards(now.clone(), target, caught_up))
}

fn without(now: &Membership, id: NodeId, caught_up: &BTreeSet<NodeId>) -> Result<Option<Membership>, Refused> {
    if !now.members.contains_key(&id) {
        return if now.removed.contains(&id) { Ok(None) } else { Err(Refused::UnknownMember { id }) };
    }
    let is_voter = now.is_voter(id);
    let mut target = now.target.clone().unwrap_or_else(|| now.voters.clone());
    let was_wanted = target.remove(&id);
    if is_voter && !was_wanted {
        return Ok(None);
    }
    if target.is_empty() {
        return Err(Refused::Invalid(format!("node {id} is the only voter")));
    }
    let mut next = now.clone();
    if !is_voter {
        remove(&mut next, vec![id]);
    }
    Ok(Some(towards(next, target, caught_up)))
}

/// Declares `target`; the joint phase begins at once if nobody in it has to catch up.
fn towards(mut next: Membership, target: BTreeSet<NodeId>, caught_up: &BTreeSet<NodeId>) -> Membership {
    if target == next.voters {
        next.target = None;
        return next;
    }
    let ready = target.intersection(&next.learners).all(|id| caught_up.contains(id));
    next.target = Some(target);
    if ready { enter_joint(&next) } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;
    use crate::plan::leave_joint;

    fn voters(ids: &[u64]) -> Membership {
        let member = |id: &u64| Member { incarnation: Incarnation(u128::from(*id)), ..Member::default() };
        let members = ids.iter().map(|id| (NodeId(*id), member(id))).collect();
        Membership { voters: ids.iter().map(|id| NodeId(*id)).collect(), members, ..Membership::default() }
    }

    #[track_caller]
    fn after(now: &Membership, change: MemberChange, caught_up: &[u64]) -> Membership {
        let caught_up = caught_up.iter().map(|id| NodeId(*id)).collect();
        let next = changed(now, &change, &caught_up).expect("allowed").expect("a change");
        next.check();
        next
    }

    fn add(id: u64, rises: bool) -> MemberChange {
        MemberChange::Add { id: NodeId(id), peer_address: format!("host{id}:2380"), rises }
    }

    fn remove_member(id: u64) -> MemberChange {
        MemberChange::Remove { id: NodeId(id) }
    }

    #[test]
    fn a_member_that_is_not_started_has_an_id_and_no_voice() {
        let now = after(&voters(&[1, 2, 3]), add(4, true), &[]);
        assert!(!now.members[&NodeId(4)].is_bound() && !now.is_voter(NodeId(4)));
        assert!(now.target.is_none(), "the voters wait for nobody");
        assert_eq!(changed(&now, &add(4, true), &BTreeSet::new()), Ok(None), "asked again");
        let refused = changed(&now, &MemberChange::Promote { id: NodeId(4) }, &BTreeSet::new());
        assert_eq!(refused, Err(Refused::NotCaughtUp { id: NodeId(4) }));
    }

    #[test]
    fn who_is_to_become_a_voter_is_added_only_while_there_is_a_seat_for_it() {
        let fourteen: Vec<u64> = (1..=14).collect();
        let full = after(&voters(&fourteen), add(15, true), &[]);
        let refused = changed(&full, &add(16, true), &BTreeSet::new());
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
        after(&full, add(16, false), &[]);
        let with_a_seat = after(&full, remove_member(15), &[]);
        after(&with_a_seat, add(16, true), &[]);
    }

    #[test]
    fn a_standing_learner_outlives_changes_of_the_voters() {
        let now = after(&voters(&[1, 2, 3]), add(4, false), &[]);
        let joint = after(&now, remove_member(3), &[]);
        assert!(joint.is_joint());
        let last = leave_joint(&joint);
        last.check();
        assert_eq!((last.voters.len(), &last.standing), (2, &[NodeId(4)].into()));
        assert_eq!(last.removed, [NodeId(3)]);
    }

    #[test]
    fn a_promoted_learner_becomes_a_voter_through_a_joint_phase() {
        let mut now = after(&voters(&[1, 2, 3]), add(4, false), &[]);
        now.members.entry(NodeId(4)).or_default().incarnation = Incarnation(4);
        let joint = after(&now, MemberChange::Promote { id: NodeId(4) }, &[4]);
        assert!(joint.is_joint() && joint.standing.is_empty() && joint.learners.is_empty());
    }

    #[test]
    fn one_voter_too_many_is_refused_and_one_that_is_wanted_already_is_not() {
        let promoted = |voters_and_learner: &[u64], target: Option<&[u64]>| {
            let (learner, ids) = voters_and_learner.split_last().expect("a learner");
            let mut now = voters(voters_and_learner);
            now.voters = ids.iter().map(|id| NodeId(*id)).collect();
            now.learners = [NodeId(*learner)].into();
            now.standing = [NodeId(*learner)].into();
            now.target = target.map(|ids| ids.iter().map(|id| NodeId(*id)).collect());
            changed(&now, &MemberChange::Promote { id: NodeId(*learner) }, &[NodeId(*learner)].into())
        };
        let ids: Vec<u64> = (1..=16).collect();
        for learner in [14, 15] {
            let next = promoted(&ids[..learner], None).expect("there is room").expect("a change");
            assert_eq!(next.voters.len(), learner);
        }
        assert!(matches!(promoted(&ids, None), Err(Refused::Invalid(_))));
        // A change in flight wants as many as there may be: with this one, or without.
        assert_eq!(promoted(&ids[..15], Some(&ids[..15])), Ok(None));
        let others: Vec<u64> = ids.iter().copied().filter(|id| *id != 14).collect();
        assert!(matches!(promoted(&ids[..14], Some(&others)), Err(Refused::Invalid(_))));
    }

    #[test]
    fn a_removed_promise_never_comes_back_under_its_id() {
        let now = after(&voters(&[1]), add(2, true), &[]);
        let gone = after(&now, remove_member(2), &[]);
        assert!(gone.learners.is_empty() && gone.rising.is_empty() && gone.target.is_none());
        assert_eq!(changed(&gone, &add(2, true), &BTreeSet::new()), Err(Refused::Removed { id: NodeId(2) }));
        assert_eq!(changed(&gone, &remove_member(2), &BTreeSet::new()), Ok(None), "asked again");
    }

    #[test]
    fn the_only_voter_stays() {
        let refused = changed(&voters(&[1]), &remove_member(1), &BTreeSet::new());
        assert!(matches!(refused, Err(Refused::Invalid(_))));
    }
}
