//! The fast way gives what the library gives.

use crate::tokenizer::{Model, Tokenizer};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers").join(name)
}

/// A fixture, with the way of cutting text replaced by GPT-2's.
fn gpt2() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let json = std::fs::read(fixture("qwen").join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    json["normalizer"] = serde_json::Value::Null;
    json["pre_tokenizer"] =
        serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::from_file(path).unwrap()
}

fn rust_files(folder: &Path, texts: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// All Rust sources of this repository.
static SOURCES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut texts = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut texts);
    texts
});

/// A tokeniser of each kind that is encoded fast.
static ALL: LazyLock<Vec<(&str, Tokenizer)>> = LazyLock::new(|| {
    let trained = crate::train(SOURCES.iter().cloned(), 3000).unwrap();
    let load = |name: &str| Tokenizer::from_folder(fixture(name)).unwrap();
    vec![("trained", trained), ("qwen", load("qwen")), ("llama3", load("llama3")), ("gpt2", gpt2())]
});

fn assert_same(text: &str) {
    for (name, tokenizer) in ALL.iter() {
        let Model::Bpe(pipeline) = &tokenizer.model else { panic!("{name}") };
        assert!(pipeline.is_fast(), "{name}");
        assert_eq!(pipeline.encode(text, None).unwrap(), pipeline.encode_slow(text, None).unwrap(), "{name}: {text:?}");
        let marked = Some(&|range: std::ops::Range<usize>| range.start % 3 != 0 || range.len() > 12);
        let marked: crate::markers::Allowed = marked.map(|f| f as _);
        assert_eq!(
            pipeline.encode(text, marked).unwrap(),
            pipeline.encode_slow(text, marked).unwrap(),
            "{name}: {text:?}"
        );
    }
}

#[test]
fn rust_sources_of_this_repository() {
    SOURCES.iter().for_each(|text| assert_same(text));
}

#[test]
fn the_corners_of_the_expressions() {
    for text in [
        "",
        " ",
        "  ",
        "\n",
        " \n",
        "\n ",
        "a  b",
        "a \n\n  b",
        "x\t\ty",
        "\t{",
        "  {\n",
        "'",
        "''s",
        "it's IT'S 'ſ 'sſ",
        "'re'RE'r 'll'l 'LL",
        "12345 1 22 333 4444",
        " 12",
        "a1b2",
        "_foo",
        "\u{a0}x",
        "\u{a0}\u{a0}!",
        "\u{2028}\n",
        "é\u{301}",
        "ǅ ⅷ ²³ ٣٤٥٦",
        "a\r\n\r\nb",
        "--\r\n",
        "!!!\n\n  x",
        "日本語、テスト。",
        "🙂🙂\u{200d}",
        "\u{0}\u{1}",
        "<|endoftext|><|im_start|>user",
        "\u{85}a",
        "foo'd've",
        "\u{3000}字",
        "'",
        "the end   ",
        "\u{feff}bom",
        "a\u{b}\u{c}b",
    ] {
        assert_same(text);
    }
}

#[test]
fn long_words_take_no_quadratic_time() {
    let long = ["a".repeat(300_000), "ab".repeat(100_000), "=".repeat(100_000), " ".repeat(100_000)];
    let start = std::time::Instant::now();
    for text in &long {
        assert!(!ALL[0].1.encode(text).unwrap().is_empty());
    }
    assert!(start.elapsed().as_secs() < 20);
    assert_same(&"abracadabra".repeat(300));
    assert_same(&" ".repeat(1000));
    assert_same(&"=-".repeat(500));
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "\\PC{0,12}",
        3 => "[ a-zA-Z0-9'_.(){}\n\t\r]{0,24}",
        2 => "[ \n\r\t\u{a0}\u{2028}]{0,6}",
        1 => any::<String>(),
        1 => "[a-z]{40,90}",
        1 => prop_oneof![Just("<|endoftext|>"), Just("<|im_end|>"), Just("<|eot_id|>"), Just("<tool_call>")].prop_map(String::from),
        1 => "('[sStTdDmMſ]|'[rRvV][eE]|'[lL]{1,2}){1,3}",
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text(text in text()) {
        assert_same(&text);
    }
}
