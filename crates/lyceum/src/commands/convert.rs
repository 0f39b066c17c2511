//! `lyceum convert`: between Hugging Face folders and GGUF files, and between precisions.

use crate::failure::misuse;
use crate::progress::Progress;
use crate::replace::Destination;
use crate::{models, output, vocabulary};
use clap::{Args, ValueEnum};
use miette::{Context, IntoDiagnostic, Result, miette};
use model::files::{GgufWeights, Tokens, Vocabulary, Weights, write_gguf, write_safetensors};
use model::{Checkpoint, ParameterRows};
use serde_json::json;
use spec::WeightFormat;
use std::path::{Path, PathBuf};
use tensor::{Format, MatrixSource};
use text::Tokenizer;

/// Convert a model to another format or precision
#[derive(Args)]
#[command(after_help = "Examples:\n  lyceum convert path/to/model model.gguf --weights q8_0\n  \
                        lyceum convert model.gguf path/to/folder --weights bf16")]
pub struct Convert {
    /// What to read: a folder with safetensors or a .gguf file
    src: PathBuf,

    /// What to write: a GGUF file if it ends in .gguf, else a folder with safetensors
    dst: PathBuf,

    /// How to hold the weights; as in SRC if not given and DST can
    #[arg(long, value_name = "FORMAT")]
    weights: Option<Precision>,

    /// Leave the tokeniser out, as when DST cannot hold it
    #[arg(long)]
    no_tokenizer: bool,

    /// Replace a model that stands at DST
    #[arg(long)]
    force: bool,
}

/// What weights can be written as. GGUF holds f16, bf16 and q8_0, folders the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
    Fp8,
    Int8,
    Int4,
    Mxfp4,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Convert {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let destination = Destination::new(&self.src, &self.dst, self.force)?;
        let source = Checkpoint::open(&self.src).into_diagnostic()?;
        let to_gguf = self.dst.extension().is_some_and(|e| e == "gguf");
        if to_gguf {
            let weights = gguf_weights(self.precision(&source, "f16, bf16 or q8_0", gguf_weights)?)?;
            destination.fill(|path| self.gguf(&source, weights, path))?;
        } else {
            let weights =
                folder_weights(self.precision(&source, "f32, f16, bf16, fp8, int8, int4 or mxfp4", folder_weights)?)?;
            destination.fill(|path| self.folder(&source, weights, path))?;
        }
        let written = Checkpoint::open(&self.dst).into_diagnostic()?;
        let (from, to) = (source.stored_bytes(), written.stored_bytes());
        let sizes = format!("{}, was {}", output::bytes(to), output::bytes(from));
        output::line(&format!("wrote {} ({sizes})", self.dst.display()))
    }

    /// The precision asked for, or the source's own.
    fn precision<T>(&self, source: &Checkpoint, choices: &str, held: fn(Precision) -> Result<T>) -> Result<Precision> {
        if let Some(precision) = self.weights {
            return Ok(precision);
        }
        let own = own_precision(source)?.filter(|&precision| held(precision).is_ok());
        own.ok_or_else(|| {
            misuse(format!(
                "{} cannot hold the weights as {} does: choose with --weights {choices}",
                self.dst.display(),
                self.src.display()
            ))
        })
    }

    fn gguf(&self, source: &Checkpoint, weights: GgufWeights, path: &Path) -> Result<()> {
        let vocabulary = match &source.tokens {
            _ if self.no_tokenizer => Vocabulary::default(),
            Tokens::Gguf(vocabulary) => (**vocabulary).clone(),
            Tokens::Folder(_) => match models::tokenizer(source)? {
                Some(tokenizer) => to_gguf(&tokenizer)?,
                None => Vocabulary::default(),
            },
        };
        if vocabulary.tokens.is_empty() && !self.no_tokenizer {
            note_no_tokenizer(source);
        }
        let bar = Progress::bytes("Converting");
        write_gguf(source, &vocabulary, weights, path, &mut |done, all| bar.set(done, all)).into_diagnostic()
    }

    fn folder(&self, source: &Checkpoint, weights: Weights, path: &Path) -> Result<()> {
        let from_folder = matches!(source.tokens, Tokens::Folder(_));
        if self.no_tokenizer && from_folder {
            return Err(misuse(
                "--no-tokenizer is for GGUF: between folders the tokeniser's files are copied as they are",
            ));
        }
        let bar = Progress::bytes("Converting");
        write_safetensors(source, path, weights, &mut |done, all| bar.set(done, all)).into_diagnostic()?;
        if from_folder || self.no_tokenizer {
            return Ok(());
        }
        match models::tokenizer(source)? {
            Some(tokenizer) => save_tokenizer(&tokenizer, path)?,
            None => note_no_tokenizer(source),
        }
        Ok(())
    }
}

/// The one precision that holds all the source's matrices of linear layers without loss, if there is one.
fn own_precision(source: &Checkpoint) -> Result<Option<Precision>> {
    let mut own = None;
    for parameter in source.table.iter().filter(|parameter| parameter.id.role.is_quantisable()) {
        let matrix = source.matrix(parameter.id).into_diagnostic()?;
        let precision = match matrix.format() {
            _ if !matrix.is_exact() => return Ok(None),
            Format::F32 => Precision::F32,
            Format::F16 => Precision::F16,
            Format::Bf16 => Precision::Bf16,
            Format::Fp8 => Precision::Fp8,
            Format::Int8 => Precision::Int8,
            Format::Int4 => Precision::Int4,
            Format::Mxfp4 => Precision::Mxfp4,
        };
        if *own.get_or_insert(precision) != precision {
            return Ok(None);
        }
    }
    Ok(own)
}

fn gguf_weights(precision: Precision) -> Result<GgufWeights> {
    match precision {
        Precision::F16 => Ok(GgufWeights::F16),
        Precision::Bf16 => Ok(GgufWeights::Bf16),
        // The same codes and scales under two names.
        Precision::Q8_0 | Precision::Int8 => Ok(GgufWeights::Q8_0),
        _ => Err(misuse("GGUF files are written with --weights f16, bf16 or q8_0")),
    }
}

fn folder_weights(precision: Precision) -> Result<Weights> {
    match precision {
        Precision::F32 => Ok(Weights::F32),
        Precision::F16 => Ok(Weights::F16),
        Precision::Bf16 => Ok(Weights::Bf16),
        Precision::Fp8 => Ok(Weights::Quantised(WeightFormat::Fp8)),
        Precision::Int8 | Precision::Q8_0 => Ok(Weights::Quantised(WeightFormat::Int8)),
        Precision::Int4 => Ok(Weights::Quantised(WeightFormat::Int4)),
        Precision::Mxfp4 => Ok(Weights::Quantised(WeightFormat::Mxfp4)),
    }
}

fn to_gguf(tokenizer: &Tokenizer) -> Result<Vocabulary> {
    let vocabulary = tokenizer.to_gguf().map_err(|error| miette!(help = "--no-tokenizer leaves it out", "{error}"))?;
    Ok(vocabulary::to_file(vocabulary))
}

/// Not an error: models are also run on token ids.
fn note_no_tokenizer(source: &Checkpoint) {
    output::note(&format!("note: {} has no tokeniser, so there is none to carry over", source.path().display()));
}

/// The tokeniser's files, and the ids that end a text.
fn save_tokenizer(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    tokenizer.save(folder).into_diagnostic()?;
    let path = folder.join("generation_config.json");
    let config = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos() });
    std::fs::write(&path, format!("{config:#}\n"))
        .into_diagnostic()
        .wrap_err_with(|| miette!("cannot write {}", path.display()))
}
