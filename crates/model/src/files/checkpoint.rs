//! A model on disk, whatever its format.

use super::gguf::{self, Gguf, Vocabulary};
use super::matrix::StoredMatrix;
use super::placement::Placement;
use super::tensors::{Encoding, TensorStore};
use super::{FileError, check_finite, safetensors};
use crate::parameters::{ParameterRows, Parameters};
use spec::{DecoderConfig, HfConfig, Parameter, ParameterId, ParameterTable};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// An opened checkpoint: every parameter of its table is there, in the right shape and a type that can be read.
pub struct Checkpoint {
    /// What `config.json` says, or what GGUF metadata amounts to.
    pub config: HfConfig,
    /// Its parameters.
    pub table: ParameterTable,
    /// Where its tokeniser is.
    pub tokens: Tokens,
    store: TensorStore,
}

/// A tensor as it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name there.
    pub name: &'a str,
    /// The format's own word for its type.
    pub type_name: &'a str,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Its size.
    pub bytes: u64,
}

/// Where a checkpoint's tokeniser is.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// In files of this folder (`tokenizer.json`, ...), if anywhere.
    Folder(PathBuf),
    /// In the metadata of the GGUF file.
    Gguf(Box<Vocabulary>),
}

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors, or a `.gguf` file, and checks that its tensors are
    /// those of its config: none missing, none left over, every shape and type as it should be.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let (config, tokens, store) = if path.is_dir() {
            let config = read_config(path)?;
            let tokens = Tokens::Folder(path.to_owned());
            (config, tokens, safetensors::open(path)?)
        } else if path.extension().is_some_and(|e| e == "gguf") {
            let gguf = Gguf::open(path)?;
            let (config, vocabulary) = gguf::decoder(&gguf)?;
            (config, Tokens::Gguf(Box::new(vocabulary)), gguf.store)
        } else if path.exists() {
            let why = "it is neither a folder with config.json nor a .gguf file".into();
            let path = path.to_owned();
            return Err(FileError::NotAModel { path, why });
        } else {
            let why = "there is nothing of this name".into();
            let path = path.to_owned();
            return Err(FileError::NotAModel { path, why });
        };
        // Four bits a weight are the fewest that any format here has; checked first, so that the table of an
        // absurd config is never built.
        let parameters = config.decoder.count_parameters().total;
        let bytes = store.total_bytes();
        if parameters / 2 > bytes {
            return Err(FileError::TooSmall { path: path.to_owned(), parameters, bytes });
        }
        let checkpoint = Self { table: ParameterTable::new(&config.decoder), config, tokens, store };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The decoder that it holds.
    pub fn decoder(&self) -> &DecoderConfig {
        &self.config.decoder
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.store.path
    }

    /// Bytes of all its tensors as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.store.total_bytes()
    }

    /// Every tensor of the files, by name.
    pub fn tensors(&self) -> Vec<TensorInfo<'_>> {
        let mut tensors: Vec<_> = self.store.iter().collect();
        tensors.sort_unstable_by_key(|tensor| tensor.name);
        tensors
    }

    /// A matrix, to be read row by row. Its values are not checked: [`check_finite`] does.
    pub fn matrix(&self, id: ParameterId) -> Result<StoredMatrix<'_>, FileError> {
        let parameter = self.parameter(id)?;
        match parameter.shape[..] {
            [rows, cols] => self.place(parameter).matrix(&self.store, rows, cols),
            _ => Err(FileError::NoSuchParameter(id)),
        }
    }

    /// A vector (norm, bias, sinks), read, dequantised and found finite.
    pub fn vector(&self, id: ParameterId) -> Result<Vec<f32>, FileError> {
        let parameter = self.parameter(id)?;
        let [length] = parameter.shape[..] else {
            return Err(FileError::NoSuchParameter(id));
        };
        let values = self.place(parameter).vector(&self.store, length)?;
        check_finite(&self.name(parameter), 0, &values)?;
        Ok(values)
    }

    /// What this checkpoint calls the tensor that holds a parameter, for messages.
    pub fn name(&self, parameter: &Parameter) -> String {
        self.place(parameter).name
    }

    /// How a parameter's values are stored. Vectors are floats.
    pub(super) fn stored_encoding(&self, parameter: &Parameter) -> Option<Encoding> {
        self.store.get(&self.place(parameter).name)?.encoding
    }

    fn parameter(&self, id: ParameterId) -> Result<&Parameter, FileError> {
        self.table.get(id).ok_or(FileError::NoSuchParameter(id))
    }

    fn place(&self, parameter: &Parameter) -> Placement {
        match self.tokens {
            Tokens::Folder(_) => Placement::hugging_face(parameter, &self.config),
            Tokens::Gguf(_) => gguf::placement(&self.store, &self.config.decoder, parameter.id),
        }
    }

    /// Every parameter is there, and every tensor belongs to one.
    fn check(&self) -> Result<(), FileError> {
        let mut used = HashSet::new();
        for parameter in self.table.iter() {
            let place = self.place(parameter);
            match parameter.shape[..] {
                [rows, cols] => drop(place.matrix(&self.store, rows, cols)?),
                [length] => place.check_vector(&self.store, length)?,
                _ => {}
            }
            used.extend(place.names().map(str::to_owned));
        }
        let mut extra: Vec<_> =
            self.store.names().filter(|name| !used.contains(*name) && !self.is_known_extra(name)).collect();
        extra.sort_unstable();
        match extra.first() {
            None => Ok(()),
            Some(name) => Err(FileError::Unexpected { path: self.store.path.clone(), name: (*name).to_owned() }),
        }
    }

    /// Frequencies that old checkpoints carry along, and a tied head that is there all the same.
    fn is_known_extra(&self, name: &str) -> bool {
        match self.tokens {
            Tokens::Folder(_) => {
                name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight" && self.config.decoder.tie_embeddings
            }
            Tokens::Gguf(_) => gguf::is_known_extra(name),
        }
    }
}

impl Parameters for Checkpoint {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        Ok(Box::new(self.matrix(parameter.id)?))
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        self.vector(parameter.id)
    }
}

fn read_config(folder: &Path) -> Result<HfConfig, FileError> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Err(FileError::NotAModel { path: folder.to_owned(), why: not_a_folder(folder) });
    }
    let text = std::fs::read_to_string(&path).map_err(FileError::io(&path, "read"))?;
    HfConfig::from_json(&text).map_err(|source| FileError::Config { path: folder.to_owned(), source })
}

/// Says what a folder without `config.json` has instead.
fn not_a_folder(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let gguf = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "gguf"));
    match gguf {
        None => "it has no config.json".into(),
        Some(file) => format!("it has no config.json; did you mean {}?", file.display()),
    }
}
