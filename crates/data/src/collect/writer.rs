//! Writing what was judged, and then without the copies.

use super::manifest::{Account, Count};
use super::pipeline::{Judged, Outcome};
use super::samples::{Sample, Samples};
use super::shards::{ShardReader, ShardWriter};
use super::{EXACT, Error, NEAR, Options, Result, Stage, Watch};
use crate::dedup::{Found, Index};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes documents as they come, keeps the accounts and the prints that copies are found by.
pub(super) struct Writer {
    folder: PathBuf,
    shard_bytes: u64,
    accounts: Vec<Account>,
    samples: Samples,
    index: Index,
    /// The source that is being written, by number.
    open: Option<(usize, ShardWriter)>,
}

/// Where the prints are while the work goes on.
const PRINTS: &str = ".prints";

impl Writer {
    pub(super) fn new(folder: &Path, accounts: Vec<Account>, options: &Options) -> Result<Self> {
        let prints = folder.join(PRINTS);
        fs::create_dir_all(&prints).map_err(Error::io("create", &prints))?;
        Ok(Self {
            folder: folder.to_owned(),
            shard_bytes: options.shard_bytes,
            accounts,
            samples: Samples::new(options.samples),
            index: Index::new(options.copies, &prints, options.memory)?,
            open: None,
        })
    }

    /// Takes the next document.
    pub(super) fn take(&mut self, judged: Judged) -> Result<()> {
        let Judged { source, outcome } = judged;
        let account = &mut self.accounts[source];
        match outcome {
            Outcome::Skipped((why, name)) => account.skip(why, &name),
            Outcome::Dropped { by, read, sample } => {
                account.read.add(read);
                account.drop(by, &sample.reason, read);
                self.samples.add(by, *sample);
            }
            Outcome::Kept { line, bytes, read, mended, print } => {
                account.read.add(read);
                mended.into_iter().for_each(|filter| account.mend(filter));
                account.kept.add(bytes);
                self.index.add(&print)?;
                self.shards(source)?.write(&line, bytes)?;
            }
        }
        Ok(())
    }

    /// The writer of a source. Sources come one after the other.
    fn shards(&mut self, source: usize) -> Result<&mut ShardWriter> {
        if self.open.as_ref().is_some_and(|(open, _)| *open != source) {
            self.close()?;
        }
        match &mut self.open {
            Some((_, writer)) => Ok(writer),
            none => {
                let writer = ShardWriter::new(&self.folder, &self.accounts[source].name, self.shard_bytes)?;
                Ok(&mut none.insert((source, writer)).1)
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        if let Some((source, writer)) = self.open.take() {
            self.accounts[source].shards = writer.finish()?;
        }
        Ok(())
    }

    /// Leaves out the copies, and gives the accounts.
    pub(super) fn finish(mut self, watch: &dyn Watch) -> Result<Vec<Account>> {
        self.close()?;
        let found = self.index.resolve(&|done, total| watch.at(Stage::Comparing, done, total))?;
        let prints = self.folder.join(PRINTS);
        fs::remove_dir_all(&prints).map_err(Error::io("remove", &prints))?;
        if !found.is_empty() {
            let total = self.accounts.iter().map(|account| account.kept.documents).sum();
            let mut rewrite = Rewrite {
                folder: &self.folder,
                shard_bytes: self.shard_bytes,
                originals: found.originals().map(|original| (original, None)).collect(),
                found,
                samples: &mut self.samples,
                document: 0,
                watch: &|done| watch.at(Stage::Writing, done, total),
            };
            self.accounts.iter_mut().try_for_each(|account| rewrite.source(account))?;
        }
        self.samples.write(&self.folder)?;
        Ok(self.accounts)
    }
}

/// Writes shards again, without the copies.
struct Rewrite<'w> {
    folder: &'w Path,
    shard_bytes: u64,
    found: Found,
    samples: &'w mut Samples,
    /// Where the documents are whose copies may become samples.
    originals: BTreeMap<u64, Option<String>>,
    /// The number of the next document.
    document: u64,
    watch: &'w dyn Fn(u64),
}

impl Rewrite<'_> {
    fn source(&mut self, account: &mut Account) -> Result<()> {
        let old = self.folder.join(".old");
        let folder = self.folder.join(&account.name);
        let shards = std::mem::take(&mut account.shards);
        if shards.is_empty() {
            return Ok(());
        }
        fs::rename(&folder, &old).map_err(Error::io("rename", &folder))?;
        account.kept = Count::default();
        let mut writer = ShardWriter::new(self.folder, &account.name, self.shard_bytes)?;
        for shard in shards {
            let name = Path::new(&shard.file).file_name().unwrap_or_default();
            self.shard(ShardReader::open(old.join(name))?, account, &mut writer)?;
        }
        account.shards = writer.finish()?;
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
        if account.shards.is_empty() {
            fs::remove_dir(&folder).map_err(Error::io("remove", &folder))?;
        }
        Ok(())
    }

    fn shard(&mut self, mut shard: ShardReader, account: &mut Account, writer: &mut ShardWriter) -> Result<()> {
        while let Some(line) = shard.line() {
            let line = line?;
            let document = shard.parse(&line)?;
            let bytes = document.text.len();
            let number = self.document;
            self.document += 1;
            if let Some(place) = self.originals.get_mut(&number) {
                *place = Some(format!("{}: {}", document.source, document.path));
            }
            if self.found.is_copy(number) {
                let (by, reason) = match self.found.is_exact(number) {
                    true => (EXACT, "the same text as an earlier document"),
                    false => (NEAR, "nearly the text of an earlier document"),
                };
                account.drop(by, reason, bytes);
                let detail = self.found.original(number).and_then(|original| self.originals.get(&original)?.clone());
                self.samples.add(by, Sample { reason: reason.to_owned(), detail, document });
            } else {
                account.kept.add(bytes);
                writer.write(&line, bytes)?;
            }
        }
        (self.watch)(self.document);
        Ok(())
    }
}
