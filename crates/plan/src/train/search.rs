//! Which layout is the best that fits?

use super::{Memory, Request, Step, Timing, TrainError, last};
use crate::layout::{Job, Layout};
use crate::practice::Recompute;
use serde::Serialize;
use spec::recipe::{Batch, LayoutRecipe, PipelineSchedule};

/// A layout with what it needs and takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The layout.
    pub layout: Layout,
    /// The fullest device.
    pub memory: Memory,
    /// A step of the last batch.
    pub step: Step,
}

/// The most stages that are tried.
const MOST_STAGES: usize = 128;
/// Micro-batches that are tried, in samples.
const MICRO_BATCHES: [usize; 4] = [1, 2, 4, 8];
/// Chunks of a stage that are tried.
const CHUNKS: [usize; 4] = [2, 3, 4, 8];

/// All layouts that fit with every batch of a ramp, the fastest for the last one first.
///
/// # Errors
/// None fits; with how near the nearest comes.
pub fn search(job: &Job, request: &Request, batch: &Batch) -> Result<Vec<Candidate>, TrainError> {
    let tokens = last(batch);
    request.validate()?;
    let limit = request.cluster.accelerator.memory.value;
    let mut fitting = Vec::new();
    let mut nearest = None::<(f64, Layout)>;
    for layout in layouts(job, request) {
        let over = |memory: Memory| Some(memory.total() - limit).filter(|over| *over > 0.0);
        let mut lacks = |over: f64, layout: Layout| {
            if nearest.is_none_or(|(least, _)| over < least) {
                nearest = Some((over, layout));
            }
        };
        if let Some(over) = over(Memory::worst_state(job, &layout)) {
            lacks(over, layout);
            continue;
        }
        let micro_batches = layout.micro_batches(job, tokens);
        // More replicas than there is work for.
        if micro_batches == 1 && tokens < (layout.data * layout.micro_batch * job.context) as u64 {
            continue;
        }
        let Ok(schedule) = layout.schedule(micro_batches) else { continue };
        // Of few micro-batches a schedule may hold more than of many.
        let ramp = batch.stages().into_iter().map(|[_, tokens]| layout.schedule(layout.micro_batches(job, tokens)));
        let Ok(ramp) = ramp.collect::<Result<Vec<_>, _>>() else { continue };
        for layout in [Layout { recompute: Recompute::Nothing, ..layout }, layout] {
            let each = ramp.iter().map(|schedule| Memory::worst(job, &layout, schedule));
            let memory =
                each.fold(Memory::default(), |most, here| if here.total() > most.total() { here } else { most });
            if let Some(over) = over(memory) {
                lacks(over, layout);
                continue;
            }
            let timing = Timing::new(job, &request.cluster, &layout, request.efficiency);
            if let Ok((step, _)) = timing.step_with(tokens, &schedule) {
                fitting.push(Candidate { layout, memory, step });
            }
        }
    }
    if fitting.is_empty() {
        let best = match nearest {
            Some((over, layout)) => format!("{layout} comes nearest and lacks {:.1} GB on a device", over / 1e9),
            None => "no degrees divide its heads, layers and experts".to_owned(),
        };
        let (devices, device) = (request.cluster.devices, request.cluster.accelerator.id.clone());
        return Err(TrainError::NothingFits { devices, device, best });
    }
    fitting.sort_by(|a, b| a.step.seconds.total_cmp(&b.step.seconds));
    Ok(fitting)
}

/// What may divide the job, recomputing.
fn layouts(job: &Job, request: &Request) -> Vec<Layout> {
    let cluster = &request.cluster;
    let layers = job.config.layers.len();
    let experts = (0..layers).map(|layer| job.config.experts(layer)).max().unwrap_or(0).max(1);
    let tensors = (1..=cluster.accelerator.devices_per_node).filter(|n| n.is_power_of_two());
    let mut all = Vec::new();
    for tensor in tensors {
        for pipeline in divisors(layers).filter(|stages| *stages <= MOST_STAGES && tensor * stages <= cluster.devices) {
            for expert in divisors(experts) {
                for (schedule, interleave) in schedules(pipeline, layers / pipeline) {
                    let recipe =
                        LayoutRecipe { tensor, pipeline, expert, schedule, interleave, zero: true, sharded: false };
                    for micro_batch in MICRO_BATCHES {
                        all.extend(Layout::new(job, cluster, recipe, micro_batch, true).ok());
                    }
                }
            }
        }
    }
    all
}

fn schedules(stages: usize, layers: usize) -> Vec<(PipelineSchedule, usize)> {
    let mut all = vec![(PipelineSchedule::OneForwardOneBackward, 1)];
    if stages > 1 {
        all.push((PipelineSchedule::ZeroBubble, 1));
        let chunks = CHUNKS.into_iter().filter(|chunks| layers.is_multiple_of(*chunks));
        all.extend(chunks.map(|chunks| (PipelineSchedule::Interleaved, chunks)));
    }
    all
}

fn divisors(of: usize) -> impl Iterator<Item = usize> {
    (1..=of).filter(move |n| of.is_multiple_of(*n))
}

/// One part of a step in two layouts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Which part.
    pub part: &'static str,
    /// Seconds in the better layout.
    pub better: f64,
    /// Seconds in the other.
    pub other: f64,
}

/// Why one layout is faster than another: the parts of the step, those that differ most first.
pub fn why(better: &Candidate, other: &Candidate) -> Vec<Difference> {
    let parts = better.step.parts().into_iter().zip(other.step.parts());
    let mut all: Vec<_> = parts.map(|((part, better), (_, other))| Difference { part, better, other }).collect();
    all.sort_by(|a, b| (b.other - b.better).abs().total_cmp(&(a.other - a.better).abs()));
    all
}
