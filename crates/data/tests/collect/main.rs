//! Collecting from outside: files in, a collection out.

mod bad_files;
mod cargo;
mod formats;
mod laws;

use data::collect::{Collection, Document, Options, Result, collect};
use data::dedup::Copies;
use data::sources::{Skip, Source};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with files in it, and room for collections.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Collects some of the paths into `out`.
    fn collect(&self, paths: &[&str], out: &str, options: &Options) -> Result<Collection> {
        let sources: Vec<_> = paths.iter().map(|path| Source::path(self.path(path))).collect();
        collect(&sources, &self.path(out), options, &|_, _, _| ())
    }
}

/// Nothing is dropped.
fn everything() -> Options {
    Options { filters: Some(vec![]), copies: Copies { exact: false, near: false }, ..Options::default() }
}

fn documents(collection: &Collection, source: &str) -> Vec<Document> {
    collection.documents(source).unwrap().collect::<Result<_>>().unwrap()
}

fn texts(collection: &Collection, source: &str) -> Vec<String> {
    documents(collection, source).into_iter().map(|document| document.text).collect()
}

fn skipped(collection: &Collection, source: &str, why: Skip) -> u64 {
    collection.source(source).unwrap().skipped.get(&why).map_or(0, |skips| skips.count)
}

/// All files below a folder, with their bytes.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A WARC record.
fn record(kind: &str, url: &str, block: &[u8]) -> Vec<u8> {
    let header =
        format!("WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Length: {}\r\n\r\n", block.len());
    [header.as_bytes(), block, b"\r\n\r\n"].concat()
}

/// A Parquet file with a column of texts, some of them null, and one of addresses.
fn parquet(texts: &[Option<&str>]) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message m { REQUIRED BYTE_ARRAY url (UTF8); OPTIONAL BYTE_ARRAY text (UTF8); REQUIRED INT64 n; }";
    let schema = parse_message_type(schema).unwrap();
    let compression = parquet::basic::Compression::SNAPPY;
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    for group in texts.chunks(500) {
        let mut columns = writer.next_row_group().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let urls: Vec<_> = (0..group.len()).map(|at| ByteArray::from(format!("http://{at}").as_str())).collect();
        column.typed::<ByteArrayType>().write_batch(&urls, None, None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let values: Vec<_> = group.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<_> = group.iter().map(|text| i16::from(text.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..group.len() as i64).collect();
        column.typed::<parquet::data_type::Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.into_inner().unwrap()
}
