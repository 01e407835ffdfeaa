//! What a node is to a cluster, from an empty directory to removal, and whom it listens to.
//!
//! Owns the rules of bootstrap, adoption of an id and admission of peers. Lives beside [`Node`](crate::Node), because an empty
//! directory has no replica yet. Does no IO: where a method says so, the caller makes its result durable before it answers
//! anybody, and stops if it cannot.
//!
//! Invariants:
//! 1. at most one cluster and one id are ever adopted by a directory, and the id follows from cluster and incarnation;
//! 2. removed, fenced and damaged are left only by setting the data aside ([`Lifecycle::check_reset`]).

use quorate_raft::{Incarnation, Membership, NodeId};
use quorate_wire::identity::check_version;
use quorate_wire::peer::{Hello, HelloRefused, NodeState};
use quorate_wire::{Bootstrap, Identity, derive_node_id};

/// What a node is to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifecycle {
    incarnation: Incarnation,
    identity: Option<Identity>,
    bootstrap: Option<Bootstrap>,
    seen_in_configuration: bool,
    /// Nodes that have left, by the newest configuration known to be committed.
    removed: Vec<NodeId>,
    barred: Option<Barred>,
}

/// Why a node neither votes nor serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barred {
    /// Removed, Fenced or Damaged.
    pub state: NodeState,
    /// For people.
    pub reason: String,
}

/// How a bootstrap configuration was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitAccepted {
    /// Now. Make the configuration and this identity durable in one transaction, then answer, then start the replica.
    New(Identity),
    /// Before; nothing to do.
    Again(Identity),
}

/// Why a bootstrap configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitRefused {
    /// Another one was accepted.
    #[error("this node already accepted another bootstrap configuration, of cluster {cluster_id:032x}")]
    OtherBootstrap {
        /// Its cluster.
        cluster_id: u128,
    },
    /// It was admitted to a running cluster.
    #[error("this node already belongs to cluster {cluster_id:032x} as node {node_id}")]
    AlreadyMember {
        /// The cluster.
        cluster_id: u128,
        /// Its id there.
        node_id: NodeId,
    },
    /// It does not name this node.
    #[error("the bootstrap configuration does not list this node (incarnation {:032x})", incarnation.0)]
    NotListed {
        /// This node.
        incarnation: Incarnation,
    },
    /// Removed, fenced or damaged.
    #[error("this node is {state:?}: {reason}")]
    Barred {
        /// Which.
        state: NodeState,
        /// Why.
        reason: String,
    },
}

/// How a caller was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Take its messages.
    Welcome,
    /// It admits this empty node to its cluster. Make the identity durable, then answer, then start the replica.
    Adopt(Identity),
}

/// Why data may not be set aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResetRefused {
    /// It is needed.
    #[error("this node is a current member of its cluster: remove it first")]
    CurrentMember,
    /// The caller means another node.
    #[error("this is node {node_id} of cluster {cluster_id:032x}, not the one named")]
    OtherNode {
        /// This node's cluster.
        cluster_id: u128,
        /// This node's id.
        node_id: NodeId,
    },
    /// There is nothing to set aside.
    #[error("this node is not initialised: it has nothing to set aside")]
    Empty,
}

impl Lifecycle {
    /// What the log file says. `barred` is the durable mark of [`Effect::StateChanged`](crate::Effect::StateChanged), or the
    /// damage found while opening; `committed` the newest configuration known to be committed, if there is any.
    pub fn new(
        incarnation: Incarnation,
        identity: Option<Identity>,
        bootstrap: Option<Bootstrap>,
        barred: Option<Barred>,
        committed: Option<&Membership>,
    ) -> Lifecycle {
        let mut lifecycle =
            Lifecycle { incarnation, identity, bootstrap, seen_in_configuration: false, removed: Vec::new(), barred };
        if let Some(committed) = committed {
            lifecycle.configuration_committed(committed);
        }
        lifecycle
    }

    /// The random name of this node's data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Cluster and id, once adopted.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The bootstrap configuration, if this node was initialised and not admitted later.
    pub fn bootstrap(&self) -> Option<&Bootstrap> {
        self.bootstrap.as_ref()
    }

    /// The state, as Status and metrics show it.
    pub fn state(&self) -> NodeState {
        match (&self.barred, self.identity) {
            (Some(barred), _) => barred.state,
            (None, None) => NodeState::Uninitialised,
            (None, Some(_)) if self.seen_in_configuration => NodeState::Member,
            (None, Some(_)) => NodeState::Joining,
        }
    }

    /// Why the node is removed, fenced or damaged; else empty.
    pub fn reason(&self) -> &str {
        self.barred.as_ref().map_or("", |barred| barred.reason.as_str())
    }

    /// Accepts a bootstrap configuration, or finds that it did so before.
    ///
    /// # Errors
    /// [`InitRefused`]; nothing changed.
    pub fn init(&mut self, bootstrap: &Bootstrap) -> Result<InitAccepted, InitRefused> {
        if let Some(barred) = &self.barred {
            return Err(InitRefused::Barred { state: barred.state, reason: barred.reason.clone() });
        }
        if let Some(identity) = self.identity {
            return match &self.bootstrap {
                Some(accepted) if accepted == bootstrap => Ok(InitAccepted::Again(identity)),
                Some(accepted) => Err(InitRefused::OtherBootstrap { cluster_id: accepted.cluster_id }),
                // Another first voter was told earlier and greeted this node before its own Init came.
                None if bootstrap.cluster_id == identity.cluster_id
                    && bootstrap.members.contains_key(&identity.node_id) =>
                {
                    Ok(InitAccepted::Again(identity))
                }
                None => Err(InitRefused::AlreadyMember { cluster_id: identity.cluster_id, node_id: identity.node_id }),
            };
        }
        let node_id = derive_node_id(bootstrap.cluster_id, self.incarnation);
        if !bootstrap.members.contains_key(&node_id) {
            return Err(InitRefused::NotListed { incarnation: self.incarnation });
        }
        let identity = Identity { cluster_id: bootstrap.cluster_id, node_id };
        self.identity = Some(identity);
        self.bootstrap = Some(bootstrap.clone());
        Ok(InitAccepted::New(identity))
    }

    /// Decides about the first frame of a caller. `membership` is this node's newest configuration, committed or not. That a
    /// caller was removed is believed of a committed one alone: another may be taken back, and then the caller is needed.
    ///
    /// A caller that stands in no configuration known here is let in: this node may be the one that is behind, and consensus
    /// answers by the caller's configuration.
    ///
    /// # Errors
    /// [`HelloRefused`], for the answering hello.
    pub fn admit(&mut self, hello: &Hello, membership: Option<&Membership>) -> Result<Admitted, HelloRefused> {
        check_version("peer stream", hello.format_version)
            .map_err(|error| HelloRefused::UnknownVersion(error.to_string()))?;
        if hello.to_incarnation != self.incarnation {
            let text = format!("this is incarnation {:032x}", self.incarnation.0);
            return Err(HelloRefused::WrongNode(text));
        }
        match self.identity {
            Some(identity) => {
                self.check_cluster(identity, hello)?;
                self.check_caller(hello, membership)?;
                Ok(Admitted::Welcome)
            }
            None => self.adopt(hello).map(Admitted::Adopt),
        }
    }

    fn check_cluster(&self, identity: Identity, hello: &Hello) -> Result<(), HelloRefused> {
        if hello.cluster_id != identity.cluster_id {
            let text = format!("this node belongs to cluster {:032x}", identity.cluster_id);
            return Err(HelloRefused::WrongCluster(text));
        }
        if hello.to != identity.node_id || hello.from == identity.node_id {
            return Err(HelloRefused::WrongNode(format!("this is node {}", identity.node_id)));
        }
        match &self.barred {
            Some(barred) => Err(HelloRefused::NotServing(format!("{:?}: {}", barred.state, barred.reason))),
            None => Ok(()),
        }
    }

    fn check_caller(&self, hello: &Hello, membership: Option<&Membership>) -> Result<(), HelloRefused> {
        if self.removed.contains(&hello.from) {
            let text = format!("node {} has left the cluster for ever", hello.from);
            return Err(HelloRefused::Removed(text));
        }
        let Some(membership) = membership else { return Ok(()) };
        match membership.members.get(&hello.from) {
            // This node may be behind the entry that ties the id to the caller's data directory. Until then the id counts in no quorum,
            // and is adopted only by whom the leader names.
            Some(known) if known.is_bound() && known.incarnation != hello.member.incarnation => {
                Err(HelloRefused::WrongIncarnation(format!(
                    "node {} is incarnation {:032x}",
                    hello.from, known.incarnation.0
                )))
            }
            _ => Ok(()),
        }
    }

    fn adopt(&mut self, hello: &Hello) -> Result<Identity, HelloRefused> {
        assert!(self.identity.is_none(), "an id is adopted once");
        if let Some(barred) = &self.barred {
            return Err(HelloRefused::NotServing(format!("{:?}: {}", barred.state, barred.reason)));
        }
        // The caller names this very data directory, so the id cannot be meant for another one behind the same address.
        let identity = Identity { cluster_id: hello.cluster_id, node_id: hello.to };
        self.identity = Some(identity);
        Ok(identity)
    }

    /// A configuration was committed, as [`Effect::MembershipChanged`](crate::Effect::MembershipChanged) tells.
    pub fn configuration_committed(&mut self, membership: &Membership) {
        if self.identity.is_some_and(|identity| membership.members.contains_key(&identity.node_id)) {
            self.seen_in_configuration = true;
        }
        self.removed.clone_from(&membership.removed);
    }

    /// The node was removed, fenced or found damaged, as [`Effect::StateChanged`](crate::Effect::StateChanged) or the store
    /// tells. The first reason stays, except that removal is final.
    pub fn bar(&mut self, state: NodeState, reason: String) {
        assert!(matches!(state, NodeState::Removed | NodeState::Fenced | NodeState::Damaged), "{state:?} bars nobody");
        if self.barred.is_none() || state == NodeState::Removed {
            self.barred = Some(Barred { state, reason });
        }
    }

    /// Whether the data may be set aside and the node started empty, under a new incarnation. `committed` is the newest
    /// configuration known to be committed.
    ///
    /// # Errors
    /// [`ResetRefused`].
    pub fn check_reset(
        &self,
        cluster_id: u128,
        node_id: NodeId,
        committed: Option<&Membership>,
    ) -> Result<(), ResetRefused> {
        let Some(identity) = self.identity else { return Err(ResetRefused::Empty) };
        if (identity.cluster_id, identity.node_id) != (cluster_id, node_id) {
            return Err(ResetRefused::OtherNode { cluster_id: identity.cluster_id, node_id: identity.node_id });
        }
        let listed = committed.is_some_and(|committed| committed.members.contains_key(&node_id));
        // A fenced or damaged node is still listed, but its data is what has to go.
        if listed && self.barred.is_none() {
            return Err(ResetRefused::CurrentMember);
        }
        Ok(())
    }
}
