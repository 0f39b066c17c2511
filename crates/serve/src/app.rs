//! What all handlers share.

use crate::auth::Keys;
use crate::error::{ApiError, Result};
use crate::request::generation::Defaults;
use crate::tools::ToolFormat;
use engine::live::Engine;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use text::{ChatTemplate, Error};

/// How to serve.
#[derive(Debug)]
pub struct Options {
    /// Who may ask; empty: everybody.
    pub keys: Keys,
    /// What requests leave out.
    pub defaults: Defaults,
    /// Origins whose pages may ask from a browser; `*` is all.
    pub cors: Vec<String>,
    /// Bytes of a body at most.
    pub max_body: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long accepted requests have to end once the server shuts down.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            defaults: Defaults::default(),
            cors: Vec::new(),
            max_body: 16 << 20,
            body_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(60),
        }
    }
}

/// What all handlers share.
pub struct App {
    /// What makes tokens.
    pub engine: Engine,
    /// How to serve.
    pub options: Options,
    /// How chats are laid out, or why they cannot be.
    pub(crate) template: std::result::Result<ChatTemplate, Error>,
    /// How the model writes calls of tools, if its template knows tools.
    pub(crate) tools: Option<ToolFormat>,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    random: RandomState,
    counter: AtomicU64,
}

impl App {
    /// A server for this engine.
    pub fn new(engine: Engine, options: Options) -> Self {
        let template = engine.tokenizer().chat_template();
        let tools = template.as_ref().ok().and_then(ToolFormat::of);
        Self {
            engine,
            options,
            template,
            tools,
            created: now(),
            random: RandomState::new(),
            counter: AtomicU64::new(0),
        }
    }

    /// What the model is called.
    pub(crate) fn name(&self) -> &str {
        &self.engine.info().name
    }

    /// Refuses what is new from now on.
    pub fn drain(&self) {
        self.engine.drain();
    }

    /// Whether what is new is refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.engine.is_draining()
    }

    /// A number that was never given before and that nobody can guess.
    pub(crate) fn fresh(&self) -> u128 {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        u128::from(self.random.hash_one((count, 0))) << 64 | u128::from(self.random.hash_one((count, 1)))
    }

    /// An identifier that was never given before.
    pub(crate) fn fresh_id(&self, prefix: &str) -> String {
        format!("{prefix}{:032x}", self.fresh())
    }

    /// Refuses a model that is not served.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<()> {
        match asked {
            Some(asked) if asked != self.name() => Err(ApiError::unknown_model(asked, self.name())),
            _ => Ok(()),
        }
    }

    /// Refuses token ids that the model does not have.
    pub(crate) fn check_ids(&self, field: &str, ids: &[u32]) -> Result<()> {
        let vocab = self.engine.info().config.vocab_size;
        match ids.iter().find(|id| **id as usize >= vocab) {
            Some(id) => {
                let message = format!("`{field}` has the token id {id}, but the vocabulary ends at {}.", vocab - 1);
                Err(ApiError::invalid(field, message))
            }
            None => Ok(()),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
