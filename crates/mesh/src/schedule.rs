//! In which order do the stages of a pipeline work? Schedules as plain data: what a trainer executes, a planner times and a chart draws.

use crate::Share;
use std::fmt;

/// What a stage does with one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Its layers, forward.
    Forward,
    /// Gradients of its inputs and of its weights.
    Backward,
    /// Gradients of its inputs alone.
    BackwardInput,
    /// Gradients of its weights, some time after those of its inputs.
    BackwardWeight,
}

/// One entry of a stage's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// What is done.
    pub op: Op,
    /// With which micro-batch, from 0.
    pub micro_batch: usize,
    /// By which of the stage's chunks of layers, from 0. Chunk `c` of stage `s` comes `c * stages + s` chunks after the embedding.
    pub chunk: usize,
}

/// The order of work of every stage for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Micro-batches of the step.
    pub micro_batches: usize,
    /// Chunks of layers on each stage.
    pub chunks: usize,
    /// What each stage does, in order.
    pub stages: Vec<Vec<Action>>,
}

/// A schedule that cannot be made or followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    /// A count of zero.
    Empty,
    /// Stages that wait for one another for ever; the first that is stuck, and on which of its actions.
    Deadlock {
        /// The stage.
        stage: usize,
        /// Index into its list.
        action: usize,
    },
    /// An action that is missing, done twice, or belongs to no micro-batch or chunk.
    Count {
        /// The stage.
        stage: usize,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a pipeline needs at least one stage, one chunk and one micro-batch"),
            Self::Deadlock { stage, action } => write!(f, "stage {stage} waits for ever before its action {action}"),
            Self::Count { stage } => write!(f, "stage {stage} does not do each part of each micro-batch exactly once"),
        }
    }
}

impl std::error::Error for ScheduleError {}

/// Seconds of each kind of work, by chunk of the whole pipeline (`chunk * stages + stage`).
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Forward.
    pub forward: Vec<f64>,
    /// Gradients of inputs, recomputation included.
    pub backward_input: Vec<f64>,
    /// Gradients of weights.
    pub backward_weight: Vec<f64>,
    /// From one stage to the next.
    pub hop: f64,
}

impl Costs {
    /// Every chunk alike.
    pub fn uniform(chunks: usize, forward: f64, backward_input: f64, backward_weight: f64, hop: f64) -> Self {
        let each = |seconds| vec![seconds; chunks];
        Self {
            forward: each(forward),
            backward_input: each(backward_input),
            backward_weight: each(backward_weight),
            hop,
        }
    }

    fn of(&self, op: Op, chunk: usize) -> f64 {
        match op {
            Op::Forward => self.forward[chunk],
            Op::BackwardInput => self.backward_input[chunk],
            Op::BackwardWeight => self.backward_weight[chunk],
            Op::Backward => self.backward_input[chunk] + self.backward_weight[chunk],
        }
    }
}

/// One action in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What is done.
    pub action: Action,
    /// Seconds from the start of the step.
    pub start: f64,
    /// The same.
    pub end: f64,
}

/// A schedule in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// What each stage does when.
    pub stages: Vec<Vec<Span>>,
    /// When the last stage is done.
    pub seconds: f64,
}

impl Timeline {
    /// Seconds that a stage works.
    pub fn busy(&self, stage: usize) -> f64 {
        self.stages[stage].iter().map(|span| span.end - span.start).sum()
    }

    /// Share of the step that the busiest stage waits: what the pipeline itself costs.
    pub fn bubble(&self) -> f64 {
        let busiest = (0..self.stages.len()).map(|stage| self.busy(stage)).fold(0.0, f64::max);
        if self.seconds > 0.0 { 1.0 - busiest / self.seconds } else { 0.0 }
    }
}

impl Schedule {
    /// One forward, one backward (PipeDream-Flush; Narayanan 2021): stage `s` of `p` runs `p - s - 1` forwards ahead, then takes turns. At most `p - s`
    /// micro-batches are in flight on it.
    ///
    /// # Errors
    /// No stage or no micro-batch.
    pub fn one_forward_one_backward(stages: usize, micro_batches: usize) -> Result<Self, ScheduleError> {
        Self::in_turns(stages, micro_batches, 1, |stage| stages - stage - 1)
    }

    /// The same with `chunks` chunks of layers on each stage (Narayanan 2021): the bubble is that of chunks instead of stages. Micro-batches go in groups
    /// of at least as many as there are stages, as even as can be.
    ///
    /// # Errors
    /// No stage, chunk or micro-batch.
    pub fn interleaved(stages: usize, micro_batches: usize, chunks: usize) -> Result<Self, ScheduleError> {
        if chunks < 2 {
            return Self::one_forward_one_backward(stages, micro_batches);
        }
        if stages == 0 || micro_batches == 0 {
            return Err(ScheduleError::Empty);
        }
        let largest = micro_batches.div_ceil(groups(stages, micro_batches)).max(stages);
        Self::in_turns(stages, micro_batches, chunks, |stage| 2 * (stages - stage - 1) + (chunks - 1) * largest)
    }

    fn in_turns(
        stages: usize,
        micro_batches: usize,
        chunks: usize,
        ahead: impl Fn(usize) -> usize,
    ) -> Result<Self, ScheduleError> {
        if stages == 0 || micro_batches == 0 || chunks == 0 {
            return Err(ScheduleError::Empty);
        }
        let order = |op: Op| {
            let of = groups(stages, micro_batches);
            (0..of).flat_map(move |index| {
                let group = Share { index, of }.range(micro_batches);
                (0..chunks).flat_map(move |chunk| {
                    let chunk = if op == Op::Forward { chunk } else { chunks - 1 - chunk };
                    group.clone().map(move |micro_batch| Action { op, micro_batch, chunk })
                })
            })
        };
        let list = |stage| {
            let (mut forward, mut backward) = (order(Op::Forward), order(Op::Backward));
            let mut list: Vec<_> = forward.by_ref().take(ahead(stage)).collect();
            for action in forward {
                list.push(action);
                list.extend(backward.next());
            }
            list.extend(backward);
            list
        };
        Ok(Self { micro_batches, chunks, stages: (0..stages).map(list).collect() })
    }

    /// ZB-H1 (Qi 2023): 1F1B whose gradients of weights wait and fill the bubble. Stage `s` has `s` of them waiting, so that no stage holds more
    /// micro-batches than 1F1B's first one does.
    ///
    /// # Errors
    /// No stage or no micro-batch.
    pub fn zero_bubble(stages: usize, micro_batches: usize) -> Result<Self, ScheduleError> {
        if stages == 0 || micro_batches == 0 {
            return Err(ScheduleError::Empty);
        }
        let list = |stage| {
            let act = |op| move |micro_batch| Action { op, micro_batch, chunk: 0 };
            let mut forward = (0..micro_batches).map(act(Op::Forward));
            let mut weight = (0..micro_batches).map(act(Op::BackwardWeight));
            let mut list: Vec<_> = forward.by_ref().take(stages - stage).collect();
            for micro_batch in 0..micro_batches {
                list.push(act(Op::BackwardInput)(micro_batch));
                if micro_batch >= stage {
                    list.extend(weight.next());
                }
                list.extend(forward.next());
            }
            list.extend(weight);
            list
        };
        Ok(Self { micro_batches, chunks: 1, stages: (0..stages).map(list).collect() })
    }

    /// Whether every stage does each part of each micro-batch once, and in an order in which nobody waits for ever.
    ///
    /// # Errors
    /// The first stage where that does not hold.
    pub fn check(&self) -> Result<(), ScheduleError> {
        for (stage, list) in self.stages.iter().enumerate() {
            let mut parts = vec![[0_u32; 3]; self.micro_batches * self.chunks];
            for action in list {
                let place = action.chunk * self.micro_batches + action.micro_batch;
                let known = action.chunk < self.chunks && action.micro_batch < self.micro_batches;
                let part = parts.get_mut(place).filter(|_| known).ok_or(ScheduleError::Count { stage })?;
                match action.op {
                    Op::Forward => part[0] += 1,
                    Op::BackwardInput => part[1] += 1,
                    Op::BackwardWeight => part[2] += 1,
                    Op::Backward => (part[1], part[2]) = (part[1] + 1, part[2] + 1),
                }
            }
            if parts.iter().any(|part| *part != [1, 1, 1]) {
                return Err(ScheduleError::Count { stage });
            }
        }
        let chunks = self.chunks * self.stages.len();
        self.timeline(&Costs::uniform(chunks, 1.0, 1.0, 1.0, 0.0)).map(|_| ())
    }

    /// When each action runs, if each starts as soon as its stage is free and what it needs has come.
    ///
    /// # Errors
    /// Stages that wait for ever.
    ///
    /// # Panics
    /// Where `costs` has fewer entries than the pipeline has chunks, or an action names a micro-batch or chunk that the schedule does not have.
    pub fn timeline(&self, costs: &Costs) -> Result<Timeline, ScheduleError> {
        let stages = self.stages.len();
        let last = stages * self.chunks - 1;
        let mut forward = vec![f64::NAN; (last + 1) * self.micro_batches];
        let mut backward = forward.clone();
        let mut spans: Vec<Vec<Span>> = self.stages.iter().map(|list| Vec::with_capacity(list.len())).collect();
        loop {
            let mut moved = false;
            for (stage, list) in self.stages.iter().enumerate() {
                while let Some(&action) = list.get(spans[stage].len()) {
                    let chunk = action.chunk * stages + stage;
                    let at = |chunk: usize| chunk * self.micro_batches + action.micro_batch;
                    let needs = match action.op {
                        Op::Forward if chunk == 0 => 0.0,
                        Op::Forward => forward[at(chunk - 1)] + costs.hop,
                        Op::BackwardWeight => backward[at(chunk)],
                        Op::Backward | Op::BackwardInput if chunk == last => forward[at(chunk)],
                        Op::Backward | Op::BackwardInput => {
                            // A sum with what is not there yet is NaN, and so stays what waits for it.
                            let (own, next) = (forward[at(chunk)], backward[at(chunk + 1)] + costs.hop);
                            if own.is_nan() || next.is_nan() { f64::NAN } else { own.max(next) }
                        }
                    };
                    if needs.is_nan() {
                        break;
                    }
                    let start = spans[stage].last().map_or(0.0, |span: &Span| span.end).max(needs);
                    let end = start + costs.of(action.op, chunk);
                    match action.op {
                        Op::Forward => forward[at(chunk)] = end,
                        Op::Backward | Op::BackwardInput => backward[at(chunk)] = end,
                        Op::BackwardWeight => (),
                    }
                    spans[stage].push(Span { action, start, end });
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let stuck = |(stage, list): (usize, &Vec<Action>)| (spans[stage].len() < list.len()).then_some(stage);
        if let Some(stage) = self.stages.iter().enumerate().find_map(stuck) {
            return Err(ScheduleError::Deadlock { stage, action: spans[stage].len() });
        }
        let seconds = spans.iter().filter_map(|spans| spans.last()).map(|span| span.end).fold(0.0, f64::max);
        Ok(Timeline { stages: spans, seconds })
    }

    /// The most micro-batches whose activations a stage holds at once, counted in chunks: from a forward to the weight gradients.
    pub fn in_flight(&self, stage: usize) -> usize {
        let (mut now, mut most) = (0_usize, 0);
        for action in &self.stages[stage] {
            match action.op {
                Op::Forward => now += 1,
                Op::Backward | Op::BackwardWeight => now = now.saturating_sub(1),
                Op::BackwardInput => (),
            }
            most = most.max(now);
        }
        most
    }
}

/// How many groups micro-batches go in.
fn groups(stages: usize, micro_batches: usize) -> usize {
    (micro_batches / stages).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(schedule: &Schedule, forward: f64, input: f64, weight: f64) -> f64 {
        let chunks = schedule.chunks * schedule.stages.len();
        let each = 1.0 / schedule.chunks as f64;
        let costs = Costs::uniform(chunks, forward * each, input * each, weight * each, 0.0);
        schedule.timeline(&costs).unwrap().seconds
    }

    proptest! {
        #[test]
        fn one_forward_one_backward_has_its_bubble_and_memory(p in 1..12_usize, m in 1..40_usize, f in 0.5..2.0_f64, b in 0.5..3.0_f64) {
            let schedule = Schedule::one_forward_one_backward(p, m).unwrap();
            prop_assert_eq!(schedule.check(), Ok(()));
            // Every stage works m times, and the first and last wait for p - 1 others.
            let expected = (m + p - 1) as f64 * (f + b);
            prop_assert!((seconds(&schedule, f, b / 2.0, b / 2.0) / expected - 1.0).abs() < 1e-9);
            for stage in 0..p {
                prop_assert_eq!(schedule.in_flight(stage), m.min(p - stage));
            }
        }

        #[test]
        fn interleaving_divides_the_bubble(p in 2..9_usize, more in 0..30_usize, v in 2..5_usize, f in 0.5..2.0_f64) {
            let m = p + more;
            let schedule = Schedule::interleaved(p, m, v).unwrap();
            let bubble = (p - 1) as f64 * 3.0 * f / v as f64;
            let expected = m as f64 * 3.0 * f + bubble;
            prop_assert!((seconds(&schedule, f, f, f) / expected - 1.0).abs() < 1e-9);
        }

        #[test]
        fn interleaving_goes_with_any_count_of_micro_batches(p in 1..9_usize, m in 1..40_usize, v in 2..5_usize) {
            prop_assert_eq!(Schedule::interleaved(p, m, v).unwrap().check(), Ok(()));
        }

        #[test]
        fn zero_bubble_waits_for_one_part_of_three(p in 1..12_usize, m in 1..40_usize) {
            let schedule = Schedule::zero_bubble(p, m).unwrap();
            prop_assert_eq!(schedule.check(), Ok(()));
            for stage in 0..p {
                prop_assert!(schedule.in_flight(stage) <= p);
            }
            // (p - 1) (forward + input - weight), Qi 2023, once there are micro-batches enough to fill it.
            let took = seconds(&schedule, 1.0, 1.0, 1.0);
            if m >= p {
                prop_assert!((took - (3 * m + p - 1) as f64).abs() < 1e-9, "{p} stages, {m} micro-batches: {took}");
            }
            prop_assert!(took <= 3.0 * (m + p - 1) as f64);
        }

        #[test]
        fn slower_work_never_ends_sooner(p in 1..8_usize, m in 1..20_usize, slow in 0..8_usize, hop in 0.0..0.5_f64) {
            let schedule = Schedule::one_forward_one_backward(p, m).unwrap();
            let mut costs = Costs::uniform(p, 1.0, 1.0, 1.0, hop);
            let before = schedule.timeline(&costs).unwrap().seconds;
            costs.forward[slow % p] += 1.0;
            let after = schedule.timeline(&costs).unwrap().seconds;
            prop_assert!(after >= before - 1e-9 && after >= 4.0 * m as f64);
        }
    }

    #[test]
    fn what_is_missing_doubled_or_out_of_order_is_found() {
        let whole = Schedule::one_forward_one_backward(3, 4).unwrap();
        let mut missing = whole.clone();
        missing.stages[1].pop();
        assert_eq!(missing.check(), Err(ScheduleError::Count { stage: 1 }));
        let mut foreign = whole.clone();
        foreign.stages[0][0].micro_batch = 4;
        assert_eq!(foreign.check(), Err(ScheduleError::Count { stage: 0 }));
        let mut swapped = whole;
        swapped.stages[2].reverse();
        assert!(matches!(swapped.check(), Err(ScheduleError::Deadlock { .. })));
        assert_eq!(Schedule::one_forward_one_backward(0, 1), Err(ScheduleError::Empty));
    }
}
