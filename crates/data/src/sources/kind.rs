//! What a file is, by its name.

use std::path::Path;

/// What a document is: it decides which filters apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Prose.
    #[default]
    Text,
    /// Prose with lists, tables and code in it: Markdown, documentation.
    Docs,
    /// Source code.
    Code,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Text, Self::Docs, Self::Code];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Docs => "docs",
            Self::Code => "code",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| "there are text, docs and code".into())
    }
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One document.
    Plain(Kind),
    /// Rust source, of which the documentation is one document.
    RustDocs,
    /// A JSON object per line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Web pages as they were fetched, or their text (WET).
    Warc,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, several members too.
    Gzip,
    /// Zstandard, several frames too.
    Zstd,
}

const TEXT: &[&str] = &["txt", "text"];
const DOCS: &[&str] = &["md", "markdown", "mdx", "rst", "adoc", "org", "tex"];
const CODE: &[&str] = &[
    "rs", "c", "h", "cc", "cpp", "cxx", "hpp", "hh", "cu", "cuh", "py", "pyi", "js", "mjs", "ts", "tsx", "jsx", "go",
    "java", "kt", "scala", "swift", "rb", "php", "pl", "lua", "sh", "bash", "zsh", "fish", "ps1", "sql", "hs", "ml",
    "mli", "ex", "exs", "erl", "clj", "lisp", "el", "jl", "r", "cs", "fs", "zig", "nim", "d", "dart", "asm", "s", "v",
    "vhd", "toml", "yaml", "yml", "cmake", "proto", "css", "scss", "nix", "tf",
];

/// What a file of this name holds; nothing if the name does not tell.
pub(super) fn of(path: &Path) -> Option<(Format, Compression)> {
    let (path, compression) = unpacked(path);
    let Some(extension) = path.extension() else {
        // README, LICENSE and the like.
        return Some((Format::Plain(Kind::Text), compression));
    };
    let extension = extension.to_str()?.to_ascii_lowercase();
    let has = |list: &[&str]| list.contains(&extension.as_str());
    let format = match extension.as_str() {
        "jsonl" | "ndjson" => Format::JsonLines,
        "parquet" => Format::Parquet,
        "warc" | "wet" => Format::Warc,
        _ if has(TEXT) => Format::Plain(Kind::Text),
        _ if has(DOCS) => Format::Plain(Kind::Docs),
        _ if has(CODE) => Format::Plain(Kind::Code),
        _ => return None,
    };
    Some((format, compression))
}

/// A file that was named itself is read whatever its name: as plain text if that does not tell.
pub(super) fn of_named(path: &Path) -> (Format, Compression) {
    of(path).unwrap_or((Format::Plain(Kind::Text), unpacked(path).1))
}

/// The name of a path without the extensions that tell its kind.
pub(super) fn stem(path: &Path) -> String {
    let (path, _) = if path.is_dir() { (path.to_owned(), Compression::None) } else { unpacked(path) };
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
}

/// The name below the packing.
fn unpacked(path: &Path) -> (std::path::PathBuf, Compression) {
    let compression = match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        _ => return (path.to_owned(), Compression::None),
    };
    (path.with_extension(""), compression)
}
