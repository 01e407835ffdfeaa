//! Images on their way between nodes: read in chunks while writes go on, sent whole, verified by the receiver.

use std::sync::Arc;

use bytes::Bytes;
use quorate_node::Input;
use quorate_raft::{LogIndex, NodeId, Term};
use quorate_store::{ReceivedSnapshot, SnapshotError};

use super::config::image_frame_bytes;
use super::{CLUSTER, Event, FullTier, Packet, Process, Sending, StateJob, power};
use crate::context::{Context, Event as WorldEvent};
use crate::coverage::{Handler, Reached, Struck};
use crate::tier::Killed;

impl Process {
    /// Begins to read an image for a node.
    pub(super) fn send_image(&mut self, context: &mut Context<FullTier>, to: NodeId, term: Term) -> Result<(), Killed> {
        context.coverage.hit(Reached::SnapshotSent);
        self.images += 1;
        let number = self.images;
        let source = match self.state.snapshot() {
            Ok(source) => source.in_frames_of(image_frame_bytes(context)),
            Err(SnapshotError::Read(error)) => return Err(self.read_failed(context, error)),
            Err(error) => panic!("no image of a member's state: {error}"),
        };
        self.sending.insert(to, Sending { number, term, source: Some(source), chunks: Vec::new() });
        context.later(1, Event::ImageChunk { to, number });
        Ok(())
    }

    /// Reads the next chunk, or sends the image that is whole.
    pub(super) fn image_chunk(
        &mut self,
        context: &mut Context<FullTier>,
        to: NodeId,
        number: u64,
    ) -> Result<(), Killed> {
        let sending = self.sending.get_mut(&to).filter(|sending| sending.number == number);
        let Some(sending) = sending else { return Ok(()) };
        let Some(source) = &mut sending.source else { return Ok(()) };
        if let Some(chunk) = source.next() {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Err(self.read_failed(context, error)),
            };
            sending.chunks.push(chunk);
            // Small frames are many, and shall not take for ever.
            let share = context.plan.timeout_us() * image_frame_bytes(context) as u64 / 100_000;
            let delay = 1 + context.random.exponential(context.plan.disk.apply_mean_us.min(share));
            context.later(delay, Event::ImageChunk { to, number });
            return Ok(());
        }
        sending.source = None;
        // From here on: an image of many frames may take longer to read than anybody waits for an answer.
        let timeout = context.plan.timeout_us();
        context.later(timeout * 4, Event::ImageTimedOut { to, number });
        let mut chunks = std::mem::take(&mut sending.chunks);
        let term = sending.term;
        if context.faulty && context.random.chance(50_000) {
            damage(context, &mut chunks);
        }
        let (Some(hello), Some(&host)) = (self.hello(context, to), context.cluster.directory.get(&to)) else {
            return Ok(());
        };
        let (now, size) = (context.now(), (size(&chunks), context.random.below(context.plan.timeout_us())));
        match context.network.transfer(now, context.host, host, size, &mut context.coverage) {
            // Nothing could tell whose state is right once a majority had taken in the wrong one.
            Some(at) if !self.has_strayed() => {
                let image = Packet::Image { hello, term, chunks: Arc::new(chunks), number };
                context.queue.at(at, WorldEvent::Arrive { host, stream: None, node: to, message: image });
            }
            _ => {
                context.coverage.hit(Reached::SnapshotLost);
                context.coverage.struck(Struck::Lost, Handler::Image);
            }
        }
        Ok(())
    }

    /// Takes an image in and tells the sender, unless it is damaged.
    pub(super) fn receive_image(
        &mut self,
        context: &mut Context<FullTier>,
        own: NodeId,
        from: NodeId,
        term: Term,
        chunks: &[Bytes],
        number: u64,
    ) -> Result<(), Killed> {
        // An image that the state is about to switch to, or may be told to, keeps its place on the disk.
        let is_announced = self.queued.iter().any(|input| matches!(input, Input::SnapshotReceived { .. }));
        if is_announced || self.state_jobs.iter().any(|job| matches!(job, StateJob::Install { .. })) {
            return Ok(());
        }
        self.received = None;
        context.survive(Handler::InstallStep)?;
        self.may_lose_power(context, power::SELDOM);
        let taken = self.take_in(chunks);
        self.power_is_on(context, Handler::ReceiveImage)?;
        let received = match taken {
            Ok(received) => received,
            Err(error) => {
                self.image_refused(context, &error);
                return Ok(());
            }
        };
        let meta = received.meta();
        let index = meta.index;
        context.oracle.judge_image(context.node, &meta);
        self.received = Some(received);
        self.step(context, Input::SnapshotReceived { from, term, meta })?;
        context.send(from, &Packet::ImageReceived { from: own, index, number });
        Ok(())
    }

    fn take_in(&self, chunks: &[Bytes]) -> Result<ReceivedSnapshot, SnapshotError> {
        let mut sink = self.state.receive_snapshot(CLUSTER)?;
        chunks.iter().try_for_each(|chunk| sink.push(chunk))?;
        sink.finish()
    }

    fn image_refused(&self, context: &mut Context<FullTier>, error: &SnapshotError) {
        context.trace.line(context.now(), || format!("image refused: {error}"));
        if self.files.failures() > self.failures_before {
            context.coverage.struck(Struck::Failed, Handler::ReceiveImage);
        }
    }

    /// The receiver of an image has it whole.
    pub(super) fn image_received(
        &mut self,
        context: &mut Context<FullTier>,
        from: NodeId,
        index: LogIndex,
        number: u64,
    ) -> Result<(), Killed> {
        if self.sending.get(&from).is_none_or(|sending| sending.number != number) {
            return Ok(());
        }
        self.sending.remove(&from);
        self.step(context, Input::SnapshotSent { to: from, result: Ok(index) })
    }

    /// No answer came for an image.
    pub(super) fn image_timed_out(
        &mut self,
        context: &mut Context<FullTier>,
        to: NodeId,
        number: u64,
    ) -> Result<(), Killed> {
        if self.sending.get(&to).is_none_or(|sending| sending.number != number) {
            return Ok(());
        }
        self.sending.remove(&to);
        self.step(context, Input::SnapshotSent { to, result: Err(()) })
    }
}

/// Bytes that an image takes on the network.
pub(super) fn size(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

/// Flips one bit of an image on its way.
fn damage(context: &mut Context<FullTier>, chunks: &mut [Bytes]) {
    let Some(victim) = context.random.pick(&(0..chunks.len()).collect::<Vec<_>>()).copied() else { return };
    let mut bytes = chunks[victim].to_vec();
    if bytes.is_empty() {
        return;
    }
    let at = context.random.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << context.random.below(8);
    chunks[victim] = Bytes::from(bytes);
    context.coverage.hit(Reached::ImageDamaged);
}
