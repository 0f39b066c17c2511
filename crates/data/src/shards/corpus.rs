//! The documents of several shards, as one sequence.

use super::ShardError;
use super::format::{FileEntry, HEADER, Header, Index, checksum, word};
use super::mapped::map;
use memmap2::Mmap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// All documents of one part, numbered from 0, and all their tokens, counted from 0 over all documents.
#[derive(Debug)]
pub struct Corpus {
    shards: Vec<Shard>,
    documents: u64,
    tokens: u64,
    text_bytes: u64,
    vocab_size: usize,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    token_bytes: usize,
    /// Where the ids begin.
    ids: usize,
    /// Where the mask begins, if there is one.
    mask: Option<usize>,
    /// The numbers of its documents among all.
    documents: Range<u64>,
    /// The numbers of its tokens among all.
    tokens: Range<u64>,
}

impl Corpus {
    pub(super) fn open(folder: &Path, files: &[FileEntry], index: &Index) -> Result<Self, ShardError> {
        let vocab_size = index.tokenizer.vocab_size;
        let mut corpus = Self { shards: Vec::new(), documents: 0, tokens: 0, text_bytes: 0, vocab_size };
        for entry in files {
            let shard = Shard::open(folder, entry, index.tokenizer.token_bytes(), [corpus.documents, corpus.tokens])?;
            (corpus.documents, corpus.tokens) = (shard.documents.end, shard.tokens.end);
            corpus.text_bytes = corpus.text_bytes.saturating_add(entry.text_bytes);
            corpus.shards.push(shard);
        }
        Ok(corpus)
    }

    pub(super) fn verify(&self, files: &[FileEntry]) -> Result<(), ShardError> {
        self.shards.iter().zip(files).try_for_each(|(shard, entry)| {
            if checksum(&shard.map) == entry.whole {
                return Ok(());
            }
            Err(ShardError::damaged(&shard.path, "its checksum does not fit its content"))
        })
    }

    /// How many documents there are.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Bytes of the text that the tokens stand for.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Whether some tokens do not count in the loss.
    pub fn has_mask(&self) -> bool {
        self.shards.iter().any(|shard| shard.mask.is_some())
    }

    /// The lengths of all documents, in order.
    pub fn lengths(&self) -> impl Iterator<Item = u64> + '_ {
        self.shards.iter().flat_map(|shard| {
            let documents = shard.documents.end - shard.documents.start;
            (0..documents).map(|i| shard.end(i) - shard.start(i))
        })
    }

    /// The tokens of a document, as numbers among all.
    pub fn document(&self, document: u64) -> Range<u64> {
        let shard = self.shard(|shard| shard.documents.end <= document);
        let local = document - shard.documents.start;
        shard.tokens.start + shard.start(local)..shard.tokens.start + shard.end(local)
    }

    /// Where documents begin among these tokens.
    pub fn starts(&self, tokens: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let first = self.document_at_or_after(tokens.start);
        (first..self.documents).map(|document| self.document(document).start).take_while(move |&at| at < tokens.end)
    }

    /// The first document that begins at or after a token.
    fn document_at_or_after(&self, token: u64) -> u64 {
        let (mut low, mut high) = (0, self.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document(middle).start < token { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Appends tokens, and to `mask` whether each counts in the loss.
    pub fn read(&self, tokens: Range<u64>, ids: &mut Vec<u32>, mask: &mut Vec<bool>) -> Result<(), ShardError> {
        let first = self.shards.partition_point(|shard| shard.tokens.end <= tokens.start);
        let touched = self.shards[first..].iter().take_while(|shard| shard.tokens.start < tokens.end);
        for shard in touched {
            let from = tokens.start.max(shard.tokens.start) - shard.tokens.start;
            let to = tokens.end.min(shard.tokens.end) - shard.tokens.start;
            shard.read(from as usize..to as usize, ids, mask);
            let is_known = |id: &u32| (*id as usize) < self.vocab_size;
            if let Some(id) = ids[ids.len() - (to - from) as usize..].iter().find(|id| !is_known(id)) {
                let what = format!("it has the id {id}, but ids end at {}", self.vocab_size);
                return Err(ShardError::damaged(&shard.path, what));
            }
        }
        Ok(())
    }

    /// The first shard that `is_before` does not hold for; numbers out of range panic like indices do.
    fn shard(&self, is_before: impl Fn(&Shard) -> bool) -> &Shard {
        &self.shards[self.shards.partition_point(is_before)]
    }
}

impl Shard {
    fn open(
        folder: &Path,
        entry: &FileEntry,
        token_bytes: usize,
        [document, token]: [u64; 2],
    ) -> Result<Self, ShardError> {
        let path = folder.join(&entry.file);
        let damaged = |what: &str| ShardError::damaged(&path, what);
        let map = map(&path)?;
        let header = Header::parse(&path, &map)?;
        let expected = Header { token_bytes, documents: entry.documents, tokens: entry.tokens, ..header };
        let layout = header.layout().filter(|[.., end]| *end == map.len());
        let (Some([ids, mask, _]), true) = (layout, header == expected && header.documents > 0) else {
            return Err(damaged("its length does not fit the index"));
        };
        if checksum(&map[..ids]) != entry.head {
            return Err(damaged("the checksum of its table of documents does not fit"));
        }
        let shard = Self {
            token_bytes,
            ids,
            mask: header.has_mask.then_some(mask),
            documents: document..document + header.documents,
            tokens: token..token + header.tokens,
            map,
            path: path.clone(),
        };
        let is_ordered = (0..header.documents).all(|i| shard.start(i) < shard.end(i));
        if !is_ordered || shard.end(header.documents - 1) != header.tokens {
            return Err(damaged("its documents do not follow each other"));
        }
        Ok(shard)
    }

    fn end(&self, document: u64) -> u64 {
        word(&self.map, HEADER + 8 * document as usize)
    }

    fn start(&self, document: u64) -> u64 {
        document.checked_sub(1).map_or(0, |before| self.end(before))
    }

    fn read(&self, tokens: Range<usize>, ids: &mut Vec<u32>, mask: &mut Vec<bool>) {
        let bytes = &self.map[self.ids + tokens.start * self.token_bytes..self.ids + tokens.end * self.token_bytes];
        match self.token_bytes {
            2 => ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id)))),
            _ => ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
        match self.mask {
            Some(at) => mask.extend(tokens.map(|token| self.map[at + token / 8] >> (token % 8) & 1 == 1)),
            None => mask.resize(mask.len() + tokens.len(), true),
        }
    }
}
