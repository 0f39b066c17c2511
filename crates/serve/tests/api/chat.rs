//! Chat completions.

use crate::server::{Server, chat, joined};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn an_answer_has_every_field_that_clients_read() {
    let server = Server::start().await;
    let answer = server.ask(PATH, chat("Hello", json!({ "seed": 1, "ignore_eos": true }))).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "tiny");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert_eq!(choice["message"]["role"], "assistant");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 16);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 16);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let server = Server::start().await;
    let asked = json!({ "seed": 7, "n": 3, "temperature": 1.2, "max_tokens": 40, "logprobs": true, "top_logprobs": 2 });
    let whole = server.ask(PATH, chat("Tell me", asked.clone())).await;
    let mut streamed = asked;
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({ "include_usage": true });
    let chunks = server.chunks(PATH, chat("Tell me", streamed)).await;

    let texts: Vec<_> =
        whole["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(joined(&chunks, 3), texts);
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], whole["usage"][count]);
    }
    for index in 0..3 {
        let of = |chunk: &&Value| chunk["choices"][0]["index"] == index;
        let mine: Vec<_> = chunks.iter().filter(of).map(|chunk| &chunk["choices"][0]).collect();
        let roles: Vec<_> = mine.iter().map(|choice| choice["delta"]["role"].as_str()).collect();
        assert_eq!(roles[0], Some("assistant"));
        assert!(roles[1..].iter().all(Option::is_none), "the role comes once");
        let ends: Vec<_> = mine.iter().filter(|choice| !choice["finish_reason"].is_null()).collect();
        assert_eq!(ends.len(), 1, "one end");
        assert_eq!(ends[0]["finish_reason"], whole["choices"][index]["finish_reason"]);
        assert!(!mine.last().unwrap()["finish_reason"].is_null(), "nothing comes after the end");
        let logprobs = mine.iter().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten();
        let told: Vec<_> = whole["choices"][index]["logprobs"]["content"].as_array().unwrap().iter().collect();
        assert_eq!(logprobs.collect::<Vec<_>>(), told);
    }
    // Several choices are decoded together, so their chunks are interleaved.
    let order: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["index"].as_u64().unwrap()).collect();
    assert!(!order.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn probabilities_are_those_of_a_distribution() {
    let server = Server::start().await;
    let asked = json!({ "logprobs": true, "top_logprobs": 20, "temperature": 0, "ignore_eos": true });
    let answer = server.ask(PATH, chat("Numbers", asked)).await;
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 16);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 20);
        let values: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().map(|v| v.exp()).sum::<f64>() <= 1.0 + 1e-4);
        // The coldest choice is the most probable token.
        assert_eq!(token["logprob"], top[0]["logprob"]);
        let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), token["token"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_and_none_gives_others() {
    let server = Server::start().await;
    let text = |answer: Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    let ask = async |more: Value| text(server.ask(PATH, chat("Once", more)).await);
    assert_eq!(ask(json!({ "seed": -5 })).await, ask(json!({ "seed": -5 })).await);
    assert_ne!(ask(json!({ "seed": 1 })).await, ask(json!({ "seed": 2 })).await);
    assert_ne!(ask(json!({})).await, ask(json!({})).await);
    // The coldest temperature needs no seed, and one changes nothing.
    let cold = ask(json!({ "temperature": 0, "seed": 3 })).await;
    assert_eq!(cold, ask(json!({ "temperature": 0 })).await);
    assert_eq!(cold, ask(json!({ "top_p": 0.0 })).await);
    assert_eq!(cold, ask(json!({ "top_k": 1, "temperature": 2 })).await);
}

fn weather() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Paris", "Rome"] }, "days": { "enum": [1, 2] } },
        "required": ["city", "days"],
        "additionalProperties": false,
    });
    json!([{ "type": "function", "function": { "name": "weather", "description": "Forecast", "parameters": parameters } }])
}

#[tokio::test]
async fn a_required_call_fits_its_schema_whole_and_streamed() {
    let server = Server::start().await;
    let asked = json!({ "tools": weather(), "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200, "seed": 4 });
    let answer = server.ask(PATH, chat("Weather?", asked.clone())).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert!(choice["message"]["content"].is_null());
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0]["type"], &calls[0]["function"]["name"]), (&json!("function"), &json!("weather")));
    let arguments: Value = serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()) && arguments["days"].is_u64());

    let mut streamed = asked;
    streamed["stream"] = true.into();
    let chunks = server.chunks(PATH, chat("Weather?", streamed)).await;
    let deltas: Vec<_> =
        chunks.iter().flat_map(|c| c["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten()).collect();
    assert!(deltas[0]["id"].as_str().unwrap().starts_with("call_"));
    assert!(deltas[1..].iter().all(|delta| delta.get("id").is_none() && delta["index"] == 0));
    let text: String = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().unwrap()).collect();
    assert_eq!(text, calls[0]["function"]["arguments"].as_str().unwrap());
    assert!(deltas.len() > 3, "arguments come piece by piece");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_conversation_with_calls_and_results_is_laid_out() {
    let server = Server::start().await;
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Rome\"}" } });
    let body = json!({
        "messages": [
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "Weather?" }] },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call_1", "content": "sunny" },
        ],
        "tools": weather(),
        "max_tokens": 4,
        "return_token_ids": true,
    });
    let answer = server.ask(PATH, body).await;
    let ids = json!({ "tokens": answer["prompt_token_ids"] });
    let prompt = server.ask("/detokenize", ids).await["prompt"].as_str().unwrap().to_string();
    for part in ["Be brief.", "Weather?", "sunny", "\"name\": \"weather\"", "\"city\": \"Rome\"", "Forecast"] {
        assert!(prompt.contains(part), "{part} is missing in {prompt}");
    }
    assert_eq!(
        answer["choices"][0]["token_ids"].as_array().unwrap().len(),
        answer["usage"]["completion_tokens"].as_u64().unwrap() as usize
    );
}

#[tokio::test]
async fn formats_bind_the_text() {
    let server = Server::start().await;
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [true, false] } }, "required": ["a"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema, "strict": true } });
    let answer = server.ask(PATH, chat("JSON", json!({ "response_format": format, "max_tokens": 100 }))).await;
    let choice = &answer["choices"][0];
    let value: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert!(value["a"].is_boolean() && choice["finish_reason"] == "stop", "{choice}");

    let regex = chat("x", json!({ "structured_outputs": { "regex": "[a-c]{5}" } }));
    let text = server.ask(PATH, regex).await["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    assert!(text.len() == 5 && text.bytes().all(|b| (b'a'..=b'c').contains(&b)), "{text}");
    let text = chat("x", json!({ "response_format": { "type": "text" } }));
    server.ask(PATH, text).await;
}
