//! The network between hosts: delay, loss, duplication, reordering, and links that are cut or clogged.
//!
//! Decides only when copies of a message arrive; the caller schedules them. Every link has a direction, so a one-way cut
//! is nothing special. Without reordering and detours a link is first in, first
//! out, as a stream is.

use crate::clock::Instant;
use crate::coverage::{Coverage, Handler, Reached, Struck};
use crate::random::Random;

/// Longest time that a detour takes, in microseconds: several election timeouts.
const MOST_DETOUR_US: u64 = 3_000_000;

/// A machine: its disk and process come and go, its name stays. Numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostId(pub usize);

/// How bad the network is, drawn once a seed.
#[derive(Debug, Clone)]
pub(crate) struct NetworkPlan {
    /// Least delay of a message, in microseconds.
    pub(crate) delay_min_us: u64,
    /// Mean of what comes on top, in microseconds.
    pub(crate) delay_mean_us: u64,
    /// Chance that a message is lost, per million.
    pub(crate) loss: u32,
    /// Chance of a second copy, per million.
    pub(crate) duplication: u32,
    /// Chance that a message may overtake others, per million.
    pub(crate) reordering: u32,
    /// Chance of a copy many seconds later, per million.
    pub(crate) replay: u32,
    /// What a link carries, in bytes a second; 0 = any amount.
    pub(crate) bandwidth: u64,
    /// Chance that a forwarded write, or its refusal, is under way for seconds, per million.
    pub(crate) detour: u32,
}

#[derive(Debug, Clone, Default)]
struct Link {
    cut: bool,
    clogged_until: Instant,
    last_arrival: Instant,
    /// The link has sent everything before.
    free_at: Instant,
    /// When the latest message that was not held back arrives, or arrived.
    heard_at: Instant,
    /// An image takes half of what the link carries until then.
    shared_until: Instant,
    /// When it was cut, mended or clogged last, or until when it is clogged.
    changed_at: Instant,
    /// What was sent by then and had not arrived is lost.
    reset_at: Option<Instant>,
}

/// All links.
pub(crate) struct Network {
    hosts: usize,
    links: Vec<Link>,
    plan: NetworkPlan,
    /// Faults end here: an old message that came later would be one more.
    faults_until: Instant,
    now: Instant,
    random: Random,
}

/// When the copies of one message arrive; none if it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Arrivals(pub [Option<Instant>; 3]);

impl Network {
    /// A whole network of `hosts`.
    pub(crate) fn new(hosts: usize, plan: NetworkPlan, faults_until: Instant, random: Random) -> Network {
        Network { hosts, links: vec![Link::default(); hosts * hosts], plan, faults_until, now: Instant(0), random }
    }

    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        &mut self.links[from.0 * self.hosts + to.0]
    }

    /// Sends one message at `now`.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: HostId,
        to: HostId,
        bytes: u64,
        coverage: &mut Coverage,
    ) -> Arrivals {
        let mut arrivals = Arrivals::default();
        if self.link(from, to).cut {
            coverage.hit(Reached::CutOff);
            coverage.struck_message(Struck::CutOff);
            return arrivals;
        }
        if self.random.chance(self.plan.replay) {
            let at = Instant(now.0 + self.random.between(1_000_000, 20_000_000));
            if at < self.faults_until {
                coverage.hit(Reached::Replayed);
                coverage.struck_message(Struck::Replayed);
                arrivals.0[2] = Some(at);
            }
        }
        if self.random.chance(self.plan.loss) {
            coverage.hit(Reached::Lost);
            coverage.struck_message(Struck::Lost);
            return arrivals;
        }
        let sent = self.transmitted(now, from, to, bytes, coverage);
        let at = self.arrival(sent, from, to, coverage);
        arrivals.0[0] = Some(at);
        let link = self.link(from, to);
        link.heard_at = link.heard_at.max(at);
        if self.random.chance(self.plan.duplication) {
            coverage.hit(Reached::Duplicated);
            coverage.struck_message(Struck::Duplicated);
            arrivals.0[1] = Some(self.arrival(sent, from, to, coverage));
        }
        arrivals
    }

    /// What was sent arrives later, perhaps: it was still on the stream before this one, which its sender has given up.
    pub(crate) fn detour(&mut self, arrivals: &mut Arrivals, coverage: &mut Coverage) {
        let Some(at) = &mut arrivals.0[0] else { return };
        if self.random.chance(self.plan.detour) {
            let late = Instant(at.0 + self.random.below(MOST_DETOUR_US));
            if late < self.faults_until {
                coverage.hit(Reached::Detoured);
                coverage.struck_message(Struck::Delayed);
                *at = late;
            }
        }
    }

    /// When an image that starts now would arrive, or none if the link fails it. It has a connection of its own and shares a
    /// narrow link with the messages, half and half.
    pub(crate) fn transfer(
        &mut self,
        now: Instant,
        from: HostId,
        to: HostId,
        (bytes, extra_us): (u64, u64),
        coverage: &mut Coverage,
    ) -> Option<Instant> {
        let clogged = self.link(from, to).clogged_until;
        if self.link(from, to).cut || self.link(to, from).cut || self.random.chance(self.plan.loss) {
            return None;
        }
        let delay = self.plan.delay_min_us + self.random.exponential(self.plan.delay_mean_us) + extra_us;
        let mut start = now.max(clogged);
        // Unlimited where the bandwidth is 0.
        if let Some(takes) = (bytes * 2_000_000).checked_div(self.plan.bandwidth) {
            coverage.struck(Struck::Delayed, Handler::Image);
            let link = self.link(from, to);
            start = Instant(start.max(link.shared_until).0 + takes);
            link.shared_until = start;
        }
        Some(Instant(start.0 + delay))
    }

    /// When the last byte of a message is on its way.
    fn transmitted(&mut self, now: Instant, from: HostId, to: HostId, bytes: u64, coverage: &mut Coverage) -> Instant {
        if self.plan.bandwidth == 0 {
            return now;
        }
        let mut takes = bytes * 1_000_000 / self.plan.bandwidth;
        let link = self.link(from, to);
        if link.shared_until > now {
            takes *= 2;
        }
        if link.free_at > now {
            coverage.hit(Reached::BandwidthLimited);
            coverage.struck_message(Struck::Delayed);
        }
        link.free_at = Instant(link.free_at.max(now).0 + takes);
        link.free_at
    }

    /// When `to` last heard of `from`, or will: a message that is on its way counts.
    pub(crate) fn heard_at(&self, from: HostId, to: HostId) -> Instant {
        self.links[from.0 * self.hosts + to.0].heard_at
    }

    /// What arrived while a process stood still it hears now.
    pub(crate) fn heard_late(&mut self, to: HostId, now: Instant) {
        for from in 0..self.hosts {
            let link = self.link(HostId(from), to);
            link.heard_at = link.heard_at.max(now);
        }
    }

    fn arrival(&mut self, now: Instant, from: HostId, to: HostId, coverage: &mut Coverage) -> Instant {
        let delay = self.plan.delay_min_us + self.random.exponential(self.plan.delay_mean_us);
        let overtakes = self.random.chance(self.plan.reordering);
        let link = self.link(from, to);
        if link.clogged_until > now {
            coverage.struck_message(Struck::Delayed);
        }
        let mut at = Instant(now.max(link.clogged_until).0 + delay);
        if at <= link.last_arrival {
            if overtakes {
                coverage.hit(Reached::Reordered);
                coverage.struck_message(Struck::Reordered);
            } else {
                at = Instant(link.last_arrival.0 + 1);
            }
        }
        link.last_arrival = link.last_arrival.max(at);
        at
    }

    /// Cuts the link from one host to another, one way.
    pub(crate) fn cut(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        let link = self.link(from, to);
        (link.cut, link.changed_at) = (true, link.changed_at.max(now));
    }

    /// Mends the link from one host to another.
    pub(crate) fn restore(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        let link = self.link(from, to);
        (link.cut, link.changed_at) = (false, link.changed_at.max(now));
    }

    /// The time at which cuts and mends strike.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// The link is whole, and has been for as long as `long_ago` asks.
    pub(crate) fn is_calm(&self, from: HostId, to: HostId, long_ago: &dyn Fn(Instant) -> bool) -> bool {
        let link = &self.links[from.0 * self.hosts + to.0];
        !link.cut && long_ago(link.changed_at)
    }

    /// Some link is cut.
    pub(crate) fn is_impaired(&self) -> bool {
        self.links.iter().any(|link| link.cut)
    }

    /// The link from one host to another is whole.
    #[cfg(test)]
    pub(crate) fn reaches(&self, from: HostId, to: HostId) -> bool {
        !self.links[from.0 * self.hosts + to.0].cut
    }

    /// Holds back what is sent over a link until `until`.
    pub(crate) fn clog(&mut self, from: HostId, to: HostId, until: Instant) {
        let link = self.link(from, to);
        (link.clogged_until, link.changed_at) = (until, until.max(link.changed_at));
    }

    /// The stream from one host to another breaks: what is under way never arrives.
    pub(crate) fn reset(&mut self, from: HostId, to: HostId, now: Instant) {
        self.link(from, to).reset_at = Some(now);
    }

    /// Whether what was sent then was still under way when its stream broke.
    pub(crate) fn is_lost_in_reset(&self, from: HostId, to: HostId, sent: Instant) -> bool {
        self.links[from.0 * self.hosts + to.0].reset_at.is_some_and(|at| sent <= at)
    }

    /// Mends every cut; what is clogged frees itself at its time.
    pub(crate) fn mend(&mut self) {
        let now = self.now;
        for link in self.links.iter_mut().filter(|link| link.cut) {
            (link.cut, link.changed_at) = (false, link.changed_at.max(now));
        }
    }

    /// Ends every fault: whole links, short delays, no loss. Returns when the last message that is on its way arrives: until then
    /// nodes may still hear of those who are dead.
    pub(crate) fn heal(&mut self, now: Instant) -> Instant {
        let last_arrival = self.links.iter().map(|link| link.last_arrival).max().unwrap_or(now).max(now);
        for link in &mut self.links {
            *link = Link {
                clogged_until: now,
                last_arrival: now,
                free_at: now,
                heard_at: link.heard_at,
                reset_at: link.reset_at,
                ..Link::default()
            };
        }
        self.plan = NetworkPlan {
            delay_min_us: self.plan.delay_min_us.min(1_000),
            delay_mean_us: self.plan.delay_mean_us.min(1_000),
            loss: 0,
            duplication: 0,
            reordering: 0,
            replay: 0,
            bandwidth: 0,
            detour: 0,
        };
        last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(plan: NetworkPlan) -> Network {
        Network::new(2, plan, Instant(0), Random::new(3))
    }

    fn calm() -> NetworkPlan {
        NetworkPlan {
            delay_min_us: 100,
            delay_mean_us: 5_000,
            loss: 0,
            duplication: 0,
            reordering: 0,
            replay: 0,
            bandwidth: 0,
            detour: 0,
        }
    }

    #[test]
    fn link_without_reordering_is_first_in_first_out() {
        let mut network = network(calm());
        let mut coverage = Coverage::default();
        let mut last = Instant(0);
        for sent in 0..1_000 {
            let arrivals = network.send(Instant(sent), HostId(0), HostId(1), 100, &mut coverage);
            let at = arrivals.0[0].expect("nothing is lost");
            assert!(at > last);
            last = at;
        }
    }

    #[test]
    fn narrow_link_delays_what_queues_behind_a_large_message() {
        let mut network = network(NetworkPlan { bandwidth: 1_000, delay_mean_us: 0, ..calm() });
        let mut coverage = Coverage::default();
        network.send(Instant(0), HostId(0), HostId(1), 2_000, &mut coverage);
        let second = network.send(Instant(0), HostId(0), HostId(1), 1, &mut coverage).0[0];
        assert!(second.is_some_and(|at| at.0 > 2_000_000));
        assert_eq!(coverage.count(Reached::BandwidthLimited), 1);
    }

    #[test]
    fn image_halves_what_a_narrow_link_has_for_messages() {
        let mut network = network(NetworkPlan { bandwidth: 1_000, delay_mean_us: 0, ..calm() });
        let mut coverage = Coverage::default();
        let image = network.transfer(Instant(0), HostId(0), HostId(1), (500, 0), &mut coverage);
        assert_eq!(image, Some(Instant(1_000_100)));
        let beside = network.send(Instant(0), HostId(0), HostId(1), 100, &mut coverage).0[0];
        assert_eq!(beside, Some(Instant(200_100)));
    }

    #[test]
    fn cut_is_one_way() {
        let mut network = network(calm());
        let mut coverage = Coverage::default();
        network.cut(HostId(0), HostId(1));
        assert_eq!(network.send(Instant(0), HostId(0), HostId(1), 100, &mut coverage), Arrivals::default());
        assert!(network.send(Instant(0), HostId(1), HostId(0), 100, &mut coverage).0[0].is_some());
        network.mend();
        assert!(network.send(Instant(0), HostId(0), HostId(1), 100, &mut coverage).0[0].is_some());
    }
}
