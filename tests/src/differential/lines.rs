//! Random requests that outlive their answers: watches on streams that stay open, and claims in the lines of a lock and of
//! an election that several want.

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_proto::v3lockpb::{LockRequest, UnlockRequest};

use super::generate::Generator;
use super::services::LEASES;
use super::{Answer, Call, Stay};

const STREAMS: i64 = 2;
/// Ids that clients choose, and those that are likely to be given.
const WATCHES: [i64; 6] = [0, 1, 2, 5, 6, 99];
/// Calls that stay: one a lease for the lock, one a lease for the election, and one that observes it.
const CLAIMS: i64 = 3;
const OBSERVER: usize = 6;
const LOCK: &str = "line";
const ELECTION: &str = "vote";

impl Generator {
    pub(super) fn live_watch(&mut self) -> Call {
        let stream = self.small(STREAMS);
        match self.random.below(12) {
            0..=3 => {
                let mut create = self.watch();
                create.watch_id = if self.random.chance(20) { *self.random.pick(&WATCHES) } else { 0 };
                create.start_revision = match self.random.below(10) {
                    0..=4 => 0,
                    5..=6 => self.revision + self.random.below(4),
                    _ => create.start_revision,
                };
                create.progress_notify = self.random.chance(20);
                Call::Watching(stream, Some(RequestUnion::CreateRequest(create)))
            }
            4 => {
                let watch_id = *self.random.pick(&WATCHES);
                Call::Watching(stream, Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })))
            }
            5 if self.random.chance(50) => Call::WatchingEnds(stream),
            _ => Call::Watching(stream, None),
        }
    }

    /// What has to do with lines. Each claim has a number and a lease of its own.
    pub(super) fn line(&mut self) -> Call {
        let claim = self.small(CLAIMS);
        let lease = LEASES[claim];
        let candidate = claim + CLAIMS as usize;
        let any = self.small(2 * CLAIMS + 1);
        let key = |name: &str| format!("{name}/{lease:x}").into();
        let leader = Some(LeaderKey {
            name: ELECTION.into(),
            key: key(ELECTION),
            rev: self.candidates.get(&candidate).copied().unwrap_or(1),
            lease,
        });
        match self.random.below(16) {
            0..=2 => Call::Stay(claim, Stay::Lock(LockRequest { name: LOCK.into(), lease })),
            3..=5 => {
                let value = self.value();
                Call::Stay(candidate, Stay::Campaign(CampaignRequest { name: ELECTION.into(), lease, value }))
            }
            6 => Call::Stay(OBSERVER, Stay::Observe(LeaderRequest { name: ELECTION.into() })),
            7..=8 => Call::SoFar(any),
            9 => Call::SoFar(OBSERVER),
            10 => Call::GiveUp(any),
            11 => Call::Unlock(UnlockRequest { key: key(LOCK) }),
            12 => Call::Unlock(UnlockRequest { key: key(ELECTION) }),
            13 => Call::Leader(LeaderRequest { name: ELECTION.into() }),
            14 => Call::Proclaim(ProclaimRequest { leader, value: self.value() }),
            _ => Call::Resign(ResignRequest { leader }),
        }
    }

    /// Takes note of the create revision of a candidate, which resigns and proclaims by it.
    pub(super) fn learn_of_candidates(&mut self, call: &Call, answer: &Answer) {
        let (Call::Stay(number, _) | Call::SoFar(number)) = call else { return };
        let text = answer.to_string();
        let revision =
            text.lines().find_map(|line| line.trim().strip_prefix("rev: ")?.trim_end_matches(',').parse().ok());
        if let Some(revision) = revision {
            self.candidates.insert(*number, revision);
        }
    }

    fn small(&mut self, bound: i64) -> usize {
        usize::try_from(self.random.below(bound)).expect("a small number")
    }
}
