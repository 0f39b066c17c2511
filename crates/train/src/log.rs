//! What a run writes down: `log.jsonl`, which a resumed run continues byte for byte, and `timing.jsonl` with everything that a clock says.

use crate::TrainError;
use crate::step::{LayerLoad, Measured};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One step, as a line of `log.jsonl`. A number that is not finite is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct StepEntry<'a> {
    /// Which step, from 1.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// Tokens of its batch.
    pub batch: u64,
    /// Targets among them.
    pub targets: u64,
    /// Mean cross-entropy, in nats.
    pub loss: Option<f64>,
    /// The same for each source that was in the batch.
    pub sources: Map<String, Value>,
    /// The balance loss, coefficient apart.
    pub balance: f64,
    /// The router z-loss, coefficient apart.
    pub z: f64,
    /// Global norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub lr: f64,
    /// Choices that no expert had room for, of all layers.
    pub dropped: u64,
    /// Layers that have experts.
    pub layers: Vec<LayerEntry>,
    /// Why the weights were left as they are, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'a str>,
}

/// How one layer's choices fall to its experts; 1 is an even share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerEntry {
    /// The least share.
    pub min: f64,
    /// The largest share.
    pub max: f64,
    /// Entropy of the shares over that of even ones.
    pub entropy: f64,
    /// Mean entropy of the router's probabilities, in nats.
    pub router_entropy: f64,
    /// Choices that no expert had room for.
    pub dropped: u64,
    /// Choices of each expert, dropped ones too.
    pub load: Vec<u64>,
}

impl LayerEntry {
    /// From counts.
    pub fn new(load: &LayerLoad) -> Self {
        let total: u64 = load.choices.iter().sum();
        let experts = load.choices.len() as f64;
        let shares = || load.choices.iter().map(|&n| n as f64 / total.max(1) as f64);
        let entropy: f64 = shares().filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum();
        Self {
            min: experts * shares().fold(f64::INFINITY, f64::min),
            max: experts * shares().fold(0.0, f64::max),
            entropy: if experts > 1.0 { entropy / experts.ln() } else { 1.0 },
            router_entropy: load.router_entropy,
            dropped: load.dropped,
            load: load.choices.clone(),
        }
    }
}

/// Losses by the names of their sources, those left out that have none.
pub(crate) fn by_source<'a>(names: impl Iterator<Item = &'a str>, measured: &Measured) -> Map<String, Value> {
    let losses = measured.sources.iter().map(|mean| mean.get());
    names.zip(losses).filter_map(|(name, loss)| Some((name.to_owned(), json!(loss?)))).collect()
}

/// A file of JSON lines.
pub(crate) struct Lines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Lines {
    /// Opens a file to append to. A last line that a killed program left unfinished is cut off.
    pub(crate) fn append(path: &Path) -> Result<Self, TrainError> {
        let whole = match std::fs::read(path) {
            Ok(text) => text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(TrainError::io("read", path)(error)),
        };
        Self::resume(path, whole as u64)
    }

    /// Opens a file of which the first `bytes` count; what comes after them is cut off.
    pub(crate) fn resume(path: &Path, bytes: u64) -> Result<Self, TrainError> {
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let there = file.metadata()?.len();
            if there >= bytes {
                file.set_len(bytes)?;
                file.seek(SeekFrom::End(0))?;
            }
            Ok((file, there))
        };
        let (file, there) = open().map_err(TrainError::io("write", path))?;
        if there < bytes {
            let problem = format!("it has {there} bytes, and had {bytes} when the checkpoint was written");
            return Err(TrainError::damaged(path, problem));
        }
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    pub(crate) fn push(&mut self, entry: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(entry).map_err(|e| TrainError::damaged(&self.path, e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::io("write", &self.path))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Length of what has been written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until the disk has it.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io("write", &self.path))
    }
}

/// Seconds since 1970, for `timing.jsonl`.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
