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
mod lines;
mod pair;
mod random;
mod services;
mod shrink;
mod side;
mod standing;
mod watching;

use std::cell::RefCell;
use std::path::PathBuf;

pub use self::action::{Action, Call};
pub use self::answer::Answer;
use self::generate::Generator;
use self::pair::Pair;
pub use self::standing::Stay;

/// Requests after which both begin again with empty stores.
const EPISODE_REQUESTS: u64 = 600;

/// From the seed of one episode to that of the next: runs with seeds close to each other have no episode in common.
const EPISODE_DISTANCE: u64 = 1_000_000;

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
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Requests sent to each.
    pub requests: u64,
    /// Answers that differ without a known reason. An episode ends with its first.
    pub divergences: u64,
    /// Answers that differ for a known reason.
    pub deliberate: u64,
    /// Episodes that ended because etcd's process did, by a known fault of its own.
    pub etcd_ended: u64,
}

/// One answer that differs.
#[derive(Debug, Clone)]
struct Divergence {
    action: Action,
    etcd: Answer,
    quorate: Answer,
}

/// Runs episodes, two at a time, until enough requests were sent, and prints what differs.
pub async fn run(run: &Run) -> Summary {
    let progress = RefCell::new(Progress::default());
    tokio::join!(play_episodes(run, &progress), play_episodes(run, &progress));
    progress.into_inner().summary
}

/// What is common to episodes under way at the same time.
#[derive(Debug, Default)]
struct Progress {
    /// Episodes begun.
    episodes: u64,
    /// Requests sent or yet to be sent by these.
    planned: u64,
    summary: Summary,
}

impl Progress {
    /// Seed and length of the next episode, if there is to be one.
    fn next(&mut self, run: &Run) -> Option<(u64, u64)> {
        let limit = EPISODE_REQUESTS.min(run.requests.saturating_sub(self.planned));
        let seed = run.seed.wrapping_add(self.episodes.wrapping_mul(EPISODE_DISTANCE));
        self.episodes += 1;
        self.planned += limit;
        (limit > 0).then_some((seed, limit))
    }
}

async fn play_episodes(run: &Run, progress: &RefCell<Progress>) {
    loop {
        let Some((seed, limit)) = progress.borrow_mut().next(run) else { return };
        let episode = play_episode(run, seed, limit).await;
        let divergences = {
            let mut progress = progress.borrow_mut();
            progress.planned -= limit - episode.history.len() as u64;
            progress.summary.requests += episode.history.len() as u64;
            progress.summary.deliberate += episode.deliberate;
            progress.summary.etcd_ended += u64::from(episode.etcd_ended);
            progress.summary.divergences += u64::from(episode.found.is_some());
            progress.summary.divergences
        };
        let Some(found) = episode.found else { continue };
        if divergences <= DESCRIBED {
            println!("seed {seed}: after {} requests\n{found}", episode.history.len());
        }
        if divergences == 1 {
            println!("looking for a shorter way there");
            let (short, found) = shrink::shrink(run, episode.history, found).await;
            println!("seed {seed}: {} requests from empty stores show it:", short.len());
            for action in &short {
                println!("  {action:?}");
            }
            println!("{found}");
        }
    }
}

/// What was sent in an episode and what came of it.
struct Episode {
    history: Vec<Action>,
    deliberate: u64,
    etcd_ended: bool,
    /// The answers to the last request, if they differ.
    found: Option<Box<Divergence>>,
}

/// Sends up to `limit` requests that follow from `seed`; ends with the first whose answers differ.
async fn play_episode(run: &Run, seed: u64, limit: u64) -> Episode {
    let mut pair = Pair::start(run).await;
    let mut generator = Generator::new(seed);
    let mut episode = Episode { history: Vec::new(), deliberate: 0, etcd_ended: false, found: None };
    for _ in 0..limit {
        let action = generator.next();
        episode.history.push(action.clone());
        let (etcd, quorate) = pair.ask(&action).await;
        generator.learn(&action, &etcd);
        match compare(&action, etcd, quorate) {
            Verdict::Same => {}
            Verdict::Deliberate => episode.deliberate += 1,
            Verdict::Differs(_) if pair.etcd_ended() => {
                episode.etcd_ended = true;
                break;
            }
            Verdict::Differs(found) => {
                episode.found = Some(found);
                break;
            }
        }
    }
    episode
}

/// Plays `actions` from empty stores: how many until the first divergence, which is the last of them.
async fn replay(run: &Run, actions: &[Action]) -> Option<(usize, Box<Divergence>)> {
    let mut pair = Pair::start(run).await;
    for (position, action) in actions.iter().enumerate() {
        let (etcd, quorate) = pair.ask(action).await;
        if let Verdict::Differs(found) = compare(action, etcd, quorate) {
            return (!pair.etcd_ended()).then_some((position + 1, found));
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
