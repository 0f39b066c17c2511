//! What holds for every mixture.

use crate::setup::{SEED, Sources, TOKENIZER};
use data::{Ledger, Mixture, MixtureError, Sample};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::LazyLock;
use text::Tokenizer;

static SOURCES: LazyLock<Sources> = LazyLock::new(Sources::new);

fn recipe(context: usize, packing: &str, more: [Value; 2]) -> Value {
    let source = |name: &str, more: &Value| {
        let mut source = json!({ "name": name, "path": name });
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        source
    };
    json!({ "context": context, "packing": packing, "sources": [source("a", &more[0]), source("b", &more[1])] })
}

fn end_of_text() -> u32 {
    TOKENIZER.id_of("<|endoftext|>").unwrap()
}

/// Samples without what fills them up.
fn pieces(sample: &Sample) -> Vec<Vec<u32>> {
    let ends = sample.document_starts.iter().skip(1).map(|&at| at as usize).chain([sample.tokens.len()]);
    sample.document_starts.iter().zip(ends).map(|(&start, end)| sample.tokens[start as usize..end].to_vec()).collect()
}

fn all(mixture: &Mixture, samples: u64) -> Vec<Sample> {
    (0..samples).map(|index| mixture.sample(index).unwrap()).collect()
}

#[test]
fn every_window_of_an_epoch_comes_once() {
    for packing in ["documents", "stream"] {
        let mixture = SOURCES.open(recipe(64, packing, [json!({ "epochs": 3 }), json!({ "epochs": 2 })])).unwrap();
        let samples = mixture.samples().unwrap();
        mixture.check(samples + 1).unwrap_err();
        let mut seen: HashMap<(usize, Vec<u32>), u64> = HashMap::new();
        let mut order: [Vec<Vec<u32>>; 2] = Default::default();
        let mut index = 0;
        while let Ok(sample) = mixture.sample(index) {
            *seen.entry((sample.source, sample.tokens.clone())).or_default() += 1;
            order[sample.source].push(sample.tokens);
            index += 1;
        }
        assert_eq!(index, samples, "{packing}: a mixture without weights ends when all sources do");
        for ((source, _), count) in &seen {
            assert_eq!(count % [3, 2][*source], 0, "{packing}: source {source}");
        }
        let [a, _] = &order;
        let epoch = a.len() / 3;
        assert_ne!(a[..epoch], a[epoch..2 * epoch], "{packing}: another epoch, another order");
        let ledger = mixture.ledger(samples);
        assert_eq!((ledger.sources[0].epochs, ledger.sources[1].epochs), (3.0, 2.0));
        assert_eq!(ledger.sources[0].tokens, 3 * mixture.shards(0).unwrap().train().tokens());
        assert_eq!(ledger.sources[1].unique_tokens, mixture.shards(1).unwrap().train().tokens());
    }
}

#[test]
fn an_epoch_holds_every_document() {
    for context in [16, 64, 5000] {
        let mixture = SOURCES.open(recipe(context, "documents", [json!({}), json!({})])).unwrap();
        let mut tokens: [Vec<u32>; 2] = Default::default();
        for sample in all(&mixture, mixture.samples().unwrap()) {
            assert_eq!(sample.tokens.len(), context + 1);
            tokens[sample.source].extend(&sample.tokens);
        }
        for (source, tokens) in tokens.iter_mut().enumerate() {
            let mut expected: Vec<u32> = Vec::new();
            let learned = SOURCES.texts[source].iter().enumerate().filter(|(i, _)| source == 0 || i % 5 != 4);
            for (_, text) in learned {
                expected.push(end_of_text());
                expected.extend(TOKENIZER.encode(text).unwrap());
            }
            let padding = tokens.len() - expected.len();
            expected.extend(std::iter::repeat_n(end_of_text(), padding));
            tokens.sort_unstable();
            expected.sort_unstable();
            assert!(*tokens == expected, "context {context}, source {source}");
        }
    }
}

#[test]
fn targets_that_no_document_explains_do_not_count() {
    let mixture = SOURCES.open(recipe(64, "documents", [json!({}), json!({})])).unwrap();
    for sample in all(&mixture, mixture.samples().unwrap()) {
        let counts = |at: usize| sample.loss_mask.as_ref().is_none_or(|mask| mask[at]);
        for &start in sample.document_starts.iter().skip(1) {
            let start = start as usize;
            assert!(!counts(start) || sample.tokens[start] == end_of_text(), "{sample:?}");
        }
        let ends = (1..sample.tokens.len()).filter(|&at| counts(at) && sample.tokens[at] == end_of_text());
        for at in ends {
            assert_ne!(sample.tokens[at - 1], end_of_text(), "an end follows an end: {sample:?}");
        }
        assert!(sample.targets() <= 64 && sample.document_starts.iter().all(|&at| at < 64));
    }
}

#[test]
fn a_stream_is_the_documents_in_order() {
    let mixture = SOURCES.open(recipe(50, "stream", [json!({}), json!({})])).unwrap();
    let count = mixture.held_out_samples(1);
    let held_out: Vec<Sample> = (0..count).map(|at| mixture.held_out(1, at).unwrap()).collect();
    assert!(mixture.held_out(1, count).is_err() && mixture.held_out(2, 0).is_err() && mixture.held_out_samples(0) == 0);
    let mut stream = held_out[0].tokens.clone();
    for (before, after) in held_out.iter().zip(&held_out[1..]) {
        assert_eq!(before.tokens.last(), after.tokens.first());
        stream.extend(&after.tokens[1..]);
    }
    let texts = SOURCES.texts[1].iter().skip(4).step_by(5);
    let expected: Vec<u32> =
        texts.flat_map(|text| [vec![end_of_text()], TOKENIZER.encode(text).unwrap()].concat()).collect();
    assert_eq!(stream[..expected.len()], expected);
    assert!(stream[expected.len()..].iter().all(|&id| id == end_of_text()));
    let starts = held_out.iter().flat_map(pieces).filter(|piece| piece[0] == end_of_text()).count();
    assert!(starts >= SOURCES.texts[1].len() / 5);
    let mut loose = recipe(50, "stream", [json!({}), json!({})]);
    loose["attention_within_documents"] = false.into();
    let mixture = SOURCES.open(loose).unwrap();
    assert!(all(&mixture, 20).iter().all(|sample| sample.document_starts == [0]));
}

#[test]
fn weights_that_the_epochs_cannot_meet_are_an_error_that_says_by_how_much() {
    let weighted = recipe(64, "documents", [json!({ "weight": 3, "epochs": 1 }), json!({ "weight": 1 })]);
    let mixture = SOURCES.open(weighted).unwrap();
    let most = mixture.samples().unwrap();
    mixture.check(most).unwrap();
    let Err(MixtureError::UsedUp { name, short, have, need, .. }) = mixture.check(most + 40) else { panic!() };
    assert_eq!((name.as_str(), need - have), ("a", short));
    assert_eq!(short, 30);
    let error = mixture.sample(most).unwrap_err().to_string();
    assert!(error.contains("`a`") && error.contains("epochs"), "{error}");
    let endless = recipe(64, "stream", [json!({ "weight": 3 }), json!({ "weight": 1 })]);
    let endless = SOURCES.open(endless).unwrap();
    assert_eq!(endless.samples(), None);
    endless.check(1 << 40).unwrap();
    endless.sample(1 << 40).unwrap();
    let ledger = endless.ledger(4000);
    assert_eq!((ledger.sources[0].samples, ledger.sources[1].samples), (3000, 1000));
    let none = recipe(64, "stream", [json!({ "epochs": 0.0001 }), json!({})]);
    assert!(matches!(SOURCES.open(none), Err(MixtureError::LessThanASample { .. })));
}

/// The text of a rearranged document.
fn restore(tokenizer: &Tokenizer, tokens: &[u32]) -> Option<Vec<u8>> {
    let id = |name| tokenizer.id_of(name).unwrap();
    let [prefix, middle, suffix] = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"].map(id);
    let place = |id| tokens.iter().position(|&token| token == id);
    let (p, s, m) = (place(prefix)?, place(suffix)?, place(middle)?);
    let end = m + tokens[m..].iter().position(|&id| id == end_of_text())?;
    let lead = &tokens[..p];
    let (before, after, rest) = (&tokens[p + 1..s], &tokens[s + 1..m], &tokens[m + 1..end]);
    let bytes =
        |ids: &[u32]| ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec()).collect::<Vec<_>>();
    assert!(lead.iter().all(|&id| id == end_of_text()));
    Some([bytes(before), bytes(rest), bytes(after)].concat())
}

#[test]
fn the_inverse_of_fill_in_the_middle_is_the_document() {
    let plain = SOURCES.open(recipe(5000, "documents", [json!({}), json!({})])).unwrap();
    let fim = SOURCES.open(recipe(5000, "documents", [json!({ "fim_rate": 0.6 }), json!({})])).unwrap();
    let texts = |mixture: &Mixture| -> (Vec<Vec<u8>>, usize) {
        let samples = all(mixture, mixture.samples().unwrap());
        let mut rearranged = 0;
        let text = |piece: Vec<u32>| match restore(&TOKENIZER, &piece) {
            Some(text) => {
                rearranged += 1;
                text
            }
            None => TOKENIZER
                .decode_with(&piece, text::DecodeOptions { skip_special: true, continues: false })
                .unwrap()
                .into(),
        };
        let mut texts: Vec<_> = samples.iter().filter(|s| s.source == 0).flat_map(pieces).map(text).collect();
        texts.sort();
        (texts, rearranged)
    };
    let ((plain, none), (fim, some)) = (texts(&plain), texts(&fim));
    assert_eq!(none, 0);
    assert!((20..55).contains(&some), "{some} of 60 documents");
    assert_eq!(plain, fim);
}

#[test]
fn the_ledger_adds_up() {
    let fim = [json!({ "fim_rate": 0.5, "epochs": 2 }), json!({ "epochs": 3 })];
    let mixture = SOURCES.open(recipe(32, "documents", fim)).unwrap();
    let mut expected = [0, 0];
    for index in 0..mixture.samples().unwrap() {
        let ledger = mixture.ledger(index);
        let tokens: Vec<u64> = ledger.sources.iter().map(|source| source.tokens).collect();
        assert_eq!(tokens, expected);
        assert_eq!(ledger.tokens(), expected.iter().sum::<u64>());
        let sample = mixture.sample(index).unwrap();
        expected[sample.source] += sample.source_tokens;
    }
    let ledger = mixture.ledger(100);
    let json = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
}

#[test]
fn threads_and_order_change_nothing() {
    let fim = [json!({ "fim_rate": 0.5 }), json!({})];
    let mixture = SOURCES.open(recipe(32, "documents", fim.clone())).unwrap();
    let samples = mixture.samples().unwrap();
    let expected = all(&mixture, samples);
    let again = SOURCES.open(recipe(32, "documents", fim)).unwrap();
    std::thread::scope(|scope| {
        for first in 0..3 {
            let (again, expected) = (&again, &expected);
            scope.spawn(move || {
                for index in (0..samples).rev().filter(|index| index % 3 == first) {
                    assert_eq!(again.sample(index).unwrap(), expected[index as usize]);
                }
            });
        }
    });
    let other = Mixture::open(
        &serde_json::from_value(recipe(32, "documents", [json!({}), json!({})])).unwrap(),
        SOURCES.folder.path(),
        &TOKENIZER,
        SEED + 1,
    );
    assert_ne!(all(&other.unwrap(), 10), expected[..10]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn resuming_anywhere_gives_the_same(
        context in 2usize..80,
        stream in any::<bool>(),
        weights in proptest::option::of((1u32..100, 1u32..100)),
        index in 0u64..100_000,
    ) {
        let packing = if stream { "stream" } else { "documents" };
        let more = match weights {
            Some((a, b)) => [json!({ "weight": a }), json!({ "weight": b })],
            None => [json!({ "epochs": 1000000 }), json!({ "epochs": 1000000 })],
        };
        let mixture = SOURCES.open(recipe(context, packing, more.clone())).unwrap();
        let again = SOURCES.open(recipe(context, packing, more)).unwrap();
        let before = mixture.sample(index).unwrap();
        again.sample(index / 2).unwrap();
        prop_assert_eq!(&before, &again.sample(index).unwrap());
        prop_assert_eq!(before.tokens.len(), context + 1);
        prop_assert_eq!(before.document_starts[0], 0);
        prop_assert!(before.document_starts.is_sorted());
    }
}
