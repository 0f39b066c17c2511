//! Plain completions.

use crate::server::{Server, completion, engine_config, joined, model_folder};
use serde_json::{Value, json};
use serve::Options;

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn several_prompts_have_their_choices_in_order() {
    let server = Server::start().await;
    let asked = json!({ "n": 2, "seed": 3 });
    let whole = server.ask(PATH, completion(json!(["fn main", "let x"]), asked.clone())).await;
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // A prompt's completions do not depend on what else was asked.
    let alone = server.ask(PATH, completion(json!("let x"), asked)).await;
    assert_eq!(alone["choices"][0]["text"], choices[2]["text"]);
    assert_eq!(alone["choices"][1]["text"], choices[3]["text"]);
    assert_ne!(choices[2]["text"], choices[3]["text"]);
    let streamed = json!({ "n": 2, "seed": 3, "stream": true });
    let chunks = server.chunks(PATH, completion(json!(["fn main", "let x"]), streamed)).await;
    assert_eq!(joined(&chunks, 4), choices.iter().map(|c| c["text"].as_str().unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn ids_and_text_are_the_same_prompt() {
    let server = Server::start().await;
    let ids = server.ask("/tokenize", json!({ "prompt": "let mut x" })).await["tokens"].clone();
    let asked = json!({ "temperature": 0, "return_token_ids": true });
    let text = server.ask(PATH, completion(json!("let mut x"), asked.clone())).await;
    let by_ids = server.ask(PATH, completion(ids.clone(), asked.clone())).await;
    let by_list = server.ask(PATH, completion(json!([ids]), asked)).await;
    assert_eq!(text["choices"][0]["text"], by_ids["choices"][0]["text"]);
    assert_eq!(text["choices"], by_list["choices"]);
    assert_eq!(text["choices"][0]["prompt_token_ids"], ids);
}

#[tokio::test]
async fn an_echo_tells_the_prompt_and_its_probabilities() {
    let server = Server::start().await;
    let asked = json!({ "echo": true, "logprobs": 2, "max_tokens": 4, "temperature": 0, "ignore_eos": true });
    let answer = server.ask(PATH, completion(json!("let mut value"), asked.clone())).await;
    let (choice, logprobs) = (&answer["choices"][0], &answer["choices"][0]["logprobs"]);
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    assert!(choice["text"].as_str().unwrap().starts_with("let mut value"));
    let values = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(values.len(), prompt + 4);
    assert!(values[0].is_null() && logprobs["top_logprobs"][0].is_null(), "nothing comes before the first token");
    assert!(values[1..].iter().all(|v| v.as_f64().unwrap() <= 0.0));
    for list in ["tokens", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), prompt + 4, "{list}");
    }
    let offsets: Vec<u64> = serde_json::from_value(logprobs["text_offset"].clone()).unwrap();
    assert!(offsets[0] == 0 && offsets.is_sorted() && offsets[prompt] == 13, "{offsets:?}");

    // Scoring alone: the same values, and nothing generated. Asked twice, so that the cache could have been used.
    let scoring = json!({ "echo": true, "logprobs": 2, "max_tokens": 0 });
    for _ in 0..2 {
        let scored = server.ask(PATH, completion(json!("let mut value"), scoring.clone())).await;
        assert_eq!(scored["choices"][0]["text"], "let mut value");
        assert_eq!(scored["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[..], values[..prompt]);
        assert_eq!(scored["usage"]["completion_tokens"], 0);
    }

    // A stream tells the same.
    let mut streamed = asked;
    streamed["stream"] = true.into();
    let chunks = server.chunks(PATH, completion(json!("let mut value"), streamed)).await;
    assert_eq!(joined(&chunks, 1)[0], choice["text"].as_str().unwrap());
    let told = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["token_logprobs"].as_array()).flatten();
    assert_eq!(told.collect::<Vec<_>>(), values.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bias_and_stops_do_what_they_say() {
    let server = Server::start().await;
    let id = server.ask("/tokenize", json!({ "prompt": "a" })).await["tokens"][0].as_u64().unwrap().to_string();
    let forced = json!({ "logit_bias": { &id: 100 }, "max_tokens": 8 });
    let text = |answer: &Value| answer["choices"][0]["text"].as_str().unwrap().to_string();
    assert_eq!(text(&server.ask(PATH, completion(json!("x"), forced.clone())).await), "aaaaaaaa");
    let mut stopped = forced.clone();
    stopped["stop"] = json!(["zz", "aaa"]);
    let answer = server.ask(PATH, completion(json!("x"), stopped.clone())).await;
    assert_eq!((text(&answer).as_str(), &answer["choices"][0]["finish_reason"]), ("", &json!("stop")));
    assert_eq!(answer["choices"][0]["stop_reason"], "aaa");
    stopped["min_tokens"] = 5.into();
    let answer = server.ask(PATH, completion(json!("x"), stopped)).await;
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() >= 5);
    // A stop string over several chunks is never told.
    let mut streamed = forced;
    streamed["stop"] = json!("aaaa");
    streamed["stream"] = true.into();
    assert_eq!(joined(&server.chunks(PATH, completion(json!("x"), streamed)).await, 1), [""]);
}

#[tokio::test]
async fn what_is_left_out_has_openais_defaults() {
    let server = Server::start().await;
    let body = json!({ "prompt": "let", "ignore_eos": true });
    let answer = server.ask(PATH, body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn a_gap_is_laid_out_as_its_tokens_want() {
    let mut names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"].into_iter();
    let folder = model_folder();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // The vocabulary is full: others give their ids.
    let unused = ["<tool_response>", "</tool_response>", "<think>"];
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let given = added.iter_mut().filter(|token| unused.iter().any(|name| token["content"] == *name));
    let mut ids = Vec::new();
    for token in given {
        (token["content"], token["special"]) = (names.next().unwrap().into(), true.into());
        ids.push(token["id"].as_u64().unwrap());
    }
    let [prefix, suffix, middle] = ids[..] else { panic!("{ids:?}") };
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let server = Server::of(folder, Options::default(), engine_config()).await;
    let model: Value = server.get("/v1/models/tiny").await.json().await.unwrap();
    assert_eq!(model["fill_in_the_middle"], true);
    let ids = async |text: &str| {
        let asked = json!({ "prompt": text, "add_special_tokens": false });
        serde_json::from_value::<Vec<u64>>(server.ask("/tokenize", asked).await["tokens"].clone()).unwrap()
    };
    // What a person types of these tokens is text.
    let (before, behind) = ("fn one() -> u32 { <|fim_suffix|>", " }\n");
    let expected = [vec![prefix], ids(before).await, vec![suffix], ids(behind).await, vec![middle]].concat();
    let asked = json!({ "suffix": behind, "return_token_ids": true, "ignore_eos": true });
    let answer = server.ask(PATH, completion(json!(before), asked)).await;
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!(expected));
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}
