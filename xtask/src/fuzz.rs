//! `fuzz`: hostile input for every parser, chosen by libFuzzer by what of our own code it covers.
//!
//! Owns `target/fuzz`, a folder a target: the inputs found so far, which the next run goes on from, findings, and libFuzzer's own
//! log. The targets and their corpora are the crate `fuzz`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::failure::Failure;
use crate::process::{cargo, root, run, target_folder};
use crate::usage::Usage;

/// An input that takes longer is a finding.
const PATIENCE_SECONDS: u32 = 10;
/// So is one with which the whole process takes more. What is asked for and never used the fuzzer limits itself.
const MEMORY_MIB: u32 = 4096;
/// Inputs are no longer than this.
const MAX_INPUT_BYTES: u32 = 4096;
/// How often a running target is looked at: the last look is its account of processor time.
const LOOK: Duration = Duration::from_millis(200);
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);
/// Lines of libFuzzer's log that are shown with a finding.
const SHOWN_LINES: usize = 40;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Time for each target
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
    /// Where choice begins; runs with the same inputs to begin with and the same seed begin alike
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seed: u32,
    /// Targets at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Put up to this many inputs, of every size, that cover something new into the corpus of each target
    #[arg(long, default_value_t = 0)]
    save: usize,
    /// Run this one input again, for example a finding
    #[arg(long, requires = "target", conflicts_with = "save")]
    input: Option<PathBuf>,
    /// Folder for the data of the nodes behind some targets, removed at the end; one in memory makes them faster
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Build profile; `sim` is fast and keeps assertions
    #[arg(long, default_value = "dev")]
    profile: String,
}

impl FuzzArgs {
    /// Every target for this long, with choices that no run before has made.
    pub(crate) fn slice(seconds: u64) -> FuzzArgs {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
        let seed = now as u32;
        eprintln!("xtask: fuzz seed {seed}");
        FuzzArgs {
            seconds,
            target: None,
            seed,
            jobs: 2,
            save: 0,
            input: None,
            scratch: None,
            profile: "dev".to_owned(),
        }
    }
}

/// Builds the fuzzer and runs it.
///
/// # Errors
/// [`Failure`] if a target found something.
pub(crate) fn run_targets(args: &FuzzArgs) -> Result<(), Failure> {
    let targets = targets(args.target.as_deref())?;
    let program = build(&args.profile)?;
    if let Some(input) = &args.input {
        let target = Target::new(&program, &targets[0], args.scratch.as_deref())?;
        let result = run(target.command().args(limits()).arg(input));
        target.clear()?;
        return result;
    }
    let next = AtomicUsize::new(0);
    let results = std::thread::scope(|scope| {
        let worker = || {
            let mut results = Vec::new();
            while let Some(name) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = Target::new(&program, name, args.scratch.as_deref()).and_then(|target| target.fuzz(args));
                results.push(result.inspect_err(|failure| eprintln!("xtask: {failure}")));
            }
            results
        };
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect::<Vec<_>>()
    });
    let failed = results.iter().filter(|result| result.is_err()).count();
    println!("{} passed, {failed} failed", results.len() - failed);
    if failed == 0 { Ok(()) } else { Err(Failure::Broken(format!("{failed} fuzz targets failed, see above"))) }
}

/// The folders of `fuzz/corpus`: a test of the crate holds them against the targets.
fn targets(only: Option<&str>) -> Result<Vec<String>, Failure> {
    let folder = root().join("fuzz/corpus");
    let known: Vec<String> =
        list(&folder)?.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let Some(only) = only else { return Ok(known) };
    if known.iter().any(|name| name == only) {
        return Ok(vec![only.to_owned()]);
    }
    Err(Failure::Broken(format!("there is no fuzz target `{only}`, but {}", known.join(", "))))
}

/// The fuzzer, its own crates with counters in them.
fn build(profile: &str) -> Result<PathBuf, Failure> {
    let mut build = cargo();
    build.env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/instrument.sh"));
    run(build.args([
        "build",
        "--quiet",
        "--profile",
        profile,
        "--package",
        "quorate-fuzz",
        "--features",
        "libfuzzer",
    ]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = target_folder().join(folder).join("quorate-fuzz");
    // A copy: a build without counters writes to the same place.
    let program = target_folder().join("fuzz").join(format!("quorate-fuzz-{profile}"));
    create(&target_folder().join("fuzz"))?;
    fs::copy(&built, &program).map_err(Failure::file(&built))?;
    Ok(program)
}

/// What a single input may take of the process.
fn limits() -> [String; 2] {
    [format!("-timeout={PATIENCE_SECONDS}"), format!("-rss_limit_mb={MEMORY_MIB}")]
}

/// One target, and its folder.
struct Target<'a> {
    program: &'a Path,
    name: &'a str,
    folder: PathBuf,
    /// Data directories of the nodes that some targets start; libFuzzer ends without removing them.
    temporary: PathBuf,
}

/// What came of a target's run.
struct Ran {
    status: ExitStatus,
    cpu_seconds: f64,
}

impl<'a> Target<'a> {
    fn new(program: &'a Path, name: &'a str, scratch: Option<&Path>) -> Result<Target<'a>, Failure> {
        let folder = target_folder().join("fuzz").join(name);
        let temporary = match scratch {
            // What is removed at the end must be nobody else's.
            Some(scratch) => scratch.join(format!("quorate-fuzz-{name}")),
            None => folder.join("tmp"),
        };
        let target = Target { program, name, folder, temporary };
        for folder in [&target.found(), &target.samples(), &target.temporary] {
            create(folder)?;
        }
        Ok(target)
    }

    /// Inputs of runs so far that cover something of their own.
    fn found(&self) -> PathBuf {
        self.folder.join("corpus")
    }

    fn samples(&self) -> PathBuf {
        self.folder.join("samples")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// In the repository.
    fn corpus(&self) -> PathBuf {
        root().join("fuzz/corpus").join(self.name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("QUORATE_FUZZ_TARGET", self.name).env("QUORATE_FUZZ_SAMPLES", self.samples());
        command.env("TMPDIR", &self.temporary);
        command
    }

    fn fuzz(&self, args: &FuzzArgs) -> Result<(), Failure> {
        let mut findings = OsString::from("-artifact_prefix=");
        findings.push(self.folder.join("finding-"));
        let mut command = self.command();
        command.args(limits()).args([
            format!("-max_len={MAX_INPUT_BYTES}"),
            format!("-max_total_time={}", args.seconds),
            format!("-seed={}", args.seed),
        ]);
        command.arg(findings).args([self.found(), self.corpus(), self.samples()]);
        let ran = self.watch(command)?;
        self.clear()?;
        let text = fs::read_to_string(self.log()).map_err(Failure::file(self.log()))?;
        println!("{:<10} {}", self.name, Progress::read(&text).told(ran.cpu_seconds));
        if !ran.status.success() {
            return Err(self.finding(&text));
        }
        self.save(args.save)
    }

    /// Runs it to its end and says each minute how far it is.
    fn watch(&self, mut command: Command) -> Result<Ran, Failure> {
        let log = File::create(self.log()).map_err(Failure::file(self.log()))?;
        let failed =
            |source| Failure::Program { command: self.name.to_owned(), problem: format!("could not run: {source}") };
        let mut child: Child = command.stderr(log).spawn().map_err(failed)?;
        let begun = Instant::now();
        let mut next_told = PROGRESS;
        let mut cpu_seconds = 0.0;
        loop {
            if let Ok(usage) = Usage::of(child.id()) {
                cpu_seconds = usage.cpu_seconds;
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(Ran { status, cpu_seconds });
            }
            if begun.elapsed() >= next_told {
                next_told += PROGRESS;
                let text = fs::read_to_string(self.log()).unwrap_or_default();
                eprintln!("xtask: {:<10} {}", self.name, Progress::read(&text).told(cpu_seconds));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn clear(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.temporary).map_err(Failure::file(&self.temporary))
    }

    fn finding(&self, log: &str) -> Failure {
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        let input = log.lines().rev().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
        let again = input.map_or_else(String::new, |input| {
            format!("; again with `cargo xtask fuzz --target {} --input {input}`", self.name)
        });
        Failure::Broken(format!("{shown}\nfuzz target {} found something{again}", self.name))
    }

    /// Puts some of the new inputs into the repository.
    fn save(&self, most: usize) -> Result<(), Failure> {
        if most == 0 {
            return Ok(());
        }
        let merged = self.folder.join("merged");
        create(&merged)?;
        let known = list(&self.corpus())?;
        for path in &known {
            fs::copy(path, merged.join(path.file_name().expect("a file"))).map_err(Failure::file(path))?;
        }
        let log = File::create(self.log()).map_err(Failure::file(self.log()))?;
        create(&self.temporary)?;
        run(self.command().args(["-merge=1".into(), merged.clone(), self.found()]).stderr(log))?;
        self.clear()?;
        let names: BTreeSet<_> = known.iter().filter_map(|path| path.file_name()).collect();
        let mut new = Vec::new();
        for path in list(&merged)?.into_iter().filter(|path| path.file_name().is_some_and(|name| !names.contains(name)))
        {
            new.push((fs::metadata(&path).map_err(Failure::file(&path))?.len(), path));
        }
        new.sort();
        // Of every size: the smallest are those that are refused first.
        let step = new.len().div_ceil(most).max(1);
        for (_, path) in new.iter().step_by(step) {
            fs::copy(path, self.corpus().join(path.file_name().expect("a file"))).map_err(Failure::file(path))?;
        }
        fs::remove_dir_all(&merged).map_err(Failure::file(&merged))
    }
}

/// What libFuzzer last said of itself.
#[derive(Debug, Default, PartialEq)]
struct Progress {
    executions: u64,
    /// Edges between basic blocks of our own code.
    edges: u64,
    /// Edges, told apart by how often they were taken.
    features: u64,
    inputs: u64,
}

impl Progress {
    /// From the last line of the form `#4096 pulse cov: 812 ft: 1733 corp: 95/4107b ...`.
    fn read(log: &str) -> Progress {
        let Some(line) = log.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: ")) else {
            return Progress::default();
        };
        let after = |name: &str| {
            let rest = line.split_once(name).map_or("", |(_, rest)| rest);
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        };
        Progress { executions: after("#"), edges: after(" cov: "), features: after(" ft: "), inputs: after(" corp: ") }
    }

    fn told(&self, cpu_seconds: f64) -> String {
        let Progress { executions, edges, features, inputs } = self;
        format!(
            "{executions:>11} executions  {cpu_seconds:>6.0} CPU s  {edges:>6} edges  {features:>6} features  {inputs:>5} inputs"
        )
    }
}

fn create(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(Failure::file(folder))
}

/// What is in a folder, in order.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(Failure::file(folder))?;
    let paths: Result<Vec<PathBuf>, std::io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(Failure::file(folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_libfuzzer_is_read() {
        let log = "INFO: seed\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n#4096\tpulse  cov: 812 ft: 1733 corp: 95/4107b \
                   lim: 43 exec/s: 2048 rss: 41Mb\nDone 5000 runs\n";
        assert_eq!(Progress::read(log), Progress { executions: 4096, edges: 812, features: 1733, inputs: 95 });
        assert_eq!(Progress::read("no such line"), Progress::default());
    }

    #[test]
    fn a_target_that_is_not_there_is_refused_with_those_that_are() {
        let error = targets(Some("nothing")).expect_err("no such target").to_string();
        assert!(error.contains("requests") && error.contains("tokens"), "{error}");
        assert_eq!(targets(Some("peer")).expect("there is"), ["peer"]);
    }
}
