//! GGUF: one file with metadata and tensors (versions 2 and 3, little endian; `docs/gguf.md` of ggml).

mod config;
mod describe;
mod names;
mod parse;
pub(super) mod quants;
mod vocabulary;
mod write;

pub use vocabulary::Vocabulary;
pub use write::{GgufWeights, write_gguf};

pub(super) use config::decoder;
pub(super) use names::{is_known_extra, placement, read_divisors};
pub(super) use parse::Gguf;

use spec::Family;

/// The architectures of GGUF that a decoder here can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Llama, Mistral and Mixtral; Q and K rows interleaved.
    Llama,
    Qwen3,
    Qwen3Moe,
    GptOss,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen3, Self::Qwen3Moe, Self::GptOss];

    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::GptOss => "gpt-oss",
        }
    }

    fn of(family: Family) -> Self {
        match family {
            Family::Mixtral | Family::Llama | Family::Mistral => Self::Llama,
            Family::Qwen3 => Self::Qwen3,
            Family::Qwen3Moe => Self::Qwen3Moe,
            Family::GptOss => Self::GptOss,
        }
    }
}
