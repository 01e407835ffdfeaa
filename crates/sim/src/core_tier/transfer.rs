//! Packets between nodes of the core tier, and the transfer of images, which goes its own way past the messages.

use quorate_raft::{Body, Entry, Input, LogIndex, Message, NodeId, RoleKind, Term};

use super::state::AppliedState;
use super::{CoreTier, Disk, Event, Process};
use crate::context::{Context, Event as WorldEvent};
use crate::coverage::{Handler, Reached, Struck};
use crate::tier::Killed;

/// What travels between hosts.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    /// A message of the core.
    Raft(Message),
    /// A whole image.
    Image { from: NodeId, term: Term, state: AppliedState, number: u64 },
    /// The image arrived whole.
    ImageReceived { from: NodeId, index: LogIndex, number: u64 },
}

/// Bytes that a message takes beside its entries, about.
const MESSAGE_BYTES: u64 = 60;

/// An image of this tier is a hash; this is what one would take.
const IMAGE_BYTES: u64 = 20_000;

/// What a packet is, and about how large.
pub(super) fn describe(packet: &Packet) -> (Handler, u64) {
    match packet {
        Packet::Raft(message) => describe_message(message),
        Packet::Image { .. } => (Handler::Image, IMAGE_BYTES),
        Packet::ImageReceived { .. } => (Handler::ImageReceived, MESSAGE_BYTES),
    }
}

/// What a message of the core is, and about how large.
pub(crate) fn describe_message(message: &Message) -> (Handler, u64) {
    let handler = match &message.body {
        Body::Append { entries, .. } if entries.is_empty() => Handler::Heartbeat,
        Body::Append { entries, .. } => {
            let bytes: usize = entries.iter().map(Entry::size).sum();
            return (Handler::Append, MESSAGE_BYTES + bytes as u64);
        }
        Body::AppendReply { .. } => Handler::AppendReply,
        Body::RequestVote { pre: true, .. } => Handler::RequestPreVote,
        Body::RequestVote { .. } => Handler::RequestVote,
        Body::VoteReply { .. } => Handler::VoteReply,
        Body::TimeoutNow => Handler::TimeoutNow,
        Body::ReadIndex { .. } => Handler::ReadIndex,
        Body::ReadIndexReply { .. } => Handler::ReadIndexReply,
    };
    (handler, MESSAGE_BYTES)
}

impl Process {
    /// Takes in what the network brings.
    pub(super) fn receive(
        &mut self,
        context: &mut Context<CoreTier>,
        disk: &mut Disk,
        packet: Packet,
    ) -> Result<(), Killed> {
        match packet {
            Packet::Raft(message) => self.step(context, disk, Input::Message(message)),
            Packet::Image { from, term, state, number } => {
                let meta = state.meta();
                let index = meta.index;
                // An image that is being switched to must not be replaced under the switch.
                if self.installing.is_none() {
                    self.received = Some(state);
                    self.step(context, disk, Input::SnapshotReceived { from, term, meta })?;
                }
                context.send(from, &Packet::ImageReceived { from: disk.node, index, number });
                Ok(())
            }
            Packet::ImageReceived { from, index, number } => {
                if self.sending.get(&from) != Some(&number) {
                    return Ok(());
                }
                self.sending.remove(&from);
                self.step(context, disk, Input::SnapshotReport { to: from, sent: Ok(index) })
            }
        }
    }

    /// Starts to send the present state to a node.
    pub(super) fn send_image(&mut self, context: &mut Context<CoreTier>, to: NodeId) {
        context.coverage.hit(Reached::SnapshotSent);
        self.applies += 1;
        let number = self.applies;
        self.sending.insert(to, number);
        let status = self.raft.status();
        assert!(status.role == RoleKind::Leader, "a node that does not lead sends an image");
        let timeout = context.plan.timeout_us();
        context.later(timeout * 4, Event::ImageTimedOut { to, number });
        let Some(&host) = context.cluster.directory.get(&to) else { return };
        let extra = context.random.below(timeout * 2);
        let (now, size) = (context.now(), (IMAGE_BYTES, extra));
        match context.network.transfer(now, context.host, host, size, &mut context.coverage) {
            Some(at) => {
                let image = Packet::Image { from: context.node, term: status.term, state: self.state.clone(), number };
                context.queue.at(at, WorldEvent::Arrive { host, stream: None, node: to, message: image });
            }
            None => {
                context.coverage.hit(Reached::SnapshotLost);
                context.coverage.struck(Struck::Lost, Handler::Image);
            }
        }
    }

    /// No answer came for an image.
    pub(super) fn image_timed_out(
        &mut self,
        context: &mut Context<CoreTier>,
        disk: &mut Disk,
        to: NodeId,
        number: u64,
    ) -> Result<(), Killed> {
        if self.sending.get(&to) != Some(&number) {
            return Ok(());
        }
        self.sending.remove(&to);
        self.step(context, disk, Input::SnapshotReport { to, sent: Err(()) })
    }
}
