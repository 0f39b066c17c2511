//! `--task perplexity`: what a text costs, for each precision.

use super::{Eval, load};
use crate::failure::misuse;
use crate::progress::Progress;
use crate::{memory, models, output};
use data::ShardSet;
use engine::{Nats, Windows};
use miette::{Context, IntoDiagnostic, Result, miette};
use model::Checkpoint;
use serde_json::{Value, json};
use std::path::Path;
use tensor::{Format, KvFormat};
use text::Tokenizer;

/// Cache formats where nobody names some.
const CACHES: [KvFormat; 3] = KvFormat::ALL;

impl Eval {
    pub(super) fn perplexity(&self) -> Result<()> {
        let checkpoint = Checkpoint::open(&models::path(self.model.clone())?).into_diagnostic()?;
        let documents = self.documents(&checkpoint)?;
        let windows = self.windows(&checkpoint)?;
        let longest = documents.tokens.iter().map(Vec::len).max().unwrap_or(0).min(windows.context);
        let precisions = precisions(&self.weights, self.kv_cache.as_deref().unwrap_or(&CACHES));
        for (_, kv) in &precisions {
            memory::check_cache(checkpoint.decoder(), *kv, 1, longest)?;
        }
        let rows = self.measure(&checkpoint, &documents, &windows, &precisions)?;
        let report = Report { documents: &documents, windows: &windows, rows: &rows };
        if self.json { output::json(&report.json()) } else { output::print(&report.text()) }
    }

    /// Contexts and strides that make no sense are the user's mistake, found before anything is loaded.
    fn windows(&self, checkpoint: &Checkpoint) -> Result<Windows> {
        let context = self.context.unwrap_or(checkpoint.decoder().max_context);
        if context == 0 {
            return Err(misuse("--context 0 leaves nothing to see: give 1 or more"));
        }
        let stride = self.stride.unwrap_or(context.div_ceil(2));
        if !(1..=context).contains(&stride) {
            return Err(misuse(format!("--stride {stride} does not fit a context of {context}: give 1 to {context}")));
        }
        Ok(Windows { context, stride })
    }

    fn measure(
        &self,
        checkpoint: &Checkpoint,
        documents: &Documents,
        windows: &Windows,
        precisions: &[(Format, KvFormat)],
    ) -> Result<Vec<Row>> {
        let mut device = self.device();
        let bar = Progress::items("Measuring tokens");
        let mut loaded = None;
        let mut rows = Vec::new();
        for (row, &(weights, kv)) in precisions.iter().enumerate() {
            let decoder = match loaded.take() {
                Some((format, decoder)) if format == weights => decoder,
                _ => load(checkpoint, &mut device, weights, self.context)?,
            };
            let progress = |done, all| bar.set(row as u64 * all + done, precisions.len() as u64 * all);
            let nats =
                engine::perplexity::score((&decoder, kv), &mut device, &documents.tokens, windows, None, &progress);
            let named = || format!("with {} weights and a {} cache", weights.name(), kv.name());
            let nats = nats.into_diagnostic().wrap_err_with(named)?;
            let total = Nats {
                sum: nats.iter().map(|document| document.sum).sum(),
                tokens: nats.iter().map(|document| document.tokens).sum(),
            };
            rows.push(Row { weights, kv, nats: total });
            loaded = Some((weights, decoder));
        }
        Ok(rows)
    }

    fn documents(&self, checkpoint: &Checkpoint) -> Result<Documents> {
        let limit = self.tokens.map_or(usize::MAX, |tokens| tokens as usize);
        let mut documents = match &self.token_ids {
            Some(ids) => {
                let ids = ids[..ids.len().min(limit)].to_vec();
                Documents { tokens: vec![two(ids, "--token-ids")?], bytes: None }
            }
            None => {
                let tokenizer = models::need_tokenizer(checkpoint)?;
                let mut documents = Documents { tokens: Vec::new(), bytes: Some(0) };
                let mut left = limit;
                for path in &self.file {
                    match path.is_dir() {
                        true => documents.add_shards(path, &tokenizer, &mut left)?,
                        false => documents.add_text(path, &tokenizer, &mut left)?,
                    }
                }
                documents
            }
        };
        // What a limit has cut to a token has nothing to score.
        documents.tokens.retain(|tokens| tokens.len() > 1);
        if documents.tokens.is_empty() {
            return Err(miette!(
                "there is nothing to score: a token can be scored only after another, so it takes two"
            ));
        }
        Ok(documents)
    }
}

/// What is measured on.
struct Documents {
    tokens: Vec<Vec<u32>>,
    /// Bytes of the text that all tokens but the first of each document stand for, where they stand for text.
    bytes: Option<u64>,
}

impl Documents {
    fn add_text(&mut self, path: &Path, tokenizer: &Tokenizer, left: &mut usize) -> Result<()> {
        let text = models::read_text(path)?;
        if text.is_empty() {
            return Err(miette!("{} is empty: there is no text to measure on", path.display()));
        }
        let tokens = tokenizer.encode_whole(&text).into_diagnostic()?;
        self.add(two(tokens, path.display())?, Some(text.len() as u64), tokenizer, left);
        Ok(())
    }

    /// The held-out documents of a folder of shards.
    fn add_shards(&mut self, path: &Path, tokenizer: &Tokenizer, left: &mut usize) -> Result<()> {
        let shards = ShardSet::open(path).into_diagnostic()?;
        shards.check_tokenizer(tokenizer).into_diagnostic()?;
        let corpus = shards.held_out();
        if corpus.has_mask() {
            let help = "measure on plain text";
            return Err(miette!(help = help, "{} holds chats, of which only the answers count", path.display()));
        }
        if corpus.documents() == 0 {
            let help = "lyceum data prepare --held-out 0.005 keeps some apart";
            return Err(miette!(help = help, "{} holds no held-out documents", path.display()));
        }
        for document in 0..corpus.documents() {
            let (mut tokens, mut mask) = (Vec::new(), Vec::new());
            corpus.read(corpus.document(document), &mut tokens, &mut mask).into_diagnostic()?;
            self.add(tokens, None, tokenizer, left);
        }
        Ok(())
    }

    /// Adds a document of so many bytes of text, where that is known, as far as there are tokens left.
    fn add(&mut self, mut tokens: Vec<u32>, text_bytes: Option<u64>, tokenizer: &Tokenizer, left: &mut usize) {
        let whole = text_bytes.filter(|_| tokens.len() <= *left);
        tokens.truncate(*left);
        *left -= tokens.len();
        let bytes_of = |tokens: &[u32]| -> u64 {
            let text = tokens.iter().filter(|&&token| !tokenizer.is_special(token));
            text.filter_map(|&token| tokenizer.token_bytes(token)).map(|bytes| bytes.len() as u64).sum()
        };
        let (first, scored) = tokens.split_at(tokens.len().min(1));
        // A tokeniser may normalise: the bytes of the text itself are what counts, where it is whole.
        let bytes = whole.map_or_else(|| bytes_of(scored), |text| text.saturating_sub(bytes_of(first)));
        if !scored.is_empty() {
            self.bytes = self.bytes.map(|sum| sum + bytes);
        }
        self.tokens.push(tokens);
    }
}

/// Refuses what is too short to score.
fn two(tokens: Vec<u32>, what: impl std::fmt::Display) -> Result<Vec<u32>> {
    if tokens.len() < 2 {
        let n = if tokens.is_empty() { "no tokens" } else { "one token" };
        return Err(miette!("{what} has {n}: a token can be scored only after another, so it takes two"));
    }
    Ok(tokens)
}

/// The first weight format with every cache, then every other one with the first cache: each row changes one thing of the first.
fn precisions(weights: &[Format], caches: &[KvFormat]) -> Vec<(Format, KvFormat)> {
    let of_caches = caches.iter().map(|&cache| (weights[0], cache));
    of_caches.chain(weights[1..].iter().map(|&weights| (weights, caches[0]))).collect()
}

/// One precision's figures.
struct Row {
    weights: Format,
    kv: KvFormat,
    nats: Nats,
}

struct Report<'a> {
    documents: &'a Documents,
    windows: &'a Windows,
    rows: &'a [Row],
}

impl Report<'_> {
    fn scored(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.nats.tokens)
    }

    fn difference(&self, row: &Row) -> f64 {
        row.nats.mean() - self.rows.first().map_or(0.0, |first| first.nats.mean())
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "weights": row.weights.name(),
                "kv_cache": row.kv.name(),
                "nats_per_token": row.nats.mean(),
                "perplexity": row.nats.perplexity(),
                "bits_per_byte": self.documents.bytes.map(|bytes| row.nats.bits_per_byte(bytes)),
                "difference_nats": self.difference(row),
            })
        };
        json!({
            "task": "perplexity",
            "documents": self.documents.tokens.len(),
            "tokens": self.scored(),
            "bytes": self.documents.bytes,
            "context": self.windows.context,
            "stride": self.windows.stride,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let Windows { context, stride } = *self.windows;
        let bytes = self.documents.bytes.map_or_else(String::new, |bytes| format!(" ({bytes} bytes of text)"));
        let documents = match self.documents.tokens.len() {
            1 => "1 document".to_owned(),
            n => format!("{n} documents"),
        };
        let least = context - stride + 1;
        let mut text = format!(
            "{} tokens scored{bytes} in {documents}; windows of {context} with a stride of {stride}: \
             each token sees the {least} to {context} before it, as far as there are any\n\n\
             weights  K/V cache  nats/token  perplexity  bits/byte  nats more  perplexity more\n",
            self.scored()
        );
        for row in self.rows {
            let per_byte = self.documents.bytes.map(|bytes| format!("{:.4}", row.nats.bits_per_byte(bytes)));
            let difference = self.difference(row);
            text += &format!(
                "{:7}  {:9}  {:10.5}  {:10.4}  {:>9}  {difference:+9.5}  {:+14.3}%\n",
                row.weights.name(),
                row.kv.name(),
                row.nats.mean(),
                row.nats.perplexity(),
                per_byte.as_deref().unwrap_or("-"),
                100.0 * difference.exp_m1(),
            );
        }
        text
    }
}
