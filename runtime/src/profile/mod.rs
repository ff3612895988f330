//! Where a forward's time goes: the time of each step, beside what the step had to do.

mod work;

use std::time::{Duration, Instant};

use llamac_plan::Plan;

pub(crate) use work::{ChunkShape, of_step};
pub use work::{Limits, Work};

/// The times of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// How often it ran.
    pub calls: u64,
    /// Time of all its runs.
    pub time: Duration,
    /// What all its runs had to do.
    pub work: Work,
}

/// When a step ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of the step in the plan.
    pub step: usize,
    /// From the start of the profile.
    pub start: Duration,
    /// How long.
    pub time: Duration,
}

/// What was recorded since profiling began.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// For each step of the plan.
    pub steps: Vec<StepTime>,
    /// Every run of a step, in the order of time.
    pub events: Vec<Event>,
}

/// Records a profile.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    profile: Profile,
}

impl Recorder {
    /// Begins, for a plan of `steps` steps.
    pub(crate) fn new(steps: usize) -> Self {
        let profile = Profile { steps: vec![StepTime::default(); steps], events: Vec::new() };
        Self { began: Instant::now(), profile }
    }

    /// Records step number `step`, which began at `start` and ends now.
    pub(crate) fn record(&mut self, plan: &Plan, step: usize, chunk: &ChunkShape, start: Instant) {
        let time = start.elapsed();
        let total = &mut self.profile.steps[step];
        total.calls += 1;
        total.time += time;
        total.work += of_step(plan, &plan.steps[step], chunk);
        self.profile.events.push(Event { step, start: start.duration_since(self.began), time });
    }

    /// What was recorded.
    pub(crate) fn finish(self) -> Profile {
        self.profile
    }
}
