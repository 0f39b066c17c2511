//! Finding and loading a model.

use crate::options::Compute;
use crate::progress::Progress;
use miette::{IntoDiagnostic, Result, miette};
use model::{Checkpoint, Decoder, LoadOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tensor::Device;

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
