//! Reading on one thread, judging on all, writing on one; in order.

use super::samples::Sample;
use super::shards::Document;
use super::writer::Writer;
use super::{CONTAMINATED, Error, Judges, Options, Result, Skipped, Stage, Task, Watch};
use crate::dedup::Print;
use crate::filters::Draft;
use crate::sources::{Item, Opened, Raw, Skip, Source};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// A batch is judged together: so many bytes, or so many documents.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_ITEMS: usize = 4096;

/// What was read, with its source.
type Read = (usize, Result<Raw, Skipped>);

/// What became of it.
pub(super) struct Judged {
    pub(super) source: usize,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// It was no document.
    Skipped(Skipped),
    /// It stays, unless it is a copy. `read` is its length before it was mended.
    Kept { line: Vec<u8>, bytes: usize, read: usize, mended: Vec<&'static str>, print: Print },
    /// It goes.
    Dropped { by: &'static str, read: usize, sample: Box<Sample> },
}

/// Runs files through the judges to the writer.
pub(super) fn run(
    files: &[Task],
    sources: &[Source],
    judges: &Judges,
    options: &Options,
    watch: &dyn Watch,
    writer: &mut Writer,
) -> Result<()> {
    let total = files.iter().map(|(_, file)| file.bytes).sum::<u64>();
    let progress = AtomicU64::new(0);
    let (to_judge, batches) = sync_channel::<Vec<Read>>(1);
    let (to_write, judged) = sync_channel::<Vec<Judged>>(1);
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(files, options, &progress, to_judge));
        let writing = scope.spawn(|| write_all(judged, writer));
        let judging = judge_all(batches, &to_write, |batch| {
            let judge = |draft: &mut Draft, (source, read)| judge(draft, source, read, sources, judges, options);
            let judged: Vec<_> = batch.into_par_iter().map_init(Draft::default, judge).collect();
            watch.at(Stage::Reading, progress.load(Ordering::Relaxed).min(total), total);
            // Only now: of several errors it is the first document's that is told, not that of the fastest thread.
            judged.into_iter().collect()
        });
        drop(to_write);
        // One that fails makes the others stop. What is written was judged before, and what is judged was read before: the last of them tells
        // of the earliest document.
        let reading = join(reading.join());
        let results = [join(writing.join()), judging, reading];
        let mut stopped = Ok(());
        for result in results {
            match result {
                Err(Error::Stopped) => stopped = Err(Error::Stopped),
                other => other?,
            }
        }
        stopped
    })
}

fn join<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads all files into batches.
fn read_all(files: &[Task], options: &Options, progress: &AtomicU64, out: SyncSender<Vec<Read>>) -> Result<()> {
    let mut batch = Batch { items: Vec::new(), bytes: 0, out };
    for &(source, file) in files {
        let read = file.read(&options.read, progress, &mut |item| match item {
            Item::Document(raw) => batch.push(source, Ok(raw)),
            Item::Skipped(why) => batch.push(source, Err((why, file.name.clone()))),
        });
        match read {
            Err(error) if error.is_damage() && options.skip_damaged => {
                batch.push(source, Err((Skip::Damaged, error.to_string())))?;
            }
            // What came before is judged all the same: it may hold the first error.
            Err(error) => return batch.send().and(Err(error)),
            Ok(()) => {}
        }
    }
    batch.send()
}

struct Batch {
    items: Vec<Read>,
    bytes: usize,
    out: SyncSender<Vec<Read>>,
}

impl Batch {
    fn push(&mut self, source: usize, item: Result<Raw, Skipped>) -> Result<()> {
        self.bytes += item.as_ref().map_or(0, Raw::bytes);
        self.items.push((source, item));
        if self.bytes >= BATCH_BYTES || self.items.len() >= BATCH_ITEMS { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        self.bytes = 0;
        self.out.send(std::mem::take(&mut self.items)).map_err(|_| Error::Stopped)
    }
}

/// Judges batch by batch.
fn judge_all(
    batches: Receiver<Vec<Read>>,
    out: &SyncSender<Vec<Judged>>,
    judge: impl Fn(Vec<Read>) -> Result<Vec<Judged>>,
) -> Result<()> {
    for batch in batches {
        out.send(judge(batch)?).map_err(|_| Error::Stopped)?;
    }
    Ok(())
}

fn write_all(judged: Receiver<Vec<Judged>>, writer: &mut Writer) -> Result<()> {
    judged.into_iter().flatten().try_for_each(|judged| writer.take(judged))
}

/// What becomes of one document.
fn judge(
    draft: &mut Draft,
    source: usize,
    read: Result<Raw, Skipped>,
    sources: &[Source],
    judges: &Judges,
    options: &Options,
) -> Result<Judged> {
    let outcome = match read {
        Err(skipped) => Outcome::Skipped(skipped),
        Ok(raw) => {
            let path = raw.path.clone();
            match raw.open(&options.read) {
                Ok(Some(opened)) => judge_text(draft, opened, &sources[source].name, judges),
                Ok(None) => Outcome::Skipped((Skip::Empty, path)),
                Err(error) if error.is_damage() && options.skip_damaged => {
                    Outcome::Skipped((Skip::Damaged, error.to_string()))
                }
                Err(error) => return Err(error),
            }
        }
    };
    Ok(Judged { source, outcome })
}

fn judge_text(draft: &mut Draft, opened: Opened, source: &str, judges: &Judges) -> Outcome {
    let Opened { text, damaged, path, url, lang, kind } = opened;
    let read = text.len();
    draft.load(text, kind, damaged);
    let judgement = judges.chain.judge(draft);
    let text = draft.take();
    let rule = |index: usize| judges.chain.rules().nth(index).map_or("", |rule| rule.name);
    let mut dropped = judgement.dropped.map(|(index, reason)| (rule(index), reason, None));
    if dropped.is_none()
        && let Some(shared) = judges.evaluation.shared(&text)
    {
        dropped = Some((CONTAMINATED, "13 words of an evaluation text", Some(shared.to_owned())));
    }
    let document = Document { text, source: source.to_owned(), path, url, lang };
    match dropped {
        Some((by, reason, detail)) => {
            let sample = Sample { reason: reason.to_owned(), detail, document };
            Outcome::Dropped { by, read, sample: Box::new(sample) }
        }
        None => Outcome::Kept {
            line: document.line(),
            bytes: document.text.len(),
            read,
            mended: judgement.mended.into_iter().map(rule).collect(),
            print: judges.copies.print(&document.text),
        },
    }
}
