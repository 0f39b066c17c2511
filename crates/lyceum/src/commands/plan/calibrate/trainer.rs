//! The real trainer for a few steps.

use data::shards::{Document, SetWriter, TokenizerId};
use miette::{Context, IntoDiagnostic, Result, miette};
use spec::random::{below, hash};
use spec::recipe::Recipe;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use train::{Options, Progress, Watcher};

/// Steps of a run; the first one warms up.
const STEPS: usize = 8;
/// Rows of the embedding and of the head.
pub const VOCABULARY: usize = 4096;
/// Ids that documents are made of: single bytes, which come first in a tokeniser that is trained.
const BYTES: u64 = 256;

/// What is trained: a small decoder with experts.
pub struct Run {
    /// Width.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Width of an expert.
    pub ffn: usize,
    /// Experts, of which each token visits two.
    pub experts: usize,
    /// Tokens of a sample.
    pub context: usize,
    /// Tokens of a step.
    pub batch: usize,
}

impl Run {
    /// The median seconds of a step of `lyceum train`, from the end of one to the end of the next.
    pub fn measure(&self, threads: usize) -> Result<f64> {
        let folder = Folder::new()?;
        self.write(&folder.0)?;
        let recipe = Recipe::parse(&self.recipe(), &[]).into_diagnostic()?;
        let stop = AtomicBool::new(false);
        let run = folder.0.join("run");
        let mut steps = Steps(Vec::new());
        let options = Options { base: &folder.0, run: &run, threads, stop: &stop };
        train::train(&recipe, &options, &mut steps).into_diagnostic()?;
        let mut seconds: Vec<f64> = steps.0.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    fn recipe(&self) -> String {
        let Self { hidden, layers, ffn, experts, context, batch } = self;
        format!(
            "[model]\ntokenizer = \"tokenizer\"\nvocab_size = {VOCABULARY}\nhidden_size = {hidden}\nlayers = {layers}\nheads = {}\nkv_heads = 1\nhead_dim = 64\n\
             ffn_size = {ffn}\nexperts = {experts}\ntop_k = 2\n\
             [data]\ncontext = {context}\nsources = [{{ name = \"random\", path = \"random\", weight = 1 }}]\n\
             [train]\ntokens = {}\nbatch = [[0, {batch}]]\nmicro_batch = {}\nlr = 1e-4\nwarmup_tokens = {batch}\ncheckpoint_every = 1000\n",
            hidden / 64,
            batch * STEPS,
            batch / context,
        )
    }

    /// Tokeniser and random documents.
    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("tokenizer");
        fs::create_dir_all(&path).into_diagnostic()?;
        let tokenizer = text::train(std::iter::empty(), text::SMALLEST_VOCABULARY).into_diagnostic()?;
        tokenizer.save(&path).into_diagnostic()?;
        let tokenizer = text::Tokenizer::from_folder(&path).into_diagnostic()?;
        let end = *tokenizer.eos().first().ok_or_else(|| miette!("a tokeniser that was just trained ends no text"))?;
        let id = TokenizerId::of(&tokenizer).into_diagnostic()?;
        let mut writer = SetWriter::new(&folder.join("random"), "random", id, end, 1 << 20).into_diagnostic()?;
        let token = |document: usize, i: usize| below(hash(7, 0, document as u64, i as u64), BYTES);
        for document in 0..2 * self.batch * STEPS / self.context + 16 {
            let tokens = (0..self.context).map(|i| token(document, i) as u32).collect();
            let document_of = Document { text_bytes: self.context as u64, tokens, mask: None };
            writer.push(&document_of, document % 16 == 0).into_diagnostic()?;
        }
        writer.finish().into_diagnostic()
    }
}

/// When each step was done.
struct Steps(Vec<Instant>);

impl Watcher for Steps {
    fn note(&mut self, _: &str) {}

    fn progress(&mut self, _: &Progress) {
        self.0.push(Instant::now());
    }
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("lyceum-calibrate-{}", std::process::id()));
        fs::create_dir_all(&path).into_diagnostic().wrap_err_with(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
