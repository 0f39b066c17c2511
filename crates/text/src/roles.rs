//! Which tokens begin and end a text, from the files beside a `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::document::{AddedToken, Document};
use crate::error::{Error, Result};

/// The special tokens that have a role, and where the first and last of a text come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roles {
    /// `bos_token` and the like, as a template sees them.
    pub named: BTreeMap<String, String>,
    pub bos: Option<u32>,
    /// Every id that ends a generation.
    pub eos: Vec<u32>,
    /// Ids put before and after a text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

/// What the files beside a `tokenizer.json` say.
#[derive(Default)]
pub(crate) struct Settings {
    pub tokenizer: Map<String, Value>,
    pub generation: Map<String, Value>,
}

impl Settings {
    /// Reads the files that are there.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let mut tokenizer = read_map(&folder.join("tokenizer_config.json"))?;
        for (key, value) in read_map(&folder.join("special_tokens_map.json"))? {
            tokenizer.entry(key).or_insert(value);
        }
        Ok(Self { tokenizer, generation: read_map(&folder.join("generation_config.json"))? })
    }

    /// The tokens that have a name, such as `eos_token`.
    fn named(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| Some(value.as_str().or_else(|| value.get("content")?.as_str())?.to_string());
        let named = self.tokenizer.iter().filter(|(key, _)| key.ends_with("_token") && !key.starts_with("add_"));
        named.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.tokenizer.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Error::Unsupported {
                what: format!("`{key}: {other}` in tokenizer_config.json"),
                instead: "true and false are".into(),
            }),
        }
    }

    /// An id or a list of ids in generation_config.json.
    fn generation_ids(&self, key: &str) -> Result<Vec<u32>> {
        let single = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.generation.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(single).collect(),
            Some(id) => single(id).map(|id| vec![id]),
        };
        ids.ok_or_else(|| Error::Unsupported {
            what: format!("`{key}` in generation_config.json"),
            instead: "an id and a list of ids are".into(),
        })
    }
}

/// Reads a JSON object; an absent file is an empty one.
pub(crate) fn read_map(path: &Path) -> Result<Map<String, Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => {
            return Err(Error::File { path: path.into(), source });
        }
    };
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { part: "the file", source }.in_file(path))
}

impl Roles {
    /// Settles the roles, and adds to the document the named tokens that it does not yet match as special.
    pub fn settle(settings: &Settings, document: &mut Document) -> Result<Self> {
        let named = settings.named();
        named.values().for_each(|token| ensure_special(document, token));
        let id_of = |name: &str| document.id_of(named.get(name)?);
        let bos = id_of("bos_token").or(settings.generation_ids("bos_token_id")?.first().copied());
        let mut eos: Vec<u32> = id_of("eos_token").into_iter().collect();
        for id in settings.generation_ids("eos_token_id")? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let (add_bos, add_eos) = (settings.flag("add_bos_token")?, settings.flag("add_eos_token")?);
        let (prefix, suffix) = if add_bos.is_some() || add_eos.is_some() {
            let token = |wanted: Option<bool>, name| id_of(name).filter(|_| wanted == Some(true)).into_iter().collect();
            (token(add_bos, "bos_token"), token(add_eos, "eos_token"))
        } else {
            affixes(&document.post_processor)?
        };
        Ok(Self { bos, eos, prefix, suffix, named })
    }
}

impl Document {
    fn id_of(&self, token: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|added| added.content == token).map(|added| added.id);
        added.or_else(|| self.model.vocab.0.iter().find(|(text, _)| text == token).map(|(_, id)| *id))
    }
}

/// A token with a role is special even where the tokenizer's own list forgets it, and new if it is nowhere.
fn ensure_special(document: &mut Document, token: &str) {
    if token.is_empty() {
        return;
    }
    if let Some(added) = document.added_tokens.iter_mut().find(|added| added.content == token) {
        added.special = true;
        return;
    }
    let ids =
        document.added_tokens.iter().map(|added| added.id).chain(document.model.vocab.0.iter().map(|(_, id)| *id));
    let next = ids.max().map_or(0, |id| id + 1);
    let id = document.id_of(token).unwrap_or(next);
    document.added_tokens.push(AddedToken::new(id, token, true));
}

/// The part of a tokenizer that adds tokens around a text.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    ByteLevel {},
    Sequence { processors: Vec<PostProcessor> },
    TemplateProcessing { single: Vec<TemplatePart>, special_tokens: BTreeMap<String, TemplateToken> },
    RobertaProcessing { cls: (String, u32), sep: (String, u32) },
    BertProcessing { cls: (String, u32), sep: (String, u32) },
}

#[derive(Deserialize)]
enum TemplatePart {
    SpecialToken { id: String },
    Sequence {},
}

#[derive(Deserialize)]
struct TemplateToken {
    ids: Vec<u32>,
}

/// The ids that a post-processor puts before and after a text.
pub(crate) fn affixes(post_processor: &Value) -> Result<(Vec<u32>, Vec<u32>)> {
    let part = "the tokenizer's post_processor";
    let post_processor =
        Option::<PostProcessor>::deserialize(post_processor).map_err(|source| Error::Json { part, source })?;
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    if let Some(post_processor) = post_processor {
        surround(post_processor, &mut prefix, &mut suffix)?;
    }
    Ok((prefix, suffix))
}

/// Each processor surrounds what the one before it made.
fn surround(post_processor: PostProcessor, prefix: &mut Vec<u32>, suffix: &mut Vec<u32>) -> Result<()> {
    match post_processor {
        PostProcessor::ByteLevel {} => {}
        PostProcessor::Sequence { processors } => {
            processors.into_iter().try_for_each(|processor| surround(processor, prefix, suffix))?;
        }
        PostProcessor::RobertaProcessing { cls, sep } | PostProcessor::BertProcessing { cls, sep } => {
            prefix.insert(0, cls.1);
            suffix.push(sep.1);
        }
        PostProcessor::TemplateProcessing { single, special_tokens } => {
            let (mut before, mut after, mut is_after) = (Vec::new(), Vec::new(), false);
            for part in single {
                match part {
                    TemplatePart::Sequence {} => is_after = true,
                    TemplatePart::SpecialToken { id } => {
                        let token = special_tokens.get(&id).ok_or_else(|| {
                            Error::Vocabulary(format!("the post_processor adds `{id}`, which it does not define"))
                        })?;
                        if is_after { &mut after } else { &mut before }.extend(&token.ids);
                    }
                }
            }
            before.append(prefix);
            *prefix = before;
            suffix.append(&mut after);
        }
    }
    Ok(())
}
