//! JSON objects, one per line.

use super::{Body, File, Item, Kind, Opened, Raw, ReadOptions, Skip};
use crate::collect::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::atomic::AtomicU64;

/// Reads the lines; what is in them is for [`open`].
pub(super) fn read(
    file: &File,
    options: &ReadOptions,
    progress: &AtomicU64,
    each: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut content = file.open(progress)?;
    let kind = options.kind.unwrap_or(Kind::Text);
    for number in 1.. {
        let item = match next_line(&mut content, options.largest).map_err(Error::reading(&file.path))? {
            Next::End => break,
            Next::TooLong => Item::Skipped(Skip::TooLarge),
            Next::Line(line) if line.trim_ascii().is_empty() => continue,
            Next::Line(line) => {
                Item::Document(Raw { body: Body::Json(line, number), path: file.name.clone(), url: None, kind })
            }
        };
        each(item)?;
    }
    Ok(())
}

enum Next {
    Line(Vec<u8>),
    TooLong,
    End,
}

/// The next line, never more than `most` bytes of it in memory.
fn next_line(content: &mut impl BufRead, most: usize) -> io::Result<Next> {
    let mut line = Vec::new();
    if content.by_ref().take(most as u64 + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(Next::End);
    }
    if line.len() <= most || line.last() == Some(&b'\n') {
        return Ok(Next::Line(line));
    }
    content.skip_until(b'\n')?;
    Ok(Next::TooLong)
}

/// Makes a document of a line.
pub(super) fn open(line: &[u8], number: u64, path: String, options: &ReadOptions, kind: Kind) -> Result<Opened> {
    let place = || format!("{path}, line {number}");
    let mut parser = serde_json::Deserializer::from_slice(line);
    let record = Fields { text: &options.field }.deserialize(&mut parser);
    let record = record.and_then(|record| parser.end().map(|()| record));
    let record = record.map_err(|error| Error::damaged(place(), error))?;
    let Some(text) = record.text else {
        let found = if record.others.is_empty() { "nothing".into() } else { record.others.join(", ") };
        return Err(Error::NoText { place: place(), field: options.field.clone(), found });
    };
    let path = record.path.unwrap_or_else(|| format!("{path}:{number}"));
    Ok(Opened { text, damaged: 0, path, url: record.url, lang: record.lang, kind })
}

/// What a record says.
#[derive(Default)]
struct Record {
    text: Option<String>,
    path: Option<String>,
    url: Option<String>,
    lang: Option<String>,
    /// Names of what else is there.
    others: Vec<String>,
}

/// Reads a record, with the text under a given name, and builds nothing that is not needed.
struct Fields<'n> {
    text: &'n str,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Record;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(key) = map.next_key::<String>()? {
            let place = match key.as_str() {
                name if name == self.text => &mut record.text,
                "path" => &mut record.path,
                "url" => &mut record.url,
                "lang" | "language" => &mut record.lang,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    record.others.push(key);
                    continue;
                }
            };
            match map.next_value::<Text>()? {
                Text::Is(text) => *place = Some(text),
                Text::IsNot(_) => record.others.push(key + " (no string)"),
            }
        }
        Ok(record)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Text {
    Is(String),
    IsNot(IgnoredAny),
}
