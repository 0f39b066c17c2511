//! What is refused, and how it is said.

use crate::server::{Server, chat, completion, engine_config, refusal};
use serde_json::{Value, json};
use serve::Options;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";

#[tokio::test]
async fn wrong_values_are_refused_by_name() {
    let server = Server::start().await;
    let cases = [
        (json!({ "temperature": -0.1 }), "temperature"),
        (json!({ "temperature": 1e300 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "top_p": 1.5 }), "top_p"),
        (json!({ "top_p": -1e300 }), "top_p"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 129 }), "n"),
        (json!({ "n": -1 }), "n"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "presence_penalty": 2.1 }), "presence_penalty"),
        (json!({ "frequency_penalty": -1e300 }), "frequency_penalty"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "logit_bias": { "abc": 1 } }), "logit_bias.abc"),
        (json!({ "logit_bias": { "+1": 1 } }), "logit_bias.+1"),
        (json!({ "logit_bias": { "-1": 1 } }), "logit_bias.-1"),
        (json!({ "logit_bias": { "99999": 1 } }), "logit_bias.99999"),
        (json!({ "logit_bias": { "1": 1e300 } }), "logit_bias.1"),
        (json!({ "stop": vec!["x"; 3000] }), "stop"),
        (json!({ "stop": "x".repeat(5000) }), "stop"),
        (json!({ "stop": "" }), "stop"),
        (json!({ "stop_token_ids": [5_000_000] }), "stop_token_ids"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "priority": 1e300 }), "priority"),
        (json!({ "seed": "x" }), "seed"),
        (json!({ "cache_salt": "x" }), "cache_salt"),
        (json!({ "structured_outputs": {} }), "structured_outputs"),
        (json!({ "structured_outputs": { "regex": "a", "choice": ["b"] } }), "structured_outputs"),
        (json!({ "structured_outputs": { "regex": "(" } }), "structured_outputs"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
    ];
    for (more, param) in cases {
        for (path, body) in [(CHAT, chat("x", more.clone())), (PLAIN, completion(json!("x"), more.clone()))] {
            let (status, error) = server.refused(path, body).await;
            assert_eq!((status, &error["type"]), (400, &json!("invalid_request_error")), "{more}");
            assert_eq!(error["param"], param, "{more}: {error}");
        }
    }
}

#[tokio::test]
async fn what_chats_alone_refuse() {
    let server = Server::start().await;
    let message = |message: Value| json!({ "messages": [message] });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let cases = [
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hello" }), "messages"),
        (message(json!({ "role": "wizard", "content": "x" })), "messages[0].role"),
        (message(json!({ "role": "user" })), "messages[0].content"),
        (message(json!({ "role": "user", "content": 3 })), "messages[0].content"),
        (
            message(json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] })),
            "messages[0].content[0].type",
        ),
        (chat("x", json!({ "max_tokens": 0 })), "max_tokens"),
        (chat("x", json!({ "max_completion_tokens": 5 })), "max_completion_tokens"),
        (chat("x", json!({ "logprobs": true, "top_logprobs": 21 })), "top_logprobs"),
        (chat("x", json!({ "top_logprobs": 2 })), "top_logprobs"),
        (chat("x", json!({ "tool_choice": "required" })), "tool_choice"),
        (
            chat(
                "x",
                json!({ "tools": [tool("a")], "tool_choice": { "type": "function", "function": { "name": "b" } } }),
            ),
            "tool_choice",
        ),
        (chat("x", json!({ "tools": [tool("a b")] })), "tools[0]"),
        (chat("x", json!({ "tools": [{ "type": "retrieval" }] })), "tools[0].type"),
        (chat("x", json!({ "functions": [] })), "functions"),
        (chat("x", json!({ "modalities": ["audio"] })), "modalities"),
        (chat("x", json!({ "store": true })), "store"),
    ];
    for (body, param) in cases {
        let (status, error) = server.refused(CHAT, body.clone()).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{body}: {error}");
    }
    // What asks for nothing is no error.
    server
        .ask(
            CHAT,
            chat("x", json!({ "store": false, "modalities": ["text"], "audio": null, "tools": [], "user": "me" })),
        )
        .await;
}

#[tokio::test]
async fn prompts_that_cannot_be_continued() {
    let server = Server::start().await;
    let prompts = [
        json!(""),
        json!([]),
        json!([[]]),
        json!([[-1]]),
        json!([-1]),
        json!([1.5]),
        json!([1_000_000]),
        json!([[1], [700]]),
        json!({}),
        json!(7),
        json!(["a", [1]]),
        json!([true]),
    ];
    for prompt in prompts {
        let (status, error) = server.refused(PLAIN, completion(prompt.clone(), json!({}))).await;
        assert_eq!((status, error["param"].as_str()), (400, Some("prompt")), "{prompt}: {error}");
    }
    let (status, error) = server.refused(PLAIN, json!({ "max_tokens": 3 })).await;
    assert!(status == 400 && error["message"].as_str().unwrap().contains("prompt"), "{error}");
    let (status, error) = server.refused(PLAIN, completion(json!("x"), json!({ "suffix": "y" }))).await;
    assert_eq!((status, error["param"].as_str()), (400, Some("suffix")));
    // Nothing to generate is no error.
    let answer = server.ask(PLAIN, completion(json!("x"), json!({ "max_tokens": 0 }))).await;
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]), (&json!(""), &json!("length")));
}

#[tokio::test]
async fn too_long_is_said_with_both_counts() {
    let server = Server::start().await;
    let prompt: Vec<u32> = vec![5; 4000];
    for (prompt, new) in [(prompt.clone(), 200), (vec![5; 4096], 1), (vec![5; 9000], 1)] {
        let (status, error) = server.refused(PLAIN, completion(json!(prompt), json!({ "max_tokens": new }))).await;
        assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")));
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("4096 tokens") && message.contains(&format!("{} in the prompt", prompt.len())),
            "{message}"
        );
        assert!(message.contains(&format!("{new} for the completion")), "{message}");
    }
    let (_, error) = server.refused(CHAT, chat("x", json!({ "max_tokens": 5000 }))).await;
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
}

#[tokio::test]
async fn bodies_that_are_none() {
    let options = Options { max_body: 10_000, body_timeout: Duration::from_millis(300), ..Options::default() };
    let server = Server::with(options, engine_config()).await;
    let send = async |kind: Option<&str>, body: String| {
        let request = server.client.post(format!("{}{CHAT}", server.url)).body(body);
        let request = if let Some(kind) = kind { request.header("content-type", kind) } else { request };
        refusal(request.send().await.unwrap()).await
    };
    let json = Some("application/json");
    assert_eq!(send(json, "{".into()).await.0, 400);
    assert_eq!(send(json, "[1]".into()).await.0, 400);
    assert_eq!(send(json, String::new()).await.0, 400);
    assert_eq!(send(json, "{\"messages\": NaN}".into()).await.0, 400);
    for number in ["NaN", "Infinity", "-Infinity", "1e999", "1e300"] {
        let body = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"temperature\": {number}}}");
        assert_eq!(send(json, body).await.0, 400, "{number}");
    }
    assert_eq!(send(json, "[".repeat(9000)).await.0, 400);
    assert_eq!(send(json, format!("{{\"a\":{}", "[".repeat(9000))).await.0, 400);
    assert_eq!(send(json, "x".repeat(20_000)).await.0, 413);
    assert_eq!(send(Some("text/plain"), "{}".into()).await.0, 415);
    assert_eq!(send(None, "{}".into()).await.0, 415);
    assert_eq!(send(Some("application/json; charset=utf-8"), "{}".into()).await.0, 400);

    // A body that never ends is not waited for.
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), slow.read(&mut answer)).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&answer[..read])
    );

    // One that says that it is longer than allowed is not read at all.
    let mut long = TcpStream::connect(server.address()).await.unwrap();
    long.write_all(head.replace("100", "99999999").as_bytes()).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), long.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn paths_methods_and_models_that_are_not_there() {
    let server = Server::start().await;
    assert_eq!(refusal(server.get("/v1/nothing").await).await.0, 404);
    assert_eq!(refusal(server.get("/assets/../Cargo.toml").await).await.0, 404);
    assert_eq!(refusal(server.get("/assets/%2e%2e%2fCargo.toml").await).await.0, 404);
    assert_eq!(refusal(server.get(CHAT).await).await.0, 405);
    assert_eq!(refusal(server.post("/metrics", json!({})).await).await.0, 405);
    let (status, error) = server.refused(CHAT, chat("x", json!({ "model": "gpt-4" }))).await;
    assert_eq!((status, &error["code"], &error["param"]), (404, &json!("model_not_found"), &json!("model")));
    assert_eq!(refusal(server.get("/v1/models/gpt-4").await).await.0, 404);
    let model: Value = server.get("/v1/models/tiny").await.json().await.unwrap();
    assert_eq!((&model["id"], &model["max_model_len"]), (&json!("tiny"), &json!(4096)));
}

#[tokio::test]
async fn unknown_fields_are_warned_of() {
    let server = Server::start().await;
    let response = server.post(CHAT, chat("x", json!({ "frobnicate": 1, "x\ny": 2 }))).await;
    assert_eq!(response.status().as_u16(), 200);
    let warning = response.headers()["x-lyceum-warning"].to_str().unwrap().to_string();
    assert!(warning.contains("frobnicate") && warning.contains("x_y"), "{warning}");
    let response = server.post(CHAT, chat("x", json!({ "top_k": 3 }))).await;
    assert!(!response.headers().contains_key("x-lyceum-warning"));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut config = engine_config();
    (config.max_running, config.max_queue) = (1, 1);
    let server = Server::with(Options::default(), config).await;
    let long = completion(json!("a"), json!({ "stream": true, "max_tokens": 3000, "ignore_eos": true }));
    let first = server.post(PLAIN, long.clone()).await;
    let second = server.post(PLAIN, long.clone()).await;
    let third = server.post(PLAIN, long.clone()).await;
    assert!(third.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let (status, error) = refusal(third).await;
    assert_eq!((status, &error["type"]), (429, &json!("rate_limit_error")));
    // Before anything else is looked at: even a prompt that is too long for the model.
    let (status, _) = server.refused(PLAIN, completion(json!("word ".repeat(100_000)), json!({}))).await;
    assert_eq!(status, 429);
    drop((first, second));
    server.idle().await;
    server.ask(PLAIN, completion(json!("a"), json!({}))).await;
}
