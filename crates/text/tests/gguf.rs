//! Vocabularies from GGUF files: ids as llama.cpp has them, and every way there and back.

mod common;

use common::{fixtures, folder, ids, json, load};
use proptest::prelude::*;
use serde_json::Value;
use text::{DecodeOptions, Error, GgufVocabulary, Tokenizer};

/// The vocabulary as the fixtures' GGUF files carry it, from the tokenizer that they were made of.
fn vocabulary(name: &str, model: &str, pre: &str) -> GgufVocabulary {
    let file = json(folder(name).join("tokenizer.json"));
    let loaded = load(name);
    let size = loaded.vocab_size();
    let tokens: Vec<String> = (0..size as u32).map(|id| loaded.token(id).unwrap().into()).collect();
    let added = file["added_tokens"].as_array().unwrap();
    let kind = |id: usize| match added.iter().find(|token| token["id"] == id) {
        _ if tokens[id] == "<unk>" => GgufVocabulary::UNKNOWN,
        Some(token) if token["special"] == true => GgufVocabulary::CONTROL,
        Some(_) => GgufVocabulary::USER_DEFINED,
        None if tokens[id].starts_with("<0x") => GgufVocabulary::BYTE,
        None => GgufVocabulary::NORMAL,
    };
    let merge = |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let is_spm = model == "llama";
    GgufVocabulary {
        model: model.into(),
        pre: pre.into(),
        scores: is_spm.then(|| (0..size).map(|id| 259.0 - (id.max(259) as f32)).collect()),
        token_types: Some((0..size).map(kind).collect()),
        merges: (!is_spm).then(|| file["model"]["merges"].as_array().unwrap().iter().map(merge).collect()),
        bos: loaded.bos(),
        eos: loaded.eos().first().copied(),
        unk: loaded.id_of("<unk>"),
        pad: loaded.id_of("<|endoftext|>"),
        add_bos: Some(is_spm),
        add_eos: Some(false),
        add_space_prefix: is_spm.then_some(true),
        chat_template: json(folder(name).join("tokenizer_config.json"))["chat_template"].as_str().map(String::from),
        tokens,
        ..Default::default()
    }
}

fn spm() -> GgufVocabulary {
    vocabulary("llama2", "llama", "default")
}

fn saved_and_loaded(tokenizer: &Tokenizer) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    Tokenizer::from_folder(folder.path()).unwrap()
}

#[test]
fn texts_have_the_ids_of_llama_cpp() {
    for (case, vocabulary) in [("mixtral_spm", spm()), ("qwen3_moe_bpe", vocabulary("qwen", "gpt2", "qwen2"))] {
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        for item in json(fixtures().join("gguf/tokens.json"))[case].as_array().unwrap() {
            let text = item["text"].as_str().unwrap();
            // The model was trained on composed characters; llama.cpp does not compose them.
            let is_composed =
                !text.chars().any(|c| matches!(c, '\u{300}'..='\u{36F}' | '\u{1100}'..='\u{11FF}' | '\u{212B}'));
            if !is_composed && vocabulary.model == "gpt2" {
                continue;
            }
            let parsed = ids(&item["ids_parse_special"]);
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&item["ids"]), "{case}: {text:?}");
            assert_eq!(tokenizer.encode_with_markers(text).unwrap(), parsed, "{case}: {text:?}");
            assert_eq!(tokenizer.encode_whole(text).unwrap(), ids(&item["ids_add_special"]), "{case}: {text:?}");
            let skip = DecodeOptions { skip_special: true, ..Default::default() };
            if !parsed.iter().any(|&id| tokenizer.is_special(id)) {
                assert_eq!(tokenizer.decode_with(&parsed, skip).unwrap(), item["decoded"], "{case}: {text:?}");
            }
        }
    }
}

#[test]
fn byte_level_tokenizers_go_to_gguf_and_back() {
    for (name, pre) in [("qwen", "qwen2"), ("llama3", "llama-bpe")] {
        let original = load(name);
        let gguf = original.to_gguf().unwrap();
        assert_eq!((gguf.model.as_str(), gguf.pre.as_str()), ("gpt2", pre));
        let back = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(back.to_gguf().unwrap(), gguf);
        for copy in [&back, &saved_and_loaded(&back), &saved_and_loaded(&original)] {
            assert_eq!(copy.vocab_size(), original.vocab_size());
            assert_eq!((copy.bos(), copy.eos()), (original.bos(), original.eos()));
            for case in json(folder(name).join("cases.json"))["texts"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                assert_eq!(copy.encode_with_markers(text).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
                assert_eq!(copy.encode_whole(text).unwrap(), original.encode_whole(text).unwrap());
                assert_eq!(copy.decode(&ids(&case["ids"])).unwrap(), case["decoded_with_special"]);
            }
            copy.chat_template().unwrap();
        }
    }
}

#[test]
fn scored_vocabularies_go_to_merges_and_back() {
    let original = Tokenizer::from_gguf(&spm()).unwrap();
    let same = original.to_gguf().unwrap();
    assert_eq!(same, spm());
    let merged = saved_and_loaded(&original);
    let scored = Tokenizer::from_gguf(&merged.to_gguf().unwrap()).unwrap();
    let text = "The quick brown fox, 3.14 naïve 模型 🙂";
    assert_eq!(scored.encode_whole(text).unwrap(), original.encode_whole(text).unwrap());
    assert_eq!(merged.encode_whole(text).unwrap(), original.encode_whole(text).unwrap());
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    for (name, reason) in [("llama2", "scores"), ("mistral", "spaces")] {
        let error = load(name).to_gguf().unwrap_err();
        assert!(matches!(&error, Error::NotExpressible { reason: found, .. } if found.contains(reason)), "{error}");
    }
}

#[test]
fn broken_vocabularies_are_refused() {
    let refused = |change: fn(&mut GgufVocabulary), expected: &str| {
        for mut vocabulary in [spm(), vocabulary("qwen", "gpt2", "qwen2")] {
            change(&mut vocabulary);
            let error = Tokenizer::from_gguf(&vocabulary).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    };
    refused(|v| v.model = "t5".into(), "gpt2 and llama");
    refused(|v| v.bos = Some(99_999), "99999");
    refused(|v| v.tokens[400] = v.tokens[401].clone(), "has the ids 400 and 401");
    refused(|v| v.token_types = Some(vec![1]), "token_type");
    refused(|v| (v.scores, v.merges) = (None, None), "missing");
    let mut unknown = vocabulary("qwen", "gpt2", "qwen2");
    unknown.pre = "martian".into();
    let error = Tokenizer::from_gguf(&unknown).unwrap_err().to_string();
    assert!(error.contains("martian") && error.contains("llama-bpe"), "{error}");
    unknown.pre = "qwen2".into();
    unknown.merges.as_mut().unwrap().push("Ġ zzzzz".into());
    let error = Tokenizer::from_gguf(&unknown).unwrap_err().to_string();
    assert!(error.contains("zzzzz"), "{error}");
}

#[test]
fn every_named_pre_tokenizer_loads() {
    let mut vocabulary = vocabulary("llama3", "gpt2", "");
    vocabulary.pre = "?".into();
    let list = Tokenizer::from_gguf(&vocabulary).unwrap_err().to_string();
    let names = list.rsplit_once("these are: ").unwrap().1;
    for name in names.split(", ") {
        vocabulary.pre = name.into();
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        let text = "It's 12345 words,\n\n  naïve 模型한국어!? x_y";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text, "{name}");
        let pre = tokenizer.to_gguf().unwrap().pre;
        vocabulary.pre = pre.clone();
        assert_eq!(Tokenizer::from_gguf(&vocabulary).unwrap().to_gguf().unwrap().pre, pre);
    }
}

/// Words of the vocabulary, spaces, markers and characters from everywhere.
fn mixed_text() -> impl Strategy<Value = String> {
    let tokens: Vec<String> = spm().tokens.iter().map(|token| token.replace('▁', " ")).collect();
    let token = prop::sample::select(tokens);
    prop::collection::vec(prop_oneof![4 => token, 1 => any::<String>(), 1 => "[a-z ▁]{0,8}"], 0..12)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn scores_and_merges_agree(texts in prop::collection::vec(mixed_text(), 1..20)) {
        thread_local! {
            static BOTH: (Tokenizer, Tokenizer) = {
                let mut vocabulary = spm();
                // A token that the user defined is matched whole, even inside a word.
                let rare = vocabulary.tokens.iter().position(|token| token == "the").unwrap_or(400);
                vocabulary.token_types.as_mut().unwrap()[rare] = GgufVocabulary::USER_DEFINED;
                let scored = Tokenizer::from_gguf(&vocabulary).unwrap();
                let merged = saved_and_loaded(&scored);
                (scored, merged)
            };
        }
        BOTH.with(|(scored, merged)| {
            for text in &texts {
                prop_assert_eq!(scored.encode(text).unwrap(), merged.encode(text).unwrap());
                prop_assert_eq!(scored.encode_with_markers(text).unwrap(), merged.encode_with_markers(text).unwrap());
            }
            Ok(())
        })?;
    }
}
