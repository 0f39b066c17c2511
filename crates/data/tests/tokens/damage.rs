//! Damaged, foreign and contradictory shards are errors that name the file.

use crate::setup::{OTHER, SEED, Sources, TOKENIZER, files, text, write_set};
use data::shards::{SetWriter, TokenizerId};
use data::{Mixture, MixtureError, ShardError, ShardSet};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|i| text(i, 1 + i % 30)).collect();
    write_set(&folder.path().join("set"), &texts, 300, true);
    folder
});

/// A copy of the folder with one file changed; what opening and verifying it says.
fn damaged(file: usize, change: impl Fn(&mut Vec<u8>)) -> (std::path::PathBuf, Result<(), ShardError>) {
    let copy = tempfile::tempdir().unwrap();
    let originals = files(&FOLDER.path().join("set"));
    let chosen = &originals[file % originals.len()];
    for original in &originals {
        let mut bytes = std::fs::read(original).unwrap();
        if original == chosen {
            change(&mut bytes);
            if bytes == std::fs::read(original).unwrap() {
                return (chosen.file_name().unwrap().into(), Err(ShardError::NoIndex { folder: "same".into() }));
            }
        }
        std::fs::write(copy.path().join(original.file_name().unwrap()), bytes).unwrap();
    }
    let result = ShardSet::open(copy.path()).and_then(|set| {
        // Whatever was not noticed, reading must not fail otherwise than with an error.
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        let _ = set.train().read(0..set.train().tokens(), &mut ids, &mut mask);
        set.verify()
    });
    (chosen.file_name().unwrap().into(), result)
}

fn is_noticed(name: &Path, result: &Result<(), ShardError>) -> bool {
    let Err(error) = result else { return false };
    let text = error.to_string();
    text.contains(&name.display().to_string()) || text.contains("same") || text.contains(".tokens")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_flipped_bit_is_noticed(file in 0usize..100, at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let (name, result) = damaged(file, |bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        });
        // Between the values of the index, one space is as good as another.
        let is_layout = name.as_os_str() == "index.json" && result.is_ok();
        prop_assert!(is_noticed(&name, &result) || is_layout, "{name:?}: {result:?}");
    }

    #[test]
    fn a_missing_end_is_noticed(file in 0usize..100, at in any::<prop::sample::Index>()) {
        let (name, result) = damaged(file, |bytes| bytes.truncate(at.index(bytes.len())));
        prop_assert!(is_noticed(&name, &result), "{name:?}: {result:?}");
    }
}

#[test]
fn a_folder_without_shards_says_how_to_make_them() {
    let folder = tempfile::tempdir().unwrap();
    let error = ShardSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("lyceum data prepare"), "{error}");
}

#[test]
fn shards_of_another_tokenizer_name_both() {
    let sources = Sources::new();
    let recipe = json!({ "context": 8, "sources": [{ "name": "a", "path": "a" }] });
    let recipe = serde_json::from_value(recipe).unwrap();
    let error = Mixture::open(&recipe, sources.folder.path(), &OTHER, SEED).unwrap_err().to_string();
    let short = |tokenizer| TokenizerId::of(tokenizer).unwrap().fingerprint[..12].to_string();
    assert!(error.contains(&short(&TOKENIZER)) && error.contains(&short(&OTHER)), "{error}");
    assert!(error.contains("330 ids") && error.contains("320 ids"), "{error}");
}

#[test]
fn a_source_without_documents_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_set(&folder.path().join("none"), &[], 100, false);
    let recipe = json!({ "context": 8, "sources": [{ "name": "none", "path": "none" }] });
    let recipe = serde_json::from_value(recipe).unwrap();
    let error = Mixture::open(&recipe, folder.path(), &TOKENIZER, SEED).unwrap_err();
    assert!(matches!(error, MixtureError::NoDocuments { .. }), "{error}");
}

#[test]
fn a_document_longer_than_a_shard_has_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let texts = [text(1, 5), text(2, 2000), text(3, 5), text(4, 5)];
    write_set(&folder.path().join("long"), &texts, 100, false);
    let set = ShardSet::open(&folder.path().join("long")).unwrap();
    set.verify().unwrap();
    assert_eq!(set.train().documents(), 4);
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    set.train().read(set.train().document(1), &mut ids, &mut mask).unwrap();
    assert!(ids.len() > 100 && mask.len() == ids.len());
    assert_eq!(TOKENIZER.decode(&ids[1..]).unwrap(), texts[1]);
    assert_eq!(set.train().lengths().sum::<u64>(), set.train().tokens());
    let starts: Vec<u64> = set.train().starts(0..u64::MAX).collect();
    assert_eq!(starts, (0..4).map(|document| set.train().document(document).start).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_is_there_is_not_written_over() {
    let id = TokenizerId::of(&TOKENIZER).unwrap();
    let error = SetWriter::new(&FOLDER.path().join("set"), "x", id, 0, 100).unwrap_err();
    assert!(matches!(error, ShardError::Exists { .. }), "{error}");
}

#[test]
fn large_vocabularies_take_four_bytes_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let id = TokenizerId { fingerprint: "0".repeat(64), vocab_size: 70_000 };
    let mut writer = SetWriter::new(&folder.path().join("wide"), "wide", id, 0, 100).unwrap();
    let tokens: Vec<u32> = (0..250).map(|i| i * 279).collect();
    let mask: Vec<bool> = (0..250).map(|i| i % 3 == 1).collect();
    let document = data::shards::Document { tokens: tokens.clone(), mask: Some(mask.clone()), text_bytes: 1 };
    writer.push(&document, false).unwrap();
    writer.finish().unwrap();
    let set = ShardSet::open(&folder.path().join("wide")).unwrap();
    let (mut ids, mut read) = (Vec::new(), Vec::new());
    set.train().read(0..250, &mut ids, &mut read).unwrap();
    assert_eq!((ids, read), (tokens, mask));
    assert!(set.train().has_mask());
}
