//! A server for a test, on a port of its own, and what asks it.

use engine::live::{Engine, EngineConfig, KvMemory, Parts};
use model::{Checkpoint, Decoder, LoadOptions};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use serve::{App, Listener, Options};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::{Device, Format};
use text::Tokenizer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Positions that the test's model serves: more than it was made for, which its values do not mind.
pub const CONTEXT: usize = 4096;

/// A running server.
pub struct Server {
    pub app: Arc<App>,
    pub url: String,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

/// A copy of the fixture model with a longer context.
pub fn model_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = fixture("qwen3_moe_bpe");
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = CONTEXT.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// What the tests' engines share.
pub fn engine_config() -> EngineConfig {
    EngineConfig { kv_memory: KvMemory::Bytes(16 << 20), max_running: 32, max_queue: 64, ..EngineConfig::default() }
}

pub fn start_engine(folder: &Path, config: EngineConfig) -> Engine {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut device = Device::new(1);
    let options = LoadOptions { weights: Some(Format::F32), context: None, progress: None };
    let decoder = Decoder::load(&checkpoint, &mut device, &options).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_folder(folder).unwrap());
    let parts = Parts { decoder, tokenizer, device, draft: None, name: "tiny".into() };
    Engine::start(parts, config).unwrap()
}

impl Server {
    /// With everything as it is by default.
    pub async fn start() -> Self {
        Self::with(Options::default(), engine_config()).await
    }

    pub async fn with(options: Options, config: EngineConfig) -> Self {
        Self::of(model_folder(), options, config).await
    }

    pub async fn of(folder: tempfile::TempDir, options: Options, config: EngineConfig) -> Self {
        let app = Arc::new(App::new(start_engine(folder.path(), config), options));
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", listener.address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = app.clone();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            listener.serve(serving, None, stopped).await.unwrap();
        });
        let client = Client::builder().no_proxy().build().unwrap();
        Self { app, url, client, stop: Some(stop), task: Some(task), _folder: folder }
    }

    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_string()
    }

    pub async fn post(&self, path: &str, body: Value) -> Response {
        self.client.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// The answer to a request that must succeed.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, body.clone()).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{body} -> {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Status and error of a request that must fail, in the one shape that errors have.
    pub async fn refused(&self, path: &str, body: Value) -> (u16, Value) {
        refusal(self.post(path, body).await).await
    }

    /// All events of a stream: names and data.
    pub async fn events(&self, path: &str, body: Value) -> Vec<(String, String)> {
        let response = self.post(path, body).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        parse_events(&response.text().await.unwrap())
    }

    /// The chunks of a stream that ends as OpenAI's do.
    pub async fn chunks(&self, path: &str, body: Value) -> Vec<Value> {
        let mut events = self.events(path, body).await;
        assert_eq!(events.pop().unwrap().1, "[DONE]");
        events.into_iter().map(|(_, data)| serde_json::from_str(&data).unwrap()).collect()
    }

    pub async fn live(&self) -> Value {
        self.get("/api/live").await.json().await.unwrap()
    }

    /// Waits until nobody holds a block and nobody waits.
    pub async fn idle(&self) {
        for _ in 0..2000 {
            let live = self.live().await;
            if live["running"] == 0
                && live["waiting"] == 0
                && live["occupancy"][0]["owned"] == 0
                && self.app.engine.is_idle()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("blocks were not given back: {}", self.live().await["occupancy"]);
    }

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until it has.
    pub async fn stopped(&mut self) {
        self.task.take().unwrap().await.unwrap();
    }
}

/// Status and error of an answer, in the one shape that errors have.
pub async fn refusal(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
    assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(), "{body}");
    assert!((400..600).contains(&status));
    (status, error.clone())
}

/// Names and data of server-sent events, by the protocol's rules: lines end with LF, CR or CRLF and nothing else.
pub fn parse_events(text: &str) -> Vec<(String, String)> {
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), Vec::new());
    for line in text.split('\n').map(|line| line.trim_end_matches('\r')) {
        match line.split_once(": ").or_else(|| line.split_once(':')) {
            Some(("data", value)) => data.push(value.to_string()),
            Some(("event", value)) => name = value.to_string(),
            _ if line.is_empty() && !data.is_empty() => {
                events.push((std::mem::take(&mut name), std::mem::take(&mut data).join("\n")));
            }
            _ => {}
        }
    }
    events
}

/// A chat with one message.
pub fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": text }], "max_tokens": 16 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A plain completion.
pub fn completion(prompt: Value, more: Value) -> Value {
    let mut body = json!({ "model": "tiny", "prompt": prompt, "max_tokens": 16 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The texts of choices, by index, put together from chunks.
pub fn joined(chunks: &[Value], choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        texts[choice["index"].as_u64().unwrap() as usize] += text;
    }
    texts
}
