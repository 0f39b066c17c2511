//! The real server for a while, and the load generator of `lyceum bench --url` at its door.

use crate::commands::bench::load::Load;
use engine::live::{Engine, EngineConfig, KvMemory, Parts};
use miette::{IntoDiagnostic, Result, miette};
use model::Decoder;
use serde_json::Value;
use serve::{App, Listener, Options};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use tensor::{Device, KvFormat};
use text::{GgufVocabulary, Tokenizer};

/// Memory for keys and values: more than any load here holds.
const KV_MEMORY: usize = 256 << 20;

/// Clients that each ask again when they are answered.
#[derive(Clone, Copy)]
pub struct Clients {
    /// How many.
    pub clients: u32,
    /// Requests in all.
    pub requests: u32,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens of each answer.
    pub answer: u32,
}

/// A server of random or real weights whose answers are counted, not read.
pub struct Server {
    url: String,
    vocab: u64,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Server {
    /// Serves a model as `lyceum serve` does with nothing set, on a port that is free.
    pub fn start(decoder: Decoder, device: Device, kv: KvFormat) -> Result<Self> {
        let vocab = decoder.config().vocab_size;
        let tokenizer = Arc::new(words(vocab)?);
        let parts = Parts { decoder, tokenizer, device, draft: None, name: "calibrate".into() };
        let config = EngineConfig { kv, kv_memory: KvMemory::Bytes(KV_MEMORY), ..EngineConfig::default() };
        let engine = Engine::start(parts, config).into_diagnostic()?;
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).into_diagnostic()?;
        let url = format!("http://{}/v1", listener.address().into_diagnostic()?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let (runtime, app) = (runtime.into_diagnostic()?, Arc::new(App::new(engine, Options::default())));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = move || {
            // Whether it is told or left alone, that is the end.
            let stopped = async move { drop(stopped.await) };
            runtime.block_on(listener.serve(app, None, stopped)).into_diagnostic()
        };
        Ok(Self { url, vocab: vocab as u64, stop, thread: thread::spawn(serving) })
    }

    /// What clients measure, as [`crate::commands::bench::load::Figures::json`] has it.
    pub fn measure(&self, clients: Clients, seed: u64) -> Result<Value> {
        let load = Load {
            url: self.url.clone(),
            clients: clients.clients as usize,
            requests: clients.requests as usize,
            until: None,
            rate: None,
            prompt_tokens: clients.prompt as usize,
            shared: 0,
            gen_tokens: clients.answer as usize,
            vocab: self.vocab,
            seed,
        };
        let figures = load.run(&|_, _| ())?.json();
        match figures["first_error"].as_str() {
            Some(error) => Err(miette!("the server that was started to be measured failed: {error}")),
            None => Ok(figures),
        }
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        // One that has ended already is told by joining it.
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| miette!("the server that was started to be measured ended badly"))?
    }
}

/// A tokeniser of as many words as a model has ids, so that each token is a piece of text of its own and no part of a stream waits for another.
fn words(vocab: usize) -> Result<Tokenizer> {
    let byte = |id: usize| (1..=256).contains(&id) && vocab > 512;
    let token = |id: usize| match id {
        0 => "<unk>".to_owned(),
        id if byte(id) => format!("<0x{:02X}>", id - 1),
        id => format!("\u{2581}w{id}"),
    };
    let kind = |id: usize| match id {
        0 => GgufVocabulary::UNKNOWN,
        id if byte(id) => GgufVocabulary::BYTE,
        _ => GgufVocabulary::NORMAL,
    };
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens: (0..vocab).map(token).collect(),
        scores: Some(vec![0.0; vocab]),
        token_types: Some((0..vocab).map(kind).collect()),
        unk: Some(0),
        add_bos: Some(false),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).into_diagnostic()
}
