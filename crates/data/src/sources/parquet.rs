//! Columns of strings in Parquet files.

use super::{Body, File, Item, Kind, Raw, ReadOptions, Skip};
use crate::collect::{Error, Result};
use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows that are unpacked at once.
const ROWS: usize = 256;

/// Reads the column of texts, and that of pages' addresses if there is one.
pub(super) fn read(
    file: &File,
    options: &ReadOptions,
    progress: &AtomicU64,
    each: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let damaged = |error: ParquetError| Error::damaged(file.path.display(), error);
    let content = std::fs::File::open(&file.path).map_err(Error::io("open", &file.path))?;
    let reader = SerializedFileReader::new(content).map_err(damaged)?;
    let column = text_column(file, &reader, &options.field)?;
    let url = find(&reader, "url");
    let groups = reader.num_row_groups();
    let mut row = 0u64;
    for group in 0..groups {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let mut texts = Strings::new(&*group, column).map_err(damaged)?;
        let mut urls = url.map(|url| Strings::new(&*group, url)).transpose().map_err(damaged)?;
        loop {
            let texts = texts.next(ROWS).map_err(damaged)?;
            if texts.is_empty() {
                break;
            }
            let mut urls = match &mut urls {
                Some(urls) => urls.next(texts.len()).map_err(damaged)?,
                None => Vec::new(),
            };
            urls.resize(texts.len(), None);
            for (text, url) in texts.into_iter().zip(urls) {
                row += 1;
                each(item(file, row, text, url, options))?;
            }
        }
        progress.fetch_add(file.bytes / groups as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn item(file: &File, row: u64, text: Option<ByteArray>, url: Option<ByteArray>, options: &ReadOptions) -> Item {
    let Some(text) = text else { return Item::Skipped(Skip::Empty) };
    if text.len() > options.largest {
        return Item::Skipped(Skip::TooLarge);
    }
    let url = url.and_then(|url| Some(url.as_utf8().ok()?.to_owned()));
    let kind = options.kind.unwrap_or(Kind::Text);
    Item::Document(Raw { body: Body::Text(text.data().to_vec()), path: format!("{}:{row}", file.name), url, kind })
}

/// The column of this name, if it holds strings.
fn find(reader: &SerializedFileReader<std::fs::File>, name: &str) -> Option<usize> {
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    schema.columns().iter().position(|column| {
        column.path().string() == name && column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    })
}

fn text_column(file: &File, reader: &SerializedFileReader<std::fs::File>, name: &str) -> Result<usize> {
    find(reader, name).ok_or_else(|| {
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let names: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
        Error::NoText { place: file.path.display().to_string(), field: name.to_owned(), found: names.join(", ") }
    })
}

/// The strings of one column in a row group, null or not.
struct Strings {
    reader: ColumnReader,
    defined: i16,
}

impl Strings {
    fn new(group: &dyn RowGroupReader, column: usize) -> Result<Self, ParquetError> {
        let defined = group.metadata().column(column).column_descr().max_def_level();
        Ok(Self { reader: group.get_column_reader(column)?, defined })
    }

    /// At most so many rows; none at the end.
    fn next(&mut self, rows: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
        let ColumnReader::ByteArrayColumnReader(reader) = &mut self.reader else { return Ok(Vec::new()) };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let wants_levels = (self.defined > 0).then_some(&mut levels);
        let (records, _, _) = reader.read_records(rows, wants_levels, None, &mut values)?;
        let mut values = values.into_iter();
        Ok((0..records)
            .map(|at| {
                let is_null = levels.get(at).is_some_and(|&level| level < self.defined);
                if is_null { None } else { values.next() }
            })
            .collect())
    }
}
