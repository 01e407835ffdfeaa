//! Shapes of partitions: which links a fault cuts or clogs.

use crate::clock::Instant;
use crate::network::{HostId, Network};
use crate::random::Random;

/// Cuts `host` from all others, both ways.
pub(crate) fn isolate(network: &mut Network, hosts: usize, host: HostId) {
    for other in (0..hosts).map(HostId).filter(|&other| other != host) {
        network.cut(host, other);
        network.cut(other, host);
    }
}

/// Splits the hosts into two random parts; the size is drawn first, so even and lopsided splits are equally likely.
pub(crate) fn split(network: &mut Network, hosts: usize, random: &mut Random) {
    if hosts < 2 {
        return;
    }
    let mut order: Vec<HostId> = (0..hosts).map(HostId).collect();
    random.shuffle(&mut order);
    let (left, right) = order.split_at(random.between(1, hosts as u64 - 1) as usize);
    for &a in left {
        for &b in right {
            network.cut(a, b);
            network.cut(b, a);
        }
    }
}

/// Cuts links one way: all that leave or all that reach one host, or a random third.
pub(crate) fn one_way(network: &mut Network, hosts: usize, random: &mut Random) {
    let victim = HostId(random.below(hosts as u64) as usize);
    let shape = random.below(3);
    for from in (0..hosts).map(HostId) {
        for to in (0..hosts).map(HostId).filter(|&to| to != from) {
            let cut = match shape {
                0 => from == victim,
                1 => to == victim,
                _ => random.chance(333_333),
            };
            if cut {
                network.cut(from, to);
            }
        }
    }
}

/// Cuts one pair of hosts from each other; every third host still reaches both.
pub(crate) fn partial(network: &mut Network, hosts: usize, random: &mut Random) {
    if hosts < 2 {
        return;
    }
    let a = random.below(hosts as u64) as usize;
    let b = (a + random.between(1, hosts as u64 - 1) as usize) % hosts;
    network.cut(HostId(a), HostId(b));
    network.cut(HostId(b), HostId(a));
}

/// Leaves each host its two neighbours in a random ring.
pub(crate) fn ring(network: &mut Network, hosts: usize, random: &mut Random) {
    let mut order: Vec<usize> = (0..hosts).collect();
    random.shuffle(&mut order);
    for i in 0..hosts {
        for j in 0..hosts {
            let distance = (i + hosts - j) % hosts;
            if distance > 1 && distance < hosts - 1 {
                network.cut(HostId(order[i]), HostId(order[j]));
            }
        }
    }
}

/// Clogs the links of a random subset of hosts, each until its own time (FoundationDB's most productive fault).
pub(crate) fn swizzle(network: &mut Network, hosts: usize, now: Instant, longest_us: u64, random: &mut Random) {
    for host in (0..hosts).map(HostId) {
        if random.coin() {
            continue;
        }
        let until = Instant(now.0 + random.between(1, longest_us.max(1)));
        for other in (0..hosts).map(HostId).filter(|&other| other != host) {
            network.clog(host, other, until);
            network.clog(other, host, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkPlan;

    fn network(hosts: usize) -> Network {
        let plan = NetworkPlan {
            delay_min_us: 1,
            delay_mean_us: 1,
            loss: 0,
            duplication: 0,
            reordering: 0,
            replay: 0,
            bandwidth: 0,
            detour: 0,
        };
        Network::new(hosts, plan, Instant(0), Random::new(1))
    }

    #[test]
    fn ring_leaves_two_neighbours() {
        let mut network = network(5);
        ring(&mut network, 5, &mut Random::new(9));
        for from in 0..5 {
            let reached = (0..5).filter(|&to| to != from && network.reaches(HostId(from), HostId(to))).count();
            assert_eq!(reached, 2);
        }
    }

    #[test]
    fn split_separates_every_host_from_another() {
        for seed in 0..20 {
            let mut network = network(4);
            split(&mut network, 4, &mut Random::new(seed));
            for from in 0..4 {
                assert!((0..4).any(|to| !network.reaches(HostId(from), HostId(to))));
            }
        }
    }
}
