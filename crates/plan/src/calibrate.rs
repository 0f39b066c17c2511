//! What does this machine reach? Probes to be timed, the profile that explains their times, and what it then predicts.
//!
//! Whoever has the machine runs the probes; nothing here has a clock.

use crate::efficiency::{Efficiency, Training};
use crate::hardware::{Accelerator, Cluster, Figure, Link, Precision};
use crate::layout::{self as train, Job, StateBytes};
use crate::profile::Profile;
use crate::serve::{Formats, Layout, LayoutError, Roofline, Shape, Work};
use crate::train::Timing;
use serde::Serialize;
use spec::recipe::LayoutRecipe;
use spec::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer, Position, Rope, RopeScaling,
    Router,
};
use std::collections::BTreeMap;

/// Tokens of the prompt that is timed.
pub const PROMPT: u32 = 512;
/// Positions before decoding where attention should not count, and where it should.
pub const NEAR: u32 = 32;
/// See [`NEAR`].
pub const FAR: u32 = 2048;
/// Sequences decoded together where several are.
pub const MANY: u32 = 8;
/// Tokens decoded in each timing.
pub const DECODED: u32 = 32;
/// Rounds of adjusting each constant to its probe.
const ROUNDS: usize = 300;

/// Limits of a machine, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// f32 FLOP per second. Formats of 16 bits are widened and run at the same rate.
    pub f32_flops: f64,
    /// int8 operations per second.
    pub int8_flops: f64,
    /// Bytes per second read.
    pub bandwidth: f64,
    /// Bytes of memory.
    pub memory: f64,
}

/// Models that are timed, each for a constant or two.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Large matrices: bandwidth where a token is decoded, arithmetic where a prompt is computed, attention far along.
    pub wide: DecoderConfig,
    /// Large experts: how fast scattered matrices are read.
    pub experts: DecoderConfig,
    /// Next to no arithmetic in a layer.
    pub shallow: DecoderConfig,
    /// The same with more layers: what a layer takes.
    pub deep: DecoderConfig,
    /// The same with experts.
    pub sparse: DecoderConfig,
    /// Next to no arithmetic, but a vocabulary to choose from: what a server takes.
    pub served: DecoderConfig,
    /// Trained for a step.
    pub training: DecoderConfig,
}

/// Seconds that the probes took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timings {
    /// [`Probes::wide`], a prompt of [`PROMPT`].
    pub prompt: f64,
    /// [`Probes::wide`], a token after [`NEAR`] positions.
    pub near: f64,
    /// [`Probes::wide`], a token of each of [`MANY`] sequences.
    pub many: f64,
    /// [`Probes::wide`], a token after [`FAR`] positions.
    pub far: f64,
    /// [`Probes::experts`], a token.
    pub experts: f64,
    /// [`Probes::experts`], a token of each of [`MANY`] sequences.
    pub many_experts: f64,
    /// [`Probes::shallow`], a token.
    pub shallow: f64,
    /// [`Probes::deep`], a token.
    pub deep: f64,
    /// [`Probes::sparse`], a token.
    pub sparse: f64,
    /// [`Probes::served`], from one token to the next at a server's only client, and at each of [`MANY`].
    pub served: [f64; 2],
    /// [`Probes::training`], a step of [`PROMPT`] tokens.
    pub training: f64,
}

/// A decoder of `layers` layers; the experts, if any, are (how many, visited).
pub fn decoder(
    hidden: usize,
    layers: usize,
    ffn_size: usize,
    vocab_size: usize,
    experts: Option<(usize, usize)>,
) -> DecoderConfig {
    let dense = DenseFfn { ffn_size, bias: false, activation: Activation::SwiGlu };
    let (family, ffn) = match experts {
        None => (Family::Llama, Ffn::Dense(dense)),
        Some((experts, top_k)) => {
            let router = Router::SoftmaxTopK { renormalise: true };
            let ffn = ExpertFfn {
                experts,
                top_k,
                router,
                router_bias: false,
                choice_bias: false,
                expert: dense,
                shared: None,
            };
            (Family::Mixtral, Ffn::Experts(ffn))
        }
    };
    let head_dim = 64.min(hidden);
    DecoderConfig {
        family,
        vocab_size,
        hidden_size: hidden,
        heads: hidden / head_dim,
        kv_heads: 1,
        head_dim,
        layers: vec![Layer { attention: AttentionLayer { window: None }, ffn }; layers],
        norm_eps: 1e-5,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
        attention_sinks: false,
        position: Position::Rope(Rope { theta: 10_000.0, scaling: RopeScaling::None }),
        max_context: 2 * FAR as usize,
        tie_embeddings: false,
    }
}

impl Probes {
    /// Small enough for a minute, large enough for memory to matter.
    pub fn new() -> Self {
        Self {
            wide: decoder(1024, 6, 4096, 1024, None),
            experts: decoder(512, 4, 1024, 1024, Some((16, 2))),
            shallow: decoder(64, 4, 64, 64, None),
            deep: decoder(64, 32, 64, 64, None),
            sparse: decoder(64, 32, 64, 64, Some((8, 2))),
            served: decoder(64, 4, 64, 8192, None),
            training: decoder(512, 4, 2048, 2048, None),
        }
    }

    /// Seconds that each would take by a profile.
    ///
    /// # Errors
    /// None: one device holds any of them.
    pub fn predict(&self, profile: &Profile, formats: Formats) -> Result<Timings, LayoutError> {
        let decode = |config, sequences, context| decode_seconds(profile, config, formats, sequences, context);
        let near = |config| decode(config, 1, NEAR);
        let served = |sequences: u32| -> Result<f64, LayoutError> {
            let roofline = roofline(&profile.device, profile.efficiency, &self.served, formats)?;
            let middle = f64::from(NEAR) + f64::from(DECODED) / 2.0;
            Ok(roofline.price(&Work::decode(roofline.windows(), sequences.into(), middle)).latency())
        };
        Ok(Timings {
            prompt: prefill_seconds(profile, &self.wide, formats, PROMPT)?,
            near: near(&self.wide)?,
            many: decode(&self.wide, MANY, NEAR)?,
            far: decode(&self.wide, 1, FAR)?,
            experts: near(&self.experts)?,
            many_experts: decode(&self.experts, MANY, NEAR)?,
            shallow: near(&self.shallow)?,
            deep: near(&self.deep)?,
            sparse: near(&self.sparse)?,
            served: [served(1)?, served(MANY)?],
            training: training_seconds(profile, &self.training, PROMPT, PROMPT)?,
        })
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self::new()
    }
}

/// Weights of this format on a processor, whose kernels multiply 4-bit ones as bytes.
pub fn formats(weights: Precision, cache: Precision) -> Formats {
    let arithmetic = if weights == Precision::Int4 { Precision::Int8 } else { weights };
    Formats { weights, arithmetic, cache }
}

fn roofline(
    device: &Accelerator,
    efficiency: Efficiency,
    config: &DecoderConfig,
    formats: Formats,
) -> Result<Roofline, LayoutError> {
    Roofline::new(&Shape::of(config), Layout::ONE, formats, device, efficiency)
}

/// Seconds of a prompt of which the last token's logits are computed, in steps of at most [`PROMPT`] tokens, no server around them.
///
/// # Errors
/// As [`Roofline::new`].
pub fn prefill_seconds(
    profile: &Profile,
    config: &DecoderConfig,
    formats: Formats,
    tokens: u32,
) -> Result<f64, LayoutError> {
    let roofline = roofline(&profile.device, profile.efficiency.without_server(), config, formats)?;
    let mut seconds = 0.0;
    for first in (0..tokens).step_by(PROMPT as usize) {
        let len = PROMPT.min(tokens - first);
        let mut work = Work::empty(roofline.windows().len());
        work.add(roofline.windows(), first, len, u32::from(first + len == tokens));
        seconds += roofline.price(&work).latency();
    }
    Ok(seconds)
}

/// Mean seconds of a step in which each of `sequences` decodes one of [`DECODED`] tokens after `context` positions, no server around it.
///
/// # Errors
/// As [`Roofline::new`].
pub fn decode_seconds(
    profile: &Profile,
    config: &DecoderConfig,
    formats: Formats,
    sequences: u32,
    context: u32,
) -> Result<f64, LayoutError> {
    let roofline = roofline(&profile.device, profile.efficiency.without_server(), config, formats)?;
    let middle = f64::from(context) + f64::from(DECODED) / 2.0;
    Ok(roofline.price(&Work::decode(roofline.windows(), sequences.into(), middle)).latency())
}

/// Seconds of a training step in f32 on samples of `context` tokens, all at once, as `plan train` has it.
///
/// # Errors
/// None: one device divides nothing.
pub fn training_seconds(
    profile: &Profile,
    config: &DecoderConfig,
    tokens: u32,
    context: u32,
) -> Result<f64, LayoutError> {
    let job = Job::of(config.clone(), context as usize, StateBytes::F32);
    let cluster = Cluster { accelerator: profile.device.clone(), devices: 1 };
    let layout = train::Layout {
        recipe: LayoutRecipe::default(),
        data: 1,
        micro_batch: (tokens / context.max(1)).max(1) as usize,
        recompute: crate::Recompute::Nothing,
    };
    let step = Timing::new(&job, &cluster, &layout, profile.efficiency.training).step(tokens.into());
    // A pipeline of one stage is a schedule that can be followed.
    Ok(step.map_or(f64::NAN, |(step, _)| step.seconds))
}

/// The profile by which the probes take just the seconds that they took, as far as constants within their bounds can.
///
/// # Errors
/// None: one device holds any of the probes.
pub fn fit(limits: &Limits, timings: &Timings, formats: Formats) -> Result<Profile, LayoutError> {
    let probes = Probes::new();
    let efficiency = Efficiency {
        training: Training { products: 0.5, layer_seconds: 0.0, expert_layer_seconds: 0.0, ..Training::default() },
        experts: Some(0.7),
        hidden: 0.5,
        links: 1.0,
        collective_seconds: 0.0,
        layer_seconds: 2e-6,
        expert_layer_seconds: 2e-6,
        step_seconds: 0.0,
        request_seconds: 0.0,
        ..Efficiency::default()
    };
    let mut profile = Profile { device: device(limits), efficiency };
    let share = |now: f64, predicted: f64, measured: f64| {
        if measured > 0.0 && predicted > 0.0 { (now * predicted / measured).clamp(1e-3, 1.5) } else { now }
    };
    let seconds = |now: f64, more: f64| (now + more).clamp(0.0, 1.0);
    let layers = (probes.deep.layers.len() - probes.shallow.layers.len()) as f64;
    for _ in 0..ROUNDS {
        let now = probes.predict(&profile, formats)?;
        let e = &mut profile.efficiency;
        let deeper = (timings.deep - timings.shallow) - (now.deep - now.shallow);
        e.layer_seconds = seconds(e.layer_seconds, deeper / layers);
        let routed = (timings.sparse - timings.deep) - (now.sparse - now.deep);
        e.expert_layer_seconds = seconds(e.expert_layer_seconds, routed / probes.sparse.layers.len() as f64);
        e.bandwidth = share(e.bandwidth, now.near, timings.near);
        e.activations = e.bandwidth;
        e.experts = e.experts.map(|experts| share(experts, now.experts, timings.experts));
        e.products = share(e.products, now.prompt, timings.prompt);
        e.products_8bit = e.products;
        // What several rows take longer than the longer of reading and multiplying.
        let late = now.many / timings.many + now.many_experts / timings.many_experts - 2.0;
        e.hidden = if late.is_finite() { (e.hidden + 0.25 * late).clamp(0.0, 1.0) } else { e.hidden };
        e.attention = share(e.attention, now.far - now.near, timings.far - timings.near);
        let beyond = |i: usize| timings.served[i] - now.served[i];
        let more = (beyond(1) - beyond(0)) / f64::from(MANY - 1);
        e.token_seconds = seconds(e.token_seconds, more);
        e.step_seconds = seconds(e.step_seconds, beyond(0) - more);
        e.training.products = share(e.training.products, now.training, timings.training);
        (e.training.attention, e.training.bandwidth) = (e.attention.min(1.0), e.bandwidth);
    }
    Ok(profile)
}

/// The machine as a device. Links are those of nobody: it stands alone.
fn device(limits: &Limits) -> Accelerator {
    let figure = |value| Figure { value, source: "measured".into() };
    let none = || Link { bandwidth: figure(1e9), latency: figure(1e-4) };
    let peak =
        [(Precision::F32, limits.f32_flops), (Precision::Bf16, limits.f32_flops), (Precision::Int8, limits.int8_flops)];
    let mut sources = BTreeMap::new();
    sources.insert(
        "measured".to_owned(),
        "`lyceum plan calibrate` on this machine; links are assumed, it stands alone".to_owned(),
    );
    Accelerator {
        id: "this-machine".into(),
        name: "this machine".into(),
        sources,
        memory: figure(limits.memory),
        bandwidth: figure(limits.bandwidth),
        devices_per_node: 1,
        intra_node: none(),
        inter_node: none(),
        price_per_hour: None,
        watts: None,
        failures_per_day: None,
        units: None,
        tile_rows: None,
        peak: peak.into_iter().map(|(precision, flops)| (precision, figure(flops))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { f32_flops: 200e9, int8_flops: 400e9, bandwidth: 35e9, memory: 24e9 };

    const FORMATS: Formats = Formats { weights: Precision::Bf16, arithmetic: Precision::Bf16, cache: Precision::Bf16 };

    /// Probes timed on a machine that is just as the roofline says give its constants back.
    #[test]
    fn a_machine_is_known_again_by_its_timings() {
        let efficiency = Efficiency {
            products: 0.83,
            products_8bit: 0.83,
            bandwidth: 0.88,
            experts: Some(0.7),
            hidden: 0.3,
            activations: 0.88,
            attention: 0.3,
            links: 1.0,
            collective_seconds: 0.0,
            layer_seconds: 12e-6,
            expert_layer_seconds: 20e-6,
            step_seconds: 40e-6,
            request_seconds: 0.0,
            token_seconds: 15e-6,
            training: Training {
                products: 0.64,
                attention: 0.3,
                bandwidth: 0.88,
                layer_seconds: 0.0,
                expert_layer_seconds: 0.0,
                ..Training::default()
            },
        };
        let machine = Profile { device: device(&LIMITS), efficiency };
        let timings = Probes::new().predict(&machine, FORMATS).unwrap();
        let found = fit(&LIMITS, &timings, FORMATS).unwrap();
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.01;
        let e = found.efficiency;
        assert!(close(e.products, 0.83) && close(e.bandwidth, 0.88) && close(e.attention, 0.3), "{e:?}");
        assert!(close(e.experts.unwrap(), 0.7) && close(e.hidden, 0.3), "{e:?}");
        assert!(close(e.layer_seconds, 12e-6) && close(e.expert_layer_seconds, 20e-6), "{e:?}");
        assert!(close(e.step_seconds, 40e-6) && close(e.token_seconds, 15e-6), "{e:?}");
        assert!(close(e.training.products, 0.64), "{e:?}");
        assert_eq!(Profile::parse(&found.to_toml().unwrap()).unwrap(), found);
    }

    /// Whatever a disturbed machine says, the profile can be used.
    #[test]
    fn noise_makes_no_profile_that_is_refused() {
        for noise in [0.0, 1e-9, 1e3] {
            let timings = Timings {
                prompt: 1.0,
                near: noise,
                many: noise,
                far: 0.01,
                experts: noise,
                many_experts: 0.1,
                shallow: 0.5,
                deep: 0.1,
                sparse: noise,
                served: [noise, 0.0],
                training: noise,
            };
            let profile = fit(&LIMITS, &timings, formats(Precision::Int8, Precision::Bf16)).unwrap();
            Profile::parse(&profile.to_toml().unwrap()).unwrap();
        }
    }
}
