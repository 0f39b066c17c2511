//! A conversation, whichever API it came through, on its way to the engine: laid out by the model's template, bound to a grammar where
//! tools are called.

use crate::App;
use crate::app::now;
use crate::auth::Guest;
use crate::error::{ApiError, Result, sentence};
use crate::jobs::{reserve, submit};
use crate::request::format::compile;
use crate::request::generation::Checked;
use crate::request::prompt::room;
use crate::tools::{ToolFormat, any_arguments};
use engine::grammar::{Function, Source};
use engine::live::{Completion, Job};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use text::{ChatRequest, CivilTime, Message};

/// Characters of a function's name at most.
const LONGEST_NAME: usize = 64;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Option<Value>,
}

/// Whether tools are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// None is.
    None,
    /// As the model likes.
    Auto,
    /// At least one is.
    Required,
    /// This one is.
    Named(String),
}

/// What was said, and what may be done.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The field of the request that holds the messages.
    pub field: &'static str,
    /// What was said, oldest first.
    pub messages: Vec<Message>,
    /// What may be called.
    pub tools: Vec<Tool>,
    /// Whether it is.
    pub choice: ToolChoice,
    /// There may be more than one call in an answer.
    pub parallel: bool,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// What the text must look like, and the field that says so.
    pub format: Option<(&'static str, Source)>,
    /// New tokens at most, if the request says.
    pub max_tokens: Option<u32>,
}

/// A conversation that the engine goes on with.
pub struct Started {
    /// What comes of it.
    pub completion: Completion,
    /// The conversation as tokens.
    pub prompt: Vec<u32>,
    /// How calls are written, if there may be some.
    pub tools: Option<ToolFormat>,
}

impl Conversation {
    /// Nothing but messages.
    pub fn of(field: &'static str, messages: Vec<Message>) -> Self {
        Self {
            field,
            messages,
            tools: Vec::new(),
            choice: ToolChoice::Auto,
            parallel: true,
            variables: Map::new(),
            format: None,
            max_tokens: None,
        }
    }

    /// Takes places in the queue, lays the conversation out, compiles its grammar, and gives it all to the engine.
    ///
    /// # Errors
    /// The queue is full; messages that the template refuses; what the model or its template cannot do; too many tokens.
    pub async fn start(self, app: &Arc<App>, guest: &Guest, checked: &Checked) -> Result<Started> {
        let tools = self.calls(app)?;
        let places = reserve(app, 1, checked.job.choices)?;
        let (source, field) = (self.source(tools)?, self.field);
        let max_tokens = self.max_tokens;
        let shared = app.clone();
        let prompt = crate::blocking(move || self.tokens(&shared, tools.is_some())).await??;
        let max_tokens = room(app, field, prompt.len(), max_tokens, u32::MAX)?;
        let grammar = match source {
            Some((field, source)) => Some(compile(app, field, source).await?),
            None => None,
        };
        let marked = |format: ToolFormat| format.is_special(app.engine.tokenizer());
        let job = Job {
            prompt: prompt.clone(),
            max_tokens,
            grammar,
            show_special: checked.job.show_special || tools.is_some_and(marked),
            salt: guest.salt(),
            ..checked.job.clone()
        };
        let mut completions = submit(app, places, vec![job], field)?;
        let completion = completions.pop().ok_or_else(|| ApiError::internal("Nothing was started."))?;
        Ok(Started { completion, prompt, tools })
    }

    /// How calls are written, if there may be any.
    ///
    /// # Errors
    /// Tools that cannot be called, by this model or at all.
    pub fn calls(&self, app: &App) -> Result<Option<ToolFormat>> {
        let wanted = !self.tools.is_empty() && self.choice != ToolChoice::None;
        if self.tools.is_empty() && matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_)) {
            return Err(ApiError::invalid("tool_choice", "`tool_choice` asks for a call, but there are no `tools`."));
        }
        for (index, tool) in self.tools.iter().enumerate() {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if tool.name.is_empty() || tool.name.len() > LONGEST_NAME || !tool.name.chars().all(allowed) {
                let message = "A tool's name must be 1 to 64 letters, digits, `_`, `-` or `.`.";
                return Err(ApiError::invalid(format!("tools[{index}]"), message));
            }
        }
        if let ToolChoice::Named(name) = &self.choice
            && !self.tools.iter().any(|tool| tool.name == *name)
        {
            return Err(ApiError::invalid("tool_choice", "`tool_choice` names a function that is not among `tools`."));
        }
        if !wanted {
            return Ok(None);
        }
        let unknown = || {
            let message = "`tools` are not supported by this model: its chat template knows none, or writes them in an unknown way.";
            ApiError::unsupported("tools", message)
        };
        app.tools.map(Some).ok_or_else(unknown)
    }

    /// What the text must look like, and the field that says so.
    fn source(&self, tools: Option<ToolFormat>) -> Result<Option<(&'static str, Source)>> {
        let Some(format) = tools else { return Ok(self.format.clone()) };
        if let Some((field, _)) = self.format {
            let message =
                format!("`{field}` and `tools` cannot both say what the text looks like; set `tool_choice` to `none`.");
            return Err(ApiError::invalid(field, message));
        }
        let chosen = |tool: &&Tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let function = |tool: &Tool| Function {
            name: tool.name.clone(),
            parameters: tool.parameters.clone().unwrap_or_else(any_arguments),
        };
        let functions = self.tools.iter().filter(chosen).map(function).collect();
        let required = matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_));
        let parallel = self.parallel && !matches!(self.choice, ToolChoice::Named(_));
        Ok(Some(("tools", format.source(functions, required, parallel))))
    }

    /// The conversation as tokens, up to where the model speaks.
    ///
    /// # Errors
    /// There is no template, or it refuses the messages.
    pub fn tokens(self, app: &App, with_tools: bool) -> Result<Vec<u32>> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid(self.field, format!("`{}` is empty.", self.field)));
        }
        let refused = |error: &text::Error| ApiError::invalid(self.field, sentence(&error.to_string()));
        let template = app.template.as_ref().map_err(refused)?;
        let tool = |tool: &Tool| {
            let parameters = tool.parameters.clone().unwrap_or_else(any_arguments);
            let description = tool.description.clone().unwrap_or_default();
            let function = json!({ "name": tool.name, "description": description, "parameters": parameters });
            json!({ "type": "function", "function": function })
        };
        let request = ChatRequest {
            tools: with_tools.then(|| self.tools.iter().map(tool).collect()),
            messages: self.messages,
            add_generation_prompt: true,
            now: Some(CivilTime::from_unix(now() as i64)),
            variables: self.variables,
            template: None,
        };
        let prompt = template.render(&request).map_err(|error| refused(&error))?;
        app.engine.tokenizer().encode_prompt(&prompt).map_err(|error| refused(&error))
    }
}
