//! Ids, decoded text and rendered chats are those of `tokenizers` and `transformers`.

mod common;

use common::{NAMES, folder, ids, json, load};
use serde_json::Value;
use text::{ChatRequest, CivilTime, DecodeOptions, Error};

#[test]
fn texts_have_the_ids_of_the_reference() {
    for name in NAMES {
        let tokenizer = load(name);
        let cases = json(folder(name).join("cases.json"));
        assert_eq!(tokenizer.vocab_size(), cases["vocab_size"].as_u64().unwrap() as usize);
        for case in cases["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["ids"]);
            assert_eq!(tokenizer.encode_with_markers(text).unwrap(), expected, "{name}: {text:?}");
            let skip = DecodeOptions { skip_special: true, ..Default::default() };
            assert_eq!(tokenizer.decode_with(&expected, skip).unwrap(), case["decoded"], "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&expected).unwrap(), case["decoded_with_special"], "{name}: {text:?}");
            let plain = tokenizer.encode(text).unwrap();
            if !expected.iter().any(|&id| tokenizer.is_special(id)) {
                assert_eq!(plain, expected, "{name}: {text:?}");
                assert_eq!(tokenizer.encode_whole(text).unwrap(), ids(&case["ids_with_special"]));
            }
            assert!(!plain.iter().any(|&id| tokenizer.is_special(id)), "{name}: {text:?}");
        }
    }
}

fn request(case: &Value) -> ChatRequest {
    let field = |name: &str| case.get(name).cloned().unwrap_or_default();
    ChatRequest {
        messages: serde_json::from_value(field("messages")).unwrap(),
        tools: serde_json::from_value(field("tools")).unwrap(),
        add_generation_prompt: field("add_generation_prompt").as_bool().unwrap(),
        now: Some(CivilTime { year: 2024, month: 7, day: 4, hour: 12, minute: 30, second: 0 }),
        variables: field("variables").as_object().cloned().unwrap_or_default(),
        template: None,
    }
}

#[test]
fn chats_read_as_in_the_reference() {
    for name in NAMES {
        let tokenizer = load(name);
        let template = tokenizer.chat_template().unwrap();
        for case in json(folder(name).join("cases.json"))["chats"].as_array().unwrap() {
            assert_eq!(case["now"], "2024-07-04T12:30:00");
            match (template.render(&request(case)), case.get("error")) {
                (Ok(prompt), None) => {
                    assert_eq!(prompt.text(), case["rendered"], "{name}");
                    assert_eq!(
                        tokenizer.encode_prompt(&prompt).unwrap(),
                        ids(&case["ids"]),
                        "{name}: {}",
                        prompt.text()
                    );
                }
                (Err(Error::Refused(reason)), Some(expected)) => {
                    assert_eq!(reason, *expected, "{name}")
                }
                // What Python's own operators refuse, they refuse in other words.
                (Err(Error::Template { .. }), Some(expected)) => {
                    assert!(expected.as_str().unwrap().contains("concatenate"), "{name}: {expected}");
                }
                (other, expected) => panic!("{name}: {other:?}, expected {expected:?} of {case}"),
            }
        }
    }
}

#[test]
fn roles_come_from_the_files_beside_the_tokenizer() {
    let tokenizer = load("llama3");
    assert_eq!(tokenizer.bos(), tokenizer.id_of("<|begin_of_text|>"));
    assert_eq!(tokenizer.eos(), [tokenizer.id_of("<|eot_id|>").unwrap()]);
    let copy = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder("llama3").join(file), copy.path().join(file)).unwrap();
    }
    std::fs::write(copy.path().join("generation_config.json"), r#"{"eos_token_id": [564, 567]}"#).unwrap();
    assert_eq!(text::Tokenizer::from_folder(copy.path()).unwrap().eos(), [567, 564]);
    std::fs::write(copy.path().join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    let error = text::Tokenizer::from_folder(copy.path()).unwrap_err().to_string();
    assert!(error.contains("eos_token_id"), "{error}");
}
