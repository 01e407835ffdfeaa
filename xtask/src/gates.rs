//! `check`, `test`, `sim` and `ci`: what a change has to pass.
//!
//! Owns no rule itself: format, lints and tests are in the crates. `check` writes nothing but `target/`.

use std::time::Instant;

use crate::alerts;
use crate::charts;
use crate::e2e::{self, E2eArgs};
use crate::failure::Failure;
use crate::fuzz::FuzzArgs;
use crate::manifests::{self, ManifestsArgs};
use crate::process::{cargo, run};

/// Seeds of the slices of simulation that `ci` runs, the same each time: enough of them to meet everything that is not rare.
const CI_SEEDS: [(&str, &str); 2] = [("core", "1..300"), ("full", "1..70")];
/// Time of each fuzz target in `ci`; two run at a time.
const CI_FUZZ_SECONDS: u64 = 120;
/// How long it runs seeds that nobody ran before; the simulator prints where they begin.
const CI_SECONDS: &str = "60";

/// Options of `sim`, handed on to the simulator as they are.
#[derive(clap::Args)]
pub(crate) struct SimArgs {
    /// For example `--seed 7 --trace-hash`, or `--seeds 1..100`; `--help` lists them all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// The operator by itself: it is no default member, since its dependencies are most of a cold build, and built together with the
/// others they would be built with other features than each alone has.
const OPERATOR: [&str; 2] = ["--package", "quorate-operator"];
/// All others, and the program that fuzzes, which no other build has.
const WITH_FUZZER: [&str; 2] = ["--features", "quorate-fuzz/libfuzzer"];

pub(crate) fn check() -> Result<(), Failure> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    for packages in [WITH_FUZZER, OPERATOR] {
        run(cargo().args(["clippy", "--quiet", "--all-targets"]).args(packages).args(["--", "-D", "warnings"]))?;
        let mut docs = cargo();
        // These pages are for the builders, who see private items: links to them are no mistake.
        docs.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
        run(docs.args(["doc", "--quiet", "--no-deps", "--document-private-items"]).args(packages))?;
    }
    crate::codegen::run(&crate::codegen::CodegenArgs { check: true })
}

pub(crate) fn test() -> Result<(), Failure> {
    run(cargo().args(["test", "--quiet"]))?;
    run(cargo().args(["test", "--quiet"]).args(OPERATOR))
}

pub(crate) fn sim(args: &SimArgs) -> Result<(), Failure> {
    simulate(&[], &args.args)
}

/// The hunt of the known bugs, all of them or those named, in a build of its own.
pub(crate) fn mutants(args: &SimArgs) -> Result<(), Failure> {
    let hunt = ["--mutants".to_owned()];
    simulate(&["mutants"], &[&hunt, args.args.as_slice()].concat())
}

/// Everything, in the order in which mistakes are cheapest to find.
pub(crate) fn ci() -> Result<(), Failure> {
    let fresh = ["--seconds".to_owned(), CI_SECONDS.to_owned()];
    step("check", check)?;
    step("test", test)?;
    for (tier, seeds) in CI_SEEDS {
        let arguments = ["--tier", tier, "--seeds", seeds, "--require-coverage"].map(str::to_owned);
        step(&format!("sim of the {tier} tier"), || simulate(&[], &arguments))?;
    }
    step("sim of fresh seeds", || simulate(&[], &fresh))?;
    step("fuzz", || crate::fuzz::run_targets(&FuzzArgs::slice(CI_FUZZ_SECONDS)))?;
    step("alerts", alerts::test)?;
    step("manifests", || manifests::run(&ManifestsArgs { check: true }))?;
    step("charts", charts::check)?;
    step("e2e", || e2e::run(&E2eArgs::core()))
}

fn simulate(features: &[&str], args: &[String]) -> Result<(), Failure> {
    // The next release is in every run: clusters are upgraded while they are put to the test.
    let features = [&["next-format"], features].concat().join(",");
    let mut sim = cargo();
    sim.args(["run", "--quiet", "--profile", "sim", "--package", "quorate-sim", "--features", &features]);
    run(sim.arg("--").args(args))
}

/// What cannot run on this machine holds nothing up, and is not passed over in silence.
fn step(name: &str, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let start = Instant::now();
    eprintln!("xtask: == {name}");
    match work() {
        Ok(()) => eprintln!("xtask: == {name} passed in {} s", start.elapsed().as_secs()),
        Err(Failure::Skipped(reason)) => {
            eprintln!("xtask: ==============================================================");
            eprintln!("xtask: == {name} SKIPPED, nothing of it was tested: {reason}");
            eprintln!("xtask: ==============================================================");
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}
