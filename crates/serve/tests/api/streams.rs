//! What a stream must be: real, safe to cut into lines, and ended early by those who leave.

use crate::server::{Server, chat, completion, engine_config, joined, model_folder, parse_events};
use serde_json::{Value, json};
use serve::Options;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const PLAIN: &str = "/v1/completions";

#[tokio::test]
async fn the_first_delta_leaves_before_the_last_token_is_computed() {
    let server = Server::start().await;
    let body = chat("Go on", json!({ "stream": true, "max_tokens": 3000, "ignore_eos": true }));
    let mut response = server.post(CHAT, body).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("assistant"));
    let generated = server.live().await["tokens_out"].as_u64().unwrap();
    assert!(generated < 3000, "all was computed before the first delta came");
}

#[tokio::test]
async fn characters_over_several_tokens_come_whole() {
    let server = Server::start().await;
    let text = "é漢字🙂\u{2028}b\u{2029}c\u{85}d";
    let asked = json!({ "structured_outputs": { "choice": [text] }, "max_tokens": 100, "stream": true });
    let response = server.post(CHAT, chat("x", asked)).await;
    let body = response.text().await.unwrap();
    assert!(!body.contains(['\u{2028}', '\u{2029}', '\u{85}', '\u{FFFD}']), "{body}");
    let events = parse_events(&body);
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(joined(&chunks, 1), [text]);
}

#[tokio::test]
async fn an_error_on_the_way_is_told_in_the_stream() {
    let folder = model_folder();
    break_model(&folder.path().join("model.safetensors"));
    let server = Server::of(folder, Options::default(), engine_config()).await;
    let events = server.events(CHAT, chat("x", json!({ "stream": true }))).await;
    let error: Value = events
        .iter()
        .map(|(_, data)| data)
        .find(|data| data.contains("\"error\""))
        .map(|data| serde_json::from_str(data).unwrap())
        .unwrap();
    assert_eq!(error["error"]["type"], "server_error");
    let (status, error) = server.refused(CHAT, chat("x", json!({}))).await;
    assert_eq!((status, &error["type"]), (500, &json!("server_error")));
    // It ended alone.
    assert_eq!(server.get("/health").await.status().as_u16(), 200);
}

/// Writes the largest number over the values of the last norm: what is computed with it overflows.
fn break_model(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensor = &header["model.norm.weight"];
    assert_eq!(tensor["dtype"], "F32");
    let offset = |i: usize| 8 + length + tensor["data_offsets"][i].as_u64().unwrap() as usize;
    bytes[offset(0)..offset(1)].chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&f32::MAX.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn blocks_of_those_who_leave_are_free_at_once() {
    let mut config = engine_config();
    (config.max_running, config.max_queue) = (2, 16);
    let server = Server::with(Options::default(), config).await;
    let long = json!({ "stream": true, "max_tokens": 3000, "ignore_eos": true });
    let mut running = Vec::new();
    for index in 0..2 {
        let mut response = server.post(PLAIN, completion(json!(format!("running {index}")), long.clone())).await;
        response.chunk().await.unwrap();
        running.push(response);
    }
    // Queued, streaming and not.
    let queued = server.post(PLAIN, completion(json!("queued"), long.clone())).await;
    let mut whole = long.clone();
    whole["stream"] = false.into();
    let (client, url) = (server.client.clone(), format!("{}{PLAIN}", server.url));
    let body = completion(json!("queued, too"), whole);
    let waiting = tokio::spawn(async move { client.post(url).json(&body).send().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(queued);
    waiting.abort();
    let _ = waiting.await;
    drop(running);
    server.idle().await;
    assert!(server.live().await["tokens_out"].as_u64().unwrap() < 4 * 3000, "nobody was left to compute for");

    // While a long prompt is computed.
    let prompt: Vec<u32> = (0..3000).map(|i| i % 500).collect();
    let prefilling = server.post(PLAIN, completion(json!(prompt), long)).await;
    drop(prefilling);
    server.idle().await;
    let answer = server.ask(PLAIN, completion(json!("still there"), json!({}))).await;
    assert_eq!(answer["object"], "text_completion");
}

#[tokio::test]
async fn usage_comes_where_it_was_asked_for() {
    let server = Server::start().await;
    let without = server.chunks(PLAIN, completion(json!("a"), json!({ "stream": true }))).await;
    assert!(
        without.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"].as_array().unwrap().len() == 1)
    );
    let options = json!({ "stream": true, "ignore_eos": true, "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
    let with = server.chunks(PLAIN, completion(json!("a"), options)).await;
    let counts: Vec<_> = with.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&16), "{counts:?}");
    assert_eq!(with.last().unwrap()["choices"], json!([]));
}
