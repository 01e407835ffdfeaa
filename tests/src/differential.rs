//! The same seeded random requests to a real etcd and to Quorate, and what they answer compared.
//!
//! Owns the two server processes of each episode. An episode begins with two empty stores and is a function of its seed
//! alone, so that whatever it finds can be played again, and cut down, from empty stores.
//!
//! Never compares what is a matter of one run: ids, terms, sizes, times. Differences that are meant are in `known`, with
//! their reasons; docs/etcd-compatibility.md tells users of them.

mod action;
mod answer;
mod generate;
mod http;
mod known;
mod pair;
mod random;
mod services;
mod shrink;
mod side;

use std::path::PathBuf;

pub use self::action::{Action, Call};
pub use self::answer::Answer;
use self::generate::Generator;
use self::pair::Pair;

/// Requests after which both begin again with empty stores.
const EPISODE_REQUESTS: u64 = 600;

/// Divergences of which a line is printed; further ones are only counted.
const DESCRIBED: u64 = 20;

/// What to run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The etcd to compare with.
    pub etcd: PathBuf,
    /// The Quorate to compare.
    pub quorate: PathBuf,
    /// Seed of the first episode; the next ones follow from it.
    pub seed: u64,
    /// How many requests to send to each.
    pub requests: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Requests sent to each.
    pub requests: u64,
    /// Answers that differ without a known reason. An episode ends with its first.
    pub divergences: u64,
    /// Answers that differ for a known reason.
    pub deliberate: u64,
}

/// One answer that differs.
#[derive(Debug, Clone)]
struct Divergence {
    action: Action,
    etcd: Answer,
    quorate: Answer,
}

/// Runs episodes until enough requests were sent, and prints what differs.
pub async fn run(run: &Run) -> Summary {
    let mut summary = Summary { requests: 0, divergences: 0, deliberate: 0 };
    let mut episode = 0;
    while summary.requests < run.requests {
        let seed = run.seed.wrapping_add(episode);
        episode += 1;
        let limit = EPISODE_REQUESTS.min(run.requests - summary.requests);
        let Some((history, found)) = play_episode(run, seed, limit, &mut summary).await else { continue };
        summary.divergences += 1;
        if summary.divergences == 1 {
            println!("seed {seed}: after {} requests\n{found}", history.len());
            println!("looking for a shorter way there");
            let (short, found) = shrink::shrink(run, history, found).await;
            println!("seed {seed}: {} requests from empty stores show it:", short.len());
            for action in &short {
                println!("  {action:?}");
            }
            println!("{found}");
        } else if summary.divergences <= DESCRIBED {
            println!("seed {seed}: after {} requests\n{found}", history.len());
        }
    }
    summary
}

/// Sends up to `limit` requests that follow from `seed`; gives all of them if the last one's answers differ.
async fn play_episode(
    run: &Run,
    seed: u64,
    limit: u64,
    summary: &mut Summary,
) -> Option<(Vec<Action>, Box<Divergence>)> {
    let mut pair = Pair::start(run).await;
    let mut generator = Generator::new(seed);
    let mut history = Vec::new();
    for _ in 0..limit {
        let action = generator.next();
        history.push(action.clone());
        let (etcd, quorate) = pair.ask(&action).await;
        generator.learn(&action, &etcd);
        summary.requests += 1;
        match compare(&action, etcd, quorate) {
            Verdict::Same => {}
            Verdict::Deliberate => summary.deliberate += 1,
            Verdict::Differs(found) => return Some((history, found)),
        }
    }
    None
}

/// Plays `actions` from empty stores: how many until the first divergence, which is the last of them.
async fn replay(run: &Run, actions: &[Action]) -> Option<(usize, Box<Divergence>)> {
    let mut pair = Pair::start(run).await;
    for (position, action) in actions.iter().enumerate() {
        let (etcd, quorate) = pair.ask(action).await;
        if let Verdict::Differs(found) = compare(action, etcd, quorate) {
            return Some((position + 1, found));
        }
    }
    None
}

enum Verdict {
    Same,
    Deliberate,
    Differs(Box<Divergence>),
}

fn compare(action: &Action, etcd: Answer, quorate: Answer) -> Verdict {
    if etcd == quorate {
        return Verdict::Same;
    }
    match known::reason(action, &etcd, &quorate) {
        Some(_) => Verdict::Deliberate,
        None => Verdict::Differs(Box::new(Divergence { action: action.clone(), etcd, quorate })),
    }
}

impl std::fmt::Display for Divergence {
    /// The request, and the lines of the answers that differ; an answer that differs in most lines is given whole.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  request {:?}", self.action)?;
        let (etcd, quorate) = (self.etcd.to_string(), self.quorate.to_string());
        let (theirs, ours): (Vec<&str>, Vec<&str>) = (etcd.lines().collect(), quorate.lines().collect());
        if theirs.len() != ours.len() {
            return write!(f, "  etcd    {etcd}\n  quorate {quorate}");
        }
        for (line, (their, our)) in theirs.iter().zip(&ours).enumerate().filter(|(_, (their, our))| their != our) {
            writeln!(f, "  line {:3} etcd    {}\n           quorate {}", line + 1, their.trim(), our.trim())?;
        }
        Ok(())
    }
}
