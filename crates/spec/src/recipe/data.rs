//! What a model learns from: the `data` section of a recipe.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Sources, in which proportion, and how their documents become samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Tokens of a sample: what the model sees at once. A sample holds one more, the last target.
    pub context: usize,
    /// How documents share a sample.
    #[serde(default)]
    pub packing: Packing,
    /// Whether attention and positions stop at the boundaries of documents.
    #[serde(default = "yes")]
    pub attention_within_documents: bool,
    /// How the data are made, where they are not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusRecipe>,
    /// What is learned from.
    pub sources: Vec<SourceRecipe>,
}

/// Documents that are collected, a tokeniser that is learned from them, and shards, all in one folder: made before the first run, and found there
/// by every other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusRecipe {
    /// The folder, relative to the recipe.
    pub folder: String,
    /// A `Cargo.lock`, relative to the recipe, whose crates become the sources `code` and `docs`, as cargo has unpacked them on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cargo: Option<String>,
    /// Files and folders, relative to the recipe; each is a source by its own name, or by NAME=PATH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Files of conversations (`{"messages": [...]}` on each line; JSONL, also packed by zstd), relative to the recipe; each is a source by its own
    /// name, or by NAME=FILE. They are laid out by the tokeniser's chat template, and only the assistant's words are targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chats: Vec<String>,
    /// Filters by name, instead of the usual ones; an empty list keeps everything, copies too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<String>>,
    /// Ids of the tokeniser to learn; without it `model.tokenizer` names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Share of the documents that is kept apart for measuring.
    #[serde(default = "held_out")]
    pub held_out: f64,
}

/// One folder of shards, and how much of it is wanted.
///
/// Either every source has a weight or none has. With weights, samples are drawn in their proportion, and
/// `epochs` is the most that a source may be repeated. Without, each source is seen exactly `epochs` times (once
/// if that is not said), spread evenly over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecipe {
    /// What the source is called in the ledger and in logs. The order of its samples depends on this name.
    pub name: String,
    /// The folder of shards, relative to the recipe; that of the corpus if not given.
    #[serde(default)]
    pub path: String,
    /// Its share of the samples, relative to the other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How often it is seen at most; a fraction ends inside an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Of how many of its documents, between 0 and 1, the middle is asked for from both sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fim_rate: Option<f64>,
}

/// How documents share a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Whole documents, where they fit best; those that are longer than a sample are cut.
    #[default]
    Documents,
    /// All documents as one stream of tokens, cut into samples wherever it comes.
    Stream,
}

/// The longest sample.
const MOST_CONTEXT: usize = 1 << 31;

/// The largest ratio between weights: beyond it the smaller source would never come.
const MOST_SKEW: f64 = 1e9;

fn yes() -> bool {
    true
}

fn held_out() -> f64 {
    0.005
}

/// A data section that contradicts itself.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidData {
    /// There is nothing to learn from.
    #[error("data.sources is empty: name at least one source")]
    NoSources,
    /// A number outside of its range.
    #[error("{key} is {value}, allowed is {allowed}")]
    OutOfRange {
        /// The key, with the source's name.
        key: String,
        /// Its value.
        value: f64,
        /// What it may be.
        allowed: String,
    },
    /// Two sources with one name.
    #[error("data.sources has two sources named `{name}`: their ledgers would be one; rename one of them")]
    SameName {
        /// The name.
        name: String,
    },
    /// A corpus of nothing.
    #[error("data.corpus names nothing to collect: give it cargo = \"Cargo.lock\", paths, or chats")]
    EmptyCorpus,
    /// A tokeniser to be learned, and no text to learn it from.
    #[error(
        "data.corpus.vocab_size asks for a tokenizer, which is learned from texts, and there are only chats: add cargo or paths, or name \
         a tokenizer in model.tokenizer instead"
    )]
    OnlyChats,
    /// A source without a name or a path.
    #[error("data.sources[{index}] has an empty {key}")]
    Empty {
        /// Which source, from 0.
        index: usize,
        /// The key.
        key: &'static str,
    },
    /// Some sources have a weight and some have none.
    #[error("source `{with}` has a weight and `{without}` has none: give every source a weight, or none")]
    SomeWeights {
        /// One that has.
        with: String,
        /// One that has not.
        without: String,
    },
    /// Fill-in-the-middle on a stream, where documents are not whole.
    #[error("source `{name}` has a fim_rate, but data.packing is `stream`: only `documents` keeps documents apart")]
    FimOnStream {
        /// The source.
        name: String,
    },
}

impl CorpusRecipe {
    /// Where its tokeniser is, if it learns one.
    pub fn tokenizer(&self) -> Option<String> {
        self.vocab_size.map(|_| format!("{}/tokenizer", self.folder))
    }

    /// Whether there is something to collect beside conversations.
    pub fn has_texts(&self) -> bool {
        self.cargo.is_some() || !self.paths.is_empty()
    }

    fn validate(&self) -> Result<(), InvalidData> {
        match (self.has_texts(), self.chats.is_empty(), self.vocab_size) {
            (false, true, _) => return Err(InvalidData::EmptyCorpus),
            (false, _, Some(_)) => return Err(InvalidData::OnlyChats),
            _ => {}
        }
        in_range("data.corpus.held_out".into(), Some(self.held_out), |h| (0.0..1.0).contains(&h), "0 to under 1".into())
    }
}

impl DataRecipe {
    /// Names the shards of sources that the corpus makes.
    pub fn find_shards(&mut self) {
        if let Some(corpus) = &self.corpus {
            for source in self.sources.iter_mut().filter(|source| source.path.is_empty()) {
                source.path = format!("{}/shards/{}", corpus.folder, source.name);
            }
        }
    }

    /// Refuses what no shards could make right.
    pub fn validate(&self) -> Result<(), InvalidData> {
        let key = |source: &SourceRecipe, key: &str| format!("`{key}` of source `{}`", source.name);
        if self.sources.is_empty() {
            return Err(InvalidData::NoSources);
        }
        self.corpus.as_ref().map_or(Ok(()), CorpusRecipe::validate)?;
        let (context, most) = (self.context as f64, MOST_CONTEXT as f64);
        in_range("data.context".into(), Some(context), |c| (2.0..=most).contains(&c), format!("2 to {MOST_CONTEXT}"))?;
        for (index, source) in self.sources.iter().enumerate() {
            for (key, text) in [("name", &source.name), ("path", &source.path)] {
                if text.is_empty() {
                    return Err(InvalidData::Empty { index, key });
                }
            }
            if self.sources[..index].iter().any(|other| other.name == source.name) {
                return Err(InvalidData::SameName { name: source.name.clone() });
            }
            let positive = |x: f64| x > 0.0 && x.is_finite();
            in_range(key(source, "weight"), source.weight, positive, "a number above 0".into())?;
            in_range(key(source, "epochs"), source.epochs, |e| positive(e) && e <= 1e6, "above 0 to 1000000".into())?;
            in_range(key(source, "fim_rate"), source.fim_rate, |r| (0.0..=1.0).contains(&r), "0 to 1".into())?;
            if self.packing == Packing::Stream && source.fim_rate.is_some_and(|rate| rate > 0.0) {
                return Err(InvalidData::FimOnStream { name: source.name.clone() });
            }
        }
        self.validate_weights()
    }

    fn validate_weights(&self) -> Result<(), InvalidData> {
        let (with, without): (Vec<_>, Vec<_>) = self.sources.iter().partition(|source| source.weight.is_some());
        if let (Some(with), Some(without)) = (with.first(), without.first()) {
            return Err(InvalidData::SomeWeights { with: with.name.clone(), without: without.name.clone() });
        }
        let most = with.iter().filter_map(|source| source.weight).fold(0.0, f64::max);
        let least = most / MOST_SKEW;
        with.iter().try_for_each(|source| {
            let key = format!("`weight` of source `{}`", source.name);
            in_range(key, source.weight, |w| w >= least, format!("at least {least} beside a weight of {most}"))
        })
    }
}

fn in_range(key: String, value: Option<f64>, allowed: impl Fn(f64) -> bool, range: String) -> Result<(), InvalidData> {
    match value {
        Some(value) if !allowed(value) => Err(InvalidData::OutOfRange { key, value, allowed: range }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(recipe: serde_json::Value, expected: &str) {
        let recipe: Result<DataRecipe, _> = serde_json::from_value(recipe);
        let error = match recipe {
            Err(error) => error.to_string(),
            Ok(recipe) => recipe.validate().unwrap_err().to_string(),
        };
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn contradictions_name_the_key() {
        let source = |more: serde_json::Value| {
            let mut source = json!({ "name": "code", "path": "shards/code" });
            source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            source
        };
        let sources = |sources: Vec<serde_json::Value>| json!({ "context": 64, "sources": sources });
        refused(sources(vec![]), "empty");
        refused(sources(vec![source(json!({ "wieght": 1 }))]), "wieght");
        refused(sources(vec![source(json!({ "weight": -1 }))]), "`weight` of source `code`");
        refused(sources(vec![source(json!({ "epochs": 0 }))]), "`epochs` of source `code`");
        refused(sources(vec![source(json!({ "fim_rate": 1.5 }))]), "0 to 1");
        refused(sources(vec![source(json!({})), source(json!({}))]), "two sources named `code`");
        let other = json!({ "name": "text", "path": "t" });
        refused(sources(vec![source(json!({ "weight": 1 })), other]), "`text` has none");
        refused(json!({ "context": 1, "sources": [source(json!({}))] }), "data.context is 1");
        refused(json!({ "context": 8, "packing": "greedy", "sources": [] }), "greedy");
        let stream = json!({ "context": 8, "packing": "stream", "sources": [source(json!({ "fim_rate": 0.5 }))] });
        refused(stream, "fim_rate");
    }

    #[test]
    fn the_defaults_keep_documents_apart() {
        let recipe: DataRecipe =
            serde_json::from_value(json!({ "context": 8, "sources": [{ "name": "a", "path": "a" }] })).unwrap();
        assert_eq!((recipe.packing, recipe.attention_within_documents), (Packing::Documents, true));
        assert_eq!(recipe.validate(), Ok(()));
    }
}
