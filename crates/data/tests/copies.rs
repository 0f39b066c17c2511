//! MinHash against true similarities, and which documents go as copies.

use data::dedup::minhash::similarity;
use data::dedup::{Copies, Found, Index, signature};

/// A text of words by number.
fn text(words: impl IntoIterator<Item = usize>) -> String {
    words.into_iter().map(|word| format!("w{word} ")).collect()
}

/// Two texts with about `similarity` (Jaccard) of common runs of five words, and the true value: words of their own
/// stand in one block at the end.
fn pair(seed: usize, words: usize, similarity: f64) -> (String, String, f64) {
    // Of 2 * own + common runs, `common` are shared.
    let own = (words as f64 * (1.0 - similarity) / (1.0 + similarity)).round() as usize;
    let common = words - own;
    let base = seed * 1_000_000;
    let shared = base..base + common;
    let a = text(shared.clone().chain(base + 300_000..base + 300_000 + own));
    let b = text(shared.chain(base + 600_000..base + 600_000 + own));
    let runs = |n: usize| n.saturating_sub(4);
    let both = runs(common) as f64;
    (a, b, both / (2.0 * runs(words) as f64 - both))
}

fn resolve(copies: Copies, texts: &[String], memory: usize) -> Found {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::new(copies, folder.path(), memory).unwrap();
    for text in texts {
        index.add(&copies.print(text)).unwrap();
    }
    index.resolve(&|_, _| ()).unwrap()
}

const BOTH: Copies = Copies { exact: true, near: true };
const NEAR: Copies = Copies { exact: false, near: true };

#[test]
fn signatures_estimate_similarity() {
    for wanted in [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99] {
        let (mut mean, mut truth) = (0.0, 0.0);
        let pairs = 60;
        for seed in 0..pairs {
            let (a, b, jaccard) = pair(seed, 400, wanted);
            let estimate = similarity(&signature(&a).unwrap(), &signature(&b).unwrap());
            // Five standard deviations of 112 independent hashes.
            assert!(
                (estimate - jaccard).abs() <= 5.0 * (jaccard * (1.0 - jaccard) / 112.0).sqrt() + 0.01,
                "{estimate} {jaccard}"
            );
            mean += estimate / pairs as f64;
            truth += jaccard / pairs as f64;
        }
        let deviation = (truth * (1.0 - truth) / (112.0 * pairs as f64)).sqrt();
        assert!((mean - truth).abs() <= 4.0 * deviation + 0.002, "{mean} {truth}");
    }
}

#[test]
fn near_copies_go_and_others_stay() {
    let mut texts = Vec::new();
    for seed in 0..300 {
        let (a, b, _) = pair(seed, 300, if seed % 2 == 0 { 0.92 } else { 0.28 });
        texts.extend([a, b]);
    }
    let found = resolve(NEAR, &texts, 1 << 20);
    for seed in 0..300u64 {
        assert!(!found.is_copy(2 * seed), "the first stays");
        assert_eq!(found.is_copy(2 * seed + 1), seed % 2 == 0, "pair {seed}");
        assert_eq!(found.original(2 * seed + 1), (seed % 2 == 0).then_some(2 * seed));
    }
}

#[test]
fn exact_copies_differ_in_white_space_only() {
    let texts =
        ["one two\nthree", "One two three", " one  two three\n", "one two three four", "", " "].map(String::from);
    let exact = Copies { exact: true, near: false };
    let found = resolve(exact, &texts, 1 << 20);
    let copies: Vec<_> = (0..6).map(|at| found.is_exact(at)).collect();
    assert_eq!(copies, [false, false, true, false, false, true]);
    assert_eq!(found.original(2), Some(0));
    // Case and punctuation make no difference to near copies.
    let found = resolve(NEAR, &texts, 1 << 20);
    assert_eq!((0..4).map(|at| found.is_copy(at)).collect::<Vec<_>>(), [false, true, true, false]);
}

#[test]
fn short_and_empty_texts_are_no_trouble() {
    let found = resolve(BOTH, &["", "one", "two", "one two", "!?", "--"].map(String::from), 1 << 20);
    assert!(found.is_empty());
}

#[test]
fn bounded_memory_finds_the_same() {
    let mut texts = Vec::new();
    for seed in 0..400 {
        let (a, b, _) = pair(seed % 150, 60 + seed % 50, [0.5, 0.7, 0.8, 0.9, 1.0][seed % 5]);
        texts.extend([a, b]);
    }
    let copies = |memory| {
        let found = resolve(BOTH, &texts, memory);
        (0..texts.len() as u64)
            .map(|at| (found.is_exact(at), found.is_copy(at), found.original(at)))
            .collect::<Vec<_>>()
    };
    let in_memory = copies(64 << 20);
    assert!(in_memory.iter().filter(|(_, is_copy, _)| *is_copy).count() > 100);
    assert_eq!(copies(20_000), in_memory);
    assert_eq!(copies(0), in_memory);
}
