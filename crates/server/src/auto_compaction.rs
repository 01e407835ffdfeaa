//! Forgets history by itself, as etcd's `--auto-compaction-mode` and `--auto-compaction-retention` say.
//!
//! Every node samples the revision, and the leader compacts: a new leader goes on with the window it has seen itself.
//! Failure is no event: the next round tries again with a newer revision.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_kv::{Actor, Command, CompactRequest};
use quorate_raft::RoleKind;

use crate::duration::parse_duration;
use crate::runtime::Replica;

/// How often the revision is looked at in revision mode (etcd's interval).
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// The longest time between two periodic compactions (etcd's).
const LONGEST_PERIOD: Duration = Duration::from_secs(3600);
/// Samples within one period.
const SAMPLES_PER_PERIOD: u32 = 10;

/// Which history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What was current within this time.
    Periodic(Duration),
    /// This many revisions.
    Revisions(i64),
}

/// A mode or a retention that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRetention {
    /// Neither of the two modes.
    #[error("auto compaction mode `{0}` is neither periodic nor revision")]
    Mode(String),
    /// Not what the mode needs.
    #[error("auto compaction retention `{retention}` is not {expected}")]
    Retention {
        /// As given.
        retention: String,
        /// What could have been given.
        expected: &'static str,
    },
}

impl AutoCompaction {
    /// Understands etcd's two flags; a retention of 0 keeps everything.
    ///
    /// # Errors
    /// [`BadRetention`].
    pub fn parse(mode: &str, retention: &str) -> Result<Option<Self>, BadRetention> {
        let bad = |expected| BadRetention::Retention { retention: retention.to_string(), expected };
        match mode {
            "periodic" => {
                // A bare number counts hours, as in etcd.
                let period = match retention.parse::<u32>() {
                    Ok(hours) => Some(Duration::from_secs(u64::from(hours) * 3600)),
                    Err(_) => parse_duration(retention),
                };
                let period = period.ok_or_else(|| bad("a number of hours or a duration such as 30m"))?;
                Ok((!period.is_zero()).then_some(AutoCompaction::Periodic(period)))
            }
            "revision" => {
                let count: i64 = retention.parse().ok().filter(|count| *count >= 0).ok_or_else(|| bad("a number"))?;
                Ok((count > 0).then_some(AutoCompaction::Revisions(count)))
            }
            _ => Err(BadRetention::Mode(mode.to_string())),
        }
    }

    /// Time between two looks at the revision.
    fn interval(self) -> Duration {
        match self {
            AutoCompaction::Periodic(period) => period.min(LONGEST_PERIOD) / SAMPLES_PER_PERIOD,
            AutoCompaction::Revisions(_) => REVISION_INTERVAL,
        }
    }
}

/// The revisions seen within the time that is kept.
#[derive(Debug)]
struct Window {
    kept: AutoCompaction,
    samples: VecDeque<i64>,
    /// Samples that span the time kept.
    span: usize,
    /// Samples since the last compaction was due.
    since_due: u32,
}

impl Window {
    fn new(kept: AutoCompaction) -> Self {
        let span = match kept {
            AutoCompaction::Periodic(period) => {
                (period.as_micros() / kept.interval().as_micros().max(1)).try_into().unwrap_or(usize::MAX)
            }
            AutoCompaction::Revisions(_) => 0,
        };
        Window { kept, samples: VecDeque::new(), span, since_due: SAMPLES_PER_PERIOD }
    }

    /// Takes one more sample; the revision to compact to, if one is due.
    fn sample(&mut self, revision: i64) -> Option<i64> {
        if let AutoCompaction::Revisions(count) = self.kept {
            return Some(revision - count).filter(|target| *target > 0);
        }
        self.samples.push_back(revision);
        self.since_due = self.since_due.saturating_add(1);
        if self.samples.len() <= self.span {
            return None;
        }
        let oldest = self.samples.pop_front()?;
        if self.since_due < SAMPLES_PER_PERIOD {
            return None;
        }
        self.since_due = 0;
        Some(oldest)
    }
}

/// Compacts until it is dropped.
pub(crate) async fn run(replica: Replica, kept: AutoCompaction) {
    let mut window = Window::new(kept);
    loop {
        tokio::time::sleep(kept.interval()).await;
        let status = replica.status();
        let due = window.sample(status.space.revision);
        let leads = status.raft.is_some_and(|raft| raft.role == RoleKind::Leader);
        let Some(revision) = due.filter(|revision| leads && *revision > status.space.compact_revision) else {
            continue;
        };
        let command = Command::Compact(CompactRequest { revision, physical: false });
        match replica.write(Actor::Node, command).await {
            Ok(_) => tracing::info!(revision, "compacted automatically"),
            Err(error) => tracing::warn!(revision, %error, "automatic compaction failed; the next round tries again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_etcds() {
        let parse = |mode, retention| AutoCompaction::parse(mode, retention).ok().flatten();
        assert_eq!(parse("periodic", "1"), Some(AutoCompaction::Periodic(Duration::from_secs(3600))));
        assert_eq!(parse("periodic", "30m"), Some(AutoCompaction::Periodic(Duration::from_secs(1800))));
        assert_eq!(parse("revision", "1000"), Some(AutoCompaction::Revisions(1000)));
        assert_eq!(AutoCompaction::parse("periodic", "0"), Ok(None));
        assert_eq!(AutoCompaction::parse("revision", "0"), Ok(None));
        assert!(AutoCompaction::parse("sometimes", "0").is_err());
        assert!(AutoCompaction::parse("revision", "1h").is_err());
        assert!(AutoCompaction::parse("periodic", "-1").is_err());
    }

    #[test]
    fn a_period_is_kept_whole_and_compacted_once_a_period() {
        let mut window = Window::new(AutoCompaction::Periodic(Duration::from_secs(600)));
        assert_eq!(window.kept.interval(), Duration::from_secs(60));
        let due: Vec<Option<i64>> = (1..=31).map(|revision| window.sample(revision)).collect();
        let compacted: Vec<(usize, i64)> =
            due.iter().enumerate().filter_map(|(at, due)| due.map(|revision| (at + 1, revision))).collect();
        assert_eq!(compacted, [(11, 1), (21, 11), (31, 21)]);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let mut window = Window::new(AutoCompaction::Revisions(100));
        assert_eq!(window.sample(100), None);
        assert_eq!(window.sample(150), Some(50));
    }
}
