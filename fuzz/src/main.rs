//! The targets under libFuzzer. `cargo xtask fuzz` builds it, tells it by its environment which target to run and reads what
//! it prints.
//!
//! Never runs more than one target: what is covered belongs to one.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use quorate_fuzz::{Mutator, Random, TARGETS, Target};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Name of the target.
const TARGET: &str = "QUORATE_FUZZ_TARGET";
/// Folder into which the target's sound inputs are written before anything runs.
const SAMPLES: &str = "QUORATE_FUZZ_SAMPLES";
/// Address space of the whole process: an allocation past it aborts.
const MEMORY_BYTES: u64 = 8 << 30;
/// What a change of bytes within a field may add to it.
const MOST_ADDED_BYTES: usize = 64;

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: {
        let target = choose();
        CHOSEN.get_or_init(|| target);
        limit_memory();
        let samples = (target.samples)(&mut Random::new(7));
        write_samples(&samples);
        // The nodes that the target needs start here, where nobody counts the seconds.
        samples.iter().for_each(|sample| (target.run)(sample));
    },
    |input: &[u8]| (CHOSEN.get().expect("chosen before the first input").run)(input)
);

// Changes of bytes and of fields take turns, the latter with lengths kept right, which a change of bytes nearly never achieves.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(seed.into());
    if random.once_in(2) {
        let message = Mutator::new(&mut random, &mut change_bytes).change(&data[..size]);
        if let Some(message) = message.filter(|message| message.len() <= max_size) {
            data[..message.len()].copy_from_slice(&message);
            return message.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
});

fuzz_crossover!(|data1: &[u8], data2: &[u8], out: &mut [u8], seed: u32| {
    let mut random = Random::new(seed.into());
    let crossed = Mutator::new(&mut random, &mut change_bytes).cross(data1, data2);
    // Nothing, where neither is a message: libFuzzer goes on to another change.
    let message = crossed.filter(|message| message.len() <= out.len()).unwrap_or_default();
    out[..message.len()].copy_from_slice(&message);
    message.len()
});

fn choose() -> &'static Target {
    let name = std::env::var(TARGET).unwrap_or_default();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        eprintln!("{TARGET} is {name:?}, and there are {}", names.join(", "));
        std::process::exit(2)
    })
}

/// Without it an allocation that is never touched would pass unseen. Where it may not be set, the run goes on.
fn limit_memory() {
    _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) });
}

fn write_samples(samples: &[Vec<u8>]) {
    let Some(folder) = std::env::var_os(SAMPLES) else { return };
    for (number, sample) in samples.iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("{number:04}"));
        std::fs::write(&path, sample).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn change_bytes(bytes: &mut Vec<u8>) {
    let size = bytes.len();
    bytes.resize(size + MOST_ADDED_BYTES, 0);
    let changed = fuzzer_mutate(bytes, size, size + MOST_ADDED_BYTES);
    bytes.truncate(changed);
}
