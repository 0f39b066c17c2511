//! How fast does the report's cluster decode, if data sheets hold but for a share of the bandwidth? The planner's own roofline, with nothing fixed in it.

use super::Inputs;
use crate::efficiency::Efficiency;
use crate::hardware::{Accelerator, Precision};
use crate::serve::{Formats, Layout, LayoutError, Price, Roofline, Shape, Work};

/// The report's cluster, decoding: every stage has its share of the sequences at any time.
#[derive(Clone, Debug)]
pub struct Decode {
    roofline: Roofline,
    /// Tokens that each sequence sees, in the mean.
    context: f64,
}

impl Decode {
    /// On this device, with weights stored and multiplied in `precision` (K and V are 16 bits wide), at a share of the memory bandwidth and of nothing else.
    ///
    /// # Errors
    /// A model that the report's cluster does not divide.
    pub fn new(
        inputs: &Inputs,
        device: &Accelerator,
        precision: Precision,
        bandwidth: f64,
    ) -> Result<Self, LayoutError> {
        let degree = |name: &str| inputs.given(name) as usize;
        let layout = Layout { tensor: degree("serve_tensor"), pipeline: degree("serve_pipeline"), ..Layout::ONE };
        let efficiency = Efficiency { bandwidth, ..Efficiency::IDEAL };
        let roofline =
            Roofline::new(&Shape::of(&inputs.job.config), layout, Formats::of(precision), device, efficiency)?;
        Ok(Self { roofline, context: inputs.given("decode_context") })
    }

    /// Tokens per second of the whole cluster with so many sequences in all stages together.
    pub fn tokens_per_second(&self, sequences: f64) -> f64 {
        sequences / self.price(sequences).cycle()
    }

    /// Dollars for a thousand tokens at `price` for a device-hour.
    pub fn dollars(&self, sequences: f64, price: f64) -> f64 {
        let devices = self.roofline.layout().devices() as f64;
        devices * price / 3600.0 / self.tokens_per_second(sequences) * 1000.0
    }

    /// Whether weights, and K and V of so many sequences, fit the memory of all devices together, not a byte kept for anything else.
    pub(super) fn fits(&self, sequences: f64) -> bool {
        let (layout, shape, formats) = (self.roofline.layout(), self.roofline.shape(), self.roofline.formats());
        let devices = layout.devices() as f64;
        // What each device has of a layer, all devices of its stage have.
        let of_layer = |layer: &crate::serve::LayerShape| layer.kv / layout.kv_split(layer);
        let kv = shape.layers.iter().map(of_layer).sum::<f64>() * formats.cache.bytes() * self.context;
        let weights = shape.parameters * formats.weights.bytes();
        weights + sequences * kv * layout.tensor as f64 <= self.roofline.device().memory.value * devices
    }

    fn price(&self, sequences: f64) -> Price {
        let rows = sequences / self.roofline.layout().pipeline as f64;
        self.roofline.price(&Work::decode(self.roofline.windows(), rows, self.context))
    }
}

impl Inputs {
    /// The report's cluster of the device that it trains on, with 16-bit weights.
    pub(super) fn decode_a100(&self) -> Result<Decode, LayoutError> {
        Decode::new(self, self.a100(), Precision::F16, self.given("a100_bandwidth_share"))
    }

    /// The report's cluster of H100, with 8-bit weights.
    pub(super) fn decode_h100(&self) -> Result<Decode, LayoutError> {
        Decode::new(self, &self.h100, Precision::Fp8, self.given("h100_bandwidth_share"))
    }

    /// Dollars for a thousand tokens of [`Inputs::decode_a100`]; NaN, which no table lets pass, if the cluster does not divide the model.
    pub(super) fn dollars_a100(&self) -> f64 {
        let dollars = |decode: Decode| decode.dollars(self.given("decode_sequences"), price(self.a100()));
        self.decode_a100().map_or(f64::NAN, dollars)
    }

    /// The same of [`Inputs::decode_h100`].
    pub(super) fn dollars_h100(&self) -> f64 {
        let dollars = |decode: Decode| decode.dollars(self.given("decode_sequences"), price(&self.h100));
        self.decode_h100().map_or(f64::NAN, dollars)
    }
}

/// Dollars for an hour of a device; NaN where the catalogue has no price.
pub(super) fn price(accelerator: &Accelerator) -> f64 {
    accelerator.price_per_hour.as_ref().map_or(f64::NAN, |figure| figure.value)
}
