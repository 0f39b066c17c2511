//! What a chat completion may be asked with.

use crate::App;
use crate::error::{ApiError, Result};
use crate::request::conversation::{Conversation, Tool, ToolChoice};
use crate::request::generation::{Generation, MOST_TOP};
use crate::request::{FALSE, NEVER, Unsupported};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::Message;
use utoipa::ToSchema;

/// A chat completion's request.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "its parts are read apart; only its schema is used")]
pub struct ChatRequest {
    /// What chats alone have.
    #[serde(flatten)]
    pub chat: ChatFields,
    /// What plain completions have too.
    #[serde(flatten)]
    pub generation: Generation,
}

/// What chats alone have.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChatFields {
    /// What was said, oldest first.
    #[schema(min_items = 1)]
    pub messages: Vec<ChatMessage>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ToolDefinition>>,
    /// Whether it does: `none`, `auto`, `required`, or one by its name.
    pub tool_choice: Option<Choice>,
    /// There may be several calls in one answer (the default).
    pub parallel_tool_calls: Option<bool>,
    /// Tokens generated at most; the newer name of `max_tokens`.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// Tell each token's probability.
    pub logprobs: Option<bool>,
    /// And those of so many of the most probable tokens; only with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[schema(value_type = Object)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// Fields of chats that this server cannot honour.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("functions", "use `tools`."),
    Unsupported::new("function_call", "use `tool_choice`."),
    Unsupported::new("audio", "answers are text."),
    Unsupported::unless("modalities", |value| *value == json!(["text"]), "answers are text."),
    Unsupported::new("prediction", "drafts are made by the server (--speculate)."),
    Unsupported::new("web_search_options", "this server does not search."),
    Unsupported::new("reasoning_effort", "use `chat_template_kwargs`, if the template knows of such."),
    Unsupported::new("verbosity", "ask for it in a message."),
    Unsupported::unless("store", FALSE, "nothing is stored."),
    Unsupported::new("metadata", "nothing is stored."),
    Unsupported::unless("service_tier", |tier| *tier == "auto" || *tier == "default", "use `priority`."),
    Unsupported::unless("echo", FALSE, "use /v1/completions."),
    Unsupported::new("best_of", "use `n`."),
    Unsupported::new("suffix", "use /v1/completions."),
    Unsupported::new("documents", "put them into a message."),
    Unsupported::new("chat_template", "the model's own is used."),
    Unsupported::unless(
        "add_generation_prompt",
        |value| *value == Value::Bool(true),
        "the assistant always speaks next.",
    ),
    Unsupported::unless("continue_final_message", FALSE, "use /v1/completions."),
    Unsupported {
        field: "thinking",
        harmless: NEVER,
        instead: "use `chat_template_kwargs`, if the template knows of such.",
    },
];

/// One message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said: a text, or a list of texts.
    pub content: Option<Content>,
    /// The speaker's name, for templates that know names.
    pub name: Option<String>,
    /// What the assistant called.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought, for templates that know thoughts.
    pub reasoning_content: Option<String>,
    /// What the assistant refused with; no effect.
    #[expect(dead_code, reason = "accepted without effect")]
    pub refusal: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who sets the rules.
    System,
    /// The same under its newer name.
    Developer,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool returned.
    Tool,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it must be a text or a list of parts")]
pub enum Content {
    /// As one text.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of what is said.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct Part {
    /// Only `text` is understood.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

/// A call that the assistant made.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Its name, to which a `tool` message refers.
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What was called.
    pub function: CalledFunction,
}

/// What was called, with which arguments.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct CalledFunction {
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct ToolDefinition {
    /// Only `function` is known.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<FunctionDefinition>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct FunctionDefinition {
    /// Its name.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments, which are always held to it.
    #[schema(value_type = Object)]
    pub parameters: Option<Value>,
    /// Changes nothing: see `parameters`.
    pub strict: Option<bool>,
}

/// Whether tools are called.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it must be `none`, `auto`, `required` or a function")]
pub enum Choice {
    /// By a word.
    Word(ChoiceWord),
    /// One by its name.
    Function(ChosenFunction),
}

/// Whether tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChoiceWord {
    /// None is.
    None,
    /// As the model likes.
    Auto,
    /// At least one is.
    Required,
}

/// A function to call.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct ChosenFunction {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionKind,
    /// Which.
    pub function: NamedFunction,
}

/// The one kind there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    /// A function.
    Function,
}

/// A function's name.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
pub struct NamedFunction {
    /// Its name.
    pub name: String,
}

impl From<Option<&Choice>> for ToolChoice {
    fn from(choice: Option<&Choice>) -> Self {
        match choice {
            None | Some(Choice::Word(ChoiceWord::Auto)) => Self::Auto,
            Some(Choice::Word(ChoiceWord::None)) => Self::None,
            Some(Choice::Word(ChoiceWord::Required)) => Self::Required,
            Some(Choice::Function(chosen)) => Self::Named(chosen.function.name.clone()),
        }
    }
}

impl ChatFields {
    /// Tokens of which the probabilities are told; `None`: of none.
    ///
    /// # Errors
    /// More than there may be, or without being asked for.
    pub fn scores(&self) -> Result<Option<u32>> {
        let wanted = self.logprobs.unwrap_or(false);
        match self.top_logprobs {
            Some(top) if top > MOST_TOP => {
                let message = format!("`top_logprobs` is {top}, but it must be from 0 to {MOST_TOP}.");
                Err(ApiError::invalid("top_logprobs", message))
            }
            Some(top) if top > 0 && !wanted => {
                Err(ApiError::invalid("top_logprobs", "`top_logprobs` is only allowed with `logprobs: true`."))
            }
            top => Ok(wanted.then_some(top.unwrap_or(0))),
        }
    }

    /// The messages for the template.
    ///
    /// # Errors
    /// A part that is no text; arguments that are no JSON.
    pub fn conversation(&self) -> Result<Vec<Message>> {
        self.messages
            .iter()
            .enumerate()
            .map(|(index, message)| message.laid_out(&format!("messages[{index}]")))
            .collect()
    }

    /// What may be called.
    ///
    /// # Errors
    /// Another kind of tool than a function.
    pub fn functions(&self) -> Result<Vec<Tool>> {
        let one = |(index, tool): (usize, &ToolDefinition)| {
            let field = format!("tools[{index}]");
            let function = match (&*tool.kind, &tool.function) {
                ("function", Some(function)) => function.clone(),
                ("function", None) => {
                    return Err(ApiError::invalid(&field, format!("`{field}` has no `function`.")));
                }
                _ => {
                    let message = format!("`{field}.type` is not supported here: only functions can be called.");
                    return Err(ApiError::unsupported(format!("{field}.type"), message));
                }
            };
            let FunctionDefinition { name, description, parameters, .. } = function;
            Ok(Tool { name, description, parameters })
        };
        self.tools.iter().flatten().enumerate().map(one).collect()
    }
}

impl ChatMessage {
    fn laid_out(&self, field: &str) -> Result<Message> {
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let mut message = match &self.content {
            Some(content) => Message::new(role, content.text(field)?),
            None if self.tool_calls.is_some() => Message::new(role, Value::Null),
            None => {
                return Err(ApiError::invalid(format!("{field}.content"), format!("`{field}.content` is missing.")));
            }
        };
        let mut add =
            |name: &str, value: Option<Value>| message.fields.extend(value.map(|value| (name.to_string(), value)));
        add("name", self.name.clone().map(Value::from));
        add("tool_call_id", self.tool_call_id.clone().map(Value::from));
        add("reasoning_content", self.reasoning_content.clone().map(Value::from));
        let called = |(index, call): (usize, &ToolCall)| call.laid_out(&format!("{field}.tool_calls[{index}]"));
        let calls =
            self.tool_calls.as_ref().map(|calls| calls.iter().enumerate().map(called).collect::<Result<Vec<_>>>());
        add("tool_calls", calls.transpose()?.map(Value::from));
        Ok(message)
    }
}

impl ToolCall {
    /// Templates print arguments as an object.
    fn laid_out(&self, field: &str) -> Result<Value> {
        let CalledFunction { name, arguments } = &self.function;
        let arguments: Value = match serde_json::from_str(arguments) {
            Ok(value @ Value::Object(_)) => value,
            _ => {
                let field = format!("{field}.function.arguments");
                return Err(ApiError::invalid(&field, format!("`{field}` is not the text of a JSON object.")));
            }
        };
        Ok(json!({ "id": self.id, "type": "function", "function": { "name": name, "arguments": arguments } }))
    }
}

impl Content {
    /// All texts, one per line.
    ///
    /// # Errors
    /// A part that is no text.
    pub fn text(&self, field: &str) -> Result<String> {
        let parts = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Parts(parts) => parts,
        };
        let part = |(index, part): (usize, &Part)| match (&*part.kind, &part.text) {
            ("text" | "input_text" | "output_text", Some(text)) => Ok(text.clone()),
            ("text" | "input_text" | "output_text", None) => {
                let field = format!("{field}.content[{index}].text");
                Err(ApiError::invalid(&field, format!("`{field}` is missing.")))
            }
            _ => {
                let field = format!("{field}.content[{index}].type");
                Err(ApiError::unsupported(
                    &field,
                    format!("`{field}` is not supported here: this model reads only text."),
                ))
            }
        };
        Ok(parts.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?.join("\n"))
    }
}

impl ChatFields {
    /// A conversation and nothing else.
    pub fn of(messages: Vec<ChatMessage>) -> Self {
        Self {
            messages,
            tools: None,
            tool_choice: None,
            parallel_tool_calls: None,
            max_completion_tokens: None,
            logprobs: None,
            top_logprobs: None,
            chat_template_kwargs: None,
        }
    }

    /// The conversation as tokens, without tools.
    ///
    /// # Errors
    /// Messages that cannot be laid out.
    pub fn tokens(&self, app: &App) -> Result<Vec<u32>> {
        Conversation::of("messages", self.conversation()?).tokens(app, false)
    }
}
