//! L-2, the other way round: a leader that is connected to a quorum both ways, on hosts that work, stays leader, whatever
//! becomes of the rest (hazard 31).
//!
//! Looked at where a network loses nothing and is fast against the election timeout. A leader counts as settled once a quorum
//! of voters and the links between them and it have been left in peace for long, no transfer is on its way, and nobody has a
//! higher term left over from before. From then on no other leader may come, unless that peace ends first.

use quorate_raft::{LogIndex, Term};

use crate::clock::Instant;
use crate::coverage::Reached;
use crate::network::HostId;
use crate::tier::Tier;
use crate::world::World;

/// Peace that makes a leader a settled one, in election timeouts; clogged links hold messages back for five.
const PEACE_TIMEOUTS: u64 = 8;
/// An order to campaign may reach a node that stood still for twenty election timeouts.
const HANDOVER_TIMEOUTS: u64 = 30;

/// The newest leader.
#[derive(Debug, Clone, Copy)]
struct Leading {
    host: HostId,
    term: Term,
    settled: bool,
    /// Somebody had a higher term when it settled: that one may force an election.
    challenged: bool,
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Stability {
    leading: Option<Leading>,
    /// The committed configuration, and since when.
    configuration: (LogIndex, Instant),
}

impl<T: Tier> World<T> {
    fn can_settle(&self) -> bool {
        let (network, timeout) = (&self.context.plan.network, self.context.plan.timeout_us());
        let loses = network.loss > 0 || network.replay > 0 || network.bandwidth > 0;
        !loses && network.delay_min_us + network.delay_mean_us <= timeout / 50 && self.context.plan.clocks_bounded
    }

    /// A process has made a step: whether it leads, and whether another one should.
    pub(crate) fn watch_leader(&mut self, host: HostId, leads: Option<Term>) {
        let Some(term) = leads else { return };
        let known = self.stability.leading;
        if known.is_some_and(|known| known.term >= term) {
            return;
        }
        if let Some(before) = known.filter(|before| before.settled && !before.challenged) {
            assert!(
                !self.in_peace(before.host),
                "L-2: host {} led term {} with a quorum around it that nothing befell, and host {} leads term {term}\n{}",
                before.host.0,
                before.term,
                host.0,
                self.describe()
            );
        }
        self.stability.leading = Some(Leading { host, term, settled: false, challenged: false });
    }

    /// Looks whether the leader is settled. Called every now and then.
    pub(crate) fn look_at_leader(&mut self) {
        if !self.context.faulty || !self.can_settle() {
            return;
        }
        let now = self.context.now();
        let (index, _) = self.context.oracle.committed_membership();
        if index != self.stability.configuration.0 {
            self.stability.configuration = (index, now);
        }
        let Some(mut leading) = self.stability.leading else { return };
        let settled = self.in_peace(leading.host);
        if settled && !leading.settled {
            let terms = self.context.cluster.logs.iter().map(|log| log.issued().hard_state.term);
            let leads = self.hosts[leading.host.0].process.as_ref().and_then(T::leads) == Some(leading.term);
            leading.challenged = !leads || terms.max().is_some_and(|highest| highest > leading.term);
        }
        leading.settled = settled;
        self.stability.leading = Some(leading);
        if settled && !leading.challenged && self.context.network.is_impaired() {
            self.context.coverage.hit(Reached::LeaderHeld);
        }
    }

    /// The host, a quorum of voters with it, and the links between them were left alone for long enough.
    fn in_peace(&self, leader: HostId) -> bool {
        let now = self.context.now();
        let timeout = self.context.plan.timeout_us();
        let long_ago = |at: Instant| at.0 + timeout * PEACE_TIMEOUTS <= now.0;
        let handed_over = self.context.handed_over_at;
        if handed_over.is_some_and(|at| at.0 + timeout * HANDOVER_TIMEOUTS > now.0) {
            return false;
        }
        let (index, Some(membership)) = self.context.oracle.committed_membership() else { return false };
        let (known, since) = self.stability.configuration;
        // A configuration that it has appended and not committed counts for a leader already.
        let changing = membership.is_joint() || membership.target.is_some() || !self.knows_only(leader, index);
        if index != known || !long_ago(since) || changing {
            return false;
        }
        let calm = |host: HostId| {
            let it = &self.hosts[host.0];
            // One that has fenced itself answers nobody.
            let serves = it.process.as_ref().is_some_and(|process| !T::is_fenced(process));
            serves && !it.paused && long_ago(self.context.disturbed[host.0])
        };
        let network = &self.context.network;
        let near = |host: HostId| {
            host == leader || [(leader, host), (host, leader)].iter().all(|(a, b)| network.is_calm(*a, *b, &long_ago))
        };
        let around = membership.voters.iter().filter(|voter| {
            let host = self.context.cluster.directory.get(voter);
            host.is_some_and(|host| {
                self.hosts[host.0].node == **voter && calm(*host) && near(*host) && self.knows_only(*host, index)
            })
        });
        calm(leader)
            && membership.voters.contains(&self.hosts[leader.0].node)
            && around.count() * 2 > membership.voters.len()
    }

    fn knows_only(&self, host: HostId, index: LogIndex) -> bool {
        self.context.cluster.logs[host.0].issued().membership().0 <= index
    }
}
