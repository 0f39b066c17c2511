//! Writing Hugging Face folders, tensor by tensor.

use crate::files::FileError;
use crate::files::checkpoint::{Checkpoint, Tokens};
use crate::files::encode::{Encoder, Target, push_floats};
use crate::files::placement::{CodeLayout, scale_name};
use crate::files::tensors::Encoding;
use crate::parameters::{ParameterRows, Parameters};
use serde_json::{Map, Value, json};
use spec::{HfConfig, Parameter, ParameterTable, Quantisation, View, WeightFormat};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What to write the weights as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Everything as f32.
    F32,
    /// Everything as f16; a value beyond its range is an error.
    F16,
    /// Everything as bf16.
    Bf16,
    /// Matrices of linear layers quantised ([`spec::Role::is_quantisable`]); embedding, router, norms and biases
    /// keep their precision if they are plain floats, and become f32 if they are not.
    Quantised(WeightFormat),
}

/// A shard is closed before it passes this many bytes, as transformers does.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `source` as a new folder `folder`: `config.json`, weights in one file or in shards with an index, and
/// copies of the tokeniser's files where the source is a folder. One row is in memory at a time (one expert
/// where the layout transposes). The folder appears under its name only when it is complete.
///
/// `progress` is told the bytes written and the bytes in all.
pub fn write_safetensors(
    source: &Checkpoint,
    folder: &Path,
    weights: Weights,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FileError> {
    write_sharded(source, folder, weights, SHARD_BYTES, progress)
}

fn write_sharded(
    source: &Checkpoint,
    folder: &Path,
    weights: Weights,
    shard_bytes: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FileError> {
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || folder.is_file() {
        return Err(FileError::Exists { path: folder.to_owned() });
    }
    let config = config_json(source, weights)?;
    let partial = partial_name(folder);
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).map_err(FileError::io(&partial, "create"))?;
    let writer = Writer { source, folder: &partial };
    let keeping = |parameter: &Parameter| Target::keeping(source.stored_encoding(parameter));
    let finish = || {
        let path = partial.join("config.json");
        fs::write(&path, config).map_err(FileError::io(&path, "write"))?;
        writer.write_weights(plan(&source.table, weights, &keeping), shard_bytes, progress)?;
        copy_companions(source, &partial)?;
        // An empty folder may stand where the new one goes.
        let _ = fs::remove_dir(folder);
        fs::rename(&partial, folder).map_err(FileError::io(folder, "create"))
    };
    let done = finish();
    if done.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    done
}

/// Writes parameters as f32 into the folder `folder`, which is there: `model.safetensors`, or shards with an index. One row is in memory at
/// a time. A weight that is not finite is an error.
pub fn write_parameters(source: &dyn Parameters, table: &ParameterTable, folder: &Path) -> Result<(), FileError> {
    let tensors = plan(table, Weights::F32, &|_| Target::F32);
    Writer { source, folder }.write_weights(tensors, SHARD_BYTES, &mut |_, _| {})
}

/// `folder` beside itself, hidden, until it is complete.
fn partial_name(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.partial"))
}

fn config_json(source: &Checkpoint, weights: Weights) -> Result<String, FileError> {
    let mut config = HfConfig { quantisation: None, ..source.config.clone() };
    match weights {
        Weights::F32 => config.dtype = Some("float32".into()),
        Weights::F16 => config.dtype = Some("float16".into()),
        Weights::Bf16 => config.dtype = Some("bfloat16".into()),
        Weights::Quantised(format) => config.quantisation = Some(Quantisation::Lyceum(format)),
    }
    config.to_json().map_err(|source_error| FileError::Config { path: source.path().to_owned(), source: source_error })
}

/// A tensor to write, with the parameters that it consists of: those that take turns along its outputs stand
/// together, expert after expert.
struct Planned<'a> {
    name: String,
    members: Vec<&'a Parameter>,
    target: Target,
    shape: Vec<usize>,
}

impl<'a> Planned<'a> {
    fn new(first: &'a Parameter, weights: Weights, keeping: &dyn Fn(&Parameter) -> Target) -> Self {
        let target = match weights {
            Weights::F32 => Target::F32,
            Weights::F16 => Target::F16,
            Weights::Bf16 => Target::Bf16,
            Weights::Quantised(format) if first.id.role.is_quantisable() => Target::Codes(format),
            Weights::Quantised(_) => keeping(first),
        };
        Self { name: first.name.clone(), members: Vec::new(), target, shape: Vec::new() }
    }

    /// Once all members are known.
    fn shaped(mut self) -> Self {
        let first = self.members[0];
        self.shape = first.stored_shape();
        if let (Target::Codes(format), [rows, cols]) = (self.target, first.shape.as_slice()) {
            let mut shape: Vec<_> = self.experts().into_iter().collect();
            shape.push(rows * self.step());
            shape.push(CodeLayout::of(format).row_bytes(*cols));
            self.shape = shape;
        }
        self
    }

    fn experts(&self) -> Option<usize> {
        match self.members[0].view {
            View::Whole => None,
            View::Stacked { experts, .. } => Some(experts),
        }
    }

    fn step(&self) -> usize {
        match self.members[0].view {
            View::Whole => 1,
            View::Stacked { step, .. } => step,
        }
    }

    fn is_transposed(&self) -> bool {
        let transposed = matches!(self.members[0].view, View::Stacked { transposed: true, .. });
        transposed && !matches!(self.target, Target::Codes(_))
    }

    /// Name, type, shape and bytes of what stands in the file: the values or codes, then their scales.
    fn entries(&self) -> Vec<(String, &'static str, Vec<usize>, u64)> {
        let sized = |name: String, encoding: Encoding, shape: Vec<usize>| {
            let bytes = shape.iter().product::<usize>() * encoding.block().1;
            (name, dtype(encoding), shape, bytes as u64)
        };
        let mut entries = vec![sized(self.name.clone(), self.target.encoding(), self.shape.clone())];
        if let (Target::Codes(format), [_, cols]) = (self.target, &self.members[0].shape[..]) {
            let mut shape = self.shape.clone();
            if let Some(last) = shape.last_mut() {
                *last = cols.div_ceil(format.group_size());
            }
            let scale = CodeLayout::of(format).scale;
            entries.push(sized(scale_name(&self.name), scale, shape));
        }
        entries
    }

    fn bytes(&self) -> u64 {
        self.entries().iter().map(|(.., bytes)| bytes).sum()
    }
}

/// safetensors' word for a type that we write.
fn dtype(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F16 => "F16",
        Encoding::Bf16 => "BF16",
        Encoding::I8 => "I8",
        Encoding::U8 => "U8",
        Encoding::F8E4M3 => "F8_E4M3",
        _ => "F32",
    }
}

/// The tensors of a folder; `keeping` is what quantised files write parameters as that they do not quantise.
fn plan<'a>(table: &'a ParameterTable, weights: Weights, keeping: &dyn Fn(&Parameter) -> Target) -> Vec<Planned<'a>> {
    let mut tensors: Vec<Planned> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for parameter in table.iter() {
        let at = *index.entry(&parameter.name).or_insert_with(|| {
            tensors.push(Planned::new(parameter, weights, keeping));
            tensors.len() - 1
        });
        tensors[at].members.push(parameter);
    }
    tensors.into_iter().map(Planned::shaped).collect()
}

struct Writer<'a> {
    source: &'a dyn Parameters,
    folder: &'a Path,
}

impl Writer<'_> {
    fn write_weights(
        &self,
        tensors: Vec<Planned<'_>>,
        shard_bytes: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), FileError> {
        let total: u64 = tensors.iter().map(Planned::bytes).sum();
        let shards = into_shards(tensors, shard_bytes);
        let mut map = Map::new();
        let mut done = 0;
        for (index, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
            };
            self.write_shard(&self.folder.join(&name), shard, &mut |bytes| {
                done += bytes;
                progress(done, total);
            })?;
            for (tensor, ..) in shard.iter().flat_map(Planned::entries) {
                map.insert(tensor, name.clone().into());
            }
        }
        if shards.len() > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            let path = self.folder.join(super::INDEX);
            fs::write(&path, format!("{index:#}\n")).map_err(FileError::io(&path, "write"))?;
        }
        Ok(())
    }

    fn write_shard(&self, path: &Path, tensors: &[Planned], progress: &mut dyn FnMut(u64)) -> Result<(), FileError> {
        let file = File::create(path).map_err(FileError::io(path, "create"))?;
        let mut out = Output { file: BufWriter::with_capacity(1 << 20, file), path, encoder: Encoder::default() };
        out.bytes(&header(tensors))?;
        for tensor in tensors {
            self.write_tensor(tensor, &mut out)?;
            progress(tensor.bytes());
        }
        out.finish()
    }

    fn write_tensor(&self, tensor: &Planned, out: &mut Output) -> Result<(), FileError> {
        let mut scales = Vec::new();
        for members in tensor.members.chunks(tensor.step()) {
            match tensor.members[0].shape[..] {
                [length] => self.write_vectors(members, length, tensor, out)?,
                [rows, cols] => {
                    let matrices = members.iter().map(|p| self.source.matrix(p)).collect::<Result<Vec<_>, _>>()?;
                    if tensor.is_transposed() {
                        out.transposed(&matrices, rows, cols, tensor.target)?;
                    } else {
                        out.rows(&matrices, rows, tensor.target, &mut scales)?;
                    }
                    matrices.iter().for_each(|matrix| matrix.release());
                }
                _ => {}
            }
        }
        out.bytes(&scales)
    }

    fn write_vectors(
        &self,
        members: &[&Parameter],
        length: usize,
        tensor: &Planned,
        out: &mut Output,
    ) -> Result<(), FileError> {
        let vectors = members.iter().map(|p| self.source.vector(p)).collect::<Result<Vec<_>, _>>()?;
        let values: Vec<f32> = (0..length).flat_map(|i| vectors.iter().map(move |v| v[i])).collect();
        out.floats(&tensor.name, &values, tensor.target)
    }
}

/// Copies the tokeniser's files and what else stands beside config and weights, from where `source` has them.
fn copy_companions(source: &Checkpoint, to: &Path) -> Result<(), FileError> {
    match &source.tokens {
        Tokens::Folder(folder) => copy_companion_files(folder, to),
        Tokens::Gguf(_) => Ok(()),
    }
}

/// Copies the files of folder `from` that belong to a model beside config and weights: those of its tokeniser, its chat template and its
/// ways of generating.
pub fn copy_companion_files(from: &Path, to: &Path) -> Result<(), FileError> {
    let entries = fs::read_dir(from).map_err(FileError::io(from, "read"))?;
    for entry in entries {
        let entry = entry.map_err(FileError::io(from, "read"))?;
        if is_companion(&entry.file_name().to_string_lossy()) && entry.path().is_file() {
            let to = to.join(entry.file_name());
            fs::copy(entry.path(), &to).map_err(FileError::io(&entry.path(), "copy"))?;
        }
    }
    Ok(())
}

/// Files that belong to a model beside config and weights.
fn is_companion(name: &str) -> bool {
    let exact = ["generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"];
    exact.contains(&name) || name.starts_with("tokenizer") || name.starts_with("chat_template")
}

fn into_shards(tensors: Vec<Planned>, limit: u64) -> Vec<Vec<Planned>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        if filled > 0 && filled + bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

/// Length and JSON, padded with spaces so that the data starts at a multiple of eight.
fn header(tensors: &[Planned]) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut start = 0;
    for (name, dtype, shape, bytes) in tensors.iter().flat_map(Planned::entries) {
        let offsets = [start, start + bytes];
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        map.insert(name, entry);
        start += bytes;
    }
    let mut json = Value::Object(map).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

/// A file being written.
struct Output<'a> {
    file: BufWriter<File>,
    path: &'a Path,
    encoder: Encoder,
}

impl Output<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(bytes);
        written.map_err(FileError::io(self.path, "write"))
    }

    fn floats(&mut self, name: &str, values: &[f32], target: Target) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        push_floats(name, values, target, &mut bytes)?;
        self.bytes(&bytes)
    }

    /// Matrices that take turns row by row.
    fn rows(
        &mut self,
        matrices: &[Box<dyn ParameterRows + '_>],
        rows: usize,
        target: Target,
        scales: &mut Vec<u8>,
    ) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        for row in 0..rows {
            for matrix in matrices {
                bytes.clear();
                self.encoder.row(&**matrix, row, target, &mut bytes, scales)?;
                self.bytes(&bytes)?;
            }
        }
        Ok(())
    }

    /// `[inputs, outputs]`, the matrices' outputs taking turns.
    fn transposed(
        &mut self,
        matrices: &[Box<dyn ParameterRows + '_>],
        rows: usize,
        cols: usize,
        target: Target,
    ) -> Result<(), FileError> {
        let outputs = rows * matrices.len();
        let mut turned = vec![0.0; outputs * cols];
        for (turn, matrix) in matrices.iter().enumerate() {
            for row in 0..rows {
                let output = row * matrices.len() + turn;
                for (col, value) in self.encoder.read(&**matrix, row)?.iter().enumerate() {
                    turned[col * outputs + output] = *value;
                }
            }
        }
        for values in turned.chunks(outputs) {
            self.floats(matrices[0].name(), values, target)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), FileError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(FileError::io(self.path, "write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_what_one_file_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/mixtral");
        let source = Checkpoint::open(&root).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("sharded");
        let mut last = (0, 0);
        let mut progress = |done, total| last = (done, total);
        write_sharded(&source, &target, Weights::F32, 100_000, &mut progress).unwrap();
        assert_eq!(last.0, last.1);
        assert!(target.join(super::super::INDEX).exists());
        let back = Checkpoint::open(&target).unwrap();
        assert_eq!(back.stored_bytes(), source.stored_bytes());
        let again = write_safetensors(&source, &target, Weights::F32, &mut |_, _| {});
        assert!(matches!(again, Err(FileError::Exists { .. })));
    }
}
