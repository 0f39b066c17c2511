//! What a step takes: for each part the longer of arithmetic and memory traffic, then communication and what is fixed.

use super::layout::{Formats, Layout, LayoutError};
use super::shape::{LayerShape, Shape};
use crate::efficiency::Efficiency;
use crate::hardware::{Accelerator, Precision};

/// Bytes per row and hidden element that the small operations of a layer (norms, residuals, activations, rotations) read and write.
const SMALL_TRAFFIC: f64 = 32.0;

/// What the rows of a step attend to, in layers of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attended {
    /// Pairs of a query and a key, in chunks of several rows.
    pub prompt_pairs: f64,
    /// The same in chunks of one row.
    pub decode_pairs: f64,
    /// Positions whose keys and values are read, once per chunk.
    pub positions: f64,
}

/// A step, by what it costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Rows.
    pub rows: f64,
    /// Rows whose logits are computed.
    pub outputs: f64,
    /// By window, as in [`Roofline::windows`].
    pub attended: Vec<Attended>,
}

impl Work {
    /// No rows, for layers of so many different windows.
    pub fn empty(windows: usize) -> Self {
        Self { rows: 0.0, outputs: 0.0, attended: vec![Attended::default(); windows] }
    }

    /// Empties it for another step.
    pub fn clear(&mut self) {
        (self.rows, self.outputs) = (0.0, 0.0);
        self.attended.fill(Attended::default());
    }

    /// Adds a chunk of `len` rows, the first at `position`, `outputs` of which have logits.
    pub fn add(&mut self, windows: &[Option<u32>], position: u32, len: u32, outputs: u32) {
        self.rows += f64::from(len);
        self.outputs += f64::from(outputs);
        for (window, attended) in windows.iter().zip(&mut self.attended) {
            let (pairs, positions) = visible(*window, position, len);
            attended.positions += positions;
            if len == 1 {
                attended.decode_pairs += pairs;
            } else {
                attended.prompt_pairs += pairs;
            }
        }
    }

    /// `sequences` decoding sequences of `context` positions each.
    pub fn decode(windows: &[Option<u32>], sequences: f64, context: f64) -> Self {
        let attended = windows.iter().map(|window| {
            let seen = window.map_or(context, |window| context.min(f64::from(window)));
            Attended { prompt_pairs: 0.0, decode_pairs: sequences * seen, positions: sequences * seen }
        });
        Self { rows: sequences, outputs: sequences, attended: attended.collect() }
    }
}

/// Query-key pairs of `len` rows from `position` on, and the positions that they see together.
fn visible(window: Option<u32>, position: u32, len: u32) -> (f64, f64) {
    let (first, len) = (f64::from(position) + 1.0, f64::from(len));
    let last = first + len - 1.0;
    let Some(window) = window.map(f64::from) else { return ((first + last) / 2.0 * len, last) };
    // Rows before the window is full see all before them, the others see `window`.
    let growing = (window - first + 1.0).clamp(0.0, len);
    let pairs = growing * (2.0 * first + growing - 1.0) / 2.0 + (len - growing) * window;
    (pairs, last.min(window + len - 1.0))
}

/// Where the time of a step goes, summed over its stages. Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Matrices.
    pub matrices: f64,
    /// Attention over the cache.
    pub attention: f64,
    /// Communication that nothing hides.
    pub communication: f64,
    /// What does not depend on the rows: launches, scheduling.
    pub fixed: f64,
}

impl Parts {
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.matrices + self.attention + self.communication + self.fixed
    }

    fn add(&mut self, other: Self, times: f64) {
        self.matrices += other.matrices * times;
        self.attention += other.attention * times;
        self.communication += other.communication * times;
        self.fixed += other.fixed * times;
    }
}

/// What a step takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Price {
    /// Seconds of each stage, hop to the next included.
    pub stages: Vec<f64>,
    /// All stages together.
    pub parts: Parts,
    /// FLOPs of the step, all devices.
    pub flops: f64,
    /// Bytes that all devices read: weights and cache.
    pub bytes: f64,
}

impl Price {
    /// From the first stage's beginning to the last one's end.
    pub fn latency(&self) -> f64 {
        self.stages.iter().sum()
    }

    /// Seconds between two tokens of a sequence where the pipeline is full, a step in each stage: it comes again when all steps in flight have passed the slowest
    /// stage, and not before its own is through.
    pub fn cycle(&self) -> f64 {
        self.latency().max(self.stages.len() as f64 * self.bottleneck())
    }

    /// Seconds until the next step can follow through the pipeline.
    pub fn bottleneck(&self) -> f64 {
        self.stages.iter().copied().fold(0.0, f64::max)
    }
}

/// Layers that are alike.
#[derive(Clone, Debug)]
struct Kind {
    layer: LayerShape,
    window: usize,
    /// How many of them each stage has.
    counts: Vec<f64>,
}

/// What a layer costs.
#[derive(Clone, Copy, Debug, Default)]
struct LayerPrice {
    parts: Parts,
    flops: f64,
    bytes: f64,
}

/// A model on devices, ready to price steps.
#[derive(Clone, Debug)]
pub struct Roofline {
    shape: Shape,
    layout: Layout,
    formats: Formats,
    efficiency: Efficiency,
    device: Accelerator,
    windows: Vec<Option<u32>>,
    kinds: Vec<Kind>,
    stages: usize,
}

impl Roofline {
    /// A model laid out over devices.
    ///
    /// # Errors
    /// A layout that does not divide the model.
    pub fn new(
        shape: &Shape,
        layout: Layout,
        formats: Formats,
        device: &Accelerator,
        efficiency: Efficiency,
    ) -> Result<Self, LayoutError> {
        layout.validate(shape)?;
        let stage_layers = layout.stage_layers(shape.layers.len())?;
        let windows = shape.windows();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut layers = shape.layers.iter();
        for (stage, &count) in stage_layers.iter().enumerate() {
            for layer in layers.by_ref().take(count) {
                let at = kinds.iter().position(|kind| kind.layer == *layer).unwrap_or_else(|| {
                    let window = windows.iter().position(|window| *window == layer.window).unwrap_or(0);
                    kinds.push(Kind { layer: layer.clone(), window, counts: vec![0.0; stage_layers.len()] });
                    kinds.len() - 1
                });
                kinds[at].counts[stage] += 1.0;
            }
        }
        Ok(Self {
            shape: shape.clone(),
            layout,
            formats,
            efficiency,
            device: device.clone(),
            windows,
            kinds,
            stages: stage_layers.len(),
        })
    }

    /// The windows by which [`Work::attended`] is ordered.
    pub fn windows(&self) -> &[Option<u32>] {
        &self.windows
    }

    /// The model.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How it is laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its formats.
    pub fn formats(&self) -> Formats {
        self.formats
    }

    /// What it runs on.
    pub fn device(&self) -> &Accelerator {
        &self.device
    }

    /// What the devices reach.
    pub fn efficiency(&self) -> Efficiency {
        self.efficiency
    }

    /// FLOP per second of all devices together, as the data sheet states it.
    pub fn peak(&self) -> f64 {
        self.device.peak(self.formats.arithmetic) * self.layout.devices() as f64
    }

    /// Bytes per second of all devices together, as the data sheet states it.
    pub fn bandwidth(&self) -> f64 {
        self.device.bandwidth.value * self.layout.devices() as f64
    }

    /// What a step takes.
    pub fn price(&self, work: &Work) -> Price {
        let mut price = Price::default();
        self.price_into(work, &mut price);
        price
    }

    /// As [`Roofline::price`], into a price whose memory is used again.
    pub fn price_into(&self, work: &Work, price: &mut Price) {
        price.stages.clear();
        price.stages.resize(self.stages, self.efficiency.step_seconds);
        price.parts = Parts { fixed: self.efficiency.step_seconds * self.stages as f64, ..Parts::default() };
        (price.flops, price.bytes) = (0.0, 0.0);
        for kind in &self.kinds {
            let layer = self.layer(&kind.layer, work, &work.attended[kind.window]);
            let seconds = layer.parts.seconds();
            for (stage, &count) in price.stages.iter_mut().zip(&kind.counts) {
                *stage += seconds * count;
            }
            let count: f64 = kind.counts.iter().sum();
            price.parts.add(layer.parts, count);
            price.flops += layer.flops * count;
            price.bytes += layer.bytes * count;
        }
        let head = self.head(work.outputs);
        price.parts.add(head.parts, 1.0);
        (price.flops, price.bytes) = (price.flops + head.flops, price.bytes + head.bytes);
        let hop = self.hop(work.rows);
        price.parts.communication += hop * (self.stages - 1) as f64;
        let last = self.stages - 1;
        price.stages[..last].iter_mut().for_each(|stage| *stage += hop);
        price.stages[last] += head.parts.seconds();
    }

    /// Seconds that all matrices of a step of `rows` rows take to multiply and to read, at the rates that are reached.
    pub fn matrix_seconds(&self, rows: f64) -> (f64, f64) {
        self.step_seconds(&Work { rows, outputs: rows, ..Work::empty(self.windows.len()) })
    }

    /// Seconds that a step's arithmetic and its reading of weights and cache take, each alone, on all devices together.
    pub fn step_seconds(&self, work: &Work) -> (f64, f64) {
        let price = self.price(work);
        let devices = self.layout.devices() as f64;
        (price.flops / (self.product_rate() * devices), price.bytes / (self.read_rate() * devices))
    }

    /// Seconds of `count` products of `rows` rows each on one device, with matrices of `elements` that are read at so many bytes per second: a device
    /// whose instructions take whole tiles of rows multiplies by full ones.
    fn product(&self, count: f64, rows: f64, elements: f64, rate: f64) -> f64 {
        let tile = self.device.tile_rows.as_ref().map_or(0.0, |rows| rows.value);
        let rows = if tile > 0.0 { (rows / tile).ceil() * tile } else { rows };
        let arithmetic = 2.0 * count * rows * elements / self.product_rate();
        let reading = count * elements * self.formats.weights.bytes() / rate;
        arithmetic.max(reading) + (1.0 - self.efficiency.hidden) * arithmetic.min(reading)
    }

    /// FLOP per second that a device reaches in products of many rows.
    fn product_rate(&self) -> f64 {
        let narrow = self.formats.arithmetic.bytes() < 2.0;
        let share = if narrow { self.efficiency.products_8bit } else { self.efficiency.products };
        self.device.peak(self.formats.arithmetic) * share
    }

    /// Bytes per second that a device reads in long products.
    fn read_rate(&self) -> f64 {
        self.device.bandwidth.value * self.efficiency.bandwidth
    }

    fn layer(&self, layer: &LayerShape, work: &Work, attended: &Attended) -> LayerPrice {
        let (tensor, expert) = (self.layout.tensor as f64, self.layout.expert as f64);
        // Where halves of a step take turns, each reads its weights and is launched for itself.
        let turns = if self.layout.overlap { 2.0 } else { 1.0 };
        let rows = work.rows / expert / turns;
        let touched = layer.experts_touched(work.rows / turns) / expert;
        let visits = rows * layer.top_k as f64;
        let mut matrices = self.product(1.0, rows, layer.shared / tensor, self.read_rate());
        if touched > 0.0 {
            let rate = self.device.bandwidth.value * self.efficiency.experts.unwrap_or(self.efficiency.bandwidth);
            matrices += self.product(touched, visits / touched, layer.expert / tensor, rate);
        }
        // Divided both ways, matrices leave nothing whole between them.
        let whole = if self.layout.plane { rows / tensor } else { rows };
        matrices +=
            whole * self.shape.hidden * SMALL_TRAFFIC / (self.device.bandwidth.value * self.efficiency.activations);
        matrices *= turns;

        let prompt = attended.prompt_pairs * layer.pair_flops;
        let decode = attended.decode_pairs * layer.decode_pair_flops.unwrap_or(layer.pair_flops);
        let cache = attended.positions * layer.kv * self.formats.cache.bytes();
        let arithmetic =
            (prompt + decode) / (tensor * expert) / (self.device.peak(Precision::Bf16) * self.efficiency.attention);
        let attention = arithmetic.max(cache / self.layout.kv_split(layer) / self.read_rate());

        let communication = turns * self.communication(layer, rows);
        let busy = matrices + attention;
        let exposed = if self.layout.overlap { (communication - busy).max(0.0) } else { communication };
        let routing = if layer.experts > 0 { self.efficiency.expert_layer_seconds } else { 0.0 };
        let fixed = turns * (self.efficiency.layer_seconds + routing);
        LayerPrice {
            parts: Parts { matrices, attention, communication: exposed, fixed },
            flops: 2.0 * work.rows * layer.active() + prompt + decode,
            bytes: turns * expert * (layer.shared + touched * layer.expert) * self.formats.weights.bytes()
                + cache * (tensor * expert) / self.layout.kv_split(layer),
        }
    }

    /// Seconds in which the devices of a stage exchange what `rows` rows (of each group of experts) need in a layer.
    fn communication(&self, layer: &LayerShape, rows: f64) -> f64 {
        let (tensor, expert) = (self.layout.tensor as f64, self.layout.expert as f64);
        let activations = rows * self.shape.hidden * Precision::Bf16.bytes();
        let mut seconds = 0.0;
        if tensor > 1.0 {
            let (bandwidth, latency) = self.link(self.layout.tensor);
            let each = match self.layout.plane {
                // A ring sends (and receives) all but its own part twice.
                false => 2.0 * (tensor - 1.0) / tensor * activations / bandwidth + latency,
                // Four exchanges along the sides of the plane, of a network four times as wide as the residual stream (Pope 2022, section 3.2.2), each from
                // chip to chip.
                true => 8.0 / tensor.sqrt() * activations / bandwidth + 2.0 * latency + 4.0 * self.hops(tensor.sqrt()),
            };
            seconds += layer.reductions as f64 * each;
            if self.layout.kv == super::layout::KvSplit::Batch {
                // Queries there, outputs back: each rank sends all but its own part of its share.
                seconds += 2.0 * ((tensor - 1.0) / tensor * activations / tensor / bandwidth + latency);
            }
        }
        if expert > 1.0 && layer.experts > 0 {
            // Rows go to their experts in the format of the products and come back in 16 bits.
            let ranks = self.layout.tensor * self.layout.expert;
            let (bandwidth, latency) = self.link(ranks);
            let copies = self.copies_sent(layer.top_k as f64, ranks);
            let values = rows * copies * self.shape.hidden / tensor;
            let bytes = values * (self.formats.arithmetic.bytes().min(2.0) + Precision::Bf16.bytes());
            seconds += bytes / bandwidth + 2.0 * latency;
        }
        seconds
    }

    /// How often a row leaves over the slowest links on its way to `top_k` experts on `ranks` devices: once to each other device inside a node, once to
    /// each other node where there are several.
    fn copies_sent(&self, top_k: f64, ranks: usize) -> f64 {
        let nodes = ranks.div_ceil(self.device.devices_per_node) as f64;
        let groups = if nodes > 1.0 { nodes } else { self.layout.expert as f64 };
        let reached = groups * (1.0 - (1.0 - 1.0 / groups).powf(top_k));
        reached * (groups - 1.0) / groups
    }

    /// Bytes per second and seconds of latency among so many neighbouring devices.
    fn link(&self, devices: usize) -> (f64, f64) {
        let link =
            if devices <= self.device.devices_per_node { &self.device.intra_node } else { &self.device.inter_node };
        (link.bandwidth.value * self.efficiency.links, link.latency.value + self.efficiency.collective_seconds)
    }

    /// Seconds in which the first byte passes a ring of so many devices, one after the other.
    fn hops(&self, ring: f64) -> f64 {
        (ring - 1.0) * self.device.intra_node.latency.value
    }

    fn head(&self, outputs: f64) -> LayerPrice {
        if outputs == 0.0 {
            return LayerPrice::default();
        }
        let (tensor, expert) = (self.layout.tensor as f64, self.layout.expert as f64);
        let elements = self.shape.head;
        let matrices = self.product(1.0, outputs / expert, elements / tensor, self.read_rate());
        LayerPrice {
            parts: Parts { matrices, fixed: outputs * self.efficiency.token_seconds, ..Parts::default() },
            flops: 2.0 * outputs * elements,
            bytes: elements * expert * self.formats.weights.bytes(),
        }
    }

    /// Seconds in which the rows go from a stage to the next.
    fn hop(&self, rows: f64) -> f64 {
        if self.stages == 1 {
            return 0.0;
        }
        // Each tensor rank sends its part to its neighbour.
        let (bandwidth, latency) = self.link(self.layout.devices());
        let bytes =
            rows * self.shape.hidden * Precision::Bf16.bytes() / (self.layout.tensor * self.layout.expert) as f64;
        bytes / bandwidth + latency
    }
}
