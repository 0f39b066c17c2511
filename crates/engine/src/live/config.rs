//! What the engine is told once, and what it says of itself.

use crate::grammar::GrammarError;
use crate::live::memory::{KvMemory, MemoryError};
use model::Decoder;
use spec::DecoderConfig;
use std::sync::Arc;
use std::time::Duration;
use tensor::{Device, KvFormat};
use text::Tokenizer;

/// What the engine's thread takes possession of.
pub struct Parts {
    /// The model.
    pub decoder: Decoder,
    /// Its tokeniser; no id of it lies past the model's vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// Where everything is computed.
    pub device: Device,
    /// A small model of the same tokeniser that proposes tokens.
    pub draft: Option<Decoder>,
    /// What the model is called.
    pub name: String,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// How keys and values are held.
    pub kv: KvFormat,
    /// Memory for them.
    pub kv_memory: KvMemory,
    /// Rows that a step computes at most: what a long prompt may delay others by.
    pub step_tokens: u32,
    /// Sequences that hold cache blocks at once; at most `step_tokens`.
    pub max_running: u32,
    /// Choices that may wait beside those.
    pub max_queue: u32,
    /// Who drafts tokens, and how many; `None`: nobody.
    pub speculation: Option<batch::Speculation>,
    /// Threshold of lenient acceptance of drafts, see [`crate::typical`]; `None`: exact, so that drafts change no token.
    pub typical_acceptance: Option<f32>,
    /// Waiting this long is worth one level of priority.
    pub aging: Duration,
    /// A step that lasts longer counts as stalled.
    pub stall_after: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv: KvFormat::Bf16,
            kv_memory: KvMemory::Free,
            step_tokens: 512,
            max_running: 256,
            max_queue: 1024,
            speculation: None,
            typical_acceptance: None,
            aging: Duration::from_secs(10),
            stall_after: Duration::from_secs(60),
        }
    }
}

/// Why the engine cannot run so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no room for keys and values.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Numbers that do not fit each other.
    #[error(transparent)]
    Config(#[from] batch::ConfigError),
    /// The tokeniser is not the model's.
    #[error(transparent)]
    Vocabulary(#[from] text::Error),
    /// The tokeniser cannot be used for grammars.
    #[error(transparent)]
    Grammars(#[from] GrammarError),
    /// A draft model was asked to propose, and there is none.
    #[error("the draft model is to propose tokens, but no draft model was given")]
    NoDraft,
    /// A draft model that nobody asks.
    #[error("a draft model was given, but speculation does not use it; choose the draft model as proposer")]
    IdleDraft,
    /// The draft model cannot follow.
    #[error("the draft model serves a context of {draft}, but the model {target}; load both with the same context")]
    DraftContext {
        /// Positions of the draft model.
        draft: usize,
        /// Positions of the model.
        target: usize,
    },
    /// The draft model has another vocabulary.
    #[error(
        "the draft model has a vocabulary of {draft}, too small for the tokeniser's {tokens}; it must be made with the same tokeniser"
    )]
    DraftVocabulary {
        /// Ids of the draft model.
        draft: usize,
        /// Ids of the tokeniser.
        tokens: usize,
    },
    /// Lenient acceptance out of range.
    #[error("typical acceptance is {0}, but it must be above 0 and at most 1")]
    Typical(f32),
    /// Lenient acceptance of nothing.
    #[error("typical acceptance says which drafts are accepted, but nothing is drafted; choose a proposer")]
    TypicalAlone,
    /// The system gave no thread.
    #[error("the engine's thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// What runs.
#[derive(Clone, Debug)]
pub struct Info {
    /// What the model is called.
    pub name: String,
    /// Its shape.
    pub config: DecoderConfig,
    /// Positions that a sequence may reach.
    pub context: usize,
    /// Bytes of packed weights.
    pub weight_bytes: usize,
    /// Bytes of the draft model's, if there is one.
    pub draft_weight_bytes: Option<usize>,
    /// Format of keys and values.
    pub kv: KvFormat,
    /// Cache blocks of each sequence group (the model's, then the draft's), each of [`tensor::KV_BLOCK`] positions.
    pub kv_blocks: u32,
    /// Bytes of all of them.
    pub kv_bytes: usize,
    /// Who drafts.
    pub speculation: Option<batch::Speculation>,
    /// As in [`EngineConfig`].
    pub step_tokens: u32,
    /// As in [`EngineConfig`].
    pub max_running: u32,
    /// As in [`EngineConfig`].
    pub max_queue: u32,
    /// Workers of the device.
    pub threads: usize,
}
