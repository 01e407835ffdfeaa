//! `cargo xtask fuzz`: hostile input for every parser. The fuzzer itself is the crate `fuzz`.

use clap::Args;

use crate::failure::Failure;
use crate::process::{cargo, run};

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Time for each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Where mutation begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write this many inputs that did something new into the corpus.
    #[arg(long, default_value_t = 0)]
    save: usize,
    /// Build profile; `sim` is fast and keeps assertions.
    #[arg(long, default_value = "dev")]
    profile: String,
}

impl FuzzArgs {
    /// Every target for this long, with inputs that no run before has had.
    pub(crate) fn slice(seconds: f64) -> FuzzArgs {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(1, |now| now.as_secs());
        eprintln!("xtask: fuzz seed {seed}");
        FuzzArgs { seconds, target: None, seed, save: 0, profile: "dev".to_owned() }
    }
}

/// Builds the fuzzer and runs it.
///
/// # Errors
/// [`Failure`] if a target found something.
pub(crate) fn run_targets(args: &FuzzArgs) -> Result<(), Failure> {
    let mut fuzzer = cargo();
    fuzzer.args(["run", "--quiet", "--profile", &args.profile, "--package", "quorate-fuzz", "--"]);
    fuzzer.args(["--seconds", &args.seconds.to_string(), "--seed", &args.seed.to_string()]);
    fuzzer.args(["--save", &args.save.to_string()]);
    if let Some(target) = &args.target {
        fuzzer.args(["--target", target]);
    }
    run(&mut fuzzer)
}
