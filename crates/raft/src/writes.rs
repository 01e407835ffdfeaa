//! Writes under way to this node's disk, and what is durable for certain.
//!
//! Owns the numbering of writes and the durable prefix of the current log. Completions may come late and in any order:
//! a write counts only when every earlier one is done too, and entries count only when no write under way will replace
//! them. So a completion of entries that a newer leader has overwritten meanwhile proves nothing about the newer ones.

use std::collections::VecDeque;

use crate::ids::{LogIndex, Time, WriteSeq};

#[derive(Debug)]
struct Write {
    seq: WriteSeq,
    /// From here on the disk differs from the log until this write is done.
    from: Option<LogIndex>,
    /// The last entry on disk once it is done.
    last: LogIndex,
    issued: Time,
    done: bool,
}

#[derive(Debug)]
pub(crate) struct Writes {
    issued: WriteSeq,
    /// Every write up to here is done.
    done: WriteSeq,
    /// Writes after `done`, in order.
    under_way: VecDeque<Write>,
    /// Last entry on disk after `done`.
    disk_last: LogIndex,
    /// The write that installs an image, while it is under way, and the image's last index.
    installing: Option<(WriteSeq, LogIndex)>,
}

impl Writes {
    pub(crate) fn new(disk_last: LogIndex) -> Writes {
        Writes { issued: WriteSeq(0), done: WriteSeq(0), under_way: VecDeque::new(), disk_last, installing: None }
    }

    /// The number the next write will get.
    pub(crate) fn upcoming(&self) -> WriteSeq {
        self.issued.next()
    }

    /// The newest write that was asked for.
    pub(crate) fn issued(&self) -> WriteSeq {
        self.issued
    }

    pub(crate) fn is_done(&self, seq: WriteSeq) -> bool {
        seq <= self.done
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Takes note of a write that replaces the log from `from` on, after which `last` is the last entry.
    pub(crate) fn issue(&mut self, now: Time, from: Option<LogIndex>, last: LogIndex) -> WriteSeq {
        self.issued = self.issued.next();
        self.under_way.push_back(Write { seq: self.issued, from, last, issued: now, done: false });
        self.issued
    }

    /// Takes note of a write that replaces the whole log by an image ending at `last`.
    pub(crate) fn issue_install(&mut self, now: Time, last: LogIndex) -> WriteSeq {
        let seq = self.issue(now, Some(LogIndex(1)), last);
        self.installing = Some((seq, last));
        seq
    }

    /// Takes note that `seq` is done. Returns the last index of an image that is installed with it.
    ///
    /// # Panics
    /// If it was never asked for.
    pub(crate) fn complete(&mut self, seq: WriteSeq) -> Option<LogIndex> {
        assert!(seq <= self.issued, "write {seq} was never asked for");
        if let Some(write) = self.under_way.iter_mut().find(|write| write.seq == seq) {
            write.done = true;
        }
        while let Some(write) = self.under_way.pop_front_if(|write| write.done) {
            self.done = write.seq;
            if write.from.is_some() {
                self.disk_last = write.last;
            }
        }
        self.installing.take_if(|(seq, _)| *seq <= self.done).map(|(_, last)| last)
    }

    /// The current log is on disk up to here.
    pub(crate) fn durable(&self) -> LogIndex {
        if mutant!(OverwrittenWriteCounts) {
            return self.disk_last;
        }
        let replaced = self.under_way.iter().filter_map(|write| write.from).min();
        replaced.map_or(self.disk_last, |from| self.disk_last.min(from.previous()))
    }

    /// When the oldest unfinished write was asked for.
    pub(crate) fn oldest_unfinished(&self) -> Option<Time> {
        self.under_way.front().map(|write| write.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Time = Time(0);

    #[test]
    fn a_write_counts_only_after_all_before_it() {
        let mut writes = Writes::new(LogIndex(0));
        let first = writes.issue(T, Some(LogIndex(1)), LogIndex(1));
        let second = writes.issue(T, Some(LogIndex(2)), LogIndex(2));
        assert_eq!(writes.complete(second), None);
        assert_eq!(writes.durable(), LogIndex(0));
        assert_eq!(writes.complete(first), None);
        assert_eq!(writes.durable(), LogIndex(2));
        assert!(writes.is_done(second));
    }

    #[test]
    fn a_completion_of_overwritten_entries_proves_nothing_about_the_new_ones() {
        let mut writes = Writes::new(LogIndex(4));
        let old = writes.issue(T, Some(LogIndex(5)), LogIndex(7));
        let new = writes.issue(T, Some(LogIndex(5)), LogIndex(5));
        assert_eq!(writes.complete(old), None);
        assert_eq!(writes.durable(), LogIndex(4));
        assert_eq!(writes.complete(new), None);
        assert_eq!(writes.durable(), LogIndex(5));
    }

    #[test]
    fn a_repeated_completion_changes_nothing() {
        let mut writes = Writes::new(LogIndex(0));
        let first = writes.issue(T, Some(LogIndex(1)), LogIndex(3));
        assert_eq!(writes.complete(first), None);
        assert_eq!(writes.complete(first), None);
        assert_eq!(writes.durable(), LogIndex(3));
    }

    #[test]
    fn nothing_is_durable_while_an_image_is_installed() {
        let mut writes = Writes::new(LogIndex(9));
        let install = writes.issue_install(T, LogIndex(20));
        assert_eq!(writes.durable(), LogIndex(0));
        assert!(writes.is_installing());
        assert_eq!(writes.complete(install), Some(LogIndex(20)));
        assert_eq!(writes.durable(), LogIndex(20));
        assert!(!writes.is_installing());
    }
}
