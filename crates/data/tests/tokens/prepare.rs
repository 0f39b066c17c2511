//! From collections to shards.

use crate::setup::{TOKENIZER, files, text};
use data::collect::{self, Collection, collect};
use data::encode::{Input, Options, PrepareError, prepare};
use data::train_tokenizer::train_tokenizer;
use std::path::Path;
use text::Tokenizer;

fn collection(folder: &Path) -> Collection {
    let input = folder.join("input");
    std::fs::create_dir(&input).unwrap();
    for i in 0..200 {
        std::fs::write(input.join(format!("{i}.txt")), text(i, 40 + i % 30)).unwrap();
    }
    let source = data::sources::Source { name: "notes".into(), from: data::sources::From::Path(input) };
    let options = collect::Options { filters: Some(Vec::new()), ..collect::Options::default() };
    collect(&[source], &folder.join("collection"), &options, &|_, _, _| {}).unwrap()
}

#[test]
fn threads_do_not_change_a_byte_and_held_out_documents_are_apart() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = [Input::Collection(collection(folder.path()))];
    let made = [1, 3].map(|threads| {
        let out = folder.path().join(format!("shards-{threads}"));
        let options = Options { held_out: 0.1, shard_tokens: 2000, threads: Some(threads) };
        let sets = prepare(&inputs, &TOKENIZER, &out, &options, &|_, _| {}).unwrap();
        (out, sets)
    });
    let bytes = |out: &Path| files(out).iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
    assert_eq!(bytes(&made[0].0), bytes(&made[1].0));
    let set = &made[0].1[0];
    set.verify().unwrap();
    assert_eq!((set.source(), set.train().documents() + set.held_out().documents()), ("notes", 200));
    assert!((5..40).contains(&set.held_out().documents()), "{}", set.held_out().documents());
    let error = prepare(&inputs, &TOKENIZER, &made[0].0, &Options::default(), &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    let wrong = Options { held_out: 1.5, ..Options::default() };
    let error = prepare(&inputs, &TOKENIZER, &folder.path().join("x"), &wrong, &|_, _| {}).unwrap_err();
    assert!(matches!(error, PrepareError::HeldOut(_)), "{error}");
}

#[test]
fn a_trained_tokenizer_is_the_same_every_time_and_keeps_special_tokens_out_of_text() {
    let folder = tempfile::tempdir().unwrap();
    let collections = [collection(folder.path())];
    let train = |most| train_tokenizer(&collections, 320, most, &|_, _| {}).unwrap();
    let (first, second) = (train(1 << 30), train(1 << 30));
    assert_eq!(first.fingerprint().unwrap(), second.fingerprint().unwrap());
    assert_eq!(first.vocab_size(), 320);
    let out = folder.path().join("tokenizer");
    std::fs::create_dir(&out).unwrap();
    first.save(&out).unwrap();
    let saved = Tokenizer::from_folder(&out).unwrap();
    assert_eq!(saved.fingerprint().unwrap(), first.fingerprint().unwrap());
    assert_eq!(saved.bos(), saved.id_of("<|endoftext|>"));
    for token in text::SPECIAL_TOKENS {
        let id = saved.id_of(token).unwrap();
        assert!(saved.is_special(id) && !saved.encode(token).unwrap().contains(&id), "{token}");
        assert_eq!(saved.encode_with_markers(token).unwrap(), [id]);
        assert_eq!(saved.decode(&saved.encode(token).unwrap()).unwrap(), token);
    }
    let error = train_tokenizer(&collections, 100_000, 1 << 30, &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("at most"), "{error}");
    let error = train_tokenizer(&collections, 200, 1 << 30, &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("267"), "{error}");
}
