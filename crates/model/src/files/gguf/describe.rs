//! The metadata of a GGUF file to write.

use super::config::yarn_attention;
use super::write::GgufWeights;
use super::{Architecture, Vocabulary};
use crate::files::FileError;
use crate::files::checkpoint::Checkpoint;
use spec::{Family, Ffn, Position, Rope, RopeScaling};

/// Key-value pairs as bytes.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        push_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    fn integer(&mut self, key: &str, value: usize) {
        match u32::try_from(value) {
            Ok(value) => {
                self.key(key, 4);
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.key(key, 10);
                self.bytes.extend((value as u64).to_le_bytes());
            }
        }
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.bytes.push(value.into());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        push_text(&mut self.bytes, value);
    }

    /// An array of what `push` writes.
    fn array<T>(
        &mut self,
        key: &str,
        kind: u32,
        values: impl ExactSizeIterator<Item = T>,
        push: impl Fn(&mut Vec<u8>, T),
    ) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.for_each(|value| push(&mut self.bytes, value));
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, 8, values.iter(), |bytes, text| push_text(bytes, text));
    }

    pub(super) fn model(&mut self, source: &Checkpoint, architecture: Architecture, weights: GgufWeights) {
        let config = source.decoder();
        let arch = architecture.name();
        self.text("general.architecture", arch);
        self.text("general.type", "model");
        if let Some(name) = source.path().file_stem() {
            self.text("general.name", &name.to_string_lossy());
        }
        let file_type = match weights {
            GgufWeights::F16 => 1,
            GgufWeights::Q8_0 => 7,
            GgufWeights::Bf16 => 32,
        };
        self.integer("general.file_type", file_type);
        self.integer("general.quantization_version", 2);
        let mut size = |key: &str, value| self.integer(&format!("{arch}.{key}"), value);
        size("vocab_size", config.vocab_size);
        size("context_length", config.max_context);
        size("embedding_length", config.hidden_size);
        size("block_count", config.layers.len());
        size("attention.head_count", config.heads);
        size("attention.head_count_kv", config.kv_heads);
        size("attention.key_length", config.head_dim);
        size("attention.value_length", config.head_dim);
        size("rope.dimension_count", config.head_dim);
        if let Some(first) = config.layers.first() {
            if let Some(window) = first.attention.window {
                size("attention.sliding_window", window);
            }
            match &first.ffn {
                Ffn::Dense(dense) => size("feed_forward_length", dense.ffn_size),
                Ffn::Experts(moe) => {
                    size("feed_forward_length", moe.expert.ffn_size);
                    if config.family != Family::Mixtral {
                        size("expert_feed_forward_length", moe.expert.ffn_size);
                    }
                    size("expert_count", moe.experts);
                    size("expert_used_count", moe.top_k);
                }
            }
        }
        self.float(&format!("{arch}.attention.layer_norm_rms_epsilon"), config.norm_eps);
        if let Position::Rope(rope) = &config.position {
            self.rope(&format!("{arch}.rope."), rope);
        }
    }

    fn rope(&mut self, prefix: &str, rope: &Rope) {
        let key = |key: &str| format!("{prefix}{key}");
        self.float(&key("freq_base"), rope.theta);
        match &rope.scaling {
            RopeScaling::Linear { factor } => {
                self.text(&key("scaling.type"), "linear");
                self.float(&key("scaling.factor"), *factor);
            }
            RopeScaling::Yarn { factor, original_context, beta_slow, beta_fast, attention_factor, .. } => {
                self.text(&key("scaling.type"), "yarn");
                self.float(&key("scaling.factor"), *factor);
                self.integer(&key("scaling.original_context_length"), *original_context);
                self.float(&key("scaling.yarn_beta_slow"), *beta_slow);
                self.float(&key("scaling.yarn_beta_fast"), *beta_fast);
                let own = yarn_attention(*factor);
                if *attention_factor != own {
                    self.float(&key("scaling.attn_factor"), attention_factor / own);
                }
            }
            RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor }
                if short_factor != long_factor || *attention_factor != 1.0 =>
            {
                self.text(&key("scaling.type"), "longrope");
                self.integer(&key("scaling.original_context_length"), *original_context);
                self.float(&key("scaling.attn_factor"), *attention_factor);
            }
            _ => {}
        }
    }

    /// Every row of the embedding needs a token: rows beyond the vocabulary get unused ones. A file without a
    /// vocabulary says so, or llama.cpp refuses it.
    pub(super) fn vocabulary(&mut self, v: &Vocabulary, rows: usize) -> Result<(), FileError> {
        if v.tokens.is_empty() {
            self.text("tokenizer.ggml.model", "no_vocab");
            return Ok(());
        }
        if v.tokens.len() > rows {
            let count = v.tokens.len();
            return Err(FileError::CannotHold {
                layout: "GGUF".into(),
                why: format!("the vocabulary has {count} tokens, the embedding {rows} rows"),
            });
        }
        self.text("tokenizer.ggml.model", &v.model);
        if let Some(pre) = &v.pre {
            self.text("tokenizer.ggml.pre", pre);
        }
        let mut tokens = v.tokens.clone();
        tokens.extend((tokens.len()..rows).map(|id| format!("[PAD{id}]")));
        self.texts("tokenizer.ggml.tokens", &tokens);
        if !v.scores.is_empty() {
            let mut scores = v.scores.clone();
            scores.resize(rows, -10000.0);
            let values = scores.into_iter();
            self.array("tokenizer.ggml.scores", 6, values, |bytes, score| {
                bytes.extend(score.to_le_bytes());
            });
        }
        // 1 is normal, 5 unused.
        let mut types = v.token_types.clone();
        types.resize(v.tokens.len(), 1);
        types.resize(rows, 5);
        let values = types.into_iter();
        self.array("tokenizer.ggml.token_type", 5, values, |bytes, kind| {
            bytes.extend(kind.to_le_bytes());
        });
        if !v.merges.is_empty() {
            self.texts("tokenizer.ggml.merges", &v.merges);
        }
        self.special_tokens(v);
        Ok(())
    }

    fn special_tokens(&mut self, v: &Vocabulary) {
        for (key, id) in [
            ("bos_token_id", v.bos),
            ("eos_token_id", v.eos),
            ("eot_token_id", v.eot),
            ("eom_token_id", v.eom),
            ("unknown_token_id", v.unk),
            ("padding_token_id", v.pad),
        ] {
            if let Some(id) = id {
                self.integer(&format!("tokenizer.ggml.{key}"), id as usize);
            }
        }
        for (key, flag) in
            [("add_bos_token", v.add_bos), ("add_eos_token", v.add_eos), ("add_space_prefix", v.add_space_prefix)]
        {
            if let Some(flag) = flag {
                self.flag(&format!("tokenizer.ggml.{key}"), flag);
            }
        }
        if let Some(template) = &v.chat_template {
            self.text("tokenizer.chat_template", template);
        }
    }
}

/// A string as GGUF has it: length, then bytes.
pub(super) fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
