//! All filters over documents, on one core. Documents are Rust sources and the Markdown of the same crates out of the local cargo registry, or,
//! with LYCEUM_TEXT=FILE, the paragraphs of a text in pieces of some 4 kB.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use data::filters::{Chain, Draft, Settings};
use data::sources::{Cargo, Kind, Source};

const MOST_BYTES: usize = 16_000_000;
const PIECE_BYTES: usize = 4096;

fn registry(extension: &str) -> Vec<String> {
    let home = Cargo::new("Cargo.lock").expect("a home folder").home;
    let listing = Source::path(home.join("registry/src")).list().expect("a registry");
    let paths = listing.files.into_iter().map(|file| file.path);
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == extension));
    let mut total = 0;
    let texts = paths.filter_map(|path| std::fs::read_to_string(path).ok()).filter(|text| text.len() < 200_000);
    let fits = |text: &String| {
        total += text.len();
        total <= MOST_BYTES
    };
    texts.take_while(fits).collect()
}

fn pieces(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if out.last().is_some_and(|piece| piece.len() > PIECE_BYTES) {
            out.push(String::new());
        }
        out.last_mut().expect("one at least").push_str(line);
    }
    out
}

fn filters(criterion: &mut Criterion) {
    let mut corpora = vec![("code", Kind::Code, registry("rs")), ("markdown", Kind::Text, registry("md"))];
    if let Some(path) = std::env::var_os("LYCEUM_TEXT") {
        let text = std::fs::read_to_string(path).expect("LYCEUM_TEXT names a text");
        corpora.push(("text", Kind::Text, pieces(&text)));
    }
    let mut group = criterion.benchmark_group("filters");
    group.sample_size(10);
    for (name, kind, texts) in corpora {
        group.throughput(Throughput::Bytes(texts.iter().map(String::len).sum::<usize>() as u64));
        for (which, chain) in [("default", Chain::standard()), ("all", Chain::new(|_| true, &Settings::default()))] {
            let mut draft = Draft::default();
            let mut judge = |texts: Vec<String>| {
                let judged = texts.into_iter().map(|text| {
                    draft.load(text, kind, 0);
                    usize::from(chain.judge(&mut draft).dropped.is_none())
                });
                judged.sum::<usize>()
            };
            group.bench_function(format!("{name}/{which}"), |b| {
                b.iter_batched(|| texts.clone(), &mut judge, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, filters);
criterion_main!(benches);
