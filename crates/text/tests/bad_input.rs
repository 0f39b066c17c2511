//! Damaged files, hostile templates and huge texts: errors that say what is wrong, and never a panic.

mod common;

use std::time::{Duration, Instant};

use common::{ALL, NAMES, folder, json, load};
use proptest::prelude::*;
use serde_json::{Value, json};
use text::{ChatRequest, Error, Message, Tokenizer};

/// Loads a tokenizer.json with this content, and uses it if it loads.
fn try_json(bytes: &[u8]) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, bytes).unwrap();
    let tokenizer = Tokenizer::from_file(&path)?;
    for text in ["Hello, wörld <s>[INST] <|im_end|> 🙂 123", " ", "", "▁\u{0}"] {
        let ids = tokenizer.encode_with_markers(text)?;
        let _ = tokenizer.decode(&ids);
        tokenizer.encode(text)?;
    }
    let _ = tokenizer.to_gguf();
    tokenizer.save(folder.path())?;
    Ok(tokenizer)
}

fn refused(bytes: &[u8], expected: &str) {
    let error = try_json(bytes).unwrap_err().to_string();
    assert!(error.contains(expected) && error.contains("tokenizer.json"), "{error}");
}

/// A file with one place changed.
fn changed(name: &str, pointer: &str, value: Value) -> Vec<u8> {
    let mut file = json(folder(name).join("tokenizer.json"));
    *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    file.to_string().into_bytes()
}

#[test]
fn damaged_files_say_what_is_wrong() {
    refused(b"", "EOF");
    refused(b"\xFF\xFE\x00", "line 1");
    refused(b"{}", "model");
    refused(&changed("qwen", "/model/type", json!("Unigram")), "`Unigram`");
    refused(&changed("qwen", "/model/merges/0", json!(["Ġ", "zzzz"])), "`zzzz`");
    refused(&changed("qwen", "/model/merges/0", json!("a b c")), "merge 0");
    refused(&changed("qwen", "/model/vocab/!", json!(4_000_000_000u32)), "4000000000");
    refused(&changed("qwen", "/model/vocab/!", json!(5)), "id 5 stands for");
    refused(&changed("qwen", "/model/dropout", json!(0.5)), "dropout");
    refused(&changed("qwen", "/model/unk_token", json!("nowhere")), "nowhere");
    refused(&changed("qwen", "/model/end_of_word_suffix", json!("</w>")), "</w>");
    refused(&changed("qwen", "/added_tokens/0/content", json!("")), "empty");
    refused(&changed("qwen", "/decoder", json!({ "type": "WordPiece" })), "WordPiece");
    refused(&changed("qwen", "/decoder", Value::Null), "decoder");
    refused(&changed("qwen", "/normalizer", json!({ "type": "Martian" })), "normalizer");
    refused(&changed("qwen", "/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(")), "pre_tokenizer");
    let unknown = json!({ "type": "TemplateProcessing", "special_tokens": {},
        "single": [{ "SpecialToken": { "id": "<x>", "type_id": 0 } }], "pair": [] });
    refused(&changed("qwen", "/post_processor", unknown), "<x>");
    for key in ["eos_token_id", "bos_token_id"] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder("qwen").join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
        std::fs::write(copy.path().join("generation_config.json"), format!("{{\"{key}\": [4000000]}}")).unwrap();
        let error = Tokenizer::from_folder(copy.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("{key} is 4000000")), "{error}");
    }
    let missing = Tokenizer::from_folder("/nowhere").unwrap_err().to_string();
    assert!(missing.contains("/nowhere/tokenizer.json"), "{missing}");
}

#[test]
fn a_tokenizer_without_a_template_says_what_to_do() {
    let tokenizer = Tokenizer::from_file(folder("qwen").join("tokenizer.json")).unwrap();
    let error = tokenizer.chat_template().err().unwrap().to_string();
    assert!(error.contains("chat_template.jinja"), "{error}");
}

fn render(source: &str) -> Result<String, Error> {
    let request = ChatRequest { messages: vec![Message::new("user", "hi")], ..Default::default() };
    let template = load("qwen").chat_template_from(source)?;
    Ok(template.render(&request)?.text().to_string())
}

#[test]
fn hostile_templates_are_errors() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}";
    let recursive = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    let nested = "(".repeat(100_000);
    for source in [
        endless,
        recursive,
        &format!("{{{{ {nested} }}}}"),
        "{% if %}",
        "{{ messages[0].content | nofilter }}",
        "{{ nothing.at.all }}",
        "{{ 'a' * 99999999999 }}",
        "{{ messages | tojson(indent=999999999) }}",
        "{{ messages[0].content | indent(99999999999, true) }}",
        "{{ messages[0].content | indent(first=true, width=99999999999) }}",
        "{{ messages | batch(99999999999, 'x') }}",
        "{{ '%99999999999d' | format(1) }}",
        "{% set long = 'a' * 9999999 %}{% for i in range(9999) %}{{ long }}{% endfor %}",
        "{{ strftime_now('%Y') }}",
    ] {
        let start = Instant::now();
        let error = render(source).unwrap_err();
        assert!(matches!(error, Error::Template { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(60), "{source:.80}");
    }
    assert!(render("a\n{{ 1 / 0 }}").unwrap_err().to_string().contains("line 2"));
    assert!(matches!(render("{{ raise_exception('no') }}"), Err(Error::Refused(reason)) if reason == "no"));
}

#[test]
fn templates_may_use_what_python_has() {
    for (source, expected) in [
        ("{% generation %}\n{{ messages[0].content }}\n{%- endgeneration -%}\n!", "hi!"),
        ("{{ true }} {{ none }} {{ [1, 'a'] }} {{ 1.0 }} {{ 'x' ~ true }}", "True None [1, 'a'] 1.0 xTrue"),
        ("{{ {'b': 1, 'a': [true, none, 1e-7]} | tojson }}", r#"{"b": 1, "a": [true, null, 1e-07]}"#),
        ("{{ {'b': {}, 'a': []} | tojson(indent=2, sort_keys=true) }}", "{\n  \"a\": [],\n  \"b\": {}\n}"),
        ("{{ '<é&\"\\'>' | tojson }}", r#""<é&\"'>""#),
        ("{{ 'a b c'.rsplit(' ', 1) }} {{ 'xay'.removeprefix('x').removesuffix('y') }}", "['a b', 'c'] a"),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{{ tools is none }} {{ x is defined }} {{ bos_token }}|{{ eos_token }}", "True False |<|im_end|>"),
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('z', 7) }}",
            "role=user;content=hi;7",
        ),
        ("{%- for m in messages[::-1] %}{{ loop.index0 }}{{ m['role'].upper() }}{% endfor %}", "0USER"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn named_templates_are_chosen() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder("qwen").join("tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let config = json!({ "chat_template": [
        { "name": "default", "template": "plain" }, { "name": "tool_use", "template": "tools" },
    ] });
    std::fs::write(copy.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let template = Tokenizer::from_folder(copy.path()).unwrap().chat_template().unwrap();
    let text = |tools: bool, name: Option<&str>| {
        let tools = tools.then(Vec::new);
        let request = ChatRequest { tools, template: name.map(String::from), ..Default::default() };
        template.render(&request).map(|prompt| prompt.text().to_string())
    };
    assert_eq!(text(false, None).unwrap(), "plain");
    assert_eq!(text(true, None).unwrap(), "tools");
    assert_eq!(text(true, Some("default")).unwrap(), "plain");
    assert!(text(false, Some("rag")).unwrap_err().to_string().contains("default, tool_use"));
}

#[test]
fn huge_texts_are_only_slow_to_read() {
    for tokenizer in ALL.iter() {
        for text in [
            "a".repeat(200_000),
            format!("x{}", " ".repeat(200_000)),
            "<|im_start|>".repeat(10_000),
            "é🙂\n".repeat(20_000),
        ] {
            let ids = tokenizer.encode(&text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
}

/// Changes one value anywhere in the file, in one of many ways.
fn mutate(value: &mut Value, seed: u64) {
    let pick = |n: usize| (seed >> 8) as usize % n.max(1);
    let children = match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if children > 0 && !seed.is_multiple_of(4) {
        let next = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407) >> 3;
        return match value {
            Value::Array(items) => mutate(&mut items[pick(children)], next),
            Value::Object(map) => mutate(map.values_mut().nth(pick(children)).unwrap(), next),
            _ => {}
        };
    }
    let strange = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(4294967295u32),
        json!(""),
        json!("é▁<s>"),
        json!([]),
        json!({}),
        json!(true),
        json!(["a", "b"]),
        json!("\\p{"),
        json!("(?i"),
        json!("a b"),
        json!(16777215),
        json!({ "type": "NFKC" }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" }),
        json!({ "type": "Prepend", "prepend": "<s>" }),
        json!({ "type": "Strip", "strip_left": true, "strip_right": true }),
        json!({ "type": "Lowercase" }),
        json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "x" }),
        json!({ "type": "Nmt" }),
        json!({ "type": "Split", "pattern": { "Regex": "(?=a)|" }, "behavior": "MergedWithNext", "invert": true }),
        json!({ "type": "FixedLength", "length": 0 }),
        json!({ "type": "UnicodeScripts" }),
        json!({ "type": "CharDelimiterSplit", "delimiter": "é" }),
        json!({ "type": "BertPreTokenizer" }),
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
    ];
    *value = strange[pick(strange.len())].clone();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mutated_files_do_not_panic(which in 0..NAMES.len(), seeds in prop::collection::vec(any::<u64>(), 1..4)) {
        let mut file = json(folder(NAMES[which]).join("tokenizer.json"));
        // Half of the time, keep to the settings, of which there are few among thousands of tokens.
        for seed in seeds {
            let sections = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"];
            let section = sections[seed as usize % 6];
            match file.get_mut(section) {
                Some(section) if seed % 7 != 0 => mutate(section, seed / 42),
                _ => mutate(&mut file, seed / 42),
            }
        }
        let bytes = file.to_string().into_bytes();
        let done = std::panic::catch_unwind(|| drop(try_json(&bytes)));
        prop_assert!(done.is_ok(), "{} {}", file["normalizer"], file["pre_tokenizer"]);
    }

    #[test]
    fn cut_and_scrambled_files_do_not_panic(which in 0..NAMES.len(), cut in any::<prop::sample::Index>(), byte: u8, keep: bool) {
        let mut file = std::fs::read(folder(NAMES[which]).join("tokenizer.json")).unwrap();
        let at = cut.index(file.len());
        if keep { file[at] = byte } else { file.truncate(at) }
        let _ = try_json(&file);
    }
}
