//! Writing GGUF files that llama.cpp runs.

use super::describe::{Metadata, push_text};
use super::names::{name, order};
use super::{Architecture, Vocabulary};
use crate::files::FileError;
use crate::files::checkpoint::Checkpoint;
use crate::files::encode::{Encoder, Target, push_floats};
use crate::parameters::ParameterRows;
use spec::{Activation, DecoderConfig, Ffn, Parameter, Position, Role, Rope, RopeScaling, Router};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tensor::{Format, MatrixSource};

/// What to write matrices as. Norms, biases and routers are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufWeights {
    /// f16; a value beyond its range is an error.
    F16,
    /// bf16.
    Bf16,
    /// Q8_0; a matrix whose inputs are no multiple of 32 becomes f16, as with llama.cpp's own quantiser, and one
    /// that is MXFP4 already stays so.
    Q8_0,
}

const ALIGNMENT: usize = 32;

/// Writes `source` as one GGUF file with this vocabulary (one without tokens leaves the file without a
/// tokeniser). One row is in memory at a time. The file appears under its name only when it is complete.
///
/// `progress` is told the bytes of tensors written and the bytes in all. What llama.cpp would not compute as the
/// model does (ALiBi, most sliding windows, dense layers among experts, ...) is refused. One known difference is
/// let through, as in every GGUF of gpt-oss: llama.cpp rounds the ends of its YaRN ramp, the model does not.
pub fn write_gguf(
    source: &Checkpoint,
    vocabulary: &Vocabulary,
    weights: GgufWeights,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FileError> {
    if path.exists() {
        return Err(FileError::Exists { path: path.to_owned() });
    }
    let config = source.decoder();
    let architecture = Architecture::of(config.family);
    check_held(config, architecture).map_err(|why| cannot_hold(architecture, why))?;
    let tensors = plan(source, architecture, weights)?;
    let mut metadata = Metadata::default();
    metadata.model(source, architecture, weights);
    metadata.vocabulary(vocabulary, config.vocab_size)?;
    let extra = frequency_divisors(config);
    let partial = partial_name(path);
    let written = File::create(&partial)
        .map_err(FileError::io(&partial, "create"))
        .and_then(|file| {
            let mut writer = Writer { file: BufWriter::with_capacity(1 << 20, file), path: &partial };
            writer.header(&metadata, &extra, &tensors)?;
            writer.tensors(source, architecture, &extra, &tensors, progress)
        })
        .and_then(|()| fs::rename(&partial, path).map_err(FileError::io(path, "create")));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

fn cannot_hold(architecture: Architecture, why: &str) -> FileError {
    FileError::CannotHold { layout: format!("GGUF architecture {}", architecture.name()), why: why.to_owned() }
}

/// What llama.cpp has no key for, and computes in its own way whatever the file says.
fn check_held(config: &DecoderConfig, architecture: Architecture) -> Result<(), &'static str> {
    let Position::Rope(rope) = &config.position else {
        return Err("it has no ALiBi");
    };
    if matches!(rope.scaling, RopeScaling::Dynamic { .. }) {
        return Err("it has no dynamic RoPE; choose the served context and another rope_type");
    }
    let is_oss = architecture == Architecture::GptOss;
    if let RopeScaling::Yarn { truncate, .. } = rope.scaling
        && truncate == is_oss
    {
        return Err("it has no key for YaRN's truncate: gpt-oss is taken for false, the others for true");
    }
    let qk_norm = matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe);
    if config.qk_norm != qk_norm || config.attention_sinks != is_oss {
        return Err("QK-norm belongs to qwen3 and qwen3moe, attention sinks to gpt-oss");
    }
    let is_dense = |ffn: &Ffn| matches!(ffn, Ffn::Dense(_));
    let first_is_dense = config.layers.first().is_some_and(|l| is_dense(&l.ffn));
    let must_be_dense = match architecture {
        Architecture::Llama => first_is_dense,
        Architecture::Qwen3 => true,
        Architecture::Qwen3Moe | Architecture::GptOss => false,
    };
    let mut window = None;
    for (index, layer) in config.layers.iter().enumerate() {
        if is_dense(&layer.ffn) != must_be_dense {
            return Err("its layers are all dense or all have experts");
        }
        let own = layer.attention.window;
        let slides = is_oss && index.is_multiple_of(2);
        if own.is_some() != slides || slides && own != *window.get_or_insert(own) {
            return Err("it has sliding windows in every second layer of gpt-oss and nowhere else");
        }
        check_ffn(&layer.ffn, is_oss)?;
        if layer.ffn != config.layers[0].ffn {
            return Err("its feed-forward layers are all alike");
        }
    }
    Ok(())
}

fn check_ffn(ffn: &Ffn, is_oss: bool) -> Result<(), &'static str> {
    let (network, moe) = match ffn {
        Ffn::Dense(dense) => (dense, None),
        Ffn::Experts(moe) => (&moe.expert, Some(moe)),
    };
    let usual = if is_oss { Activation::ClampedSwiGlu { alpha: 1.702, limit: 7.0 } } else { Activation::SwiGlu };
    if network.activation != usual {
        return Err("it has SwiGLU, and in gpt-oss the clamped one with alpha 1.702 and limit 7");
    }
    let Some(moe) = moe else {
        return Ok(());
    };
    let router = match is_oss {
        true => Router::TopKSoftmax,
        false => Router::SoftmaxTopK { renormalise: true },
    };
    if moe.router != router || moe.router_bias != is_oss || network.bias != is_oss {
        return Err("its routers renormalise, and only those of gpt-oss have biases");
    }
    if moe.choice_bias {
        return Err("its routers have no bias on the choice of experts");
    }
    match moe.shared {
        Some(_) => Err("it has no shared experts"),
        None => Ok(()),
    }
}

/// Lists of divisors of the rotary frequencies, as tensors.
fn frequency_divisors(config: &DecoderConfig) -> Vec<(&'static str, Vec<f32>)> {
    let Position::Rope(rope) = &config.position else {
        return Vec::new();
    };
    match &rope.scaling {
        RopeScaling::Llama3 { .. } => {
            let plain = Rope { scaling: RopeScaling::None, ..rope.clone() };
            let (plain, _) = plain.frequencies(config.head_dim, config.max_context);
            let (scaled, _) = rope.frequencies(config.head_dim, config.max_context);
            let divisors = plain.iter().zip(scaled).map(|(p, s)| p / s).collect();
            vec![("rope_freqs.weight", divisors)]
        }
        RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } => {
            if short_factor == long_factor && *attention_factor == 1.0 {
                return vec![("rope_freqs.weight", short_factor.clone())];
            }
            vec![("rope_factors_long.weight", long_factor.clone()), ("rope_factors_short.weight", short_factor.clone())]
        }
        _ => Vec::new(),
    }
}

/// A tensor to write: one parameter, or those of all experts.
struct Planned<'a> {
    name: String,
    members: Vec<&'a Parameter>,
    target: Target,
    /// Outermost dimension first.
    shape: Vec<usize>,
}

impl Planned<'_> {
    fn bytes(&self) -> usize {
        let (values, bytes) = self.target.encoding().block();
        self.shape.iter().product::<usize>() / values * bytes
    }
}

fn plan(source: &Checkpoint, architecture: Architecture, weights: GgufWeights) -> Result<Vec<Planned<'_>>, FileError> {
    let mut tensors: Vec<Planned> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for parameter in source.table.iter() {
        let name = name(architecture, parameter.id);
        if let Some(&at) = index.get(&name) {
            tensors[at].members.push(parameter);
            continue;
        }
        index.insert(name.clone(), tensors.len());
        tensors.push(Planned {
            target: target(source, parameter, weights)?,
            name,
            members: vec![parameter],
            shape: Vec::new(),
        });
    }
    for tensor in &mut tensors {
        let first = tensor.members[0];
        tensor.shape = first.shape.clone();
        if first.is_expert() {
            tensor.shape.insert(0, tensor.members.len());
        }
    }
    Ok(tensors)
}

fn target(source: &Checkpoint, parameter: &Parameter, weights: GgufWeights) -> Result<Target, FileError> {
    let [_, cols] = parameter.shape[..] else {
        return Ok(Target::F32);
    };
    if parameter.id.role == Role::Router {
        return Ok(Target::F32);
    }
    Ok(match weights {
        GgufWeights::F16 => Target::F16,
        GgufWeights::Bf16 => Target::Bf16,
        GgufWeights::Q8_0 if !cols.is_multiple_of(32) => Target::F16,
        GgufWeights::Q8_0 => match source.matrix(parameter.id)?.format() {
            Format::Mxfp4 => Target::Mxfp4,
            _ => Target::Q8_0,
        },
    })
}

/// ggml's number of a type that we write.
fn type_number(target: Target) -> u32 {
    match target {
        Target::F16 => 1,
        Target::Q8_0 => 8,
        Target::Bf16 => 30,
        Target::Mxfp4 => 39,
        Target::F32 | Target::Codes(_) => 0,
    }
}

struct Writer<'a> {
    file: BufWriter<File>,
    path: &'a Path,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(bytes);
        written.map_err(FileError::io(self.path, "write"))
    }

    fn header(
        &mut self,
        metadata: &Metadata,
        extra: &[(&str, Vec<f32>)],
        tensors: &[Planned],
    ) -> Result<(), FileError> {
        let count = (extra.len() + tensors.len()) as u64;
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend(count.to_le_bytes());
        header.extend(metadata.count.to_le_bytes());
        header.extend(&metadata.bytes);
        let mut offset = 0;
        let mut entry = |name: &str, shape: &[usize], target, bytes: usize| {
            push_text(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            for &size in shape.iter().rev() {
                header.extend((size as u64).to_le_bytes());
            }
            header.extend(type_number(target).to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
        };
        for (name, list) in extra {
            entry(name, &[list.len()], Target::F32, 4 * list.len());
        }
        for tensor in tensors {
            entry(&tensor.name, &tensor.shape, tensor.target, tensor.bytes());
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        self.bytes(&header)
    }

    fn pad(&mut self, written: usize) -> Result<(), FileError> {
        let gap = written.next_multiple_of(ALIGNMENT) - written;
        self.bytes(&[0; ALIGNMENT][..gap])
    }

    fn tensors(
        &mut self,
        source: &Checkpoint,
        architecture: Architecture,
        extra: &[(&str, Vec<f32>)],
        tensors: &[Planned],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), FileError> {
        let total: usize = tensors.iter().map(Planned::bytes).sum();
        for (name, list) in extra {
            self.floats(name, list)?;
            self.pad(4 * list.len())?;
        }
        let mut done = 0;
        let mut encoder = Encoder::default();
        for tensor in tensors {
            for parameter in &tensor.members {
                match parameter.shape.len() {
                    1 => self.vector(source, architecture, parameter)?,
                    _ => self.matrix(source, architecture, parameter, tensor.target, &mut encoder)?,
                }
            }
            self.pad(tensor.bytes())?;
            done += tensor.bytes();
            progress(done as u64, total as u64);
        }
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(FileError::io(self.path, "write"))
    }

    fn floats(&mut self, name: &str, values: &[f32]) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        push_floats(name, values, Target::F32, &mut bytes)?;
        self.bytes(&bytes)
    }

    fn vector(
        &mut self,
        source: &Checkpoint,
        architecture: Architecture,
        parameter: &Parameter,
    ) -> Result<(), FileError> {
        let values = source.vector(parameter.id)?;
        let order = order(architecture, parameter.id, source.decoder().head_dim);
        let ordered: Vec<_> = (0..values.len()).map(|i| values[order.logical(i)]).collect();
        self.floats(&parameter.name, &ordered)
    }

    fn matrix(
        &mut self,
        source: &Checkpoint,
        architecture: Architecture,
        parameter: &Parameter,
        target: Target,
        encoder: &mut Encoder,
    ) -> Result<(), FileError> {
        let matrix = source.matrix(parameter.id)?;
        let order = order(architecture, parameter.id, source.decoder().head_dim);
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for row in 0..matrix.rows() {
            bytes.clear();
            encoder.row(&matrix, order.logical(row), target, &mut bytes, &mut scales)?;
            self.bytes(&bytes)?;
        }
        matrix.release();
        Ok(())
    }
}
