//! From jobs to answers: places in the queue, submission, and what comes of it, at once or piece by piece.

use crate::App;
use crate::auth::Guest;
use crate::error::{ApiError, Result, sentence};
use engine::live::{Completion, Event, Finish, Job, Place, Scored, Stopped, Usage as Spent};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

/// Takes places for `prompts` jobs of `choices` each, before anything costly is done for them.
///
/// # Errors
/// The queue is full, or the server shuts down.
pub fn reserve(app: &App, prompts: usize, choices: u32) -> Result<Vec<Place>> {
    (0..prompts).map(|_| app.engine.reserve(choices).map_err(ApiError::from)).collect()
}

/// Gives the engine its jobs; `field` is where their prompts come from.
///
/// # Errors
/// A job that can never be served.
pub fn submit(app: &App, places: Vec<Place>, jobs: Vec<Job>, field: &str) -> Result<Vec<Completion>> {
    let one = |(place, job)| app.engine.submit(place, job).map_err(|error| ApiError::rejected(&error, field));
    places.into_iter().zip(jobs).map(one).collect()
}

/// All that came of a job.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The prompt's tokens, if their probabilities were asked for.
    pub prompt: Vec<Scored>,
    /// The prompt's vector, if asked for.
    pub embedding: Vec<f32>,
    /// The completions.
    pub choices: Vec<Choice>,
}

/// One completion.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Scored>,
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub spent: Spent,
}

/// Waits for all that comes of a job.
///
/// # Errors
/// The engine could not go on with it.
pub async fn collect(mut completion: Completion, choices: u32) -> Result<Answer> {
    let empty = Choice { text: String::new(), tokens: Vec::new(), finish: Finish::Cancelled, spent: Spent::default() };
    let mut answer = Answer { choices: vec![empty; choices as usize], ..Answer::default() };
    let mut open = choices;
    while let Some(event) = completion.next().await {
        match event {
            Event::Prompt(scored) => answer.prompt = scored,
            Event::Embedding(vector) => answer.embedding = vector,
            Event::Delta { choice, tokens, text } => {
                let choice = &mut answer.choices[choice as usize];
                choice.tokens.extend(tokens);
                choice.text.push_str(&text);
            }
            Event::Finished { choice, finish, usage } => {
                let choice = &mut answer.choices[choice as usize];
                (choice.finish, choice.spent) = (finish, usage);
                open -= 1;
            }
            Event::Failed(reason) => return Err(failed(&reason)),
        }
    }
    let cut = answer.choices.iter().any(|choice| choice.finish == Finish::Cancelled);
    if open > 0 || cut { Err(interrupted()) } else { Ok(answer) }
}

/// The engine could not go on.
pub fn failed(reason: &str) -> ApiError {
    ApiError::internal(sentence(reason))
}

/// The engine ended first.
pub fn interrupted() -> ApiError {
    ApiError::internal("The server stopped before the answer was complete.")
}

/// What comes of several jobs, as it comes: (index of the job, event). It holds what the client holds: dropping it cancels the jobs.
pub struct Events {
    events: BoxStream<'static, (usize, Event)>,
    _guest: Guest,
}

impl Events {
    /// Joins the jobs' events.
    pub fn new(completions: Vec<Completion>, guest: Guest) -> Self {
        let one = |(index, completion): (usize, Completion)| {
            let next =
                |mut completion: Completion| async move { completion.next().await.map(|event| (event, completion)) };
            stream::unfold(completion, next).map(move |event| (index, event)).boxed()
        };
        Self { events: stream::select_all(completions.into_iter().enumerate().map(one)).boxed(), _guest: guest }
    }

    /// The next event of any job.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        self.events.next().await
    }
}

/// The name of a reason to end.
///
/// # Errors
/// It is none: the engine broke off.
pub fn finish_name(finish: &Finish) -> Result<&'static str> {
    match finish {
        Finish::Stop(_) => Ok("stop"),
        Finish::Length | Finish::Deadline => Ok("length"),
        Finish::Cancelled => Err(interrupted()),
    }
}

/// What stopped a completion, beyond the model's own end, as `stop_reason` tells it.
pub fn stop_reason(finish: &Finish, own_ends: &[u32]) -> Option<serde_json::Value> {
    match finish {
        Finish::Stop(Stopped::String(text)) => Some(text.clone().into()),
        Finish::Stop(Stopped::Token(id)) if !own_ends.contains(id) => Some((*id).into()),
        _ => None,
    }
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompts, each counted once.
    pub prompt_tokens: u64,
    /// Tokens generated in all choices.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// Of the prompts' tokens.
    pub prompt_tokens_details: PromptDetails,
    /// Of the generated ones.
    pub completion_tokens_details: CompletionDetails,
}

/// What is known of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Found in the prefix cache.
    pub cached_tokens: u64,
}

/// What is known of generated tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CompletionDetails {
    /// Drafted tokens that were the model's own choice.
    pub accepted_prediction_tokens: u64,
    /// Drafted tokens that were not.
    pub rejected_prediction_tokens: u64,
    /// Thoughts are not told from text, so always 0.
    pub reasoning_tokens: u64,
}

impl Usage {
    /// A prompt is part of the request.
    pub fn add_prompt(&mut self, tokens: usize) {
        self.prompt_tokens += tokens as u64;
        self.total_tokens += tokens as u64;
    }

    /// A choice ended. The prompt's cached part is that of its first choice.
    pub fn add_choice(&mut self, choice: u32, spent: &Spent) {
        self.add_tokens(spent.generated.into());
        if choice == 0 {
            self.prompt_tokens_details.cached_tokens += u64::from(spent.cached);
        }
        self.completion_tokens_details.accepted_prediction_tokens += u64::from(spent.accepted);
        self.completion_tokens_details.rejected_prediction_tokens +=
            u64::from(spent.drafted - spent.accepted.min(spent.drafted));
    }

    /// Tokens were generated.
    pub fn add_tokens(&mut self, tokens: u64) {
        self.completion_tokens += tokens;
        self.total_tokens += tokens;
    }
}
