//! Who waits for which answer.
//!
//! Requests are numbered in the order they come and answered in nearly that order, so a ring indexed by number does what a map
//! would, without hashing.

use std::collections::VecDeque;

use quorate_node::Answer;
use quorate_raft::RequestId;
use tokio::sync::oneshot;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Number of the first slot.
    first: u64,
    slots: VecDeque<Option<oneshot::Sender<Answer>>>,
}

impl Pending {
    /// Remembers a caller and numbers its request.
    pub(crate) fn add(&mut self, caller: oneshot::Sender<Answer>) -> RequestId {
        let request = RequestId(self.first + self.slots.len() as u64);
        self.slots.push_back(Some(caller));
        request
    }

    /// Takes the caller of `request` out.
    pub(crate) fn take(&mut self, request: RequestId) -> Option<oneshot::Sender<Answer>> {
        let slot = usize::try_from(request.0.checked_sub(self.first)?).ok()?;
        let caller = self.slots.get_mut(slot)?.take()?;
        while matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_is_taken_once_whatever_the_order() {
        let mut pending = Pending::default();
        let requests: Vec<_> = (0..4).map(|_| pending.add(oneshot::channel().0)).collect();
        for request in [2, 0, 3, 1] {
            assert!(pending.take(requests[request]).is_some());
            assert!(pending.take(requests[request]).is_none());
        }
        assert!(pending.slots.is_empty());
        assert!(pending.add(oneshot::channel().0) > requests[3]);
    }
}
