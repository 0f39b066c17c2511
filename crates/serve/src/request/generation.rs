//! How tokens are chosen and when to stop: the fields that chats and plain completions share, checked and made into a job.

use crate::App;
use crate::error::{ApiError, Result};
use crate::request::Unsupported;
use crate::request::format::{ResponseFormat, Structured};
use engine::Sampling;
use engine::live::{Job, Penalties};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Choices of one prompt at most.
pub const MOST_CHOICES: u32 = 128;
/// Stop strings at most, and bytes of each: looking for them takes time at every token.
const MOST_STOPS: usize = 64;
const LONGEST_STOP: usize = 1024;
/// Most probable tokens that are told, at most.
pub const MOST_TOP: u32 = 20;

/// A string or several.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it must be a text or a list of texts")]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

impl OneOrMore {
    /// As a list.
    pub fn list(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(list) => list,
        }
    }
}

/// What a stream tells beside its text.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk without choices tells the usage of the whole request.
    pub include_usage: Option<bool>,
    /// Every chunk tells the usage so far.
    pub continuous_usage_stats: Option<bool>,
    /// Padding of chunks against guessing by their length; there is none here, so only `false` is accepted.
    pub include_obfuscation: Option<bool>,
}

/// Fields that chats and plain completions share.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct Generation {
    /// The model's name, as `/v1/models` tells it; the one that is served if it is left out.
    pub model: Option<String>,
    /// Answer in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Completions of the prompt, which share its computation.
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Tokens generated at most. A plain completion has 16 if it is left out, a chat as many as fit the context.
    #[schema(minimum = 0)]
    pub max_tokens: Option<u32>,
    /// The completion does not end before so many tokens.
    #[schema(minimum = 0)]
    pub min_tokens: Option<u32>,
    /// Divides the logits; 0 always takes the most probable token. The model's own default, or 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Choose among the most probable tokens that together reach this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Choose among the so many most probable tokens; 0 and -1: among all.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Choose among tokens at least this fraction as probable as the most probable one.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// The same seed gives the same tokens.
    pub seed: Option<i64>,
    /// Text that ends a completion and is not part of it.
    pub stop: Option<OneOrMore>,
    /// Tokens that end a completion.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Go on after the tokens that end a text.
    pub ignore_eos: Option<bool>,
    /// Leave special tokens out of the text (the default).
    pub skip_special_tokens: Option<bool>,
    /// Makes tokens less likely by how often they were generated.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Makes tokens less likely that were generated.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Makes tokens less likely that were in the prompt or generated; 1: not at all.
    #[schema(exclusive_minimum = 0, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Token ids, and what is added to their logits, from -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Higher goes first.
    pub priority: Option<i32>,
    /// Tell the ids of prompt and completion.
    pub return_token_ids: Option<bool>,
    /// What the text must look like.
    pub response_format: Option<ResponseFormat>,
    /// What the text must look like, in one of more ways than `response_format` has.
    pub structured_outputs: Option<Structured>,
    /// Who asks, for the log of whoever runs the server. No effect on the answer.
    #[expect(dead_code, reason = "accepted without effect")]
    pub user: Option<String>,
    /// No effect on the answer: prompts with a common beginning share its computation anyway.
    #[expect(dead_code, reason = "accepted without effect")]
    pub prompt_cache_key: Option<String>,
    /// No effect on the answer.
    #[expect(dead_code, reason = "accepted without effect")]
    pub safety_identifier: Option<String>,
}

/// Fields of this kind that other servers know.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("cache_salt", "what is shared between requests follows from the API key."),
    Unsupported::new("use_beam_search", "use `n` with a temperature."),
    Unsupported::new("length_penalty", "it belongs to beam search."),
    Unsupported::new("early_stopping", "it belongs to beam search."),
    Unsupported::new("bad_words", "use `logit_bias` of -100."),
    Unsupported::new("allowed_token_ids", "use `structured_outputs`."),
    Unsupported::new("logits_processors", "use `logit_bias` or `structured_outputs`."),
    Unsupported::new("truncate_prompt_tokens", "shorten the prompt before it is sent."),
    Unsupported::unless("include_stop_str_in_output", super::FALSE, "append the stop string yourself."),
    Unsupported::new("spaces_between_special_tokens", "special tokens are never surrounded by spaces."),
    Unsupported::new("prompt_logprobs", "use /v1/completions with `echo` and `logprobs`."),
    Unsupported::new("prompt_embeds", "send text or token ids."),
    Unsupported::new("guided_json", "use `structured_outputs.json`."),
    Unsupported::new("guided_regex", "use `structured_outputs.regex`."),
    Unsupported::new("guided_choice", "use `structured_outputs.choice`."),
    Unsupported::new("guided_grammar", "use `structured_outputs.grammar`."),
    Unsupported::new("guided_decoding_backend", "there is one engine of grammars."),
    Unsupported::new("guided_whitespace_pattern", "whitespace between parts of JSON is always bounded."),
    Unsupported::new("logits_to_keep", "only the rows that are sampled are computed."),
    Unsupported::new("mm_processor_kwargs", "only text is understood."),
    Unsupported::new("kv_transfer_params", "the cache stays on this server."),
    Unsupported::new("vllm_xargs", "there are no such extensions."),
    Unsupported::new("mirostat", "use `temperature`, `top_p` or `min_p`."),
    Unsupported::new("typical_p", "use `top_p` or `min_p`."),
    Unsupported::new("tfs_z", "use `top_p` or `min_p`."),
    Unsupported::new("dry_multiplier", "use `repetition_penalty`."),
    Unsupported::new("xtc_probability", "use `temperature`."),
];

/// What can be known of a request without its prompt.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Everything but the prompt, its length's consequences, grammar and salt.
    pub job: Job,
    /// Whether to stream.
    pub stream: bool,
    /// Whether to end a stream with the usage.
    pub include_usage: bool,
    /// Whether to tell the usage in each chunk.
    pub continuous_usage: bool,
    /// Whether to tell token ids.
    pub token_ids: bool,
}

impl Generation {
    /// Checks every field's range.
    ///
    /// # Errors
    /// The first field out of range; a model that is not served here.
    pub fn check(&self, app: &App) -> Result<Checked> {
        app.check_model(self.model.as_deref())?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "`stream_options` is only allowed with `stream: true`."));
        }
        let options = self.stream_options.clone().unwrap_or_default();
        if options.include_obfuscation == Some(true) {
            let field = "stream_options.include_obfuscation";
            return Err(ApiError::unsupported(
                field,
                format!("`{field}` is not supported here: chunks are not padded."),
            ));
        }
        let n = self.n.unwrap_or(1);
        if !(1..=MOST_CHOICES).contains(&n) {
            return Err(ApiError::invalid("n", format!("`n` is {n}, but it must be from 1 to {MOST_CHOICES}.")));
        }
        let job = Job {
            choices: n,
            max_tokens: self.max_tokens.unwrap_or(0),
            min_tokens: self.min_tokens.unwrap_or(0),
            sampling: self.sampling(app)?,
            penalties: self.penalties(app)?,
            logit_bias: self.bias(app)?,
            stop: self.stops()?,
            stop_tokens: self.stop_tokens(app)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            show_special: !self.skip_special_tokens.unwrap_or(true),
            priority: self.priority.unwrap_or(0),
            ..Job::new(Vec::new(), 0)
        };
        Ok(Checked {
            job,
            stream,
            include_usage: options.include_usage.unwrap_or(false),
            continuous_usage: options.continuous_usage_stats.unwrap_or(false),
            token_ids: self.return_token_ids.unwrap_or(false),
        })
    }

    fn sampling(&self, app: &App) -> Result<Sampling> {
        let defaults = &app.options.defaults;
        let top_k = self.top_k.unwrap_or(defaults.top_k);
        if top_k < -1 {
            return Err(ApiError::invalid("top_k", format!("`top_k` is {top_k}, but it must be at least -1.")));
        }
        let top_p = within("top_p", self.top_p.unwrap_or(defaults.top_p), 0.0, 1.0)?;
        Ok(Sampling {
            temperature: within("temperature", self.temperature.unwrap_or(defaults.temperature), 0.0, 2.0)?,
            top_k: usize::try_from(top_k).unwrap_or(0),
            // The limit of ever smaller ones: the most probable token alone.
            top_p: top_p.max(f32::MIN_POSITIVE),
            min_p: within("min_p", self.min_p.unwrap_or(defaults.min_p), 0.0, 1.0)?,
            seed: self.seed.map_or_else(|| app.fresh() as u64, |seed| seed as u64),
        })
    }

    fn penalties(&self, app: &App) -> Result<Penalties> {
        let repetition = self.repetition_penalty.unwrap_or(app.options.defaults.repetition_penalty);
        Ok(Penalties {
            frequency: within("frequency_penalty", self.frequency_penalty.unwrap_or(0.0), -2.0, 2.0)?,
            presence: within("presence_penalty", self.presence_penalty.unwrap_or(0.0), -2.0, 2.0)?,
            repetition: match within("repetition_penalty", repetition, 0.0, 10.0)? {
                0.0 => return Err(ApiError::invalid("repetition_penalty", "`repetition_penalty` must be above 0.")),
                repetition => repetition,
            },
        })
    }

    fn bias(&self, app: &App) -> Result<Vec<(u32, f32)>> {
        let vocab = app.engine.info().config.vocab_size;
        let entry = |(key, &value): (&String, &f64)| {
            let field = || format!("logit_bias.{}", key.chars().take(40).collect::<String>());
            // No sign, no blanks: the way that ids are written.
            let id =
                key.parse::<u32>().ok().filter(|id| (*id as usize) < vocab && key.bytes().all(|b| b.is_ascii_digit()));
            let id = id.ok_or_else(|| {
                let message = format!("`{}` is not a token id below {vocab}.", field());
                ApiError::invalid(field(), message)
            })?;
            Ok((id, within(&field(), value, -100.0, 100.0)?))
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }

    fn stops(&self) -> Result<Vec<String>> {
        let stops = self.stop.as_ref().map_or(&[][..], OneOrMore::list);
        check_stops("stop", stops)?;
        Ok(stops.to_vec())
    }

    fn stop_tokens(&self, app: &App) -> Result<Vec<u32>> {
        let ids = self.stop_token_ids.clone().unwrap_or_default();
        app.check_ids("stop_token_ids", &ids)?;
        Ok(ids)
    }
}

/// Refuses stop strings that are too many, too long or empty.
pub fn check_stops(field: &str, stops: &[String]) -> Result<()> {
    if stops.len() > MOST_STOPS {
        let message = format!("`{field}` has {} strings, but at most {MOST_STOPS} are looked for.", stops.len());
        return Err(ApiError::invalid(field, message));
    }
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid(
            field,
            format!("`{field}` has an empty string, which would end every text at once."),
        ));
    }
    match stops.iter().find(|stop| stop.len() > LONGEST_STOP) {
        Some(stop) => {
            let message =
                format!("`{field}` has a string of {} bytes; at most {LONGEST_STOP} are allowed.", stop.len());
            Err(ApiError::invalid(field, message))
        }
        None => Ok(()),
    }
}

/// A number within bounds; anything else, NaN and infinities among it, is refused.
pub fn within(field: &str, value: f64, least: f64, most: f64) -> Result<f32> {
    if (least..=most).contains(&value) {
        Ok(value as f32)
    } else {
        Err(ApiError::invalid(field, format!("`{field}` is {value}, but it must be from {least} to {most}.")))
    }
}

/// What a request leaves out, as the model's `generation_config.json` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// As in `Generation`, all of them.
    pub temperature: f64,
    /// Probability.
    pub top_p: f64,
    /// Number of tokens, or 0.
    pub top_k: i64,
    /// Fraction.
    pub min_p: f64,
    /// Factor.
    pub repetition_penalty: f64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Defaults {
    /// What a `generation_config.json` says; values that no request could have are left out.
    pub fn from_generation_config(config: &Value) -> Self {
        let number = |key: &str, least: f64, most: f64, other: f64| {
            config.get(key).and_then(Value::as_f64).filter(|value| (least..=most).contains(value)).unwrap_or(other)
        };
        let default = Self::default();
        let greedy = config.get("do_sample") == Some(&Value::Bool(false));
        Self {
            temperature: if greedy { 0.0 } else { number("temperature", 0.0, 2.0, default.temperature) },
            top_p: number("top_p", 0.0, 1.0, default.top_p),
            top_k: number("top_k", 0.0, f64::from(u32::MAX), 0.0) as i64,
            min_p: number("min_p", 0.0, 1.0, default.min_p),
            repetition_penalty: number("repetition_penalty", 0.01, 10.0, default.repetition_penalty),
        }
    }
}
