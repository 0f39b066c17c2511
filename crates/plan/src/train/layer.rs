//! What does a layer take? Products, attention, what moves between them, and exchanges, for one micro-batch on one device.

use super::products::Product;
use crate::efficiency::Training;
use crate::hardware::{Accelerator, Precision};
use crate::layout::{Job, Layout};
use crate::link::Group;
use crate::practice::Recompute;
use spec::{Ffn, Layer};

/// How much more is moved between products by kernels that do one thing each: counted for a Llama layer, operation by operation (norms in f32, rotations
/// as complex numbers, activation and product apart): 590 kB a token for 188.
const UNFUSED: f64 = 3.1;
/// The backward pass of what lies between products reads what was kept and the gradients, and writes gradients.
const BACKWARD_MOVES: f64 = 2.0;
/// Gradients of attention compute its scores again: five products for two (Dao 2022).
const BACKWARD_ATTENTION: f64 = 2.5;
/// Bytes that attention moves for one score, forward and backward, if scores are written: product, softmax, dropout with its mask, product.
const SCORE_BYTES: [f64; 2] = [13.0, 17.0];

/// Seconds of one micro-batch in some layers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub forward: f64,
    pub backward_input: f64,
    pub backward_weight: f64,
    pub recomputed: f64,
    /// Exchanges that nothing hides, forward.
    pub exchanged: f64,
    /// The same, backward.
    pub exchanged_back: f64,
}

impl Work {
    pub fn add(self, other: Self) -> Self {
        Self {
            forward: self.forward + other.forward,
            backward_input: self.backward_input + other.backward_input,
            backward_weight: self.backward_weight + other.backward_weight,
            recomputed: self.recomputed + other.recomputed,
            exchanged: self.exchanged + other.exchanged,
            exchanged_back: self.exchanged_back + other.exchanged_back,
        }
    }

    pub fn computed(self) -> f64 {
        self.forward + self.backward_input + self.backward_weight
    }

    fn backward(self) -> f64 {
        self.backward_input + self.backward_weight + self.recomputed
    }
}

/// Prices layers of a job in a layout on a device.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a> {
    pub job: &'a Job,
    pub layout: &'a Layout,
    pub accelerator: &'a Accelerator,
    pub efficiency: Training,
}

impl Kernels<'_> {
    fn tokens(&self) -> f64 {
        self.layout.micro_batch_tokens(self.job)
    }

    fn tensor(&self) -> f64 {
        self.layout.recipe.tensor as f64
    }

    /// What the residual stream is divided by.
    fn sequence(&self) -> f64 {
        if self.job.practice.sequence { self.tensor() } else { 1.0 }
    }

    /// Bytes per second that small operations reach.
    fn rate(&self) -> f64 {
        self.accelerator.bandwidth.value * self.efficiency.bandwidth
    }

    /// Bytes of the residual stream of a micro-batch.
    pub fn residual_bytes(&self) -> f64 {
        self.tokens() * self.job.config.hidden_size as f64 * self.job.bytes.weight
    }

    pub fn layer(&self, layer: &Layer) -> Work {
        let products = self.products(layer);
        let [forward, inputs, weights] = self.three(&products);
        let [attention, attention_back] = self.attention(layer);
        let moving = self.moving(layer, &products);
        let fixed = self.efficiency.layer_seconds
            + if matches!(layer.ffn, Ffn::Experts(_)) { self.efficiency.expert_layer_seconds } else { 0.0 };
        // Weight gradients are added to what is there.
        let gradients = 2.0 * self.elements(layer) * self.job.bytes.gradient / self.rate();
        let forward = forward + attention + moving + fixed;
        let recomputed = match self.layout.recompute {
            Recompute::Nothing => 0.0,
            Recompute::Scores => attention,
            Recompute::Layers => forward,
            // Every second one, and everything between them.
            Recompute::Alternate => {
                let second: Vec<_> = products.iter().skip(1).step_by(2).copied().collect();
                self.three(&second)[0] + moving + fixed
            }
        };
        let exchanges = self.tensor_exchange() + self.routing(layer);
        let again = if self.layout.recompute == Recompute::Layers { 2.0 } else { 1.0 };
        let work = Work {
            forward,
            backward_input: inputs + attention_back + BACKWARD_MOVES * (moving + fixed),
            backward_weight: weights + gradients,
            recomputed,
            exchanged: exchanges,
            exchanged_back: exchanges * again,
        };
        self.gathered(work, self.elements(layer))
    }

    /// The head, with the loss.
    pub fn head(&self) -> Work {
        let (hidden, vocabulary) =
            (self.job.config.hidden_size as f64, self.job.config.vocab_size as f64 / self.tensor());
        let [forward, inputs, weights] = self.three(&[Product::one(self.tokens(), hidden, vocabulary)]);
        // What is held of a logit is written and read once, as much of it forward as backward.
        let loss = self.tokens() * vocabulary * self.job.practice.logit_bytes as f64 / self.rate();
        let work = Work {
            forward: forward + loss,
            backward_input: inputs + loss,
            backward_weight: weights,
            ..Work::default()
        };
        self.gathered(work, hidden * vocabulary)
    }

    /// Seconds of products: forward, gradients of inputs, gradients of weights.
    fn three(&self, products: &[Product]) -> [f64; 3] {
        let (peak, rate) = (self.accelerator.peak(self.job.precision) * self.efficiency.products, self.rate());
        let number = self.job.bytes.weight;
        let seconds = |product: Product| product.seconds(self.accelerator, peak, rate, number);
        let sum = |of: fn(Product) -> Product| products.iter().map(|product| seconds(of(*product))).sum::<f64>();
        [sum(|p| p), sum(Product::of_inputs), sum(Product::of_weights)]
    }

    /// The products of a layer on one rank, in the order in which they are computed.
    fn products(&self, layer: &Layer) -> Vec<Product> {
        let (config, tensor, rows) = (&self.job.config, self.tensor(), self.tokens());
        let hidden = config.hidden_size as f64;
        let mut all = Vec::new();
        match &self.job.latent {
            Some(latent) => {
                let made = latent.narrow(config.hidden_size).into_iter().map(|(inner, outer)| (inner, outer as f64));
                let wide = latent.wide(config.heads).into_iter().map(|(inner, outer)| (inner, outer as f64 / tensor));
                all.extend(made.chain(wide).map(|(inner, outer)| Product::one(rows, inner as f64, outer)));
                all.push(Product::one(rows, (config.heads * latent.value) as f64 / tensor, hidden));
            }
            None => {
                let keys = config.kv_size() as f64 / tensor.min(config.kv_heads as f64);
                let query = config.q_size() as f64 / tensor;
                all.push(Product::one(rows, hidden, query + 2.0 * keys));
                all.push(Product::one(rows, query, hidden));
            }
        }
        let network = |groups: f64, rows: f64, size: usize| {
            let wide = size as f64 / tensor;
            [
                Product { groups, rows, inner: hidden, outer: 2.0 * wide },
                Product { groups, rows, inner: wide, outer: hidden },
            ]
        };
        match &layer.ffn {
            Ffn::Dense(dense) => all.extend(network(1.0, rows, dense.ffn_size)),
            Ffn::Experts(experts) => {
                all.push(Product::one(rows / self.sequence(), hidden, experts.experts as f64));
                let here = (experts.experts / self.layout.recipe.expert) as f64;
                let visits = rows * experts.top_k as f64 * self.job.practice.busiest_percent as f64 / 100.0;
                all.extend(network(here, visits / here, experts.expert.ffn_size));
                all.extend(experts.shared.iter().flat_map(|shared| network(1.0, rows, shared.ffn_size)));
            }
        }
        all
    }

    /// Seconds of scores, softmax and weighted sum, forward and backward.
    fn attention(&self, layer: &Layer) -> [f64; 2] {
        let context = self.job.context as f64;
        let peak = self.accelerator.peak(self.job.sixteen_bits());
        let pairs = |seen: f64| self.tokens() * seen * self.job.pair_flops() / self.tensor();
        if self.job.practice.flash {
            // A query sees those before it: half of them in the mean.
            let half = self.job.context.div_ceil(2) as f64;
            let seen = layer.attention.window.map_or(half, |window| half.min(window as f64));
            let forward = pairs(seen) / (peak * self.efficiency.attention);
            return [forward, BACKWARD_ATTENTION * forward];
        }
        let scores = self.tokens() * context * self.job.config.heads as f64 / self.tensor();
        let seconds = pairs(context) / (peak * self.efficiency.products);
        let [there, back] = SCORE_BYTES.map(|bytes| scores * bytes / self.rate());
        [seconds + there, 2.0 * seconds + back]
    }

    /// Seconds in which everything between products is read and written, forward.
    fn moving(&self, layer: &Layer, products: &[Product]) -> f64 {
        let (config, tensor) = (&self.job.config, self.tensor());
        let hidden = config.hidden_size as f64 / self.sequence();
        // Two norms read and write, two sums with the residual stream read two and write one.
        let residual = 10.0 * hidden;
        let [query, keys] = self.job.rotated().map(|width| width as f64 / tensor);
        let rotations = 2.0 * (query + keys);
        // Gate and up are read, their product written.
        let network = |size: usize| 3.0 * size as f64 / tensor;
        let ffn = match &layer.ffn {
            Ffn::Dense(dense) => network(dense.ffn_size),
            Ffn::Experts(experts) => {
                // Rows are laid in the order of experts before they go and after they came, and on the way back.
                let rows = 6.0 * hidden + network(experts.expert.ffn_size);
                2.0 * hidden
                    + experts.top_k as f64 * rows
                    + experts.shared.as_ref().map_or(0.0, |shared| network(shared.ffn_size))
            }
        };
        let fused = if self.job.practice.fused { 1.0 } else { UNFUSED };
        let bytes = self.tokens() * (residual + rotations + ffn) * self.job.bytes.weight * fused;
        // 8-bit products: their inputs are read in 16 bits and written twice, once for the gradients.
        let cast = match self.job.precision {
            Precision::Fp8 => products.iter().map(|p| 4.0 * p.groups * p.rows * p.inner).sum(),
            _ => 0.0,
        };
        (bytes + cast) / self.rate()
    }

    /// Elements of a layer on one device that computes with all that it needs.
    fn elements(&self, layer: &Layer) -> f64 {
        self.job.layer_elements(layer, self.layout.recipe.expert) / self.tensor()
    }

    /// Two sums over tensor ranks, as far as no product hides them.
    fn tensor_exchange(&self) -> f64 {
        let group = Group::new(self.accelerator, self.layout.recipe.tensor, 1, self.efficiency.links);
        let hidden = if self.job.practice.tensor_overlap { self.efficiency.overlap } else { 0.0 };
        2.0 * group.all_reduce(self.residual_bytes()) * (1.0 - hidden)
    }

    /// Seconds in which rows go to their experts and come back.
    fn routing(&self, layer: &Layer) -> f64 {
        let Ffn::Experts(experts) = &layer.ffn else { return 0.0 };
        let tensor = self.layout.recipe.tensor;
        let group = Group::new(self.accelerator, self.layout.recipe.expert, tensor, self.efficiency.links);
        let busiest = self.job.practice.busiest_percent as f64 / 100.0;
        let seconds = 2.0 * busiest * group.dispatch(experts.top_k as f64, self.residual_bytes() / tensor as f64);
        if self.job.practice.expert_overlap { seconds * (1.0 - self.efficiency.overlap) } else { seconds }
    }

    /// Fully sharded: weights come before they are needed, forward and backward, and gradients leave; both beside the work of other layers.
    fn gathered(&self, work: Work, elements: f64) -> Work {
        if !self.layout.recipe.sharded {
            return work;
        }
        let tensor = self.layout.recipe.tensor;
        let group = Group::new(self.accelerator, self.layout.data, tensor, self.efficiency.links);
        let weights = group.reduce_scatter(elements * self.job.bytes.weight);
        let gradients = group.reduce_scatter(elements * self.job.bytes.gradient);
        let exposed = |exchange: f64, behind: f64| (exchange - behind).max(0.0);
        Work {
            exchanged: work.exchanged + exposed(weights, work.forward),
            exchanged_back: work.exchanged_back + exposed(weights + gradients, work.backward()),
            ..work
        }
    }
}
