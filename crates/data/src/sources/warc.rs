//! Web archives (ISO 28500): answers of web servers, or the text of pages (WET).

use super::{Body, File, Item, Kind, Raw, ReadOptions, Skip};
use crate::collect::{Error, Result};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use std::io::{self, BufRead, Read};
use std::sync::atomic::AtomicU64;

/// More than any honest header.
const LONGEST_HEADER: usize = 1 << 20;

/// Reads the records; those that are neither answers nor text are no documents and not counted.
pub(super) fn read(
    file: &File,
    options: &ReadOptions,
    progress: &AtomicU64,
    each: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut content = file.open(progress)?;
    for number in 1u64.. {
        let failed = |what: &str| Error::damaged(format!("{}, record {number}", file.path.display()), what);
        let reading = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => failed("it ends too early (truncated?)"),
            _ => Error::reading(&file.path)(error),
        };
        if !skip_blank_lines(&mut content).map_err(reading)? {
            break;
        }
        let headers = Headers::read(&mut content).map_err(reading)?;
        if !headers.first.starts_with("WARC/") {
            return Err(failed("it does not start with WARC/"));
        }
        let length = headers.get("content-length").and_then(|length| length.parse::<u64>().ok());
        let length = length.ok_or_else(|| failed("it has no Content-Length"))?;
        let is_wanted = matches!(headers.get("warc-type"), Some("response" | "conversion"));
        if !is_wanted || length > options.largest as u64 {
            pass(&mut content, length).map_err(reading)?;
            if is_wanted {
                each(Item::Skipped(Skip::TooLarge))?;
            }
            continue;
        }
        let mut block = Vec::new();
        content.by_ref().take(length).read_to_end(&mut block).map_err(reading)?;
        if block.len() as u64 != length {
            return Err(failed("it ends too early (truncated?)"));
        }
        each(item(&headers, block, file, options))?;
    }
    Ok(())
}

/// Goes past so many bytes, which must be there.
fn pass(content: &mut impl BufRead, length: u64) -> io::Result<()> {
    let passed = io::copy(&mut content.take(length), &mut io::sink())?;
    if passed == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Whether something follows.
fn skip_blank_lines(content: &mut impl BufRead) -> io::Result<bool> {
    loop {
        match content.fill_buf()?.first() {
            None => return Ok(false),
            Some(b'\r' | b'\n') => content.consume(1),
            Some(_) => return Ok(true),
        }
    }
}

fn item(headers: &Headers, block: Vec<u8>, file: &File, options: &ReadOptions) -> Item {
    let url = headers.get("warc-target-uri").map(|url| url.trim_matches(['<', '>']).to_owned());
    let body = match headers.get("warc-type") {
        Some("conversion") => Some(Body::Text(block)),
        _ => page(&block, options.largest),
    };
    let Some(body) = body else { return Item::Skipped(Skip::NoPage) };
    Item::Document(Raw { body, path: file.name.clone(), url, kind: options.kind.unwrap_or(Kind::Text) })
}

/// The page in an answer of a web server, if it is one and a success.
fn page(answer: &[u8], largest: usize) -> Option<Body> {
    let mut rest = answer;
    let headers = Headers::read(&mut rest).ok()?;
    let status = headers.first.split_ascii_whitespace().nth(1)?;
    let kind = headers.get("content-type").unwrap_or("text/html").to_ascii_lowercase();
    if !headers.first.starts_with("HTTP/") || !status.starts_with('2') {
        return None;
    }
    let body = match headers.get("transfer-encoding") {
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => unchunk(rest).unwrap_or_else(|| rest.to_vec()),
        _ => rest.to_vec(),
    };
    let body = decompress(body, headers.get("content-encoding"), largest)?;
    let charset = kind.split_once("charset=").map(|(_, name)| name.trim_matches(['"', '\'', ' ', ';']).to_owned());
    match kind.split(';').next()?.trim() {
        "text/html" | "application/xhtml+xml" => Some(Body::Html(body, charset)),
        "text/plain" => Some(Body::Text(body)),
        _ => None,
    }
}

/// Undoes the transfer in chunks; archives that have undone it already kept the header.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(rest.len());
    loop {
        let end = rest.iter().take(32).position(|&byte| byte == b'\n')?;
        let size = str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 1..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.trim_ascii_start();
    }
}

/// Undoes the packing by the server; nothing if it is of another kind, damaged, or too large.
fn decompress(body: Vec<u8>, coding: Option<&str>, largest: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    let most = largest as u64 + 1;
    match coding.map(str::to_ascii_lowercase).as_deref() {
        Some("gzip" | "x-gzip") if body.starts_with(&[0x1f, 0x8b]) => {
            MultiGzDecoder::new(&body[..]).take(most).read_to_end(&mut unpacked).ok()?;
        }
        Some("deflate") => {
            ZlibDecoder::new(&body[..]).take(most).read_to_end(&mut unpacked).ok()?;
        }
        Some("br" | "zstd") => return None,
        // Archives that have undone the packing already kept the header.
        _ => return Some(body),
    }
    (unpacked.len() <= largest).then_some(unpacked)
}

/// A first line, and `Name: value` lines up to a blank one.
struct Headers {
    first: String,
    fields: Vec<(String, String)>,
}

impl Headers {
    fn read(content: &mut impl BufRead) -> io::Result<Self> {
        let mut content = content.take(LONGEST_HEADER as u64);
        let mut line = || {
            let mut line = Vec::new();
            content.read_until(b'\n', &mut line)?;
            match line.last() {
                Some(b'\n') => Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()),
                _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        let first = line()?;
        let mut fields = Vec::new();
        loop {
            let line = line()?;
            if line.is_empty() {
                return Ok(Self { first, fields });
            }
            if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}
