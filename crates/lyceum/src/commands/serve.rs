//! `lyceum serve`: models over HTTP.

use crate::failure::misuse;
use crate::models::{self, Loaded};
use crate::options::Compute;
use crate::output;
use crate::telemetry::Telemetry;
use batch::{Proposer, Speculation};
use clap::Args;
use engine::live::{Engine, EngineConfig, KvMemory, Parts};
use miette::{Context, IntoDiagnostic, Result};
use model::files::Tokens;
use serve::{App, Defaults, Keys, Listener, Options, Tls};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Answer the OpenAI API, Anthropic's messages, and a web page
#[derive(Args)]
#[command(after_help = "Example:\n  lyceum serve path/to/model --port 8080 --weights int8 --speculate ngram\n\n\
                        then open http://127.0.0.1:8080/, or\n  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n    \
                        -d '{\"prompt\": \"fn main() {\", \"max_tokens\": 64, \"stream\": true}'")]
pub struct Serve {
    /// Model: a folder with safetensors or a .gguf file; the demo if not given
    model: Option<PathBuf>,

    #[command(flatten)]
    network: Network,

    #[command(flatten)]
    compute: Compute,

    #[command(flatten)]
    capacity: Capacity,

    /// What clients call the model; the name of its folder or file if not given
    #[arg(long)]
    name: Option<String>,

    /// Who drafts tokens: off, ngram (what followed before) or draft (the model of --draft)
    #[arg(long, value_name = "WHO")]
    speculate: Option<Proposal>,

    /// A small model with the same tokeniser that drafts tokens; implies --speculate draft
    #[arg(long, value_name = "MODEL")]
    draft: Option<PathBuf>,

    /// Tokens drafted for a sequence at once, at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    draft_tokens: u32,

    /// Accept drafts that are merely typical, by this much (0 to 1): faster, and no longer the same tokens
    #[arg(long, value_name = "EPSILON")]
    typical_acceptance: Option<f32>,

    /// How much is logged: error, warn, info, debug, or a filter such as info,serve=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "LYCEUM_LOG")]
    log: String,

    /// An OpenTelemetry collector that is sent a span of each request (OTLP over HTTP), such as `http://127.0.0.1:4318`; for programs
    /// built with the feature otlp
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

/// Where to listen, and to whom.
#[derive(Args)]
struct Network {
    /// Address to listen on; 0.0.0.0 is all of the machine's
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,

    /// Port to listen on; 0 is any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// A TOML file of API keys: `[[key]]` with name, key, and perhaps requests_per_minute and concurrent; LYCEUM_API_KEYS, separated by
    /// commas, if not given
    #[arg(long, value_name = "FILE")]
    api_keys: Option<PathBuf>,

    /// A PEM file with the certificate and those that vouch for it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// A PEM file with the certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// An origin whose pages may ask from a browser, such as `https://example.org`; * is all; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,

    /// Bytes of a request at most
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = parse_bytes)]
    max_body: usize,

    /// Seconds that accepted requests have to end after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    drain_seconds: u64,
}

/// How much at once.
#[derive(Args)]
struct Capacity {
    /// Memory for keys and values, such as 2G or 512M; what is free, less a reserve, if not given
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    kv_memory: Option<usize>,

    /// Positions to serve: prompt and completion together; all that the model was made for if not given
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// Sequences that run at once, at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_running: u32,

    /// Sequences that may wait beside those; more are refused with 429
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_queue: u32,

    /// Tokens that one step computes at most: what a long prompt may delay others by
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    step_tokens: u32,

    /// Seconds after which a step counts as stalled, and /health says so
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    stall_seconds: u64,
}

/// Who drafts tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Proposal {
    /// Nobody
    Off,
    /// What followed the last tokens when they stood earlier in the same sequence
    Ngram,
    /// The model of --draft
    Draft,
}

/// Runs of last tokens that n-gram lookup looks for.
const NGRAM: Proposer = Proposer::Ngram { longest: 4, shortest: 2 };

/// Threads for everything but the engine, which does nearly all of the work.
const THREADS: usize = 2;

impl Serve {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let _telemetry = Telemetry::start(&self.log, self.otlp.as_deref())?;
        let speculation = self.speculation()?;
        let keys = self.network.keys()?;
        let tls = self.network.tls()?;
        // The address first: that it is taken should not be learned after a minute of loading.
        let listener = Listener::bind(SocketAddr::new(self.network.host, self.network.port)).into_diagnostic()?;
        let path = models::path(self.model.clone())?;
        let Loaded { checkpoint, decoder, device, took } = Loaded::open(&path, &self.compute, self.capacity.context)?;
        let tokenizer = Arc::new(models::need_tokenizer(&checkpoint)?);
        let context = Some(decoder.context());
        let draft = match &self.draft {
            Some(path) => {
                let draft = Loaded::open(path, &self.compute, context)?;
                models::check_draft(&draft.checkpoint, &tokenizer)?;
                Some(draft.decoder)
            }
            None => None,
        };
        let name = self.name.clone().unwrap_or_else(|| name_of(&path));
        let parts = Parts { decoder, tokenizer, device, draft, name };
        let engine = Engine::start(parts, self.capacity.engine(&self.compute, speculation, self.typical_acceptance));
        let engine = engine.into_diagnostic()?;
        let options = Options {
            keys,
            defaults: defaults(&checkpoint.tokens)?,
            cors: self.network.cors.clone(),
            max_body: self.network.max_body,
            drain_timeout: Duration::from_secs(self.network.drain_seconds),
            ..Options::default()
        };
        // Each client is an open file.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        self.announce(&engine, &listener, took)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
        let app = Arc::new(App::new(engine, options));
        runtime.into_diagnostic()?.block_on(async {
            let stop = stopped().into_diagnostic()?;
            listener.serve(app, tls, stop).await.into_diagnostic()
        })
    }

    fn speculation(&self) -> Result<Option<Speculation>> {
        let proposer = match (self.speculate, &self.draft) {
            (None | Some(Proposal::Draft), Some(_)) => Proposer::Draft,
            (Some(_), Some(_)) => return Err(misuse("--draft gives a model that only --speculate draft uses")),
            (Some(Proposal::Draft), None) => return Err(misuse("--speculate draft needs a model: --draft MODEL")),
            (Some(Proposal::Ngram), None) => NGRAM,
            (None | Some(Proposal::Off), None) if self.typical_acceptance.is_some() => {
                return Err(misuse("--typical-acceptance needs drafts: --speculate ngram, or --draft MODEL"));
            }
            (None | Some(Proposal::Off), None) => return Ok(None),
        };
        Ok(Some(Speculation { proposer, most: self.draft_tokens, adaptive: true }))
    }

    /// Says where the server is.
    fn announce(&self, engine: &Engine, listener: &Listener, took: Duration) -> Result<()> {
        let info = engine.info();
        let address = listener.address().into_diagnostic()?;
        let scheme = if self.network.tls_cert.is_some() { "https" } else { "http" };
        let loaded = format!("{} of weights in {:.1} s", output::bytes(info.weight_bytes as u64), took.as_secs_f64());
        let cache = format!("{} of K/V cache", output::bytes(info.kv_bytes as u64));
        output::note(&format!("{}: {loaded}, context {}, {cache}", info.name, info.context));
        output::note(&format!("listening on {scheme}://{address}/"));
        Ok(())
    }
}

impl Network {
    fn keys(&self) -> Result<Keys> {
        let variable = "LYCEUM_API_KEYS";
        match (&self.api_keys, std::env::var(variable)) {
            (Some(path), _) => Keys::from_file(path).into_diagnostic(),
            (None, Ok(list)) => Keys::from_list(&list, variable).into_diagnostic(),
            (None, Err(std::env::VarError::NotPresent)) => Ok(Keys::default()),
            (None, Err(error)) => Err(misuse(format!("{variable}: {error}"))),
        }
    }

    fn tls(&self) -> Result<Option<Tls>> {
        let files = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        files.map(|(certificate, key)| Tls::from_files(certificate, key)).transpose().into_diagnostic()
    }
}

impl Capacity {
    fn engine(
        &self,
        compute: &Compute,
        speculation: Option<Speculation>,
        typical_acceptance: Option<f32>,
    ) -> EngineConfig {
        EngineConfig {
            kv: compute.kv_cache,
            kv_memory: self.kv_memory.map_or(KvMemory::Free, KvMemory::Bytes),
            step_tokens: self.step_tokens,
            // Each running sequence needs a row of every step.
            max_running: self.max_running.min(self.step_tokens),
            max_queue: self.max_queue,
            speculation,
            typical_acceptance,
            stall_after: Duration::from_secs(self.stall_seconds),
            ..EngineConfig::default()
        }
    }
}

/// The name of a model's folder or file.
fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// What the model's makers say of sampling.
fn defaults(tokens: &Tokens) -> Result<Defaults> {
    let Tokens::Folder(folder) = tokens else { return Ok(Defaults::default()) };
    let path = folder.join("generation_config.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Defaults::default()),
        Err(error) => return Err(error).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display())),
    };
    let config = serde_json::from_str(&text).into_diagnostic();
    Ok(Defaults::from_generation_config(&config.wrap_err_with(|| format!("cannot read {}", path.display()))?))
}

/// A number of bytes, such as `512M`.
fn parse_bytes(text: &str) -> std::result::Result<usize, String> {
    let (number, shift) = match text.trim_end_matches(['B', 'b', 'i']).char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let bytes = number.trim().parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "it must be a number of bytes, such as 512M or 2G".into())
}

/// Ends at Ctrl-C or SIGTERM. A second one ends the program at once, as without this.
fn stopped() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(130);
        });
    })
}
