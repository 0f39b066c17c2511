//! Encoding Rust sources with a vocabulary of 32768, on one core: this crate against the `tokenizers` library.
//!
//! The text is what the local cargo registry holds, 24 MB of it at most; half trains the tokeniser, and the other
//! half is encoded.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use text::Tokenizer;

const MOST_BYTES: usize = 24_000_000;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Rust sources, the same on every machine with the same registry. Generated bindings are not typical: large files stay out.
fn corpus() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let registry = home.unwrap_or_default().join("registry/src");
    let mut paths = Vec::new();
    sources(&registry, &mut paths);
    let mut total = 0;
    let texts = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).filter(|text| text.len() < 200_000);
    let fits = |text: &String| {
        total += text.len();
        total <= MOST_BYTES
    };
    texts.take_while(fits).collect()
}

fn encode(criterion: &mut Criterion) {
    let texts = corpus();
    let (train, test): (Vec<_>, Vec<_>) = texts.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let tokenizer = text::train(train.into_iter().map(|(_, text)| text), 32768).expect("a registry with enough text");
    let test: Vec<String> = test.into_iter().map(|(_, text)| text).collect();
    let bytes = test.iter().map(String::len).sum::<usize>();
    let folder = tempfile::tempdir().expect("a temporary folder");
    tokenizer.save(folder.path()).expect("a tokeniser that can be saved");
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("the tokeniser that was saved");
    let path = folder.path().join("tokenizer.json");
    let library = tokenizers::Tokenizer::from_file(path).expect("the tokeniser that was saved");
    let mut group = criterion.benchmark_group("encode");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("lyceum", |b| {
        b.iter(|| test.iter().map(|text| tokenizer.encode(black_box(text)).map_or(0, |ids| ids.len())).sum::<usize>());
    });
    let part = &test[..test.len() / 8];
    group.throughput(Throughput::Bytes(part.iter().map(String::len).sum::<usize>() as u64));
    group.bench_function("tokenizers", |b| {
        b.iter(|| {
            let encode = |text: &String| library.encode_fast(black_box(text.as_str()), false).map_or(0, |e| e.len());
            part.iter().map(encode).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
