//! Log matching: which entries of a leader's append this node keeps, and what it answers.
//!
//! Owns the follower's side of replication. An acknowledgement is a promise about the disk: it waits for the write of the
//! entries it speaks of. A committed entry is never replaced; a repeated or late append changes nothing.

use crate::entry::Entry;
use crate::ids::{LogIndex, NodeId, Round, Term, WriteSeq};
use crate::message::{AppendResult, Body, Message};
use crate::raft::Raft;

impl Raft {
    /// Takes in an append of the leader of this term.
    ///
    /// # Panics
    /// If it contradicts a committed entry.
    pub(crate) fn append_received(
        &mut self,
        from: NodeId,
        round: Round,
        prev: (LogIndex, Term),
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        if !is_well_formed(prev, &entries, self.term) {
            return;
        }
        let heartbeat = entries.is_empty();
        let Some((prev, entries)) = self.beyond_commit(prev, entries) else {
            self.matched(from, round, self.log.commit(), commit, heartbeat);
            return;
        };
        let unknown = mutant!(MissingPrevMatches) && self.log.term_at(prev.0).is_none();
        if self.log.term_at(prev.0) != Some(prev.1) && !unknown {
            self.conflict(from, round, prev);
            return;
        }
        let up_to = LogIndex(prev.0.0 + entries.len() as u64);
        for entry in entries {
            let held = self.log.term_at(entry.index);
            if held == Some(entry.term) {
                continue;
            }
            if held.is_some() {
                self.truncate_log(entry.index);
            }
            self.append_entry(entry);
        }
        if mutant!(OldAppendTruncates) && !heartbeat && up_to < self.log.last() {
            self.truncate_log(up_to.next());
        }
        self.matched(from, round, up_to, commit, heartbeat);
    }

    /// The part of an append after what is committed here. None if nothing is: then it agrees with this log, because the
    /// leader holds every committed entry.
    fn beyond_commit(&self, prev: (LogIndex, Term), mut entries: Vec<Entry>) -> Option<((LogIndex, Term), Vec<Entry>)> {
        let commit = self.log.commit();
        if prev.0 >= commit {
            return Some((prev, entries));
        }
        let known = usize::try_from(commit.0 - prev.0.0).unwrap_or(usize::MAX);
        if entries.len() < known {
            return None;
        }
        let rest = entries.split_off(known);
        let at_commit = entries.last().map_or(prev.1, |entry| entry.term);
        assert_eq!(self.log.term_at(commit), Some(at_commit), "the leader contradicts the committed entry at {commit}");
        Some(((commit, at_commit), rest))
    }

    /// The log agrees with the leader's up to `up_to`.
    fn matched(&mut self, from: NodeId, round: Round, up_to: LogIndex, commit: LogIndex, heartbeat: bool) {
        let Some(follower) = self.role.follower_mut() else { unreachable!("whoever takes appends follows") };
        follower.verified = follower.verified.max(up_to);
        let verified = follower.verified;
        self.commit_to(commit.min(verified));
        let newest_write = self.newest_write();
        // A heartbeat asks for a sign of life: it is answered at once, with what the disk holds by now. An append is answered
        // when the disk holds its entries.
        let (up_to, after) = if heartbeat {
            (verified.min(self.durable()), self.hard_state_write)
        } else if up_to <= self.durable() {
            (up_to, self.hard_state_write)
        } else {
            (up_to, newest_write)
        };
        let Some(follower) = self.role.follower_mut() else { unreachable!("whoever takes appends follows") };
        // News of the commit index alone, in a round that was answered, needs no answer.
        if heartbeat && follower.answered == Some((round, up_to)) {
            return;
        }
        follower.answered = Some((round, up_to));
        self.reply_matched(from, round, up_to, after);
    }

    /// Even an answer that promises no new entry waits for the term: a node that forgot the term could let an older
    /// leader overwrite what it has just confirmed to the newer one.
    pub(crate) fn reply_matched(&mut self, to: NodeId, round: Round, up_to: LogIndex, after: WriteSeq) {
        let message = self.append_reply(to, round, AppendResult::Matched { up_to });
        let after = if mutant!(AckBeforeSync) { WriteSeq(0) } else { after };
        self.send_after(after, message);
    }

    fn conflict(&mut self, to: NodeId, round: Round, prev: (LogIndex, Term)) {
        let hint_index = self.log.last_at_or_below(prev.0, prev.1);
        let hint_term = self.log.term_at(hint_index).expect("a hint lies within the log");
        let result = AppendResult::Conflict { hint_index, hint_term, last_index: self.log.last() };
        let message = self.append_reply(to, round, result);
        self.send_after(self.hard_state_write, message);
    }

    /// An answer to the leader of this term, who was heard just now.
    fn append_reply(&mut self, to: NodeId, round: Round, result: AppendResult) -> Message {
        let probe = self.send_probe();
        self.message(to, Body::AppendReply { round, result, probe, promise: self.config.election_timeout })
    }
}

/// Whether the entries follow `prev` without a gap and their terms rise up to the leader's.
fn is_well_formed(prev: (LogIndex, Term), entries: &[Entry], leader_term: Term) -> bool {
    if prev.0.0.checked_add(entries.len() as u64).is_none() {
        return false;
    }
    let mut before = prev;
    let consecutive = entries.iter().all(|entry| {
        let fits = entry.index == before.0.next() && entry.term >= before.1;
        before = (entry.index, entry.term);
        fits
    });
    consecutive && before.1 <= leader_term
}
