//! Compiling within limits: whatever is sent, an answer comes in bounded time and the process lives on.

use super::source::Source;
use super::{Grammar, GrammarError, sentence, vocabulary};
use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;
use text::Tokenizer;

/// How long a caller waits if nothing else is said. Whatever takes longer runs into the limits of `llguidance` by itself.
const TIME: Duration = Duration::from_secs(2);

/// Grammars compiled at once, those that nobody waits for any longer among them.
const AT_ONCE: usize = 4;

/// Stack of a compiling thread: `llguidance` recurses over what the source nests and over chains of references, and a stack
/// that overflows would end the process. Pages that are not touched cost nothing.
const STACK: usize = 512 << 20;

/// Compiles grammars for one tokeniser. May be called from any thread; calls block.
pub struct Compiler {
    tokenizer: Arc<Tokenizer>,
    factory: Arc<ParserFactory>,
    running: Arc<AtomicUsize>,
    time: Duration,
}

impl Compiler {
    /// Lays out the tokens.
    ///
    /// # Errors
    /// [`GrammarError::Invalid`] if `llguidance` refuses the tokeniser.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let environment = vocabulary::environment(&tokenizer);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Invalid { kind: "tokenizer", message: sentence(&error) })?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { tokenizer, factory: Arc::new(factory), running: Arc::default(), time: TIME })
    }

    /// Waits so long for a grammar instead of 2 seconds.
    pub fn waiting(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// Compiles a source.
    ///
    /// # Errors
    /// All but [`GrammarError::Stuck`].
    pub fn compile(&self, source: &Source) -> Result<Grammar, GrammarError> {
        let kind = source.kind();
        let grammar = source.lower(&self.tokenizer)?;
        let place = Place::take(&self.running)?;
        let factory = self.factory.clone();
        let (answer, answered) = sync_channel(1);
        let work = move || {
            let compiled = create(&factory, grammar);
            drop(place);
            // Nobody is left to hear it if it took too long.
            let _ = answer.send(compiled);
        };
        let failed = |message| GrammarError::Invalid { kind, message };
        let spawned = std::thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(work);
        spawned.map_err(|error| failed(format!("no thread for it: {error}")))?;
        match answered.recv_timeout(self.time) {
            Ok(compiled) => compiled.map_err(failed),
            Err(RecvTimeoutError::Timeout) => Err(GrammarError::TooSlow { kind, limit: self.time }),
            Err(RecvTimeoutError::Disconnected) => Err(failed("the compiler failed on it".into())),
        }
    }
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("tokenizer", &self.tokenizer).finish_non_exhaustive()
    }
}

/// Compiles and takes the first step, so that what cannot even begin is refused here.
fn create(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Grammar, String> {
    let parser = factory.create_parser(grammar).map_err(|error| match sentence(&error) {
        // Its advice is about an option that would leave `oneOf` unchecked.
        message if message.contains("coerce_one_of") => "`oneOf` needs options that cannot overlap: use `anyOf`".into(),
        message => message,
    })?;
    let mut grammar = Grammar::new(parser);
    grammar.mask(&mut [], &[]).map_err(|error| error.to_string())?;
    Ok(grammar)
}

/// One of the places for grammars compiled at once, given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Result<Self, GrammarError> {
        let taken = running.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < AT_ONCE).then_some(n + 1));
        taken.map(|_| Self(running.clone())).map_err(|running| GrammarError::Busy { running })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
