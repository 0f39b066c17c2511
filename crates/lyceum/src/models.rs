//! Finding and loading a model.

use crate::options::Compute;
use crate::progress::Progress;
use crate::vocabulary;
use miette::{Context, IntoDiagnostic, Result, miette};
use model::files::Tokens;
use model::{Checkpoint, Decoder, LoadOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tensor::Device;
use text::Tokenizer;

/// The model to use: the one given, or the demo.
pub fn path(given: Option<PathBuf>) -> Result<PathBuf> {
    given.or_else(demo).ok_or_else(|| {
        miette!(
            help = "name a model: a folder with config.json and safetensors, or a .gguf file",
            "no model was given, and the demo model is not installed"
        )
    })
}

/// The demo model: beside the program, in the user's data folder, or in the source tree.
fn demo() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models/demo")));
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let data = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()).map(PathBuf::from).or_else(home);
    let data = data.map(|folder| folder.join("lyceum/models/demo"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    let places = [beside, data, Some(source)];
    places.into_iter().flatten().find(|folder| folder.join("config.json").is_file())
}

/// A decoder that is ready to compute.
pub struct Loaded {
    /// Its files.
    pub checkpoint: Checkpoint,
    /// Its weights, packed.
    pub decoder: Decoder,
    /// What computes.
    pub device: Device,
    /// How long opening and packing took.
    pub took: Duration,
}

impl Loaded {
    /// Opens a checkpoint and packs its weights, to serve `context` positions.
    pub fn open(path: &Path, compute: &Compute, context: Option<usize>) -> Result<Self> {
        let start = Instant::now();
        let checkpoint = Checkpoint::open(path).into_diagnostic()?;
        let mut device = compute.device();
        let bar = Progress::items("Loading");
        let progress = |done, total| bar.set(done as u64, total as u64);
        let options = LoadOptions { weights: compute.weights, context, progress: Some(&progress) };
        let decoder = Decoder::load(&checkpoint, &mut device, &options).into_diagnostic()?;
        Ok(Self { checkpoint, decoder, device, took: start.elapsed() })
    }
}

/// The tokeniser that belongs to a model, if it has one.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
    let tokenizer = match &checkpoint.tokens {
        Tokens::Folder(folder) if !folder.join("tokenizer.json").exists() => return Ok(None),
        Tokens::Folder(folder) => Tokenizer::from_folder(folder),
        Tokens::Gguf(vocabulary) if vocabulary.tokens.is_empty() => return Ok(None),
        Tokens::Gguf(vocabulary) => Tokenizer::from_gguf(&vocabulary::from_file(vocabulary)),
    };
    let tokenizer = tokenizer.into_diagnostic()?;
    tokenizer.check_vocabulary(checkpoint.decoder().vocab_size).into_diagnostic()?;
    Ok(Some(tokenizer))
}

/// The same where nothing can be done without.
pub fn need_tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    tokenizer(checkpoint)?.ok_or_else(|| {
        let path = checkpoint.path().display();
        match &checkpoint.tokens {
            Tokens::Folder(_) => miette!(
                help = "put the model's tokenizer.json there, or give token ids (generate --prompt-ids 1,2,3)",
                "{path} has no tokenizer.json, so text cannot become tokens"
            ),
            Tokens::Gguf(_) => miette!(
                help = "give token ids (generate --prompt-ids 1,2,3)",
                "{path} holds no tokeniser, so text cannot become tokens"
            ),
        }
    })
}

/// Refuses a draft model whose tokens are others than the model's: what it proposes would mean something else.
pub fn check_draft(draft: &Checkpoint, model: &Tokenizer) -> Result<()> {
    let Some(own) = tokenizer(draft)? else { return Ok(()) };
    let known = 0..model.vocab_size().max(own.vocab_size()) as u32;
    match known.into_iter().find(|&id| own.token_bytes(id) != model.token_bytes(id)) {
        Some(id) => {
            let name = |of: &Tokenizer| of.token(id).map_or_else(|| "no token".into(), |token| format!("`{token}`"));
            Err(miette!(
                help = "take a draft model that was trained with the model's tokeniser",
                "{} has another tokeniser than the model: id {id} is {} there, and {} here",
                draft.path().display(),
                name(&own),
                name(model)
            ))
        }
        None => Ok(()),
    }
}

/// The text of a file, or of standard input where the path is `-`.
pub fn read_text(path: &Path) -> Result<String> {
    let text = if path == Path::new("-") { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    text.into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))
}
