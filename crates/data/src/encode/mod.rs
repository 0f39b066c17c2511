//! Collections become shards of token ids.
//!
//! Documents are read in order by one thread, encoded by all, and written in order, so that the bytes written do
//! not depend on the number of threads. Which documents are held out depends on their text alone.

mod chat;
mod error;

pub use chat::Chat;
pub use error::PrepareError;

use crate::collect::{self, Collection};
use crate::shards::{Document, SetWriter, ShardError, ShardSet, TokenizerId};
use rayon::prelude::*;
use spec::random::{hash, unit};
use std::path::{Path, PathBuf};
use text::Tokenizer;
use twox_hash::XxHash3_64;

/// Bytes of text that are encoded together.
const BATCH: usize = 8 << 20;

/// What random numbers are for.
const HOLD_OUT: u64 = 0x68_656c_645f_6f75;

/// How to make shards.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The share of documents that is held out, from 0 to 1.
    pub held_out: f64,
    /// Tokens of a file. A longer document has a file of its own.
    pub shard_tokens: u64,
    /// Threads; as many as the machine runs at once if not given.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { held_out: 0.005, shard_tokens: 1 << 25, threads: None }
    }
}

/// What is to be encoded.
#[derive(Clone, Debug)]
pub enum Input {
    /// All sources of a collection.
    Collection(Collection),
    /// Conversations, one JSON object per line, as a source of their own.
    Chat {
        /// The file.
        file: PathBuf,
        /// What the source is called.
        source: String,
    },
}

/// The name of a source of conversations, and its file, from `FILE` or `NAME=FILE`; nothing if neither gives a name.
pub fn chat_source(given: &str) -> Option<(String, &Path)> {
    let (name, file) = match given.split_once('=') {
        Some((name, file)) => (name, Path::new(file)),
        None => {
            let name = Path::new(given).file_name()?.to_str()?;
            (name.split('.').next().unwrap_or_default(), Path::new(given))
        }
    };
    let is_name = !name.is_empty() && !name.contains(['/', '\\']);
    is_name.then(|| (name.to_owned(), file))
}

/// A document that is not encoded yet.
enum Raw {
    Text(String),
    Chat(chat::Line),
}

/// Encodes documents as a tokeniser frames them.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    chat: Option<Chat>,
    begin: Option<u32>,
    end: Option<u32>,
    end_of_text: u32,
}

impl<'t> Encoder<'t> {
    /// An encoder that marks where documents begin and end with the tokeniser's own tokens: the one for the
    /// beginning before each, and behind it the one for the end, unless both are the same.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self, PrepareError> {
        let (begin, end) = (tokenizer.bos(), tokenizer.eos().first().copied());
        let end_of_text = end.or(begin).ok_or(PrepareError::NoEndOfText)?;
        let chat = tokenizer.chat_template().ok().map(Chat::new);
        Ok(Self { tokenizer, chat, begin, end: end.filter(|_| end != begin), end_of_text })
    }

    /// The id that ends a text.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// A plain text.
    pub fn text(&self, text: &str) -> Result<Document, PrepareError> {
        let ids = self.tokenizer.encode(text)?;
        let mut tokens = Vec::with_capacity(ids.len() + 2);
        tokens.extend(self.begin);
        tokens.extend(ids);
        tokens.extend(self.end);
        Ok(Document { tokens, mask: None, text_bytes: text.len() as u64 })
    }

    fn raw(&self, raw: &Raw) -> Result<Document, PrepareError> {
        match raw {
            Raw::Text(text) => self.text(text),
            Raw::Chat(line) => self.chat.as_ref().ok_or(text::Error::NoTemplate)?.encode(self.tokenizer, line),
        }
    }
}

impl Raw {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Chat(line) => &line.json,
        }
    }

    fn is_held_out(&self, share: f64) -> bool {
        unit(hash(XxHash3_64::oneshot(self.text().as_bytes()), HOLD_OUT, 0, 0)) < share
    }
}

/// Encodes all inputs into `out`, a folder of shards per source. Inputs with the same source follow each other.
/// `progress` is told bytes of text that are done, and of how many if that is known.
pub fn prepare(
    inputs: &[Input],
    tokenizer: &Tokenizer,
    out: &Path,
    options: &Options,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<ShardSet>, PrepareError> {
    check(inputs, out, options)?;
    let encoder = Encoder::new(tokenizer)?;
    if encoder.chat.is_none() && inputs.iter().any(|input| matches!(input, Input::Chat { .. })) {
        return Err(text::Error::NoTemplate.into());
    }
    let id = TokenizerId::of(tokenizer)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| PrepareError::Threads(error.to_string()))?;
    let total: u64 = inputs.iter().map(Input::bytes).sum();
    let mut done = 0;
    let mut sets = Vec::new();
    for source in sources(inputs) {
        let folder = out.join(&source);
        let mut writer = SetWriter::new(&folder, &source, id.clone(), encoder.end_of_text, options.shard_tokens)?;
        for input in inputs {
            let Some(documents) = input.documents(&source)? else { continue };
            let mut written = |document: &Document, held_out| {
                done += document.text_bytes;
                progress(done, total);
                writer.push(document, held_out)
            };
            pool.install(|| encode_all(&encoder, documents, options.held_out, &mut written))?;
        }
        writer.finish()?;
        sets.push(ShardSet::open(&folder)?);
    }
    Ok(sets)
}

/// Everything that can be known before any time is spent.
fn check(inputs: &[Input], out: &Path, options: &Options) -> Result<(), PrepareError> {
    if !(0.0..=1.0).contains(&options.held_out) {
        return Err(PrepareError::HeldOut(options.held_out));
    }
    for source in sources(inputs) {
        let folder = out.join(source);
        if folder.exists() {
            return Err(ShardError::Exists { path: folder }.into());
        }
    }
    Ok(())
}

/// The names of all sources, in order, each once.
fn sources(inputs: &[Input]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in inputs.iter().flat_map(Input::sources) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

type Documents<'a> = Box<dyn Iterator<Item = Result<Raw, PrepareError>> + Send + 'a>;

impl Input {
    fn sources(&self) -> Vec<String> {
        match self {
            Self::Collection(collection) => {
                collection.manifest().sources.iter().map(|source| source.name.clone()).collect()
            }
            Self::Chat { source, .. } => vec![source.clone()],
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Collection(collection) => collection.manifest().sources.iter().map(|source| source.kept.bytes).sum(),
            Self::Chat { file, .. } => file.metadata().map_or(0, |file| file.len()),
        }
    }

    /// The documents of a source, if it is one of this input's.
    fn documents(&self, source: &str) -> Result<Option<Documents<'_>>, PrepareError> {
        if !self.sources().iter().any(|name| name == source) {
            return Ok(None);
        }
        let text = |document: collect::Result<collect::Document>| Ok(Raw::Text(document?.text));
        Ok(Some(match self {
            Self::Collection(collection) => Box::new(collection.documents(source)?.map(text)),
            Self::Chat { file, .. } => Box::new(chat::lines(file)?.map(|line| Ok(Raw::Chat(line?)))),
        }))
    }
}

/// Reads a batch while all encode the one before, and writes in order.
fn encode_all(
    encoder: &Encoder,
    mut documents: Documents,
    held_out: f64,
    write: &mut (dyn FnMut(&Document, bool) -> Result<(), ShardError> + Send),
) -> Result<(), PrepareError> {
    let mut batch = read_batch(&mut documents)?;
    while !batch.is_empty() {
        let encode = || {
            let one = |raw: &Raw| Ok((encoder.raw(raw)?, raw.is_held_out(held_out)));
            batch.par_iter().map(one).collect::<Result<Vec<_>, PrepareError>>()
        };
        let (next, encoded) = rayon::join(|| read_batch(&mut documents), encode);
        for (document, held_out) in encoded? {
            write(&document, held_out)?;
        }
        batch = next?;
    }
    Ok(())
}

fn read_batch(documents: &mut Documents) -> Result<Vec<Raw>, PrepareError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH {
        let Some(raw) = documents.next().transpose()? else { break };
        bytes += raw.text().len();
        batch.push(raw);
    }
    Ok(batch)
}
