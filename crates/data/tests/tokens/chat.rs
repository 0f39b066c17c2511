//! Conversations: only the assistant's words count.

use crate::setup::{SEED, TOKENIZER};
use data::Mixture;
use data::encode::{Input, Options, prepare};
use serde_json::{Value, json};

fn chats(folder: &std::path::Path, lines: &[Value]) -> Result<Vec<data::ShardSet>, data::encode::PrepareError> {
    let file = folder.join("chats.jsonl");
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n\n")).collect::<String>()).unwrap();
    let input = Input::Chat { file, source: "chat".into() };
    prepare(&[input], &TOKENIZER, &folder.join("shards"), &Options { held_out: 0.0, ..Options::default() }, &|_, _| {})
}

#[test]
fn only_answers_count() {
    let folder = tempfile::tempdir().unwrap();
    let line = json!({ "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Say <|im_end|> please" },
        { "role": "assistant", "content": "Done.\n" },
        { "role": "user", "content": "Again" },
        { "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "say", "arguments": { "x": 1 } } }] },
        { "role": "tool", "content": "ok" },
        { "role": "assistant", "content": "As you wish" },
    ], "tools": [{ "type": "function", "function": { "name": "say" } }] });
    let sets = chats(folder.path(), &[line]).unwrap();
    let corpus = sets[0].train();
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    corpus.read(0..corpus.tokens(), &mut ids, &mut mask).unwrap();
    let learned: Vec<u32> = ids.iter().zip(&mask).filter(|(_, counts)| **counts).map(|(id, _)| *id).collect();
    assert_eq!(
        TOKENIZER.decode(&learned).unwrap(),
        "Done.\n<|im_end|>\n<tool_call>{\"name\": \"say\", \"arguments\": {\"x\": 1}}</tool_call><|im_end|>\nAs you wish<|im_end|>\n"
    );
    let end = TOKENIZER.id_of("<|im_end|>").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 7, "what a person typed is no marker");
    let recipe = json!({ "context": 200, "sources": [{ "name": "chat", "path": "shards/chat" }] });
    let recipe = serde_json::from_value(recipe).unwrap();
    let mixture = Mixture::open(&recipe, folder.path(), &TOKENIZER, SEED).unwrap();
    let targets: usize = (0..mixture.samples().unwrap()).map(|i| mixture.sample(i).unwrap().targets()).sum();
    assert!((learned.len()..=learned.len() + 1).contains(&targets), "{targets} of {}", learned.len());
}

#[test]
fn what_cannot_be_learned_from_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] });
    for (bad, expected) in [
        (json!({ "messages": [{ "role": "user", "content": "a" }] }), "assistant"),
        (json!({ "massages": [] }), "massages"),
        (json!([1]), "invalid"),
    ] {
        let error = chats(folder.path(), &[good.clone(), bad]).unwrap_err().to_string();
        assert!(error.contains("chats.jsonl, line 3") && error.contains(expected), "{error}");
    }
}
