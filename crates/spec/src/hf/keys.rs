//! Reading a JSON object so that no key goes unnoticed.

use super::HfError;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Keys that say nothing about the arithmetic of inference: bookkeeping, training, generation defaults, and
/// class labels that every config inherits.
const HARMLESS: &[&str] = &[
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "embd_pdrop",
    "experts_implementation",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initial_context_length",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_window_layers",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    // Generation defaults that configs of transformers 4 carry; generation_config.json is their place.
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Keys of related families that would change the arithmetic, with the one value that does not. Null, too,
/// leaves each of them out.
const NEUTRAL: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("attention_chunk_size", "null"),
    ("attention_multiplier", "null"),
    ("attention_out_bias", "false"),
    ("attn_logit_softcapping", "null"),
    ("attn_temperature_tuning", "false"),
    ("clip_qkv", "null"),
    ("cross_attention_hidden_size", "null"),
    ("embedding_multiplier", "1.0"),
    ("final_logit_softcapping", "null"),
    ("is_decoder", "false"),
    ("is_encoder_decoder", "false"),
    ("logit_scale", "1.0"),
    ("logits_scaling", "1.0"),
    ("mlp_layer_types", "null"),
    ("mtp_layer_types", "null"),
    ("moe_layers", "null"),
    ("no_rope_layers", "null"),
    ("num_nextn_predict_layers", "0"),
    ("partial_rotary_factor", "1.0"),
    ("per_layer_config", "null"),
    ("pruned_heads", "{}"),
    ("query_pre_attn_scalar", "null"),
    ("qk_layernorm", "false"),
    ("residual_multiplier", "1.0"),
    ("rope_interleaved", "false"),
    ("routed_scaling_factor", "1.0"),
    ("shared_expert_intermediate_size", "0"),
    ("tie_encoder_decoder", "false"),
    ("use_qk_norm", "false"),
    ("use_sliding_window", "false"),
];

/// An object whose keys are ticked off as they are read.
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Where the object lies, to prefix keys in messages: empty or `"rope_scaling."`.
    place: &'static str,
    used: HashSet<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, place: &'static str) -> Self {
        Self { map, place, used: HashSet::new() }
    }

    /// The value of a key, null included, and ticks it off.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        let (name, value) = self.map.get_key_value(key)?;
        self.used.insert(name);
        Some(value)
    }

    /// The value of a key, null taken as absent.
    pub(super) fn given(&mut self, key: &'static str) -> Option<&'a Value> {
        self.value(key).filter(|v| !v.is_null())
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.place)
    }

    pub(super) fn wrong(&self, key: &str, found: &Value, expected: &'static str) -> HfError {
        HfError::WrongType { key: self.path(key), found: brief(found), expected }
    }

    pub(super) fn unsupported(&self, key: &str, found: &Value, allowed: impl Into<String>) -> HfError {
        HfError::Unsupported { key: self.path(key), found: brief(found), allowed: allowed.into() }
    }

    fn to_size(&self, key: &str, value: &Value) -> Result<usize, HfError> {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    pub(super) fn size(&mut self, key: &'static str, default: usize) -> Result<usize, HfError> {
        match self.value(key) {
            Some(value) => self.to_size(key, value),
            None => Ok(default),
        }
    }

    /// `default` where the key is absent, `None` where it is null.
    pub(super) fn size_or_null(&mut self, key: &'static str, default: Option<usize>) -> Result<Option<usize>, HfError> {
        match self.value(key) {
            Some(Value::Null) => Ok(None),
            Some(value) => self.to_size(key, value).map(Some),
            None => Ok(default),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, HfError> {
        match self.given(key) {
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false")),
            None => Ok(default),
        }
    }

    /// A finite number in f64, null taken as absent.
    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<f64>, HfError> {
        let Some(value) = self.given(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if (number as f32).is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(key, value, "a number")),
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, HfError> {
        match self.given(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value, "a string")),
            None => Ok(None),
        }
    }

    pub(super) fn object(&mut self, key: &'static str) -> Result<Option<&'a Map<String, Value>>, HfError> {
        match self.given(key) {
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(self.wrong(key, value, "an object")),
            None => Ok(None),
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<Option<&'a Vec<Value>>, HfError> {
        match self.given(key) {
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(value) => Err(self.wrong(key, value, "a list")),
            None => Ok(None),
        }
    }

    pub(super) fn numbers(&mut self, key: &'static str) -> Result<Option<Vec<f32>>, HfError> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let number = |v: &Value| {
            let wrong = || self.wrong(key, v, "a list of numbers");
            v.as_f64().map(|n| n as f32).ok_or_else(wrong)
        };
        list.iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses every key that was not read: harmless ones at the top level excepted.
    pub(super) fn finish(self) -> Result<(), HfError> {
        for (key, value) in self.map {
            let top = self.place.is_empty();
            let known = self.used.contains(key.as_str()) || key.starts_with('_');
            if known || top && HARMLESS.contains(&key.as_str()) || value.is_null() && !top {
                continue;
            }
            match NEUTRAL.iter().find(|(name, _)| top && name == key) {
                Some((_, neutral)) if is_neutral(value, neutral) => {}
                Some((_, neutral)) => {
                    let allowed = format!("it must be {neutral} or absent");
                    return Err(self.unsupported(key, value, allowed));
                }
                None => {
                    return Err(HfError::UnknownKey { key: self.path(key) });
                }
            }
        }
        Ok(())
    }
}

fn is_neutral(value: &Value, neutral: &str) -> bool {
    let number = neutral.parse::<f64>().ok();
    let same_number = number.is_some() && number == value.as_f64();
    value.is_null() || serde_json::from_str(neutral).is_ok_and(|n: Value| n == *value) || same_number
}

/// A value for a message, cut where it is long.
pub(super) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
