//! Talking to other nodes: greetings, admission, encoded messages.

use std::sync::Arc;

use quorate_node::{Admitted, Input, Node, Restored};
use quorate_raft::NodeId;
use quorate_wire::peer::Hello;
use quorate_wire::{PeerMessage, WRITTEN_VERSION, decode_peer, encode_peer};

use super::{CLUSTER, Disk, FullTier, Packet, Process, config, jitter, storage};
use crate::context::Context;
use crate::core_tier::describe_message;
use crate::coverage::{Handler, Reached};
use crate::tier::Killed;
use crate::world::member;

impl Process {
    /// Starts the replica of a process that a cluster has taken in.
    pub(super) fn start_node(&mut self, context: &mut Context<FullTier>) -> Result<(), Killed> {
        let identity = self.lifecycle.identity().expect("a replica has an identity");
        self.state.set_cluster_id(identity.cluster_id).map_err(|_| Killed)?;
        let recovered = self.log.recovered();
        let first = storage::first_unapplied(&self.state);
        let tail = self.log.entries(first, usize::MAX);
        let tail = self.healthy(context, Handler::Open, tail)?;
        let applied = storage::applied_state(&self.state);
        let restored = Restored {
            raft: quorate_raft::Restored {
                hard_state: recovered.hard_state,
                base: recovered.base,
                base_membership: recovered.base_membership,
                terms: recovered.terms,
                last: recovered.last,
                memberships: recovered.memberships,
                tail,
                applied: applied.index,
            },
            applied,
            log_bytes: recovered.entry_bytes,
            barred: storage::barred(&recovered.mark),
            session: storage::session(context),
        };
        let version = context.versions[context.host.0];
        let config = config::node_config(context, recovered.incarnation, version);
        let jitter = jitter(context);
        self.node = Some(Node::new(config, identity, restored, context.local(), jitter));
        self.step_batch(context, vec![Input::Tick { jitter }])
    }

    /// Takes in what the network brings.
    pub(super) fn receive(
        &mut self,
        context: &mut Context<FullTier>,
        disk: &mut Disk,
        packet: Packet,
    ) -> Result<(), Killed> {
        match packet {
            Packet::Message { hello, bytes, .. } => {
                context.trace.record(&[40, hello.from.0]);
                context.trace.bytes(&bytes);
                if !self.admit(context, &hello)? {
                    return Ok(());
                }
                let message = decode_peer(bytes).expect("what a node sends, a node can read");
                self.step(context, Input::Peer { from: hello.from, message })
            }
            Packet::Image { hello, term, chunks, number } => {
                if !self.admit(context, &hello)? {
                    return Ok(());
                }
                self.receive_image(context, disk.node, hello.from, term, &chunks, number)
            }
            Packet::ImageReceived { from, index, number } => self.image_received(context, from, index, number),
        }
    }

    /// Whether what comes with this greeting is taken; an empty node takes the identity that the greeting offers.
    fn admit(&mut self, context: &mut Context<FullTier>, hello: &Hello) -> Result<bool, Killed> {
        let membership = (!self.membership.is_empty()).then_some(&*self.membership);
        match self.lifecycle.admit(hello, membership) {
            Ok(Admitted::Welcome) => {}
            Ok(Admitted::Adopt(identity)) => {
                context.survive(Handler::OtherStep)?;
                self.log.set_identity(identity).map_err(|_| Killed)?;
                self.start_node(context)?;
            }
            Err(refused) => {
                context.trace.line(context.now(), || format!("host {} refuses a stream: {refused}", context.host.0));
                return Ok(false);
            }
        }
        self.peers.insert(hello.from, hello.member.incarnation);
        Ok(true)
    }

    /// The first frame of a stream to a node, if its incarnation is known.
    pub(super) fn hello(&self, context: &Context<FullTier>, to: NodeId) -> Option<Arc<Hello>> {
        // A node that is behind may know of a member that its data directory is not known yet, and hear from it.
        let bound = self.membership.members.get(&to).filter(|member| member.is_bound());
        let to_incarnation = bound.map(|member| member.incarnation).or_else(|| self.peers.get(&to).copied())?;
        Some(Arc::new(Hello {
            cluster_id: CLUSTER,
            from: context.node,
            member: member(context.host, self.lifecycle.incarnation(), context.versions[context.host.0]),
            to,
            to_incarnation,
            format_version: WRITTEN_VERSION,
            refused: None,
        }))
    }

    /// Encodes a message and sends it.
    pub(super) fn send(&mut self, context: &mut Context<FullTier>, to: NodeId, message: &PeerMessage) {
        if let PeerMessage::Raft(message) = message {
            context.sent(message);
        }
        if matches!(message, PeerMessage::ForwardReply(_)) {
            context.coverage.hit(Reached::ForwardRefused);
        }
        // What its state machine says of other nodes' requests is as wrong as the state.
        if self.has_strayed() && matches!(message, PeerMessage::Outcome(_)) {
            return;
        }
        let Some(hello) = self.hello(context, to) else { return };
        context.send(to, &Packet::Message { hello, handler: handler(message), bytes: encode_peer(message) });
    }
}

/// What a message is, for the table of coverage.
fn handler(message: &PeerMessage) -> Handler {
    match message {
        PeerMessage::Raft(message) => describe_message(message).0,
        PeerMessage::Forward(_) => Handler::Forward,
        PeerMessage::ForwardReply(_) => Handler::ForwardReply,
        PeerMessage::Admin(_) | PeerMessage::AdminReply(_) => Handler::PeerAdmin,
        PeerMessage::Digest { .. } => Handler::PeerDigest,
        _ => Handler::PeerOther,
    }
}
