//! A small fixed set of seeds in both tiers, the seeds that once found a bug, and the promise that a seed is a run.
//!
//! Without optimisation a simulated second costs many times what it should, so the sets are small; `cargo xtask sim` runs
//! the rest.

use std::collections::BTreeSet;

use quorate_sim::{Failure, Reached, Restriction, TierChoice, Verdict, run_restricted, run_seed};

fn run(tier: TierChoice, seeds: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
    let results: Result<Vec<Verdict>, Failure> = seeds.into_iter().map(|seed| run_seed(seed, tier, false)).collect();
    results.unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn core_tier_keeps_its_promises() {
    let verdicts = run(TierChoice::Core, 2_000..2_006);
    assert!(verdicts.iter().all(|verdict| verdict.coverage.count(Reached::WriteAcked) > 0));
}

#[test]
fn full_tier_keeps_its_promises() {
    let verdicts = run(TierChoice::Full, 2_000..2_002);
    assert!(verdicts.iter().all(|verdict| verdict.coverage.count(Reached::WriteAcked) > 0));
}

/// A follower whose uncommitted tail ends where the leader's log begins, with an older term, was probed for ever.
#[test]
fn follower_that_differs_at_the_leaders_base_gets_an_image() {
    run(TierChoice::Core, [1, 32]);
}

/// A checkpoint between the switch to an image and the reset of the log ended the node.
#[test]
fn checkpoint_of_an_image_comes_before_its_installation_is_reported() {
    run(TierChoice::Full, [0]);
}

#[test]
fn restricted_seed_is_struck_by_nothing_else() {
    let nothing = Restriction { only: Some(BTreeSet::new()), without: Restriction::RATES.into_iter().collect() };
    let verdict = run_restricted(3, TierChoice::Core, &nothing, false).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(verdict.faults, 0);
    assert_eq!(verdict.coverage.count(Reached::Lost), 0);
}

#[test]
fn same_seed_is_the_same_run() {
    for (tier, seed) in [(TierChoice::Core, 7), (TierChoice::Full, 8)] {
        let [first, second] = [run(tier, [seed]), run(tier, [seed])];
        assert_eq!(first[0].trace, second[0].trace, "{tier} tier");
        assert_eq!(first[0].events, second[0].events, "{tier} tier");
    }
}
