//! Responses, messages, embeddings, tokens, metrics, and what describes them.

use crate::server::{Server, chat, completion, engine_config};
use serde_json::{Value, json};
use serve::Options;
use std::collections::BTreeSet;
use std::time::Duration;

fn tool_schema() -> Value {
    json!({ "type": "object", "properties": { "city": { "enum": ["Paris", "Rome"] } }, "required": ["city"], "additionalProperties": false })
}

#[tokio::test]
async fn a_response_and_its_stream_are_the_same() {
    let server = Server::start().await;
    let body = |stream: bool| json!({ "input": "Hello", "seed": 5, "max_output_tokens": 12, "stream": stream });
    let whole = server.ask("/v1/responses", body(false)).await;
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let item = &whole["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["content"][0]["type"]),
        (&json!("message"), &json!("assistant"), &json!("output_text"))
    );
    assert_eq!(whole["usage"]["output_tokens"], 12);

    let events = server.events("/v1/responses", body(true)).await;
    let parsed: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    assert!(events.iter().zip(&parsed).all(|((name, _), event)| event["type"] == name.as_str()));
    assert!(parsed.iter().enumerate().all(|(i, event)| event["sequence_number"] == i), "numbered without gaps");
    let names: Vec<_> = events.iter().map(|(name, _)| name.trim_start_matches("response.")).collect();
    assert_eq!(names[..4], ["created", "in_progress", "output_item.added", "content_part.added"]);
    assert_eq!(names[names.len() - 4..], ["output_text.done", "content_part.done", "output_item.done", "incomplete"]);
    let deltas: String = parsed
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, item["content"][0]["text"].as_str().unwrap());
    let last = &parsed.last().unwrap()["response"];
    assert_eq!((&last["output"][0]["content"], &last["usage"]["output_tokens"]), (&item["content"], &json!(12)));
}

#[tokio::test]
async fn a_response_calls_functions() {
    let server = Server::start().await;
    let body = |stream: bool| {
        json!({
            "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "Weather?" }] },
                      { "type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"city\": \"Rome\"}" },
                      { "type": "function_call_output", "call_id": "c1", "output": "sunny" }],
            "tools": [{ "type": "function", "name": "weather", "parameters": tool_schema() }],
            "tool_choice": { "type": "function", "name": "weather" },
            "seed": 1, "max_output_tokens": 200, "stream": stream,
        })
    };
    let whole = server.ask("/v1/responses", body(false)).await;
    let call = &whole["output"][0];
    assert_eq!(
        (&whole["status"], &call["type"], &call["name"]),
        (&json!("completed"), &json!("function_call"), &json!("weather"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()));
    let events = server.events("/v1/responses", body(true)).await;
    let of = |kind: &str| {
        events
            .iter()
            .filter(|(name, _)| name == kind)
            .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
            .collect::<Vec<_>>()
    };
    let text: String =
        of("response.function_call_arguments.delta").iter().map(|e| e["delta"].as_str().unwrap().to_string()).collect();
    assert_eq!(text, call["arguments"].as_str().unwrap());
    assert_eq!(of("response.function_call_arguments.done")[0]["arguments"], call["arguments"]);
    assert_eq!(of("response.completed").len(), 1);
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("store", json!(true)),
        ("background", json!(true)),
        ("reasoning", json!({})),
    ] {
        let (status, error) = server.refused("/v1/responses", json!({ "input": "x", field: value })).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(field)));
    }
}

#[tokio::test]
async fn a_message_and_its_stream_are_the_same() {
    let server = Server::start().await;
    let body = |stream: bool| {
        json!({
            "model": "tiny", "max_tokens": 200, "temperature": 0, "stream": stream, "system": "Be brief.",
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Weather?" }] }],
            "tools": [{ "name": "weather", "description": "Forecast", "input_schema": tool_schema() }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        })
    };
    let whole = server.ask("/v1/messages", body(false)).await;
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("tool_use"))
    );
    let block = &whole["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("weather")));
    assert!(["Paris", "Rome"].contains(&block["input"]["city"].as_str().unwrap()));
    let events = server.events("/v1/messages", body(true)).await;
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let parsed: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    let input: String = parsed.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), block["input"]);
    let last = &parsed[parsed.len() - 2];
    assert_eq!(
        (&last["delta"]["stop_reason"], &last["usage"]["output_tokens"]),
        (&json!("tool_use"), &whole["usage"]["output_tokens"])
    );

    let counted = server.ask("/v1/messages/count_tokens", body(false)).await;
    let usage = &whole["usage"];
    assert_eq!(
        counted["input_tokens"].as_u64().unwrap(),
        usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap()
    );
    let (status, error) = server.refused("/v1/messages", json!({ "max_tokens": 3, "messages": [{ "role": "user", "content": "x" }], "thinking": { "type": "enabled" } })).await;
    assert_eq!((status, error["param"].as_str()), (400, Some("thinking")));
    let (status, _) = server.refused("/v1/messages", json!({ "messages": [{ "role": "user", "content": "x" }] })).await;
    assert_eq!(status, 400, "max_tokens is needed");
}

#[tokio::test]
async fn embeddings_have_unit_length_and_one_form_or_the_other() {
    let server = Server::start().await;
    let texts = json!(["fn main", "a longer text", "fn main"]);
    for pooling in ["mean", "last"] {
        let answer = server.ask("/v1/embeddings", json!({ "input": texts, "pooling": pooling })).await;
        let vectors: Vec<Vec<f32>> = answer["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| serde_json::from_value(item["embedding"].clone()).unwrap())
            .collect();
        for vector in &vectors {
            assert_eq!(vector.len(), 32);
            assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
        }
        assert_eq!(vectors[0], vectors[2], "bit for bit");
        assert_ne!(vectors[0], vectors[1]);
        let coded = server
            .ask("/v1/embeddings", json!({ "input": texts, "pooling": pooling, "encoding_format": "base64" }))
            .await;
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            coded["data"][1]["embedding"].as_str().unwrap(),
        )
        .unwrap();
        let floats: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(floats, vectors[1]);
    }
    for (field, value) in
        [("dimensions", json!(8)), ("input", json!("")), ("input", json!([[9999]])), ("encoding_format", json!("hex"))]
    {
        let mut body = json!({ "input": "x" });
        body[field] = value;
        let (status, error) = server.refused("/v1/embeddings", body).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(field)));
    }
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Server::start().await;
    for text in ["", "fn main() {}", "é🙂 <|im_end|>"] {
        let asked = json!({ "prompt": text, "add_special_tokens": false, "return_token_strs": true });
        let tokens = server.ask("/tokenize", asked).await;
        assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
        assert_eq!(tokens["token_strs"].as_array().unwrap().len(), tokens["count"].as_u64().unwrap() as usize);
        assert_eq!(server.ask("/detokenize", json!({ "tokens": tokens["tokens"] })).await["prompt"], text);
    }
    let laid_out = server.ask("/tokenize", json!({ "messages": [{ "role": "user", "content": "Hi" }] })).await;
    let answer = server.ask("/v1/chat/completions", chat("Hi", json!({ "return_token_ids": true }))).await;
    assert_eq!(laid_out["tokens"], answer["prompt_token_ids"]);
    assert_eq!(server.refused("/detokenize", json!({ "tokens": [99999] })).await.0, 400);
    assert_eq!(server.refused("/tokenize", json!({ "prompt": "x", "messages": [] })).await.0, 400);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = Server::start().await;
    let value = async |name: &str| -> f64 {
        let text = server.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
        line.unwrap_or_else(|| panic!("{name} is missing in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let asked = json!({ "n": 2, "max_tokens": 10, "ignore_eos": true });
    let answer = server.ask("/v1/completions", completion(json!("let x"), asked)).await;
    server.idle().await;
    assert_eq!(value("lyceum_generation_tokens_total").await, 20.0);
    assert_eq!(value("lyceum_finished_total{reason=\"length\"}").await, 2.0);
    assert_eq!(value("lyceum_time_to_first_token_seconds_count").await, 2.0);
    assert_eq!(value("lyceum_time_to_first_token_seconds_bucket{le=\"+Inf\"}").await, 2.0);
    assert_eq!(value("lyceum_prompt_tokens_total").await, answer["usage"]["prompt_tokens"].as_f64().unwrap());
    assert_eq!(value("lyceum_queue_running").await, 0.0);
    assert_eq!(value("lyceum_speculation_gain_ratio").await, 1.0, "nothing was drafted");
    for name in [
        "queue_places",
        "queue_waiting",
        "kv_use_ratio",
        "kv_blocks{group=\"target\",state=\"owned\"}",
        "prefix_hit_ratio",
        "speculation_acceptance_ratio",
        "inter_token_latency_seconds_count",
        "step_seconds_count",
        "steps_total",
        "goodput_sequences_total",
        "goodput_fast_total{tokens_per_second=\"8.33\"}",
        "goodput_fast_total{tokens_per_second=\"33.33\"}",
        "expert_tokens_total{layer=\"0\",expert=\"0\"}",
        "engine_seconds_total{part=\"model\"}",
    ] {
        value(&format!("lyceum_{name}")).await;
    }
    assert_eq!((value("lyceum_queue_places").await, value("lyceum_kv_use_ratio").await), (0.0, 0.0));
    // 10 tokens of each choice: 9 times between two.
    assert_eq!(value("lyceum_inter_token_latency_seconds_count").await, 18.0);
    // Every line is a comment or a name with labels and a number.
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(text.lines().all(|line| line.starts_with("# ") || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok()));
    let live = server.live().await;
    assert_eq!((&live["tokens_out"], &live["finished"]["length"]), (&json!(20), &json!(2)));
}

#[tokio::test]
async fn the_description_names_every_path_and_resolves() {
    let server = Server::start().await;
    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    let paths: BTreeSet<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/models",
        "/v1/messages",
        "/tokenize",
        "/detokenize",
        "/health",
        "/ready",
        "/metrics",
    ] {
        assert!(paths.contains(path), "{path}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn the_page_comes_from_the_program_and_runs_nothing_foreign() {
    let server = Server::start().await;
    for path in ["/", "/docs"] {
        let page = server.get(path).await;
        assert_eq!(page.status().as_u16(), 200, "{path}");
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_string();
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    }
}

#[tokio::test]
async fn requests_have_names() {
    let server = Server::start().await;
    let named =
        server.client.get(format!("{}/health", server.url)).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(named.headers()["x-request-id"], "mine-1");
    let first = server.get("/health").await.headers()["x-request-id"].clone();
    assert_ne!(first, server.get("/health").await.headers()["x-request-id"]);
}

/// Every step is too long for this server, so that it is unhealthy exactly while it makes one.
#[tokio::test]
async fn a_server_whose_steps_last_too_long_is_not_healthy() {
    let mut config = engine_config();
    config.stall_after = Duration::ZERO;
    let server = Server::with(Options::default(), config).await;
    let told = async |path: &str| {
        let response = server.get(path).await;
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap()["status"].as_str().unwrap().to_string())
    };
    let fine = (200, "ok".to_string());
    assert_eq!((told("/health").await, told("/ready").await), (fine.clone(), fine.clone()));
    let asked = json!({ "stream": true, "max_tokens": 4000, "ignore_eos": true });
    let stream = server.post("/v1/completions", completion(json!("x"), asked)).await;
    for path in ["/health", "/ready"] {
        let mut seen = told(path).await;
        while seen == fine {
            seen = told(path).await;
        }
        assert_eq!(seen, (503, "stalled".to_string()), "{path}");
    }
    drop(stream);
    server.idle().await;
    // Its clock rests a moment after its last step was counted.
    tokio::time::timeout(Duration::from_secs(10), async { while told("/health").await != fine {} }).await.unwrap();
}
