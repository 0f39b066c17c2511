//! How fast each filter is, and finding copies, on documents of one's own, in MB per second of one core:
//! `cargo run --release -p data --example filters -- FILE_OR_FOLDER...`
//!
//! Every part judges all documents, whatever the others say of them.

use data::dedup::Copies;
use data::filters::{Chain, Draft, RULES, Settings};
use data::sources::{Item, Opened, ReadOptions, Source};
use std::error::Error;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut documents = Vec::new();
    for path in std::env::args().skip(1) {
        documents.extend(read(&path)?);
    }
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    println!("{} documents, {:.1} MB", documents.len(), bytes as f64 / 1e6);
    for rule in RULES {
        let chain = Chain::new(|other| other.name == rule.name, &Settings::default());
        let affected = documents.iter().filter(|document| rule.kinds.contains(&document.kind));
        let bytes = affected.map(|document| document.text.len()).sum();
        if bytes > 0 {
            time(rule.name, bytes, || judge(&documents, &chain));
        }
    }
    let chain = Chain::standard();
    time("all that run by default", bytes, || judge(&documents, &chain));
    for (what, exact, near) in [("exact copies", true, false), ("near copies", false, true)] {
        let copies = Copies { exact, near };
        time(what, bytes, || documents.iter().map(|document| drop(copies.print(&document.text))).count());
    }
    Ok(())
}

fn read(path: &str) -> Result<Vec<Opened>, Box<dyn Error>> {
    let options = ReadOptions::default();
    let mut documents = Vec::new();
    for file in Source::path(path).list()?.files {
        file.read(&options, &AtomicU64::new(0), &mut |item| {
            if let Item::Document(raw) = item {
                documents.extend(raw.open(&options)?);
            }
            Ok(())
        })?;
    }
    Ok(documents)
}

/// How many are dropped. The time that copying the texts takes counts too.
fn judge(documents: &[Opened], chain: &Chain) -> usize {
    let mut draft = Draft::default();
    let judged = documents.iter().filter(|document| {
        draft.load(document.text.clone(), document.kind, document.damaged);
        chain.judge(&mut draft).dropped.is_some()
    });
    judged.count()
}

fn time(what: &str, bytes: usize, mut work: impl FnMut() -> usize) {
    let start = processor_time();
    let (mut runs, mut count) = (0, 0);
    while runs < 3 || processor_time() - start < Duration::from_millis(300) {
        count = work();
        runs += 1;
    }
    let rate = (runs * bytes) as f64 / 1e6 / (processor_time() - start).as_secs_f64();
    println!("{what:24} {rate:8.0} MB/s   {count}");
}

/// What this thread has had of a processor, where the system tells (Linux), or the time that has passed.
fn processor_time() -> Duration {
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = ran.and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| PASSED.with(Instant::elapsed), Duration::from_nanos)
}

thread_local! {
    static PASSED: Instant = Instant::now();
}
