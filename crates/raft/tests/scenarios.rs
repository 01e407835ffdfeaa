//! Tests of the core as its caller sees it: scenario scripts, quorum tables and random schedules.

mod support;

use support::schedule::Schedule;

fn seeds() -> std::ops::Range<u64> {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = number("RAFT_SEED", 1);
    first..first + number("RAFT_SEEDS", 100)
}

#[test]
fn no_random_schedule_breaks_an_invariant() {
    let mut sums = [0u64; 7];
    for seed in seeds() {
        let mut schedule = Schedule::new(seed);
        let run = std::panic::AssertUnwindSafe(|| schedule.run(5_000));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed} failed: RAFT_SEED={seed} RAFT_SEEDS=1 cargo test -p quorate-raft random_schedule");
            std::panic::resume_unwind(panic);
        }
        let oracle = &schedule.oracle;
        let counts = [
            schedule.steps,
            oracle.elections,
            oracle.reads_answered,
            oracle.joint_phases,
            oracle.images,
            oracle.leased,
            oracle.fresh,
        ];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    println!("steps, elections, reads, joint phases, images, leases, bounds: {sums:?}");
    assert!(sums.iter().all(|sum| *sum > 0), "the schedules never got to something: {sums:?}");
}
