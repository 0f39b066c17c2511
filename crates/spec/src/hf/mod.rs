//! `config.json` of Hugging Face transformers, in both directions.
//!
//! Reading follows each family's configuration class of transformers 5: its defaults where a key is absent, its
//! meaning of null, both spellings of RoPE. A key that would change the arithmetic and is not supported is an
//! error that names it, and so is a key that nobody here knows. Two keys are ours: `"position_embedding": "alibi"`,
//! and `"quantization_config": {"quant_method": "lyceum", ..}`; and so are two architectures, `LyceumMixtralForCausalLM` and
//! `LyceumQwen3MoeForCausalLM`: the same with a bias on the choice of experts, `e_score_correction_bias` of each router.

mod keys;
mod read;
mod rope;
mod write;

use crate::config::{DecoderConfig, Family};
use crate::validate::InvalidConfig;
use thiserror::Error;

/// What a `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// The decoder.
    pub decoder: DecoderConfig,
    /// How its matrices are stored; `None`: as plain floats.
    pub quantisation: Option<Quantisation>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`, one or several.
    pub eos: Vec<u32>,
    /// `pad_token_id`.
    pub pad: Option<u32>,
    /// `dtype` (formerly `torch_dtype`), such as `bfloat16`. Weights say their own; this is for other programs.
    pub dtype: Option<String>,
}

impl HfConfig {
    /// Plain weights and no special tokens.
    pub fn new(decoder: DecoderConfig) -> Self {
        Self { decoder, quantisation: None, bos: None, eos: Vec::new(), pad: None, dtype: None }
    }

    /// Reads the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self, HfError> {
        read::read(text)
    }

    /// Writes the text of a `config.json` that transformers opens, or names what the family's layout cannot hold.
    pub fn to_json(&self) -> Result<String, HfError> {
        write::write(self)
    }
}

/// How a checkpoint's matrices are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// gpt-oss: expert matrices as `_blocks` and `_scales` in MXFP4, everything else plain.
    GptOssMxfp4,
    /// Ours: every quantisable matrix `NAME` as codes, beside `NAME_scale` ([`crate::Role::is_quantisable`]).
    Lyceum(WeightFormat),
}

/// The formats of our quantised files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// Codes i8 `[rows, cols]`, scales f16 per 32 inputs.
    Int8,
    /// Codes e4m3 `[rows, cols]`, scales f32 per 128 inputs.
    Fp8,
    /// Codes u8 `[rows, ceil(cols / 2)]`, the even column in the low nibble, scales f16 per 32 inputs.
    Int4,
    /// Codes as for int4, scales u8 (e8m0) per 32 inputs.
    Mxfp4,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Int8, Self::Fp8, Self::Int4, Self::Mxfp4];

    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Int4 => "int4",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Inputs that share a scale.
    pub fn group_size(self) -> usize {
        match self {
            Self::Fp8 => 128,
            Self::Int8 | Self::Int4 | Self::Mxfp4 => 32,
        }
    }
}

impl Family {
    /// Every family, in the order that messages list them.
    pub const ALL: [Self; 6] = [Self::Mixtral, Self::Qwen3Moe, Self::Qwen3, Self::Llama, Self::Mistral, Self::GptOss];

    /// Its class in transformers.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Mixtral => "MixtralForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::GptOss => "GptOssForCausalLM",
        }
    }

    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Mixtral => "mixtral",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::GptOss => "gpt_oss",
        }
    }
}

/// The class of a family; with a bias on the choice of experts it is one of ours, so that no other program computes without it. `None`: the family
/// has no routers to bias.
fn architecture(family: Family, choice_bias: bool) -> Option<String> {
    match (family, choice_bias) {
        (_, false) => Some(family.architecture().to_owned()),
        (Family::Mixtral | Family::Qwen3Moe, true) => Some(format!("Lyceum{}", family.architecture())),
        (_, true) => None,
    }
}

impl DecoderConfig {
    /// The class that `config.json` names.
    pub fn architecture(&self) -> String {
        let plain = || self.family.architecture().to_owned();
        architecture(self.family, self.has_choice_bias()).unwrap_or_else(plain)
    }
}

/// The `model_type` beside it.
fn model_type(family: Family, choice_bias: bool) -> Option<String> {
    let own = architecture(family, choice_bias)?;
    let prefix = if own == family.architecture() { "" } else { "lyceum_" };
    Some(format!("{prefix}{}", family.model_type()))
}

fn known_architectures() -> String {
    Family::ALL.map(Family::architecture).join(", ")
}

/// Why a `config.json` cannot be read or written.
#[derive(Debug, Error)]
pub enum HfError {
    /// Not JSON, or not an object.
    #[error("config.json is not a JSON object: {0}")]
    Json(serde_json::Error),
    /// Nothing says what the model is.
    #[error("config.json has neither \"architectures\" nor \"model_type\"; supported are {}", known_architectures())]
    NoArchitecture,
    /// Another model than the supported ones.
    #[error("config.json: architecture {found:?} is not supported; supported are {}", known_architectures())]
    UnknownArchitecture {
        /// What it names.
        found: String,
    },
    /// A value of the wrong type.
    #[error("config.json: \"{key}\" is {found}, expected {expected}")]
    WrongType {
        /// Whose value.
        key: String,
        /// What it is, as JSON.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key that the chosen options need.
    #[error("config.json: \"{key}\" is missing; {needed_by} needs it")]
    Missing {
        /// The key.
        key: String,
        /// What asks for it.
        needed_by: String,
    },
    /// A value that changes the model in a way not supported.
    #[error("config.json: \"{key}\": {found} is not supported; {allowed}")]
    Unsupported {
        /// Whose value.
        key: String,
        /// What it is, as JSON.
        found: String,
        /// What is supported.
        allowed: String,
    },
    /// A key that nobody here knows.
    #[error(
        "config.json: unknown key \"{key}\"; it may change what the model computes. If it does not, \
         remove it or let it start with \"_\""
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Two keys that say different things.
    #[error("config.json: \"{first}\" and \"{second}\" disagree: {first_value} and {second_value}")]
    Disagree {
        /// One key.
        first: String,
        /// Its value, as JSON.
        first_value: String,
        /// The other.
        second: String,
        /// Its value, as JSON.
        second_value: String,
    },
    /// Well-formed, but no possible decoder.
    #[error("config.json: {0}")]
    Invalid(#[from] InvalidConfig),
    /// A decoder that this layout of files has no words for.
    #[error(
        "a {architecture} checkpoint cannot hold this model's {field}; choose another layout \
         (Qwen3MoeForCausalLM has QK-norm, GptOssForCausalLM sinks and biases)"
    )]
    NotHeld {
        /// The layout.
        architecture: &'static str,
        /// What it cannot say.
        field: &'static str,
    },
}
