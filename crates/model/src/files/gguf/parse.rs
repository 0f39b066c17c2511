//! Reading a GGUF file's header: metadata and the directory of tensors.
//!
//! Nothing is trusted: every length is checked against what is left of the file before anything of that length
//! is read or allocated, and arrays stay in the file until someone asks for their elements.

use crate::files::FileError;
use crate::files::mapped::MappedFile;
use crate::files::tensors::{Encoding, StoredTensor, TensorStore};
use std::collections::HashMap;
use std::path::Path;

/// Longest name of a tensor or key that is kept; real ones have below a hundred bytes.
const MAX_NAME: usize = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;

/// A GGUF file: metadata, and tensors.
pub(in crate::files) struct Gguf {
    pub(in crate::files) metadata: Metadata,
    pub(in crate::files) store: TensorStore,
}

/// The key-value pairs of a file.
pub(in crate::files) struct Metadata {
    values: HashMap<String, Value>,
}

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    /// Its elements lie at `start`.
    Array {
        kind: Kind,
        count: usize,
        start: usize,
    },
}

/// The types of values, by their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
        let kinds = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        kinds.get(number as usize).copied()
    }

    /// The fewest bytes that one takes.
    fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}

/// A place in the file that moves forward.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("{count} bytes are needed at {}, past its end", self.at))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each: more than fit in what is left is a lie.
    fn count(&mut self, what: &str, least: usize) -> Result<usize, String> {
        let claimed = self.u64()?;
        let room = (self.bytes.len() - self.at) / least;
        usize::try_from(claimed)
            .ok()
            .filter(|&n| n <= room)
            .ok_or_else(|| format!("it claims {claimed} {what}, there is room for {room}"))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let length = self.count("bytes of text", 1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("text at {at} is not UTF-8"))
    }

    fn name(&mut self) -> Result<String, String> {
        match self.text()? {
            text if text.len() <= MAX_NAME => Ok(text.to_owned()),
            text => Err(format!("a name of {} bytes", text.len())),
        }
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let number = self.u32()?;
        Kind::from_number(number).ok_or_else(|| format!("unknown value type {number}"))
    }

    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        Ok(match kind {
            Kind::U8 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            Kind::I8 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            Kind::U16 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            Kind::I16 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            Kind::U32 => Value::Integer(self.u32()?.into()),
            Kind::I32 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            Kind::U64 => Value::Integer(self.u64()?.into()),
            Kind::I64 => Value::Integer(self.array().map(i64::from_le_bytes)?.into()),
            Kind::F32 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            Kind::F64 => Value::Float(self.array().map(f64::from_le_bytes)?),
            Kind::Bool => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("a truth value of {other}")),
            },
            Kind::Text => Value::Text(self.text()?.to_owned()),
            Kind::Array => self.value_array()?,
        })
    }

    /// Steps over an array and checks its elements.
    fn value_array(&mut self) -> Result<Value, String> {
        let kind = self.kind()?;
        if kind == Kind::Array {
            return Err("an array of arrays".into());
        }
        let count = self.count("array elements", kind.least_bytes())?;
        let start = self.at;
        match kind {
            Kind::Text => (0..count).try_for_each(|_| self.text().map(drop))?,
            Kind::Bool => (0..count).try_for_each(|_| self.value(kind).map(drop))?,
            _ => drop(self.take(count * kind.least_bytes())?),
        }
        Ok(Value::Array { kind, count, start })
    }
}

impl Gguf {
    pub(in crate::files) fn open(path: &Path) -> Result<Self, FileError> {
        let file = MappedFile::open(path)?;
        let mut store = TensorStore::new(path.to_owned());
        let (values, tensors) = header(file.bytes()).map_err(|problem| FileError::malformed(path, problem))?;
        for (name, tensor) in tensors {
            store.insert(name, tensor)?;
        }
        store.files.push(file);
        Ok(Self { metadata: Metadata { values }, store })
    }
}

type Header = (HashMap<String, Value>, Vec<(String, StoredTensor)>);

fn header(bytes: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4)? != b"GGUF" {
        return Err("it does not start with \"GGUF\"".into());
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err("it is big endian, which is not supported".into());
        }
        version => {
            return Err(format!("GGUF version {version} is not supported; 2 and 3 are"));
        }
    }
    let tensor_count = cursor.count("tensors", 24)?;
    let value_count = cursor.count("metadata values", 12)?;
    let mut values = HashMap::new();
    for _ in 0..value_count {
        let key = cursor.name()?;
        let kind = cursor.kind()?;
        let value = cursor.value(kind).map_err(|problem| format!("metadata key \"{key}\": {problem}"))?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key \"{key}\" is there twice"));
        }
    }
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(&Value::Integer(n)) if (1..=1 << 20).contains(&n) && n.count_ones() == 1 => n as usize,
        Some(_) => return Err("its \"general.alignment\" is no power of two".into()),
    };
    let directory = (0..tensor_count).map(|_| entry(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let data = cursor.at.next_multiple_of(alignment);
    let tensors = directory.into_iter().map(|entry| entry.place(data, bytes.len())).collect::<Result<_, _>>()?;
    Ok((values, tensors))
}

/// A tensor as the directory lists it.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

fn entry(cursor: &mut Cursor) -> Result<Entry, String> {
    let name = cursor.name()?;
    let dimensions = cursor.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(format!("tensor \"{name}\" has {dimensions} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        let size = usize::try_from(size);
        shape.push(size.map_err(|_| format!("tensor \"{name}\" is too large"))?);
    }
    // The file lists the innermost dimension first.
    shape.reverse();
    Ok(Entry { name, shape, kind: cursor.u32()?, offset: cursor.u64()? })
}

impl Entry {
    fn place(self, data: usize, length: usize) -> Result<(String, StoredTensor), String> {
        let name = self.name;
        let (encoding, type_name) = encoding(self.kind);
        let start = usize::try_from(self.offset)
            .ok()
            .and_then(|offset| data.checked_add(offset))
            .filter(|&start| start <= length)
            .ok_or_else(|| format!("tensor \"{name}\" starts past its end"))?;
        let outside = || format!("tensor \"{name}\" {:?} does not fit into it", self.shape);
        let count =
            self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).ok_or_else(outside)?;
        // The size of a type that nothing here reads is not known; it is refused when somebody asks for it.
        let bytes = match encoding {
            None => 0,
            Some(encoding) => {
                let inner = self.shape.last().copied().unwrap_or(1);
                let whole = encoding.bytes(inner).is_some();
                encoding.bytes(count).filter(|&bytes| whole && bytes <= length - start).ok_or_else(outside)?
            }
        };
        let tensor = StoredTensor { encoding, type_name, shape: self.shape, file: 0, range: start..start + bytes };
        Ok((name, tensor))
    }
}

/// ggml's types by number; a name, for messages, also for those not supported.
fn encoding(number: u32) -> (Option<Encoding>, String) {
    let (encoding, name) = match number {
        0 => (Some(Encoding::F32), "F32"),
        1 => (Some(Encoding::F16), "F16"),
        2 => (Some(Encoding::Q4_0), "Q4_0"),
        8 => (Some(Encoding::Q8_0), "Q8_0"),
        12 => (Some(Encoding::Q4K), "Q4_K"),
        13 => (Some(Encoding::Q5K), "Q5_K"),
        14 => (Some(Encoding::Q6K), "Q6_K"),
        30 => (Some(Encoding::Bf16), "BF16"),
        39 => (Some(Encoding::Mxfp4), "MXFP4"),
        3 => (None, "Q4_1"),
        6 => (None, "Q5_0"),
        7 => (None, "Q5_1"),
        10 => (None, "Q2_K"),
        11 => (None, "Q3_K"),
        20 => (None, "IQ4_NL"),
        23 => (None, "IQ4_XS"),
        _ => return (None, format!("number {number} of ggml")),
    };
    (encoding, name.into())
}

impl Metadata {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// The elements of an array, read again from the file that it was checked in.
pub(super) fn elements(store: &TensorStore, kind: Kind, count: usize, start: usize) -> impl Iterator<Item = Value> {
    let bytes = store.files.first().map_or(&[][..], MappedFile::bytes);
    let mut cursor = Cursor { bytes, at: start };
    (0..count).map_while(move |_| cursor.value(kind).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn every_kind_of_value_is_read() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/types.gguf");
        let gguf = Gguf::open(&path).unwrap();
        let integers = [
            ("uint8", 200),
            ("int8", -100),
            ("uint16", 60_000),
            ("int16", -30_000),
            ("uint32", 4_000_000_000),
            ("int32", -2_000_000_000),
            ("uint64", (1 << 63) + 5),
            ("int64", -(1 << 62)),
        ];
        let mut expected: Vec<(&str, Value)> = integers.map(|(k, n)| (k, Value::Integer(n))).to_vec();
        expected.push(("float32", Value::Float(0.15625)));
        expected.push(("float64", Value::Float(0.1)));
        expected.push(("bool", Value::Bool(true)));
        expected.push(("string", Value::Text("größer 🙂".into())));
        for (kind, value) in expected {
            let single = gguf.metadata.get(&format!("test.{kind}")).unwrap();
            let value = format!("{value:?}");
            assert_eq!(format!("{single:?}"), value);
            let array = gguf.metadata.get(&format!("test.array.{kind}"));
            let Some(&Value::Array { kind, count, start }) = array else {
                panic!("no array of {kind}");
            };
            let all: Vec<_> = elements(&gguf.store, kind, count, start).map(|v| format!("{v:?}")).collect();
            assert_eq!(all, [value.clone(), value.clone(), value]);
        }
    }
}
