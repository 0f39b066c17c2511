//! What does this machine reach? Probes to be timed, the profile that explains their times, and what it then predicts.
//!
//! Whoever has the machine runs the probes; nothing here has a clock.

use crate::hardware::{Accelerator, Figure, Link, Precision};
use crate::profile::Profile;
use crate::serve::{Efficiency, Formats, Layout, LayoutError, Roofline, Shape, Work};
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
pub const FAR: u32 = 4096;
/// Tokens decoded in each timing.
pub const DECODED: u32 = 32;
/// Bytes that AdamW moves for a parameter: weight, gradient and two moments are read and written.
const OPTIMISER_BYTES: f64 = 32.0;
/// Rounds of adjusting each constant to its probe; they settle within a few.
const ROUNDS: usize = 100;

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

/// Models that are timed, each for one constant.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Large matrices: bandwidth where a token is decoded, arithmetic where a prompt is computed, attention far along.
    pub wide: DecoderConfig,
    /// Next to no arithmetic: what a step takes.
    pub shallow: DecoderConfig,
    /// The same with more layers: what a layer takes.
    pub deep: DecoderConfig,
    /// The same with experts.
    pub sparse: DecoderConfig,
    /// Trained for a step.
    pub training: DecoderConfig,
}

/// Seconds that the probes took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timings {
    /// [`Probes::wide`], a prompt of [`PROMPT`].
    pub prompt: f64,
    /// [`Probes::wide`], a token after [`NEAR`] positions.
    pub near: f64,
    /// [`Probes::wide`], a token after [`FAR`] positions.
    pub far: f64,
    /// [`Probes::shallow`], a token.
    pub shallow: f64,
    /// [`Probes::deep`], a token.
    pub deep: f64,
    /// [`Probes::sparse`], a token.
    pub sparse: f64,
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
            shallow: decoder(64, 4, 64, 64, None),
            deep: decoder(64, 32, 64, 64, None),
            sparse: decoder(64, 32, 64, 64, Some((8, 2))),
            training: decoder(512, 4, 2048, 2048, None),
        }
    }

    /// Seconds that each would take by a profile.
    ///
    /// # Errors
    /// None: one device holds any of them.
    pub fn predict(&self, profile: &Profile, weights: Precision) -> Result<Timings, LayoutError> {
        let near = |config| decode_seconds(profile, config, weights, 1, NEAR);
        Ok(Timings {
            prompt: prefill_seconds(profile, &self.wide, weights, PROMPT)?,
            near: near(&self.wide)?,
            far: decode_seconds(profile, &self.wide, weights, 1, FAR)?,
            shallow: near(&self.shallow)?,
            deep: near(&self.deep)?,
            sparse: near(&self.sparse)?,
            training: training_seconds(profile, &self.training, PROMPT, PROMPT),
        })
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self::new()
    }
}

fn roofline(profile: &Profile, config: &DecoderConfig, weights: Precision) -> Result<Roofline, LayoutError> {
    let mut formats = Formats::of(weights);
    if weights == Precision::Int4 {
        // The processor's kernels multiply them as bytes.
        formats.arithmetic = Precision::Int8;
    }
    Roofline::new(&Shape::of(config), Layout::ONE, formats, &profile.device, profile.efficiency)
}

/// Seconds of a prompt of which the last token's logits are computed.
///
/// # Errors
/// As [`Roofline::new`].
pub fn prefill_seconds(
    profile: &Profile,
    config: &DecoderConfig,
    weights: Precision,
    tokens: u32,
) -> Result<f64, LayoutError> {
    let roofline = roofline(profile, config, weights)?;
    let mut work = Work::empty(roofline.windows().len());
    work.add(roofline.windows(), 0, tokens, 1);
    Ok(roofline.price(&work).latency())
}

/// Mean seconds of a step in which each of `sequences` decodes one of [`DECODED`] tokens after `context` positions.
///
/// # Errors
/// As [`Roofline::new`].
pub fn decode_seconds(
    profile: &Profile,
    config: &DecoderConfig,
    weights: Precision,
    sequences: u32,
    context: u32,
) -> Result<f64, LayoutError> {
    let roofline = roofline(profile, config, weights)?;
    let middle = f64::from(context) + f64::from(DECODED) / 2.0;
    Ok(roofline.price(&Work::decode(roofline.windows(), sequences.into(), middle)).latency())
}

/// Seconds of a training step in f32: three times the forward arithmetic at the share of the peak that training reaches, and AdamW's traffic.
pub fn training_seconds(profile: &Profile, config: &DecoderConfig, tokens: u32, context: u32) -> f64 {
    let attention = config.attention_flops(context.div_ceil(2) as usize);
    let flops = 3.0 * (config.layer_flops() + config.head_flops() + attention) as f64 * f64::from(tokens);
    let share = profile.training.unwrap_or(profile.efficiency.compute);
    let moved = config.count_parameters().total as f64 * OPTIMISER_BYTES;
    flops / (profile.device.peak(Precision::F32) * share)
        + moved / (profile.device.bandwidth.value * profile.efficiency.bandwidth)
}

/// The profile by which the probes take just the seconds that they took, as far as constants within their bounds can.
///
/// # Errors
/// None: one device holds any of the probes.
pub fn fit(limits: &Limits, timings: &Timings, weights: Precision) -> Result<Profile, LayoutError> {
    let probes = Probes::new();
    let mut profile = Profile { device: device(limits), efficiency: Efficiency::default(), training: Some(0.5) };
    profile.efficiency.link = 1.0;
    profile.efficiency.collective_seconds = 0.0;
    profile.efficiency.request_seconds = 0.0;
    let layers = (probes.deep.layers.len() - probes.shallow.layers.len()) as f64;
    let share = |now: f64, predicted: f64, measured: f64| {
        if measured > 0.0 && predicted > 0.0 { (now * predicted / measured).clamp(1e-3, 1.5) } else { now }
    };
    let seconds = |now: f64, more: f64| (now + more).clamp(0.0, 1.0);
    for _ in 0..ROUNDS {
        let now = probes.predict(&profile, weights)?;
        let e = &mut profile.efficiency;
        e.step_seconds = seconds(e.step_seconds, timings.shallow - now.shallow);
        let deeper = (timings.deep - timings.shallow) - (now.deep - now.shallow);
        e.layer_seconds = seconds(e.layer_seconds, deeper / layers);
        let routed = (timings.sparse - timings.deep) - (now.sparse - now.deep);
        e.expert_layer_seconds = seconds(e.expert_layer_seconds, routed / probes.sparse.layers.len() as f64);
        e.bandwidth = share(e.bandwidth, now.near, timings.near);
        e.compute = share(e.compute, now.prompt, timings.prompt);
        e.attention = share(e.attention, now.far - now.near, timings.far - timings.near);
        profile.training = profile.training.map(|training| share(training, now.training, timings.training));
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

    /// Probes timed on a machine that is just as the roofline says give its constants back.
    #[test]
    fn a_machine_is_known_again_by_its_timings() {
        let efficiency = Efficiency {
            compute: 0.83,
            bandwidth: 0.88,
            attention: 0.3,
            link: 1.0,
            collective_seconds: 0.0,
            layer_seconds: 12e-6,
            expert_layer_seconds: 20e-6,
            step_seconds: 40e-6,
            request_seconds: 0.0,
        };
        let machine = Profile { device: device(&LIMITS), efficiency, training: Some(0.64) };
        let timings = Probes::new().predict(&machine, Precision::Bf16).unwrap();
        let found = fit(&LIMITS, &timings, Precision::Bf16).unwrap();
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.01;
        let e = found.efficiency;
        assert!(close(e.compute, 0.83) && close(e.bandwidth, 0.88) && close(e.attention, 0.3), "{e:?}");
        assert!(close(e.layer_seconds, 12e-6) && close(e.expert_layer_seconds, 20e-6), "{e:?}");
        assert!(close(e.step_seconds, 40e-6) && close(found.training.unwrap(), 0.64), "{e:?}");
        assert_eq!(Profile::parse(&found.to_toml().unwrap()).unwrap(), found);
    }

    /// Whatever a disturbed machine says, the profile can be used.
    #[test]
    fn noise_makes_no_profile_that_is_refused() {
        for noise in [0.0, 1e-9, 1e3] {
            let timings = Timings {
                prompt: 1.0,
                near: noise,
                far: 0.01,
                shallow: 0.5,
                deep: 0.1,
                sparse: noise,
                training: noise,
            };
            let profile = fit(&LIMITS, &timings, Precision::Int8).unwrap();
            Profile::parse(&profile.to_toml().unwrap()).unwrap();
        }
    }
}
