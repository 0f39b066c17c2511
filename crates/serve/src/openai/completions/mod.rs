//! `POST /v1/completions`.

pub mod answer;
mod stream;

use crate::App;
use crate::app::now;
use crate::auth::Guest;
use crate::body::JsonBody;
use crate::error::{ApiError, ErrorBody, Result};
use crate::jobs::{Events, Usage, collect, finish_name, reserve, stop_reason, submit};
use crate::openai::logprobs::{CompletionLogprobs, Offsets};
use crate::request::format::compile;
use crate::request::generation::{Checked, Generation, MOST_TOP};
use crate::request::prompt::{Prompt, Prompts, PromptsSchema, room, tokenize};
use crate::request::{FALSE, Fields, Unsupported, generation};
use answer::{Completion, CompletionChoice};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use engine::live::{Job, PromptOutputs, Scored};
use futures_util::future::try_join_all;
use serde::Deserialize;
use std::sync::Arc;
use stream::CompletionStream;
use text::DecodeOptions;
use utoipa::ToSchema;

/// New tokens if nobody says how many.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A plain completion's request.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "its parts are read apart; only its schema is used")]
pub struct CompletionRequest {
    /// What plain completions alone have.
    #[serde(flatten)]
    pub completion: CompletionFields,
    /// What chats have too.
    #[serde(flatten)]
    pub generation: Generation,
}

/// What plain completions alone have.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CompletionFields {
    /// What is to be continued. Each of several prompts has `n` completions, in order.
    #[schema(value_type = PromptsSchema)]
    pub prompt: Prompts,
    /// What follows: the completion fills the gap between `prompt` and this.
    pub suffix: Option<String>,
    /// Tell the prompt too, with its tokens' probabilities if `logprobs` asks for them.
    pub echo: Option<bool>,
    /// Tell each token's probability, and those of so many of the most probable tokens.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<u32>,
    /// Must be `n`: nothing is computed that is not told.
    pub best_of: Option<u32>,
}

const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::unless(
        "add_special_tokens",
        |value| *value == true,
        "the beginning that the model expects is always there.",
    ),
    Unsupported::unless("store", FALSE, "nothing is stored."),
    Unsupported::new("messages", "use /v1/chat/completions."),
    Unsupported::new("tools", "use /v1/chat/completions."),
    Unsupported::new("tool_choice", "use /v1/chat/completions."),
];

/// Continues texts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "OpenAI",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The completions; with `stream`, server-sent events of parts of them, closed by `[DONE]`",
         content((Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = "default", description = "Why there are none", body = ErrorBody),
    )
)]
pub async fn complete(State(app): State<Arc<App>>, guest: Guest, JsonBody(body): JsonBody) -> Result<Response> {
    let mut fields = Fields::new(body);
    let asked: CompletionFields = fields.read()?;
    let generation: Generation = fields.read()?;
    let warnings = fields.finish(&[generation::UNSUPPORTED, UNSUPPORTED])?;
    let checked = asked.check(generation.check(&app)?)?;
    let format = generation.grammar_source()?;

    let choices = checked.job.choices;
    let places = reserve(&app, asked.prompt.0.len(), choices)?;
    let prompts = asked.tokens(&app).await?;
    let grammar = match format {
        Some((field, source)) => Some(compile(&app, field, source).await?),
        None => None,
    };
    let mut jobs = Vec::new();
    for (index, tokens) in prompts.iter().enumerate() {
        let mut job = Job {
            prompt: tokens.clone(),
            max_tokens: room(&app, "prompt", tokens.len(), generation.max_tokens, DEFAULT_MAX_TOKENS)?,
            grammar: grammar.clone(),
            salt: guest.salt(),
            ..checked.job.clone()
        };
        // Equal prompts have different completions unless a seed says that they have not.
        if index > 0 && generation.seed.is_none() {
            job.sampling.seed = app.fresh() as u64;
        }
        jobs.push(job);
    }
    let completions = submit(&app, places, jobs, "prompt")?;
    let echoes = asked.echoes(&app, &checked, &prompts);
    let told = Told::new(app, checked, prompts, echoes);
    let mut response = if told.checked.stream {
        crate::stream::respond(Events::new(completions, guest), CompletionStream::new(told))
    } else {
        let answers = try_join_all(completions.into_iter().map(|completion| collect(completion, choices))).await?;
        told.whole(answers)?
    };
    warnings.attach(response.headers_mut());
    Ok(response)
}

impl CompletionFields {
    fn check(&self, mut checked: Checked) -> Result<Checked> {
        if self.logprobs.is_some_and(|top| top > MOST_TOP) {
            return Err(ApiError::invalid("logprobs", format!("`logprobs` must be from 0 to {MOST_TOP}.")));
        }
        if self.best_of.is_some_and(|best_of| best_of != checked.job.choices) {
            let message = "`best_of` other than `n` is not supported here: ask for `n` and choose by `logprobs`.";
            return Err(ApiError::unsupported("best_of", message));
        }
        let echo = self.echo.unwrap_or(false);
        if self.suffix.is_some() {
            if echo {
                return Err(ApiError::invalid("echo", "`echo` and `suffix` cannot be combined."));
            }
            if self.prompt.0.len() > 1 {
                return Err(ApiError::invalid("suffix", "`suffix` is only allowed with one prompt."));
            }
        }
        checked.job.logprobs = self.logprobs;
        checked.job.prompt_outputs = self.logprobs.filter(|_| echo).map(PromptOutputs::Logprobs);
        Ok(checked)
    }

    async fn tokens(&self, app: &Arc<App>) -> Result<Vec<Vec<u32>>> {
        match &self.suffix {
            None => tokenize(app, "prompt", self.prompt.0.clone()).await,
            Some(suffix) => {
                let (app, suffix, prompt) = (app.clone(), suffix.clone(), self.prompt.0.clone());
                let tokens = move || prompt.iter().map(|prompt| prompt.around(&app, &suffix)).collect();
                crate::blocking(tokens).await?
            }
        }
    }

    /// The texts of the prompts, if they are to be told.
    fn echoes(&self, app: &App, checked: &Checked, prompts: &[Vec<u32>]) -> Option<Vec<String>> {
        let options = DecodeOptions { skip_special: !checked.job.show_special, continues: false };
        let text = |(asked, ids): (&Prompt, &Vec<u32>)| match asked {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(_) => app.engine.tokenizer().decode_with(ids, options).unwrap_or_default(),
        };
        self.echo.unwrap_or(false).then(|| self.prompt.0.iter().zip(prompts).map(text).collect())
    }
}

/// What is told of all completions of a request, whole or in parts.
struct Told {
    app: Arc<App>,
    id: String,
    created: u64,
    checked: Checked,
    prompts: Vec<Vec<u32>>,
    echoes: Option<Vec<String>>,
    usage: Usage,
}

impl Told {
    fn new(app: Arc<App>, checked: Checked, prompts: Vec<Vec<u32>>, echoes: Option<Vec<String>>) -> Self {
        let mut usage = Usage::default();
        prompts.iter().for_each(|prompt| usage.add_prompt(prompt.len()));
        Self { id: app.fresh_id("cmpl-"), created: now(), app, checked, prompts, echoes, usage }
    }

    /// The text of a prompt, if it is told.
    fn echo(&self, job: usize) -> Option<&str> {
        Some(&self.echoes.as_ref()?[job])
    }

    /// Where the prompt's tokens are.
    fn prompt_offsets(&self) -> Offsets {
        Offsets::of_prompt(self.app.engine.tokenizer(), self.checked.job.show_special)
    }

    /// Where a completion's tokens are, behind what is told of its prompt.
    fn offsets(&self, echo: &str) -> Offsets {
        Offsets::behind(self.app.engine.tokenizer(), echo.chars().count(), self.checked.job.show_special)
    }

    fn message(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.app.name().to_string(),
            system_fingerprint: super::chat::FINGERPRINT,
            choices,
            usage,
        }
    }

    fn index(&self, job: usize, choice: u32) -> u32 {
        job as u32 * self.checked.job.choices + choice
    }

    fn whole(mut self, answers: Vec<crate::jobs::Answer>) -> Result<Response> {
        let mut choices = Vec::new();
        for (job, answer) in answers.into_iter().enumerate() {
            for (number, choice) in (0..).zip(answer.choices) {
                self.usage.add_choice(number, &choice.spent);
                let echo = self.echo(job).unwrap_or_default();
                let ids = |scored: &[Scored]| scored.iter().map(|scored| scored.token).collect();
                choices.push(CompletionChoice {
                    index: self.index(job, number),
                    text: format!("{echo}{}", choice.text),
                    logprobs: self.logprobs(echo, &answer.prompt, &choice.tokens),
                    finish_reason: Some(finish_name(&choice.finish)?),
                    stop_reason: stop_reason(&choice.finish, self.app.engine.tokenizer().eos()),
                    token_ids: self.checked.token_ids.then(|| ids(&choice.tokens)),
                    prompt_token_ids: self.checked.token_ids.then(|| self.prompts[job].clone()),
                });
            }
        }
        Ok(Json(self.message(choices, Some(self.usage))).into_response())
    }

    fn logprobs(&self, echo: &str, prompt: &[Scored], tokens: &[Scored]) -> Option<CompletionLogprobs> {
        self.checked.job.logprobs?;
        let tokenizer = self.app.engine.tokenizer();
        let mut all = self.prompt_offsets().of_completion(tokenizer, prompt);
        all.extend(self.offsets(echo).of_completion(tokenizer, tokens));
        Some(all)
    }
}
