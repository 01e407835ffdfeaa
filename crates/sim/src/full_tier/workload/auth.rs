//! Users whose rights are given and taken while they write: no write takes effect that its user had lost the right to when
//! it was asked for, and all nodes hold the same users, roles and rights.
//!
//! The administrator acts as a node does, so that it is never locked out, and makes one change at a time. A change whose
//! outcome is not known may take effect at any later time; its role is given up for a fresh one then, so that what is said
//! about a role is certain.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::auth::{NoLeases, PasswordHash, Permission, PermissionKind, ROOT};
use quorate_kv::{Actor, AuthCommand, AuthState, Command, PutRequest};
use quorate_node::{Answer, ClientOp};
use quorate_raft::NodeId;
use quorate_store::StateView;

use super::Workload;
use crate::clock::Instant;
use crate::coverage::Coverage;
use crate::random::Random;

/// Outside the intervals of all other keys.
const PREFIX: &str = "auth/";
/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 61;

/// What is known about the right of the one user to the one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Not made yet.
    None,
    Given,
    /// Acknowledged as taken: nothing that is asked for from now on may take effect until it is given again.
    Taken,
}

/// What a call without an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Setup,
    Give,
    Take,
    /// `void`: asked for while the right was known to be taken.
    Write {
        void: bool,
    },
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Rights {
    next: u64,
    calls: BTreeMap<u64, Call>,
    /// Steps of the set-up that are done; one is under way at a time.
    set_up: usize,
    administrator_waits: bool,
    /// Names the role, the user and the key in use.
    epoch: u64,
    right: Right,
    /// Rights as each node has them: a node judges by its own.
    states: BTreeMap<NodeId, Arc<AuthState>>,
}

impl Default for Rights {
    fn default() -> Rights {
        Rights {
            next: 0,
            calls: BTreeMap::new(),
            set_up: 0,
            administrator_waits: false,
            epoch: 0,
            right: Right::None,
            states: BTreeMap::new(),
        }
    }
}

impl Rights {
    fn name(&self) -> String {
        format!("{PREFIX}{}", self.epoch)
    }

    fn call(&mut self, call: Call) -> u64 {
        self.next += 1;
        let number = NUMBERS | self.next;
        self.calls.insert(number, call);
        number
    }

    /// What has to be there before rights can be given: once for all, then for each epoch.
    fn set_up_step(&self) -> Option<AuthCommand> {
        let hash = || Some(PasswordHash(Bytes::from_static(b"not a hash")));
        let name = self.name();
        let steps = [
            AuthCommand::UserAdd { name: ROOT.into(), password: hash() },
            AuthCommand::UserGrantRole { user: ROOT.into(), role: ROOT.into() },
            AuthCommand::Enable,
            AuthCommand::UserAdd { name: name.clone(), password: hash() },
            AuthCommand::RoleAdd { name: name.clone() },
            AuthCommand::UserGrantRole { user: name.clone(), role: name },
        ];
        steps.into_iter().nth(self.set_up)
    }

    fn administer(&mut self) -> (Call, AuthCommand) {
        if let Some(step) = self.set_up_step() {
            return (Call::Setup, step);
        }
        let (role, key) = (self.name(), Bytes::from(self.name()));
        if self.right == Right::Given {
            return (Call::Take, AuthCommand::RoleRevokePermission { role, key, range_end: Bytes::new() });
        }
        // From here on a write may find the right again.
        self.right = Right::None;
        let permission = Permission { kind: PermissionKind::Write, key, range_end: Bytes::new() };
        (Call::Give, AuthCommand::RoleGrantPermission { role, permission })
    }

    fn write(&mut self, random: &mut Random) -> Option<(u64, ClientOp)> {
        let states: Vec<Arc<AuthState>> = self.states.values().cloned().collect();
        let state = random.pick(&states)?;
        let actor = Actor::User { name: self.name(), auth_revision: state.revision() };
        let void = self.right == Right::Taken;
        let mut value = (NUMBERS | (self.next + 1)).to_le_bytes().to_vec();
        value.push(0);
        let put = PutRequest { key: Bytes::from(self.name()), value: value.into(), ..PutRequest::default() };
        let command = Command::Put(put);
        // Where the node would refuse it at its door, only a node gone wrong would propose it; some of those, too.
        let let_in = state.admit(&actor).and_then(|caller| caller.may_submit(&command, &NoLeases)).is_ok();
        if !let_in && !random.chance(200_000) {
            return None;
        }
        let number = self.call(Call::Write { void });
        Some((number, ClientOp::Write { actor, command }))
    }

    fn administered(&mut self, call: Call, done: bool) {
        self.administrator_waits = false;
        if done {
            match call {
                Call::Setup => self.set_up += 1,
                Call::Give => self.right = Right::Given,
                Call::Take => self.right = Right::Taken,
                Call::Write { .. } => unreachable!("writes are not administered"),
            }
        } else if call != Call::Setup {
            // It may be done yet: another role, with a user and a key of its own.
            self.epoch += 1;
            self.set_up = 3;
            self.right = Right::None;
        } else {
            self.give_up_set_up();
        }
    }

    /// A step whose outcome is not known may have been done: repeating it is refused then, and the next goes on.
    fn give_up_set_up(&mut self) {
        if self.set_up >= 3 {
            self.epoch += 1;
            self.set_up = 3;
        }
    }
}

impl Workload for Rights {
    fn draw(&mut self, random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        if !self.administrator_waits && (self.set_up_step().is_some() || random.chance(200_000)) {
            self.administrator_waits = true;
            let (call, change) = self.administer();
            let number = self.call(call);
            return vec![(number, ClientOp::Write { actor: Actor::Node, command: Command::Auth(change) })];
        }
        self.write(random).into_iter().collect()
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, _view: &StateView, _coverage: &mut Coverage) {
        let what = self.calls.remove(&call).expect("every call is answered once");
        let outcome = match answer {
            Answer::Written(outcome) => Some(&outcome.result),
            _ => None,
        };
        match what {
            Call::Write { void } => {
                let took_effect = matches!(outcome, Some(Ok(_)));
                assert!(
                    !(void && took_effect),
                    "auth: write {call:x} was asked for after its right was taken, and done"
                );
            }
            // Done before by a copy whose answer was lost: the state is what was asked for.
            Call::Setup if self.set_up < 3 && outcome.is_some() => self.administered(what, true),
            administered => self.administered(administered, matches!(outcome, Some(Ok(_)))),
        }
    }

    fn lost(&mut self, call: u64, _now: Instant) {
        match self.calls.remove(&call).expect("every call is answered once") {
            Call::Write { .. } => {}
            administered => self.administered(administered, false),
        }
    }

    fn applied(&mut self, node: NodeId, view: &StateView, _now: Instant) {
        self.states.insert(node, view.auth());
    }

    fn died(&mut self, node: NodeId) {
        self.states.remove(&node);
    }

    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        for (node, view) in views {
            let state = view.auth();
            state.check_invariants();
            assert!(*state == *views[0].1.auth(), "auth: nodes {} and {node} hold different rights", views[0].0);
        }
    }
}
