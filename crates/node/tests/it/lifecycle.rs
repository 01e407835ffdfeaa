//! From an empty directory to removal: bootstrap, adoption, admission, reset.

use quorate_node::{Admitted, InitAccepted, InitRefused, Lifecycle, NodeState, ResetRefused};
use quorate_raft::{Incarnation, Member, Membership, NodeId};
use quorate_wire::peer::{Hello, HelloRefused};
use quorate_wire::{Bootstrap, derive_node_id};

use crate::cluster::{CLUSTER, member, node_id};

fn empty(number: u8) -> Lifecycle {
    Lifecycle::new(member(number).incarnation, None, None, None, None)
}

fn bootstrap(members: &[u8]) -> Bootstrap {
    Bootstrap::new(CLUSTER, members.iter().copied().map(member)).expect("a sound configuration")
}

fn hello(from: u8, to: u8) -> Hello {
    Hello {
        cluster_id: CLUSTER,
        from: node_id(from),
        member: member(from),
        to: node_id(to),
        to_incarnation: member(to).incarnation,
        format_version: 1,
        refused: None,
    }
}

#[test]
fn init_is_idempotent_and_exclusive() {
    let mut node = empty(1);
    assert_eq!(node.state(), NodeState::Uninitialised);
    let first = bootstrap(&[1, 2, 3]);
    let Ok(InitAccepted::New(identity)) = node.init(&first) else { panic!("not accepted") };
    assert_eq!(identity.node_id, node_id(1));
    assert_eq!(node.init(&bootstrap(&[3, 2, 1])), Ok(InitAccepted::Again(identity)), "order means nothing");
    assert_eq!(node.init(&bootstrap(&[1, 2])), Err(InitRefused::OtherBootstrap { cluster_id: CLUSTER }));
    let other = Bootstrap::new(8, [member(1)]).expect("a sound configuration");
    assert!(matches!(node.init(&other), Err(InitRefused::OtherBootstrap { .. })));
    assert_eq!(node.state(), NodeState::Joining);
}

#[test]
fn init_survives_a_restart() {
    let mut node = empty(1);
    let first = bootstrap(&[1, 2, 3]);
    node.init(&first).expect("accepted");
    let mut again = Lifecycle::new(node.incarnation(), node.identity(), node.bootstrap().cloned(), None, None);
    assert!(matches!(again.init(&first), Ok(InitAccepted::Again(_))));
    assert!(again.init(&bootstrap(&[1])).is_err());
}

#[test]
fn a_node_accepts_only_configurations_that_list_it() {
    let refused = empty(1).init(&bootstrap(&[2, 3]));
    assert_eq!(refused, Err(InitRefused::NotListed { incarnation: member(1).incarnation }));
}

#[test]
fn an_empty_node_adopts_an_id_once() {
    let mut node = empty(4);
    let Ok(Admitted::Adopt(identity)) = node.admit(&hello(1, 4), None) else { panic!("not adopted") };
    assert_eq!((identity.cluster_id, identity.node_id), (CLUSTER, node_id(4)));
    assert_eq!(node.admit(&hello(2, 4), None), Ok(Admitted::Welcome));
    let mut foreign = hello(1, 4);
    foreign.cluster_id = 8;
    foreign.from = derive_node_id(8, member(1).incarnation);
    foreign.to = derive_node_id(8, member(4).incarnation);
    assert!(matches!(node.admit(&foreign, None), Err(HelloRefused::WrongCluster(_))));
    assert!(matches!(node.init(&bootstrap(&[1, 2])), Err(InitRefused::AlreadyMember { .. })));
}

#[test]
fn a_first_voter_greeted_before_its_init_accepts_it() {
    let mut node = empty(2);
    node.admit(&hello(1, 2), None).expect("adopted");
    assert!(matches!(node.init(&bootstrap(&[1, 2])), Ok(InitAccepted::Again(_))));
}

#[test]
fn a_wiped_disk_is_not_taken_for_the_node_it_was() {
    let mut wiped = Lifecycle::new(Incarnation(0x5555), None, None, None, None);
    assert!(matches!(wiped.admit(&hello(1, 2), None), Err(HelloRefused::WrongNode(_))));
    assert_eq!(wiped.state(), NodeState::Uninitialised);
}

#[test]
fn an_empty_node_takes_the_id_that_its_very_data_directory_is_given() {
    let mut named = hello(1, 2);
    named.to = NodeId(42);
    let Ok(Admitted::Adopt(identity)) = empty(2).admit(&named, None) else { panic!("not adopted") };
    assert_eq!(identity.node_id, NodeId(42));
    named.to_incarnation = member(3).incarnation;
    assert!(matches!(empty(2).admit(&named, None), Err(HelloRefused::WrongNode(_))));
}

#[test]
fn an_id_of_another_data_directory_is_refused() {
    let mut node = empty(1);
    node.init(&bootstrap(&[1, 2, 3])).expect("accepted");
    let (_, membership) = bootstrap(&[1, 2, 3]).membership();
    let mut forged = hello(2, 1);
    forged.from = node_id(3);
    assert!(matches!(node.admit(&forged, Some(&membership)), Err(HelloRefused::WrongIncarnation(_))));
}

#[test]
fn who_was_added_before_it_was_started_is_welcome_where_its_start_is_not_known_yet() {
    let mut node = empty(1);
    node.init(&bootstrap(&[1, 2])).expect("accepted");
    let (_, mut membership) = bootstrap(&[1, 2]).membership();
    membership.members.insert(node_id(3), Member { peer_address: "n3:2380".to_owned(), ..Member::default() });
    assert_eq!(node.admit(&hello(3, 1), Some(&membership)), Ok(Admitted::Welcome));
    membership.members.insert(node_id(3), member(4));
    assert!(matches!(node.admit(&hello(3, 1), Some(&membership)), Err(HelloRefused::WrongIncarnation(_))));
}

#[test]
fn a_removed_caller_is_told_so() {
    let mut node = empty(1);
    node.init(&bootstrap(&[1, 2, 3])).expect("accepted");
    let (_, mut membership) = bootstrap(&[1, 2]).membership();
    membership.removed.push(node_id(3));
    assert_eq!(
        node.admit(&hello(3, 1), Some(&membership)),
        Ok(Admitted::Welcome),
        "the removal may be taken back, and then it may be this caller who leads"
    );
    node.configuration_committed(&membership);
    assert!(matches!(node.admit(&hello(3, 1), Some(&membership)), Err(HelloRefused::Removed(_))));
    assert_eq!(node.admit(&hello(2, 1), Some(&membership)), Ok(Admitted::Welcome));
    assert_eq!(node.admit(&hello(5, 1), Some(&membership)), Ok(Admitted::Welcome), "this node may be behind");
}

#[test]
fn a_newer_format_is_refused_clearly() {
    let mut node = empty(1);
    node.init(&bootstrap(&[1, 2])).expect("accepted");
    let mut newer = hello(2, 1);
    newer.format_version = 2;
    let Err(HelloRefused::UnknownVersion(text)) = node.admit(&newer, None) else { panic!("not refused") };
    assert!(text.contains("version 2"), "{text}");
}

#[test]
fn a_node_becomes_a_member_by_a_committed_configuration() {
    let mut node = empty(4);
    node.admit(&hello(1, 4), None).expect("adopted");
    node.configuration_committed(&bootstrap(&[1, 2, 3]).membership().1);
    assert_eq!(node.state(), NodeState::Joining);
    node.configuration_committed(&bootstrap(&[1, 2, 3, 4]).membership().1);
    assert_eq!(node.state(), NodeState::Member);
}

#[test]
fn removal_is_final_and_talks_to_nobody() {
    let mut node = empty(1);
    node.init(&bootstrap(&[1, 2])).expect("accepted");
    node.bar(NodeState::Fenced, "diverged".into());
    node.bar(NodeState::Removed, "left".into());
    node.bar(NodeState::Fenced, "again".into());
    assert_eq!((node.state(), node.reason()), (NodeState::Removed, "left"));
    assert!(matches!(node.admit(&hello(2, 1), None), Err(HelloRefused::NotServing(_))));
    assert!(matches!(node.init(&bootstrap(&[1, 2])), Err(InitRefused::Barred { .. })));
}

#[test]
fn a_current_member_is_not_reset() {
    let mut node = empty(1);
    assert_eq!(node.check_reset(CLUSTER, node_id(1), None), Err(ResetRefused::Empty));
    node.init(&bootstrap(&[1, 2])).expect("accepted");
    let (_, membership) = bootstrap(&[1, 2]).membership();
    assert_eq!(node.check_reset(CLUSTER, node_id(1), Some(&membership)), Err(ResetRefused::CurrentMember));
    assert!(matches!(node.check_reset(CLUSTER, node_id(2), Some(&membership)), Err(ResetRefused::OtherNode { .. })));
    assert_eq!(node.check_reset(CLUSTER, node_id(1), Some(&Membership::default())), Ok(()));
    node.bar(NodeState::Damaged, "a flipped bit".into());
    assert_eq!(node.check_reset(CLUSTER, node_id(1), Some(&membership)), Ok(()), "its data is what has to go");
}

#[test]
fn bootstrap_configurations_are_checked() {
    assert!(Bootstrap::new(CLUSTER, []).is_err());
    assert!(Bootstrap::new(CLUSTER, [member(1), member(1)]).is_err());
    assert!(Bootstrap::new(0, [member(1)]).is_err());
    let nameless = Member { name: String::new(), ..member(1) };
    assert!(Bootstrap::new(CLUSTER, [nameless]).is_ok(), "a name is for people");
}
