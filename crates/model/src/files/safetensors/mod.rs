//! Hugging Face folders: `model.safetensors`, or shards with `model.safetensors.index.json`.

mod write;

pub use write::{Weights, copy_companion_files, write_parameters, write_safetensors};

use super::FileError;
use super::mapped::MappedFile;
use super::tensors::{Encoding, StoredTensor, TensorStore};
use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Largest header accepted, as in the reference implementation.
const MAX_HEADER: usize = 100_000_000;

/// Maps the weights of a folder.
pub(super) fn open(folder: &Path) -> Result<TensorStore, FileError> {
    let mut store = TensorStore::new(folder.to_owned());
    if folder.join(SINGLE).exists() {
        add_file(&mut store, &folder.join(SINGLE))?;
        return Ok(store);
    }
    let index = folder.join(INDEX);
    if !index.exists() {
        let why = format!(
            "it has neither {SINGLE} nor {INDEX} (PyTorch .bin weights must be converted to safetensors first)"
        );
        return Err(FileError::NotAModel { path: folder.to_owned(), why });
    }
    let (shards, names) = read_index(&index)?;
    for shard in shards {
        add_file(&mut store, &folder.join(shard))?;
    }
    for name in names {
        if store.get(&name).is_none() {
            return Err(FileError::Missing { path: index, name });
        }
    }
    Ok(store)
}

/// The shards that an index names, and the tensors that it promises.
fn read_index(path: &Path) -> Result<(BTreeSet<String>, Vec<String>), FileError> {
    let text = std::fs::read_to_string(path).map_err(FileError::io(path, "read"))?;
    let index: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| FileError::malformed(path, e.to_string()))?;
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(FileError::malformed(path, "it has no \"weight_map\""));
    };
    let mut shards = BTreeSet::new();
    for (name, file) in map {
        let plain = file.as_str().filter(|f| !f.contains(['/', '\\']) && f.ends_with(".safetensors"));
        let Some(file) = plain else {
            let problem = format!("\"{name}\" lies in {file}, not in a .safetensors file beside it");
            return Err(FileError::malformed(path, problem));
        };
        shards.insert(file.to_owned());
    }
    Ok((shards, map.keys().cloned().collect()))
}

fn add_file(store: &mut TensorStore, path: &Path) -> Result<(), FileError> {
    let file = MappedFile::open(path)?;
    let (data, metadata) = header(&file).map_err(|problem| FileError::malformed(path, problem))?;
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (start, end) = info.data_offsets;
        let tensor = StoredTensor {
            encoding: encoding(info.dtype),
            type_name: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
            file: store.files.len(),
            range: data + start..data + end,
        };
        store.insert(name, tensor)?;
    }
    store.files.push(file);
    Ok(())
}

/// Where the data starts, and the header; the crate checks that tensors fill the data without gaps or overlaps.
fn header(file: &MappedFile) -> Result<(usize, Metadata), String> {
    let bytes = file.bytes();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short for a header")?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length)
        .ok()
        .filter(|&n| n <= MAX_HEADER)
        .and_then(|n| rest.get(..n))
        .ok_or_else(|| format!("its header claims {length} bytes"))?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let data = 8 + header.len();
    let held = bytes.len() - data;
    let promised = metadata.data_len();
    if promised != held {
        return Err(format!("its header promises {promised} bytes of tensors, there are {held}"));
    }
    Ok((data, metadata))
}

fn encoding(dtype: Dtype) -> Option<Encoding> {
    match dtype {
        Dtype::F32 => Some(Encoding::F32),
        Dtype::F16 => Some(Encoding::F16),
        Dtype::BF16 => Some(Encoding::Bf16),
        Dtype::I8 => Some(Encoding::I8),
        Dtype::U8 => Some(Encoding::U8),
        Dtype::F8_E4M3 => Some(Encoding::F8E4M3),
        _ => None,
    }
}
