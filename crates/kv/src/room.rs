//! How much the answers of commands may take where they are applied.
//!
//! A write is applied on every node, by the one thread that does so, and before anybody can say that there is no room for its
//! answer: a transaction of a few kilobytes may read all there is a hundred times. So its answer is bounded right there. What
//! would pass the bound is not read, and the answer is withheld; the write is done all the same.
//!
//! Never has a say in what a command changes: nodes may withhold what others answer, and have the same state.

use std::cell::Cell;

/// Room for the answers of commands that are applied together, in bytes of memory.
#[derive(Debug)]
pub struct AnswerRoom {
    per_command: usize,
    left: Cell<usize>,
    /// Of the command under way; `None` once it wanted more than there is.
    taken: Cell<Option<usize>>,
}

impl AnswerRoom {
    /// Room for `together` bytes, of which one command may take `per_command`.
    #[must_use]
    pub fn new(per_command: usize, together: usize) -> AnswerRoom {
        AnswerRoom { per_command, left: Cell::new(together), taken: Cell::new(Some(0)) }
    }

    /// Room for everything.
    #[must_use]
    pub fn unlimited() -> AnswerRoom {
        AnswerRoom::new(usize::MAX, usize::MAX)
    }

    /// Whether the command under way may answer `bytes` more; after the first that it may not, nothing more.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.get().map(|taken| taken.saturating_add(bytes));
        self.taken.set(taken.filter(|taken| *taken <= self.per_command.min(self.left.get())));
        !self.is_spent()
    }

    /// Whether the answer of the command under way is withheld.
    pub(crate) fn is_spent(&self) -> bool {
        self.taken.get().is_none()
    }

    /// The command is done. Says whether its answer is there; one that is withheld takes no room from those after it.
    pub(crate) fn end_command(&self) -> bool {
        let taken = self.taken.replace(Some(0));
        self.left.set(self.left.get() - taken.unwrap_or(0));
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_past_the_room_of_a_command_is_refused_and_the_last_byte_is_not() {
        let room = AnswerRoom::new(100, 1_000);
        assert!(room.take(99) && room.take(1) && !room.is_spent());
        assert!(!room.take(1) && room.is_spent() && !room.take(0));
    }

    #[test]
    fn what_is_answered_takes_room_from_the_next_and_what_is_withheld_does_not() {
        let room = AnswerRoom::new(100, 150);
        assert!(room.take(60) && room.end_command());
        assert!(!room.take(91) && !room.end_command());
        assert!(room.take(90) && room.end_command());
        assert!(!room.take(1) && !room.end_command());
        assert!(room.take(0) && room.end_command());
    }
}
