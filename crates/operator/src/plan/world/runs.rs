//! Worlds from beginning to end: at random, and the same story with the operator killed at every point of it.

use super::World;
use crate::plan::{Finding, NodeState, Observed, Ordinal, Step, plan};

/// Steps after which a world without further faults must be as wanted.
const CONVERGED_WITHIN: usize = 400;

/// Runs one world: `faults` disturbances among the steps, then quiet until everything is as wanted.
fn run(seed: u64, faults: usize) -> World {
    let mut world = World::new(seed);
    let mut left = faults;
    let mut quiet = 0;
    while quiet < CONVERGED_WITHIN {
        world.live();
        if left > 0 && world.random.one_in(5) {
            world.disturb();
            left -= 1;
        }
        world.check_one_cluster();
        if left == 0 {
            world.calm_down();
            quiet += 1;
        }
        let observed = world.observe();
        world.note(&observed);
        let decided = plan(&observed);
        assert!(
            !observed.wanted.paused || observed.wanted.deleted || decided.step.is_none(),
            "seed {seed}: it is paused"
        );
        let crashed_before_it = world.random.one_in(8);
        if let Some(step) = decided.step.filter(|_| !crashed_before_it) {
            let only_refused = left == 0 && step == Step::GrowVolumes && world.refuses_growth;
            let then = world.clone();
            world.hold_up(&mut left);
            world.take(step, &then);
            if only_refused && world.is_as_wanted() {
                break;
            }
        } else if left == 0 && decided.finding == Finding::Reconciled {
            break;
        }
    }
    assert!(world.is_as_wanted(), "seed {seed}: not as wanted: {:#?}\n{:?}", world.observe(), plan(&world.observe()));
    // A human may recover from a node that had accepted an Init which never reached the others.
    let made = world.initialised == 1 || world.initialised == 0 && !world.retired.is_empty();
    assert!(made, "seed {seed}: made {} times", world.initialised);
    world
}

impl World {
    /// What the status remembers of a look.
    pub(super) fn note(&mut self, observed: &Observed) {
        let mut latched = self.latched;
        latched.formed |= observed.cluster.is_some();
        if let Some(recovery) = &mut latched.recovery {
            recovery.begun |= observed.recovery_job.has_begun();
        }
        self.version += u64::from(latched != self.latched);
        self.latched = latched;
    }

    /// Now and then much happens between a look and the step that rests on it; another operator may be at work all the while.
    fn hold_up(&mut self, left: &mut usize) {
        if !self.random.one_in(4) {
            return;
        }
        self.live();
        if *left > 0 && self.random.one_in(2) {
            self.disturb();
            *left -= 1;
        }
        while self.random.below(4) > 0 {
            let observed = self.observe();
            self.note(&observed);
            let then = self.clone();
            if let Some(step) = plan(&observed).step {
                self.take(step, &then);
            }
            self.live();
        }
    }
}

/// How the operator fails at one step of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It dies before the step, and the world goes on for a while without it.
    DiesBefore,
    /// It is held up before the step, and takes it after another operator has taken it, and the one after it.
    ComesLate,
}

/// Everything that happens in the life of one cluster, told once; `failure` strikes at the step of this number.
struct Story {
    world: World,
    taken: usize,
    failure: Option<(usize, Failure)>,
    late: Option<(Step, Box<World>)>,
}

impl Story {
    /// The world goes on and the operator works, until everything is as wanted or `steps` were taken.
    fn goes_on(&mut self, steps: usize) {
        let last = self.taken + steps;
        for _ in 0..CONVERGED_WITHIN {
            self.world.live();
            self.world.check_one_cluster();
            let observed = self.world.observe();
            self.world.note(&observed);
            let decided = plan(&observed);
            let Some(step) = decided.step else {
                if decided.finding == Finding::Reconciled {
                    break;
                }
                continue;
            };
            let strikes = self.failure.filter(|(at, _)| *at == self.taken).map(|(_, failure)| failure);
            self.taken += 1;
            if strikes == Some(Failure::DiesBefore) {
                (0..3).for_each(|_| self.world.live());
                continue;
            }
            let due = self.late.take();
            let then = self.world.clone();
            self.world.take(step.clone(), &then);
            if strikes == Some(Failure::ComesLate) {
                self.late = Some((step, Box::new(then)));
            }
            if let Some((step, then)) = due {
                self.world.live();
                self.world.act_late(step, &then);
            }
            if self.taken >= last {
                return;
            }
        }
        let world = &self.world;
        assert!(
            world.is_as_wanted(),
            "{:?}: not as wanted: {:#?}\n{:?}",
            self.failure,
            world.observe(),
            plan(&world.observe())
        );
    }

    /// The number of steps.
    fn tell(failure: Option<(usize, Failure)>) -> usize {
        let mut story = Story { world: World::new(7), taken: 0, failure, late: None };
        let end = usize::MAX - 1_000_000;
        story.goes_on(end);
        story.world.wanted.replicas = 5;
        story.goes_on(end);
        story.world.template += 1;
        story.goes_on(end);
        story.world.pods.remove(&Ordinal(1));
        story.world.volumes.remove(&Ordinal(1));
        story.goes_on(end);
        story.world.pods.get_mut(&Ordinal(4)).expect("five pods").node_lost = true;
        story.world.volumes.get_mut(&Ordinal(4)).expect("five volumes").stranded = true;
        story.goes_on(end);
        story.world.volumes.get_mut(&Ordinal(0)).expect("five volumes").barred = Some(NodeState::Fenced);
        story.goes_on(end);
        story.world.wanted.replicas = 3;
        story.goes_on(end);
        story.world.wanted.replicas = 5;
        story.goes_on(3);
        story.world.wanted.replicas = 3;
        story.goes_on(end);
        story.world.small = true;
        story.goes_on(end);
        story.world.write_set(Some(1));
        story.goes_on(end);
        story.world.lose_quorum();
        story.goes_on_until_lost();
        story.world.ask_for_recovery();
        story.goes_on(end);
        assert_eq!((story.world.initialised, story.world.retired.len()), (1, 1), "{failure:?}");
        story.taken
    }

    /// A lost quorum is left alone.
    fn goes_on_until_lost(&mut self) {
        for _ in 0..5 {
            self.world.live();
            let decided = plan(&self.world.observe());
            assert_eq!((decided.step, decided.finding), (None, Finding::QuorumLost));
        }
    }
}

#[test]
fn an_operator_that_fails_at_any_step_of_a_long_story_changes_nothing_of_its_end() {
    let steps = Story::tell(None);
    assert!(steps > 40, "{steps} steps");
    for at in 0..steps {
        for failure in [Failure::DiesBefore, Failure::ComesLate] {
            Story::tell(Some((at, failure)));
        }
    }
}

#[test]
fn every_world_ends_as_wanted_whatever_goes_wrong_on_the_way() {
    let worlds = || (0..3_000).map(|seed| run(seed, 14));
    let (recoveries, again): (usize, u64) = worlds()
        .fold((0, 0), |(recoveries, again), world| (recoveries + world.retired.len(), again + world.resource - 1));
    assert!(recoveries > 300, "{recoveries}: too few to tell anything of them");
    assert!(again > 300, "{again} resources made again: too few to tell anything of them");
}

#[test]
fn a_world_without_faults_comes_up() {
    assert!(run(1, 0).retired.is_empty());
}
