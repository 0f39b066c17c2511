//! What a run learned, step by step, from its `log.jsonl`.

use super::thinned::{Merge, Spread, Thinned};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Points of a curve at most.
const POINTS: usize = 1000;
/// Points of the experts' loads in time at most, and cells of them all.
const LOAD_POINTS: usize = 128;
const LOAD_CELLS: usize = 150_000;
/// Skipped steps that are told one by one.
const SKIPPED: usize = 20;

/// One line of `log.jsonl`: a step, or a measurement of held-out text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Entry {
    step: u64,
    tokens: u64,
    batch: u64,
    loss: Option<f64>,
    sources: BTreeMap<String, Option<f64>>,
    balance: Option<f64>,
    z: Option<f64>,
    gradient_norm: Option<f64>,
    lr: Option<f64>,
    dropped: u64,
    layers: Vec<Layer>,
    skipped: Option<String>,
    held_out: Option<BTreeMap<String, Option<f64>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Layer {
    min: Option<f64>,
    max: Option<f64>,
    entropy: Option<f64>,
    router_entropy: Option<f64>,
    load: Vec<u64>,
}

/// Some steps that follow each other.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// The last of them.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// Cross-entropy in nats.
    pub loss: Spread,
    /// The same for each source.
    pub sources: BTreeMap<String, Spread>,
    /// Global norm of the gradients before clipping.
    pub gradient_norm: Spread,
    /// The learning rate.
    pub lr: Spread,
    /// Tokens of a batch.
    pub batch: Spread,
    /// The balance loss, 1 where experts are even.
    pub balance: Spread,
    /// The router z-loss.
    pub z: Spread,
    /// Over layers: entropy of the experts' shares, over that of even ones.
    pub load_entropy: Spread,
    /// Over layers: mean entropy of the router's probabilities, in nats.
    pub router_entropy: Spread,
    /// Over layers: the load of the expert with the least and with the most; 1 is an even share.
    pub least: Spread,
    /// The same of that with the most.
    pub most: Spread,
    /// Choices that no expert took.
    pub dropped: u64,
    /// Choices of all layers.
    pub choices: u64,
}

impl Merge for Steps {
    fn merge(&mut self, next: Self) {
        (self.step, self.tokens) = (next.step, next.tokens);
        self.dropped += next.dropped;
        self.choices += next.choices;
        let pairs = [
            (&mut self.loss, next.loss),
            (&mut self.gradient_norm, next.gradient_norm),
            (&mut self.lr, next.lr),
            (&mut self.batch, next.batch),
            (&mut self.balance, next.balance),
            (&mut self.z, next.z),
            (&mut self.load_entropy, next.load_entropy),
            (&mut self.router_entropy, next.router_entropy),
            (&mut self.least, next.least),
            (&mut self.most, next.most),
        ];
        pairs.into_iter().for_each(|(ours, theirs)| ours.merge(theirs));
        next.sources.into_iter().for_each(|(name, loss)| self.sources.entry(name).or_default().merge(loss));
    }
}

/// A measurement of held-out text: losses by source.
#[derive(Clone, Debug, Default)]
pub struct HeldOut {
    /// After which step.
    pub step: u64,
    /// Tokens seen by then.
    pub tokens: u64,
    /// Cross-entropy in nats by source.
    pub losses: BTreeMap<String, Spread>,
}

impl Merge for HeldOut {
    fn merge(&mut self, next: Self) {
        (self.step, self.tokens) = (next.step, next.tokens);
        next.losses.into_iter().for_each(|(name, loss)| self.losses.entry(name).or_default().merge(loss));
    }
}

/// Choices of each layer's experts over some steps.
#[derive(Clone, Debug, Default)]
pub struct Loads {
    /// The last of the steps.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// Choices by layer and expert.
    pub layers: Vec<Vec<u64>>,
}

impl Merge for Loads {
    fn merge(&mut self, next: Self) {
        (self.step, self.tokens) = (next.step, next.tokens);
        self.layers.resize(self.layers.len().max(next.layers.len()), Vec::new());
        for (ours, theirs) in self.layers.iter_mut().zip(next.layers) {
            ours.resize(ours.len().max(theirs.len()), 0);
            ours.iter_mut().zip(theirs).for_each(|(sum, load)| *sum = sum.saturating_add(load));
        }
    }
}

/// A step whose numbers were not trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Skipped {
    /// Which.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// Why.
    pub reason: String,
}

/// All that a log tells.
#[derive(Clone, Debug)]
pub struct Log {
    /// Steps in order.
    pub steps: Thinned<Steps>,
    /// Held-out losses in order.
    pub held_out: Thinned<HeldOut>,
    /// Loads of experts in order, in a sparse model.
    pub loads: Option<Thinned<Loads>>,
    /// The last skipped steps.
    pub skipped: Vec<Skipped>,
    /// All skipped steps.
    pub skipped_steps: u64,
    /// The last step.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
}

impl Default for Log {
    fn default() -> Self {
        let (steps, held_out) = (Thinned::new(POINTS), Thinned::new(POINTS));
        Self { steps, held_out, loads: None, skipped: Vec::new(), skipped_steps: 0, step: 0, tokens: 0 }
    }
}

impl Log {
    /// Takes in the next line.
    pub fn push(&mut self, entry: Entry) {
        let Entry { step, tokens, .. } = entry;
        if let Some(losses) = entry.held_out {
            self.held_out.push(HeldOut { step, tokens, losses: spreads(losses) });
            return;
        }
        (self.step, self.tokens) = (step, tokens);
        if let Some(reason) = entry.skipped {
            self.skipped_steps += 1;
            self.skipped.push(Skipped { step, tokens, reason });
            let surplus = self.skipped.len().saturating_sub(SKIPPED);
            self.skipped.drain(..surplus);
        }
        let over_layers = |f: fn(&Layer) -> Option<f64>| Spread::of(entry.layers.iter().filter_map(f));
        self.steps.push(Steps {
            step,
            tokens,
            loss: Spread::of(entry.loss),
            sources: spreads(entry.sources),
            gradient_norm: Spread::of(entry.gradient_norm),
            lr: Spread::of(entry.lr),
            batch: Spread::of([entry.batch as f64]),
            balance: Spread::of(entry.balance),
            z: Spread::of(entry.z),
            load_entropy: over_layers(|layer| layer.entropy),
            router_entropy: over_layers(|layer| layer.router_entropy),
            least: over_layers(|layer| layer.min),
            most: over_layers(|layer| layer.max),
            dropped: entry.dropped,
            choices: entry.layers.iter().flat_map(|layer| &layer.load).sum(),
        });
        let layers: Vec<_> = entry.layers.into_iter().map(|layer| layer.load).collect();
        let cells: usize = layers.iter().map(Vec::len).sum();
        if cells > 0 {
            let loads = self.loads.get_or_insert_with(|| Thinned::new((LOAD_CELLS / cells).min(LOAD_POINTS)));
            loads.push(Loads { step, tokens, layers });
        }
    }
}

fn spreads(losses: BTreeMap<String, Option<f64>>) -> BTreeMap<String, Spread> {
    losses.into_iter().map(|(name, loss)| (name, Spread::of(loss))).collect()
}
