//! What the engine says of a job, in this order: `Prompt` or `Embedding` if asked for; then for each choice any number of `Delta`s and one
//! `Finished`, choices interleaved. `Failed` may come instead of whatever is left, and ends the job. The channel closes after the last.

/// Something that became known.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt's own tokens; the first has no probability.
    Prompt(Vec<Scored>),
    /// The prompt's embedding.
    Embedding(Vec<f32>),
    /// A choice goes on. Text lags behind tokens while a character or a possible stop string is incomplete, so either may be empty.
    Delta {
        /// Which choice.
        choice: u32,
        /// Tokens that were generated, in order.
        tokens: Vec<Scored>,
        /// Text that is final, to be appended.
        text: String,
    },
    /// A choice ended; nothing more comes of it. Jobs without tokens to generate end each choice with `Finish::Length`.
    Finished {
        /// Which choice.
        choice: u32,
        /// Why.
        finish: Finish,
        /// What it took.
        usage: Usage,
    },
    /// The job cannot go on: logits that are not finite, a grammar that allows nothing. All its choices have ended.
    Failed(String),
}

/// A token and, where asked for, how probable it was: under the distribution that it was drawn from before temperature and filters, with
/// bias and penalties left out (the model's own).
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its id.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub logprob: Option<f32>,
    /// The most probable tokens, most probable first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is complete.
    Stop(Stopped),
    /// The limit of tokens was reached.
    Length,
    /// Its time was up.
    Deadline,
    /// Its client left, or the engine shuts down.
    Cancelled,
}

/// What completed a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A token that ends texts.
    Token(u32),
    /// One of the job's stop strings.
    String(String),
    /// The grammar allows nothing more.
    Grammar,
}

/// What a choice took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens generated, an end-of-text token among them.
    pub generated: u32,
    /// Prompt tokens that were found in the prefix cache.
    pub cached: u32,
    /// Tokens drafted.
    pub drafted: u32,
    /// Drafted tokens that were the model's own choice.
    pub accepted: u32,
}
