//! Tests of the core as its caller sees it: scenario scripts, quorum tables and random schedules.

mod support;

use std::path::{Path, PathBuf};

use support::schedule::Schedule;
use support::script;

/// Every behaviour the product was asked for that consensus must show.
const BEHAVIOURS: &str = "A1 A2 A3 A4 A5 A6 A7 A8 A9 E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 N1 N2 N3 N4 M1 M2 M3 C1 C2 C3";

fn scripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let files = std::fs::read_dir(directory).expect("testdata is there").map(|file| file.expect("a file").path());
    let mut scripts: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    scripts.sort();
    scripts
}

/// Set `REWRITE=1` to write what the core does now, then read the difference.
#[test]
fn every_script_gives_its_transcript() {
    let mut differing = Vec::new();
    for path in scripts() {
        let expected = std::fs::read_to_string(&path).expect("a readable script");
        let produced = script::rewrite(&expected);
        if produced == expected {
            continue;
        }
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&path, produced).expect("a writable script");
        } else {
            let line = expected.lines().zip(produced.lines()).position(|(old, new)| old != new);
            differing.push(format!("{}, line {:?}\n{produced}", path.display(), line.map(|line| line + 1)));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn every_behaviour_is_named_in_a_script() {
    let all: String = scripts().iter().map(|path| std::fs::read_to_string(path).expect("a readable script")).collect();
    let comments: Vec<&str> = all.lines().filter(|line| line.starts_with('#')).collect();
    for behaviour in BEHAVIOURS.split(' ') {
        let names = |line: &&&str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == behaviour);
        assert!(comments.iter().find(names).is_some(), "no script names {behaviour}");
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = number("RAFT_SEED", 1);
    first..first + number("RAFT_SEEDS", 30)
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
