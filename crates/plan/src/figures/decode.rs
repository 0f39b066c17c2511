//! How fast does a pipeline decode, if memory is the limit?

use super::Inputs;
use crate::hardware::{Accelerator, Precision};
use crate::link::Group;

/// A cluster that decodes, every stage with its share of the sequences at any time.
#[derive(Clone, Copy, Debug)]
pub struct Decode<'a> {
    /// The device.
    pub accelerator: &'a Accelerator,
    /// What weights are stored and multiplied in. K and V are 16 bits wide.
    pub precision: Precision,
    /// Share of the memory bandwidth that is reached.
    pub bandwidth_share: f64,
    /// Sequences in all stages together.
    pub sequences: f64,
    /// Tokens that each sees, in the mean.
    pub context: f64,
}

impl Decode<'_> {
    /// Tokens per second of the whole cluster. A stage's step reads the weights of the experts that its rows visit, and their K and V, which with a single K/V head
    /// every rank of the tensor-parallel group holds; then ranks add up twice a layer, and the rows go on to the next stage.
    pub(super) fn tokens_per_second(&self, inputs: &Inputs) -> f64 {
        let rows = self.sequences / inputs.given("serve_pipeline");
        rows / self.stage_seconds(inputs)
    }

    pub(super) fn stage_seconds(&self, inputs: &Inputs) -> f64 {
        let (tensor, stages) = (inputs.given("serve_tensor"), inputs.given("serve_pipeline"));
        let rows = self.sequences / stages;
        let config = &inputs.job.config;
        let memory = self.stage_bytes(inputs) / (self.accelerator.bandwidth.value * self.bandwidth_share);
        let flops = 2.0 * rows * inputs.active() / (tensor * stages);
        let compute = flops / self.accelerator.peak(self.precision);
        let message = rows * config.hidden_size as f64 * 2.0;
        let group = Group::new(self.accelerator, tensor as usize, 1, 1.0);
        let sums = 2.0 * config.layers.len() as f64 / stages * group.all_reduce(message);
        let hop = Group::new(self.accelerator, 2, self.accelerator.devices_per_node, 1.0).send(message);
        memory.max(compute) + sums + hop
    }

    /// Bytes that a device reads in a step of its stage.
    pub(super) fn stage_bytes(&self, inputs: &Inputs) -> f64 {
        let (tensor, stages) = (inputs.given("serve_tensor"), inputs.given("serve_pipeline"));
        let rows = self.sequences / stages;
        let config = &inputs.job.config;
        let routed = inputs.count.expert() as f64 * inputs.experts();
        let touched = 1.0 - (1.0 - inputs.visited() / inputs.experts().max(1.0)).powf(rows);
        let weights = (inputs.parameters() - routed + routed * touched) * self.precision.bytes() / (tensor * stages);
        let copies = (tensor / config.kv_heads as f64).max(1.0);
        weights + rows * self.context * inputs.kv_bytes() / stages * copies / tensor
    }

    /// Dollars for a thousand tokens at `price` for a device-hour.
    pub(super) fn dollars(&self, inputs: &Inputs, price: f64) -> f64 {
        inputs.serving() * price / 3600.0 / self.tokens_per_second(inputs) * 1000.0
    }
}

impl Inputs {
    /// The report's cluster of the device that it trains on, with 16-bit weights.
    pub(super) fn decode_a100(&self) -> Decode<'_> {
        self.decode(self.a100(), Precision::F16, "a100_bandwidth_share")
    }

    /// The report's cluster of H100, with 8-bit weights.
    pub(super) fn decode_h100(&self) -> Decode<'_> {
        self.decode(&self.h100, Precision::Fp8, "h100_bandwidth_share")
    }

    fn decode<'a>(&self, accelerator: &'a Accelerator, precision: Precision, share: &str) -> Decode<'a> {
        Decode {
            accelerator,
            precision,
            bandwidth_share: self.given(share),
            sequences: self.given("decode_sequences"),
            context: self.given("decode_context"),
        }
    }
}

/// Dollars for an hour of a device; NaN where the catalogue has no price.
pub(super) fn price(accelerator: &Accelerator) -> f64 {
    accelerator.price_per_hour.as_ref().map_or(f64::NAN, |figure| figure.value)
}
