//! What holds for every collection: no document is lost or invented, and the result depends on the input alone.

use super::*;
use proptest::prelude::*;

/// Prose that the filters have no quarrel with, different for each seed.
fn prose(seed: usize) -> String {
    let ends = ["with great care", "before winter came", "and walked home"];
    let sentence = |at: usize| format!("The sailor{at}x{seed} found the letter{seed}x{at} {}. ", ends[(at + seed) % 3]);
    (0..12).map(sentence).collect()
}

/// Documents of all fates, in several files.
fn fill(desk: &Desk) {
    for file in 0..12 {
        let lines: String = (0..40)
            .map(|at| {
                let text = match at % 8 {
                    0 => prose(at + 40 * (file % 3)),
                    1 => format!("{} And one word more.", prose(at - 1 + 40 * file)),
                    2 => "too short".into(),
                    3 => format!("{}{}", prose(at + 40 * file), "Again and again. ".repeat(30)),
                    4 => format!("{}\r\n", prose(at + 40 * file)),
                    5 => format!(
                        "{} It was the best of times, it was the worst of times, it was the age of it.",
                        prose(at + 40 * file)
                    ),
                    _ => prose(at + 40 * file),
                };
                serde_json::json!({ "text": text }).to_string() + "\n"
            })
            .collect();
        desk.write(&format!("in/{file:02}.jsonl"), lines);
    }
    desk.write("more/a.txt", prose(3));
    desk.write("more/b.txt", prose(1_000_000));
    desk.write("eval.txt", "It was the best of times, it was the worst of times, it was the age of wisdom.");
}

#[test]
fn threads_and_memory_do_not_change_a_byte() {
    let desk = Desk::new();
    fill(&desk);
    let run = |out: &str, threads: usize, memory: usize| {
        let options = Options {
            decontaminate: vec![desk.path("eval.txt")],
            threads: Some(threads),
            memory,
            shard_bytes: 30_000,
            ..Options::default()
        };
        let collection = desk.collect(&["in", "more"], out, &options).unwrap();
        collection.verify().unwrap();
        (tree(&desk.path(out)), collection)
    };
    let (one, collection) = run("one", 1, 1 << 30);
    for source in &collection.manifest().sources {
        let dropped: u64 = source.dropped.iter().map(|dropped| dropped.count.documents).sum();
        assert_eq!(source.kept.documents + dropped, source.read.documents);
        assert_eq!(texts(&collection, &source.name).len() as u64, source.kept.documents);
    }
    let account = collection.source("in").unwrap();
    assert_eq!(account.read.documents, 480);
    assert!(account.shards.len() > 2);
    let dropped = |name: &str| account.dropped.iter().find(|dropped| dropped.filter == name).unwrap().count.documents;
    for name in ["c4", "gopher-repetition", "decontaminate", "exact", "near"] {
        assert!(dropped(name) > 0, "{name}");
        assert!(!collection.samples(name).unwrap().is_empty(), "{name}");
    }
    assert_eq!(dropped("decontaminate"), 60);
    assert_eq!(account.mended[0].documents, 60);
    // A copy in another source goes too, and its sample says of what it is one.
    assert_eq!(run("two", 2, 1 << 30).0, one);
    assert_eq!(run("seven", 7, 0).0, one);
    let sample = &collection.samples("decontaminate").unwrap()[0];
    assert!(sample.detail.as_ref().unwrap().starts_with("It was the best of times"));
    let sample = &collection.samples("near").unwrap()[0];
    assert_eq!(sample.detail.as_deref(), Some("in: 00.jsonl:1"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the texts: without filters they come out as they went in, and with filters each is accounted for.
    #[test]
    fn no_document_is_lost_or_invented(
        texts in proptest::collection::vec("[a-c \n]{0,40}|\\PC{0,80}|(\\PC|\n|\r|\t|\u{0}){0,30}", 0..60),
        shard_bytes in 1024u64..4000,
        threads in 1usize..4,
        near: bool,
    ) {
        let desk = Desk::new();
        let lines: String = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
        desk.write("a.jsonl", lines);
        let all = everything();
        let options = Options { shard_bytes, threads: Some(threads), ..all.clone() };
        let whole = desk.collect(&["a.jsonl"], "whole", &options).unwrap();
        let filled: Vec<_> = texts.iter().filter(|text| !text.trim_ascii().is_empty()).cloned().collect();
        prop_assert_eq!(&super::texts(&whole, "a"), &filled);
        prop_assert_eq!(skipped(&whole, "a", Skip::Empty) as usize, texts.len() - filled.len());

        let copies = Copies { exact: true, near };
        let options = Options { filters: Some(vec!["utf8".into()]), copies, ..options };
        let judged = desk.collect(&["a.jsonl"], "judged", &options).unwrap();
        let account = judged.source("a").unwrap();
        let dropped: u64 = account.dropped.iter().map(|dropped| dropped.count.documents).sum();
        let kept = super::documents(&judged, "a");
        prop_assert_eq!(kept.len() as u64 + dropped, filled.len() as u64);
        prop_assert_eq!(account.kept.documents, kept.len() as u64);
        prop_assert_eq!(account.kept.bytes, kept.iter().map(|document| document.text.len() as u64).sum::<u64>());
        prop_assert_eq!(account.shards.iter().map(|shard| shard.count.documents).sum::<u64>(), kept.len() as u64);
        // In order, each from a line of its own.
        let lines: Vec<u64> = kept.iter().map(|d| d.path.split_once(':').unwrap().1.parse().unwrap()).collect();
        prop_assert!(lines.is_sorted_by(|a, b| a < b));
    }
}
