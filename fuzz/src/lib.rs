//! A mutational fuzzer for every parser: hostile bytes must be refused, never end the process.
//!
//! Owns its targets (`targets`), how inputs are made from others (`mutate`), and the run. A run is a function of its seed.
//! Coverage feedback needs a nightly compiler; what an input did (the text of the refusal, the size of what was read)
//! stands in for it: an input that does something new is kept and mutated further.
//!
//! What counts as a finding: a panic, a round trip that changes something, an input that takes longer than [`PATIENCE`],
//! and more memory than [`MEMORY_BYTES`] for the whole process (an aborted run is repeated with `--trail FILE`, which
//! holds the input of its last step).

mod calls;
mod mutate;
mod node;
mod random;
mod targets;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::mutate::Mutator;
use crate::random::Random;
use crate::targets::{TARGETS, Target};

/// Address space of the whole process; an allocation past it aborts.
const MEMORY_BYTES: u64 = 4 << 30;
/// No input is worth more: all are small.
const PATIENCE: Duration = Duration::from_secs(10);
/// Inputs are no longer than this.
const MAX_INPUT_BYTES: usize = 4096;
/// Inputs kept in memory at most.
const MAX_KEPT: usize = 4096;
/// How often the clock is looked at.
const STEPS_A_LOOK: u64 = 256;

#[derive(Parser)]
#[command(name = "quorate-fuzz", about = "Feeds mutated inputs to the parsers")]
struct Arguments {
    /// Time for each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// The run is a function of it, as far as the time allows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Targets at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Folder with a folder of inputs for each target.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))]
    corpus: PathBuf,
    /// Write this many of the smallest inputs that did something new into the corpus.
    #[arg(long, default_value_t = 0)]
    save: usize,
    /// Write each input to this file before it is used.
    #[arg(long)]
    trail: Option<PathBuf>,
}

/// What came of one target.
struct Ran {
    executions: u64,
    kept: usize,
    new: usize,
    seconds: f64,
    finding: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| arguments.target.as_ref().is_none_or(|name| target.name == name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no such target; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    // Without the right to set it the run goes on unlimited.
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) });
    // A panic is told once, with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                while let Some(target) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ran = run(target, &arguments);
                    println!(
                        "{:<10} {:>10} executions  {:>7.0}/s  {:>5} inputs kept  {:>5} new",
                        target.name,
                        ran.executions,
                        ran.executions as f64 / ran.seconds,
                        ran.kept,
                        ran.new
                    );
                    if let Some(finding) = ran.finding {
                        println!("{finding}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    node::end();
    let failed = failed.into_inner();
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(target: &Target, arguments: &Arguments) -> Ran {
    let begun = Instant::now();
    let mut random = Random::new(arguments.seed);
    let mut kept = read_corpus(&arguments.corpus.join(target.name));
    let from_disk = kept.len();
    kept.extend((target.samples)(&mut random));
    let mut seen = BTreeSet::new();
    let mut ran = Ran { executions: 0, kept: 0, new: 0, seconds: 0.0, finding: None };
    let first = kept.clone();
    let mut fresh: Vec<Vec<u8>> = Vec::new();
    let mut queue = first.into_iter();
    loop {
        if ran.executions.is_multiple_of(STEPS_A_LOOK) && begun.elapsed().as_secs_f64() >= arguments.seconds {
            break;
        }
        let (input, mutated) = match queue.next() {
            Some(input) => (input, false),
            None => (Mutator::new(&mut random, MAX_INPUT_BYTES).mutate(&kept), true),
        };
        if let Some(trail) = &arguments.trail {
            std::fs::write(trail, &input).expect("the trail can be written");
        }
        ran.executions += 1;
        match execute(target, &input) {
            Err(finding) => {
                ran.finding = Some(finding);
                break;
            }
            Ok(behaviour) => {
                if seen.insert(behaviour) && mutated && kept.len() < MAX_KEPT {
                    fresh.push(input.clone());
                    kept.push(input);
                }
            }
        }
    }
    ran.new = fresh.len();
    ran.kept = kept.len();
    ran.seconds = begun.elapsed().as_secs_f64();
    fresh.sort_by_key(Vec::len);
    save(&arguments.corpus.join(target.name), from_disk, fresh.iter().take(arguments.save));
    ran
}

/// What the target did with the input, or how it failed.
fn execute(target: &Target, input: &[u8]) -> Result<String, String> {
    let begun = Instant::now();
    let told = |what: String| {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}: {what}\n  input: {hex}", target.name)
    };
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = begun.elapsed();
    if took > PATIENCE {
        return Err(told(format!("took {took:?}")));
    }
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        told(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus can be read")).collect()
}

fn save<'a>(folder: &Path, first: usize, inputs: impl Iterator<Item = &'a Vec<u8>>) {
    for (number, input) in inputs.enumerate() {
        std::fs::create_dir_all(folder).expect("the corpus can be written");
        std::fs::write(folder.join(format!("{:04}", first + number)), input).expect("the corpus can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_the_corpus_and_every_sample_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for target in TARGETS {
            let inputs = read_corpus(&corpus.join(target.name));
            assert!(!inputs.is_empty(), "{} has no corpus", target.name);
            for input in inputs.iter().chain(&(target.samples)(&mut Random::new(7))) {
                execute(target, input).unwrap_or_else(|finding| panic!("{finding}"));
            }
        }
        node::end();
    }

    #[test]
    fn a_panic_is_a_finding_with_its_input() {
        let target = Target { name: "broken", samples: |_| Vec::new(), run: |input| panic!("{} bytes", input.len()) };
        assert_eq!(execute(&target, &[1, 0xab]), Err("broken: 2 bytes\n  input: 01ab".to_string()));
    }
}
