//! Officials who all change users, roles, rights and the switch at once, and users who log in and read and write meanwhile, by
//! what their node knew of them.
//!
//! Nothing is certain to anybody here, so everything is held against the committed log: whether a write was void is part of
//! the replay; a read is served by the rights of the very state it reads and no other; a login that was acknowledged was one of
//! a password in force; and in the end all nodes hold the users, roles and rights that the log makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::auth::{AuthError, AuthResponse, NoLeases, PasswordHash, Permission, PermissionKind, ROOT};
use quorate_kv::{
    Actor, AuthCommand, AuthState, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KvError,
    LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, Response, TxnRequest,
};
use quorate_node::{Answer, ClientOp, Consistency, ReadOptions};
use quorate_raft::{LogIndex, NodeId};
use quorate_store::StateView;

use super::super::lease_model::LeaseModel;
use super::super::rights::Rights;
use super::{Committed, Workload, value, written};
use crate::clock::Instant;
use crate::coverage::{Coverage, Reached};
use crate::random::Random;

/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 56;
const USERS: [&str; 4] = [ROOT, "ann", "bob", "eve"];
const ROLES: [&str; 3] = [ROOT, "front", "back"];
const KEYS: u64 = 6;
/// Leases have the ids from 1 on, below those of all other workloads.
const LEASES: u64 = 3;
/// Longest time to live, in seconds: long enough for rights to change meanwhile.
const LONGEST_TTL: u64 = 8;

/// What a call without an answer is about.
#[derive(Debug)]
enum Call {
    Change,
    Login { user: String, password_revision: u64 },
    Write,
    Revoke,
    Read { actor: Actor, range: RangeRequest },
}

/// A password that was shown and acknowledged.
type Session = (String, u64);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Officials {
    next: u64,
    calls: BTreeMap<u64, Call>,
    sessions: Vec<Session>,
    /// Rights by the committed log, from each index on at which they changed.
    history: Vec<(LogIndex, Rights)>,
    /// Those before any change.
    first: Rights,
    /// Logins that the log let in.
    let_in: BTreeSet<Session>,
    /// Rights as each node has them, and up to where it had applied: a node judges by its own.
    states: BTreeMap<NodeId, (LogIndex, Arc<AuthState>)>,
}

fn user(random: &mut Random) -> String {
    (*random.pick(&USERS).expect("choices")).to_owned()
}

fn role(random: &mut Random) -> String {
    (*random.pick(&ROLES).expect("choices")).to_owned()
}

fn key(number: u64) -> Bytes {
    format!("office/{number}").into()
}

/// One key, some in a row, or all from one on.
fn interval(random: &mut Random) -> (Bytes, Bytes) {
    let first = random.below(KEYS);
    let end = match random.below(6) {
        0 | 1 => key(first + random.between(1, 3)),
        2 if random.chance(300_000) => Bytes::from_static(b"\0"),
        _ => Bytes::new(),
    };
    (key(first), end)
}

/// What a node of this state says at its door.
fn judge(state: &AuthState, actor: &Actor, command: &Command) -> Result<(), AuthError> {
    state.admit(actor).and_then(|caller| caller.may_submit(command, &NoLeases))
}

/// A node that has applied this much judges as the log does.
fn check_judged(
    (actor, asked): (&Actor, &dyn fmt::Debug),
    applied: LogIndex,
    judged: Result<(), AuthError>,
    expected: Option<AuthError>,
) {
    assert!(
        judged == expected.map_or(Ok(()), Err),
        "auth: {actor:?} asks for {asked:?} at {applied} and is judged {judged:?}; by the log {expected:?}"
    );
}

impl Officials {
    fn call(&mut self, call: Call, op: ClientOp) -> Vec<(u64, ClientOp)> {
        self.next += 1;
        let number = NUMBERS | self.next;
        self.calls.insert(number, call);
        vec![(number, op)]
    }

    fn change(&mut self, random: &mut Random) -> AuthCommand {
        let password = PasswordHash(Bytes::from_static(b"not a hash"));
        // Roles that allow something, users that have them, and a switch that is on, more often than not.
        match random.below(20) {
            0..=3 => AuthCommand::Enable,
            4 => AuthCommand::Disable,
            5..=6 => AuthCommand::UserAdd { name: user(random), password: random.coin().then_some(password) },
            7 if random.coin() => AuthCommand::UserDelete { name: user(random) },
            7 | 8 => AuthCommand::UserChangePassword { name: user(random), password },
            9..=11 => AuthCommand::UserGrantRole { user: user(random), role: role(random) },
            12 => AuthCommand::UserRevokeRole { user: user(random), role: role(random) },
            13 | 14 => AuthCommand::RoleAdd { name: role(random) },
            15 if random.coin() => AuthCommand::RoleDelete { name: role(random) },
            16 => {
                let (key, range_end) = interval(random);
                AuthCommand::RoleRevokePermission { role: role(random), key, range_end }
            }
            _ => {
                let (key, range_end) = interval(random);
                let kinds = [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite];
                let kind = *random.pick(&kinds).expect("choices");
                let permission = Permission { kind, key, range_end };
                AuthCommand::RoleGrantPermission { role: role(random), permission }
            }
        }
    }

    /// The first steps, without which the switch cannot be turned.
    fn begin(&self) -> Option<AuthCommand> {
        let password = Some(PasswordHash(Bytes::from_static(b"not a hash")));
        let grant = |kind, first, end| {
            let permission = Permission { kind, key: key(first), range_end: key(end) };
            Some(AuthCommand::RoleGrantPermission { role: "front".into(), permission })
        };
        match self.next {
            0 => Some(AuthCommand::UserAdd { name: ROOT.into(), password }),
            1 => Some(AuthCommand::UserGrantRole { user: ROOT.into(), role: ROOT.into() }),
            2 => Some(AuthCommand::UserAdd { name: "ann".into(), password }),
            3 => Some(AuthCommand::RoleAdd { name: "front".into() }),
            4 => Some(AuthCommand::UserGrantRole { user: "ann".into(), role: "front".into() }),
            // Neighbours that add up, and keys of which only one right is held.
            5 => grant(PermissionKind::Write, 0, 2),
            6 => grant(PermissionKind::Write, 2, 4),
            7 => grant(PermissionKind::Read, 4, 5),
            8 => Some(AuthCommand::Enable),
            _ => None,
        }
    }

    fn login(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        let user = user(random);
        // What this node holds for its password, as a rule; else one that never was.
        let known = state.user(&user).map_or(0, |it| it.password_revision);
        let password_revision = if random.chance(100_000) { known + 1 } else { known };
        self.log_in(user, password_revision)
    }

    /// Somebody changes a password, and whoever was shown the old one logs in by it right behind.
    fn late_login(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        let name = user(random);
        let Some(password_revision) = state.user(&name).map(|it| it.password_revision) else { return Vec::new() };
        let password = PasswordHash(Bytes::from_static(b"another"));
        let change = AuthCommand::UserChangePassword { name: name.clone(), password };
        let change = ClientOp::Write { actor: Actor::Node, command: Command::Auth(change) };
        let mut moves = self.call(Call::Change, change);
        moves.extend(self.log_in(name, password_revision));
        moves
    }

    fn log_in(&mut self, user: String, password_revision: u64) -> Vec<(u64, ClientOp)> {
        let token = Bytes::from(self.next.to_le_bytes().to_vec());
        let login = AuthCommand::Login { user: user.clone(), password_revision, token };
        let op = ClientOp::Write { actor: Actor::Anonymous, command: Command::Auth(login) };
        self.call(Call::Login { user, password_revision }, op)
    }

    /// One move of one of them, by what a node of this state knows.
    fn make_move(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        match random.below(14) {
            12 | 13 => self.lease_of_others(random, state),
            0 => {
                let command = Command::Auth(self.change(random));
                let actor = if random.chance(800_000) { Actor::Node } else { self.actor(random, state) };
                self.call(Call::Change, ClientOp::Write { actor, command })
            }
            1 | 2 => self.login(random, state),
            3 => self.late_login(random, state),
            4..=8 => self.write(random, state),
            _ => self.read(random, state),
        }
    }

    /// Who asks at a node of this state: whom it knows by a session, somebody without, or one judged by an older state.
    fn actor(&self, random: &mut Random, state: &AuthState) -> Actor {
        // Some are known by their certificates, and need no login.
        let names: Vec<&str> = state.user_names().filter(|name| *name != ROOT).collect();
        if random.chance(400_000)
            && let Some(name) = random.pick(&names)
        {
            return Actor::User { name: (*name).to_owned(), auth_revision: state.revision() };
        }
        let Some((name, password_revision)) = random.pick(&self.sessions).filter(|_| !random.chance(50_000)) else {
            return Actor::Anonymous;
        };
        // A session ends with the password it was made by.
        if state.user(name).is_none_or(|user| user.password_revision != *password_revision) {
            return Actor::Anonymous;
        }
        let age = if random.chance(100_000) { random.below(3) } else { 0 };
        Actor::User { name: name.clone(), auth_revision: state.revision().saturating_sub(age) }
    }

    fn command(&mut self, random: &mut Random) -> Command {
        let number = NUMBERS | (self.next + 1);
        let put = PutRequest {
            key: key(random.below(KEYS)),
            value: value(number, b""),
            prev_kv: random.chance(300_000),
            ..PutRequest::default()
        };
        // As in etcd, whoever is known may have a lease; its keys, all of which go with it, have to be the user's to write.
        let lease = random.between(1, LEASES) as i64;
        let put = if random.chance(400_000) { PutRequest { lease, ..put } } else { put };
        let (key, range_end) = interval(random);
        match random.below(9) {
            6 => Command::LeaseRevoke { id: lease },
            7 | 8 if random.coin() => {
                let ttl_seconds = random.between(1, LONGEST_TTL) as i64;
                Command::LeaseGrant(LeaseGrantRequest { id: lease, ttl_seconds })
            }
            0 => {
                // The keys of other workloads, which lie behind, are not deleted.
                let range_end = if range_end == "\0" { Bytes::new() } else { range_end };
                Command::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: random.coin() })
            }
            1 | 2 => {
                let absent = Compare {
                    key: key.clone(),
                    range_end: Bytes::new(),
                    target: CompareTarget::Version(0),
                    result: CompareResult::Equal,
                };
                let range = RequestOp::Range(RangeRequest { key, range_end, ..RangeRequest::default() });
                let other = Compare { key: put.key.clone(), ..absent.clone() };
                let nested = TxnRequest { compare: vec![other], failure: vec![range.clone()], success: Vec::new() };
                let nested = RequestOp::Txn(nested);
                let failure = vec![if random.coin() { range } else { nested }];
                Command::Txn(TxnRequest { compare: vec![absent], success: vec![RequestOp::Put(put)], failure })
            }
            _ => Command::Put(put),
        }
    }

    /// Compares what a node that has applied this much allows to each of its users with what the log does. Nothing is sent.
    fn compare_rights(&mut self, random: &mut Random, applied: LogIndex, state: &AuthState) {
        for name in state.user_names().map(str::to_owned) {
            let (actor, command) = (Actor::User { name, auth_revision: state.revision() }, self.command(random));
            let expected = self.rights_at(applied).refuse(&actor, &command, &LeaseModel::default());
            check_judged((&actor, &command), applied, judge(state, &actor, &command), expected);
        }
    }

    fn write(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        let actor = self.actor(random, state);
        let command = self.command(random);
        let judged = judge(state, &actor, &command);
        // Where the node would refuse it at its door, only a node gone wrong would propose it; some of those, too.
        if judged.is_err() && !random.chance(250_000) {
            return Vec::new();
        }
        let call = if matches!(command, Command::LeaseRevoke { .. }) { Call::Revoke } else { Call::Write };
        self.call(call, ClientOp::Write { actor, command })
    }

    fn read(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        let actor = self.actor(random, state);
        let (key, range_end) = interval(random);
        let range = RangeRequest { key, range_end, ..RangeRequest::default() };
        let modes = [Consistency::Stale, Consistency::Default, Consistency::Consistent];
        let consistency = *random.pick(&modes).expect("choices");
        let options = ReadOptions { consistency, ..ReadOptions::default() };
        self.call(Call::Read { actor, range }, ClientOp::Read(options))
    }

    /// A key is put under a lease, and right behind somebody who may not write it ends the lease, or takes it for a key of its own.
    /// It is known by its certificate, so it needs no login.
    fn lease_of_others(&mut self, random: &mut Random, state: &AuthState) -> Vec<(u64, ClientOp)> {
        let id = random.between(1, LEASES) as i64;
        let ttl_seconds = random.between(1, LONGEST_TTL) as i64;
        let grant = Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds });
        let mut moves = self.call(Call::Write, ClientOp::Write { actor: Actor::Node, command: grant });
        let theirs = Command::Put(self.put_under(random, id));
        moves.extend(self.call(Call::Write, ClientOp::Write { actor: Actor::Node, command: theirs }));
        let mut put = self.put_under(random, id);
        let of = |name: &str| Actor::User { name: name.to_owned(), auth_revision: state.revision() };
        // Who may write some key, if there is anybody.
        let free = |number| Command::Put(PutRequest { key: key(number), lease: 0, ..put.clone() });
        let may = |name: &str, number| judge(state, &of(name), &free(number)).is_ok();
        let names: Vec<&str> = state.user_names().filter(|name| *name != ROOT).collect();
        let writers = names.iter().flat_map(|name| (0..KEYS).map(move |number| (*name, number)));
        let writers: Vec<(&str, u64)> = writers.filter(|(name, number)| may(name, *number)).collect();
        let Some((name, number)) = random.pick(&writers).copied().or_else(|| Some((*names.last()?, 0))) else {
            return moves;
        };
        if random.coin() {
            let (actor, command) = (of(name), Command::LeaseRevoke { id });
            moves.extend(self.call(Call::Revoke, ClientOp::Write { actor, command }));
        } else {
            put.key = key(number);
            let (actor, command) = (of(name), Command::Put(put));
            moves.extend(self.call(Call::Write, ClientOp::Write { actor, command }));
        }
        moves
    }

    fn put_under(&self, random: &mut Random, lease: i64) -> PutRequest {
        let (key, value) = (key(random.below(KEYS)), value(NUMBERS | (self.next + 1), b""));
        PutRequest { key, value, lease, ..PutRequest::default() }
    }

    /// Rights as the log made them up to `applied`.
    fn rights_at(&self, applied: LogIndex) -> &Rights {
        let after = self.history.partition_point(|(index, _)| *index <= applied);
        after.checked_sub(1).map_or(&self.first, |at| &self.history[at].1)
    }

    /// A read comes to the state that it may read, and is judged by the rights in it, as a server does.
    fn judge_read(&self, actor: &Actor, range: &RangeRequest, view: &StateView, coverage: &mut Coverage) {
        let (applied, state) = (view.applied(), view.auth());
        let judged = state.admit(actor).and_then(|caller| caller.may_read(range));
        check_judged((actor, range), applied, judged, self.rights_at(applied).refuse_read(actor, range));
        coverage.hit(if judged.is_ok() { Reached::ReadAllowed } else { Reached::ReadForbidden });
    }
}

impl Workload for Officials {
    fn draw(&mut self, random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        if let Some(change) = self.begin() {
            return self.call(Call::Change, ClientOp::Write { actor: Actor::Node, command: Command::Auth(change) });
        }
        let states: Vec<(LogIndex, Arc<AuthState>)> = self.states.values().cloned().collect();
        let Some((applied, state)) = random.pick(&states).cloned() else { return Vec::new() };
        self.compare_rights(random, applied, &state);
        // Rights have to exist, and to be changed, before there is something to get wrong: a turn is several moves.
        (0..random.between(1, 3)).flat_map(|_| self.make_move(random, &state)).collect()
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, view: &StateView, coverage: &mut Coverage) {
        let what = self.calls.remove(&call).expect("every call is answered once");
        match (what, written(answer)) {
            (Call::Login { user, password_revision }, Some(Ok(response))) => {
                let session = (user, password_revision);
                let same = matches!(response, Response::Auth(AuthResponse::LoggedIn { user, password_revision, .. })
                    if (user, *password_revision) == (&session.0, session.1));
                assert!(same, "auth: the login of {session:?} is answered {response:?}");
                assert!(self.let_in.contains(&session), "auth: {session:?} is let in, and never was by the log");
                coverage.hit(Reached::LoggedIn);
                self.sessions.push(session);
            }
            (Call::Login { .. }, Some(Err(_))) => coverage.hit(Reached::LoginRefused),
            (Call::Change, Some(Ok(_))) => coverage.hit(Reached::RightsChanged),
            (Call::Write, Some(Err(KvError::Auth(_)))) => coverage.hit(Reached::WriteForbidden),
            (Call::Revoke, Some(Err(KvError::Auth(_)))) => coverage.hit(Reached::RevokeForbidden),
            (Call::Read { actor, range }, None) if matches!(answer, Answer::ReadAt(_)) => {
                self.judge_read(&actor, &range, view, coverage);
            }
            _ => {}
        }
    }

    fn lost(&mut self, call: u64, _now: Instant) {
        self.calls.remove(&call).expect("every call is answered once");
    }

    fn committed(&mut self, committed: Committed<'_>, _now: Instant, coverage: &mut Coverage) {
        let (Command::Auth(change), Some(Ok(_))) = (committed.command, committed.result) else { return };
        if let AuthCommand::Login { user, password_revision, .. } = change {
            self.let_in.insert((user.clone(), *password_revision));
            return;
        }
        if matches!(change, AuthCommand::Disable) {
            coverage.hit(Reached::RightsSwitchedOff);
        }
        let mut rights = self.history.last().map(|(_, rights)| rights.clone()).unwrap_or_default();
        rights.change(change).expect("the replay took it");
        self.history.push((committed.index, rights));
    }

    fn applied(&mut self, node: NodeId, view: &StateView, _now: Instant) {
        self.states.insert(node, (view.applied(), view.auth()));
    }

    fn died(&mut self, node: NodeId) {
        self.states.remove(&node);
    }

    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        for (node, view) in views {
            let state = view.auth();
            state.check_invariants();
            if let Err(difference) = self.rights_at(view.applied()).compare(&state) {
                panic!("auth: node {node} does not hold the rights of the log: {difference}");
            }
        }
    }
}
