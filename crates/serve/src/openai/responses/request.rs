//! What a response may be asked with.

use crate::error::{ApiError, Result};
use crate::openai::chat::request::{Choice, ChoiceWord, Content, FunctionKind, Role};
use crate::request::conversation::{Conversation, Tool, ToolChoice};
use crate::request::format::ResponseFormat;
use crate::request::generation::{Generation, MOST_TOP, StreamOptions};
use crate::request::{FALSE, Unsupported};
use engine::Sampling;
use engine::grammar::Source;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::Message;
use utoipa::ToSchema;

/// A response's request.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// The model's name; the one that is served if it is left out.
    pub model: Option<String>,
    /// What was said: a text, or a list of messages, calls and their results.
    pub input: Input,
    /// What the model is told before.
    pub instructions: Option<String>,
    /// Functions that the model may call.
    pub tools: Option<Vec<FunctionTool>>,
    /// Whether it does.
    #[schema(value_type = Object)]
    pub tool_choice: Option<Value>,
    /// There may be several calls in one answer (the default).
    pub parallel_tool_calls: Option<bool>,
    /// What the text must look like.
    pub text: Option<TextOptions>,
    /// Tokens generated at most; as many as fit the context if it is left out.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// As in chat completions.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// As in chat completions.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// As in chat completions.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// As in chat completions.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// As in chat completions.
    pub seed: Option<i64>,
    /// As in chat completions.
    pub priority: Option<i32>,
    /// Answer in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// What else is told: `message.output_text.logprobs` is known.
    pub include: Option<Vec<String>>,
    /// So many of the most probable tokens, with the logprobs.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Told again in the answer.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Who asks. No effect on the answer.
    pub user: Option<String>,
    /// No effect on the answer.
    #[expect(dead_code, reason = "accepted without effect")]
    pub prompt_cache_key: Option<String>,
    /// No effect on the answer.
    #[expect(dead_code, reason = "accepted without effect")]
    pub safety_identifier: Option<String>,
}

/// Fields that this server cannot honour.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::new("previous_response_id", "nothing is stored; send the whole conversation."),
    Unsupported::new("conversation", "nothing is stored; send the whole conversation."),
    Unsupported::unless("store", FALSE, "nothing is stored."),
    Unsupported::unless("background", FALSE, "nothing is stored."),
    Unsupported::new("reasoning", "thoughts are not told from text."),
    Unsupported::new("prompt", "templates of prompts are not stored."),
    Unsupported::new("max_tool_calls", "use `parallel_tool_calls`."),
    Unsupported::new("context_management", "shorten the conversation before it is sent."),
    Unsupported::unless("truncation", |value| *value == "disabled", "shorten the conversation before it is sent."),
    Unsupported::unless("service_tier", |tier| *tier == "auto" || *tier == "default", "use `priority`."),
    Unsupported::new("cache_salt", "what is shared between requests follows from the API key."),
    Unsupported::new("max_tokens", "use `max_output_tokens`."),
    Unsupported::new("messages", "use `input`."),
    Unsupported::new("n", "use /v1/chat/completions."),
    Unsupported::new("stop", "use /v1/chat/completions."),
    Unsupported::new("response_format", "use `text.format`."),
];

/// What was said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it must be a text or a list of items")]
pub enum Input {
    /// By the user.
    Text(String),
    /// By several.
    Items(Vec<InputItem>),
}

/// A message, a call of a function, or what it returned.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct InputItem {
    /// `message` (the default), `function_call` or `function_call_output`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a message: who speaks.
    pub role: Option<Role>,
    /// Of a message: what is said.
    pub content: Option<Content>,
    /// Of a call and of what it returned: which call.
    pub call_id: Option<String>,
    /// Of a call: the function.
    pub name: Option<String>,
    /// Of a call: a JSON object, as text.
    pub arguments: Option<String>,
    /// Of what a call returned.
    pub output: Option<Content>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct FunctionTool {
    /// Only `function` is known.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments, which are always held to it.
    #[schema(value_type = Object)]
    pub parameters: Option<Value>,
    /// Changes nothing: see `parameters`.
    pub strict: Option<bool>,
}

/// What the text must look like.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TextOptions {
    /// The format.
    pub format: Option<TextFormat>,
    /// How much is said; only `medium`.
    pub verbosity: Option<String>,
}

/// What the text must look like.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema {
        /// What it is called.
        name: Option<String>,
        /// The schema.
        #[schema(value_type = Object)]
        schema: Value,
    },
}

/// What every form of the answer repeats from the request.
#[derive(Clone, Debug)]
pub struct Frame(pub Map<String, Value>);

impl ResponsesRequest {
    /// What chat completions have too.
    pub fn generation(&self) -> Generation {
        let asked = self.clone();
        Generation {
            model: asked.model,
            stream: asked.stream,
            stream_options: asked.stream_options,
            temperature: asked.temperature,
            top_p: asked.top_p,
            top_k: asked.top_k,
            min_p: asked.min_p,
            seed: asked.seed,
            priority: asked.priority,
            ..Generation::default()
        }
    }

    /// Tokens of which the probabilities are told; `None`: of none.
    pub fn scores(&self) -> Result<Option<u32>> {
        let known = "message.output_text.logprobs";
        if let Some(other) = self.include.iter().flatten().find(|include| *include != known) {
            let other: String = other.chars().take(100).collect();
            let message = format!("`include` has `{other}`, but only `{known}` is supported here.");
            return Err(ApiError::unsupported("include", message));
        }
        let wanted = self.include.as_ref().is_some_and(|include| !include.is_empty());
        match self.top_logprobs {
            Some(top) if top > MOST_TOP => {
                Err(ApiError::invalid("top_logprobs", format!("`top_logprobs` must be from 0 to {MOST_TOP}.")))
            }
            Some(top) if top > 0 && !wanted => {
                Err(ApiError::invalid("top_logprobs", format!("`top_logprobs` needs `include` with `{known}`.")))
            }
            top => Ok(wanted.then_some(top.unwrap_or(0))),
        }
    }

    /// The conversation.
    ///
    /// # Errors
    /// Items that cannot be understood; a maximum of 0.
    pub fn conversation(&self) -> Result<Conversation> {
        if self.max_output_tokens == Some(0) {
            return Err(ApiError::invalid("max_output_tokens", "`max_output_tokens` must be at least 1."));
        }
        let instructions = self.instructions.iter().map(|text| Message::new("system", text.as_str()));
        let mut messages: Vec<Message> = instructions.collect();
        match &self.input {
            Input::Text(text) => messages.push(Message::new("user", text.as_str())),
            Input::Items(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.lay_out(&format!("input[{index}]"), &mut messages)?;
                }
            }
        }
        Ok(Conversation {
            tools: self.functions()?,
            choice: self.choice()?,
            parallel: self.parallel_tool_calls.unwrap_or(true),
            format: self.format()?,
            max_tokens: self.max_output_tokens,
            ..Conversation::of("input", messages)
        })
    }

    fn functions(&self) -> Result<Vec<Tool>> {
        let one = |(index, tool): (usize, &FunctionTool)| {
            let field = format!("tools[{index}]");
            if tool.kind != "function" {
                let message = format!("`{field}.type` is not supported here: only functions can be called.");
                return Err(ApiError::unsupported(format!("{field}.type"), message));
            }
            let FunctionTool { name, description, parameters, .. } = tool.clone();
            Ok(Tool { name: name.unwrap_or_default(), description, parameters })
        };
        self.tools.iter().flatten().enumerate().map(one).collect()
    }

    fn choice(&self) -> Result<ToolChoice> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "type")]
            _kind: FunctionKind,
            name: String,
        }
        let Some(choice) = &self.tool_choice else { return Ok(ToolChoice::Auto) };
        if let Ok(word) = ChoiceWord::deserialize(choice) {
            return Ok(Some(&Choice::Word(word)).into());
        }
        Named::deserialize(choice).map(|named| ToolChoice::Named(named.name)).map_err(|_| {
            ApiError::invalid("tool_choice", "`tool_choice` must be `none`, `auto`, `required` or a function.")
        })
    }

    fn format(&self) -> Result<Option<(&'static str, Source)>> {
        let Some(text) = &self.text else { return Ok(None) };
        if text.verbosity.as_ref().is_some_and(|verbosity| verbosity != "medium") {
            let message = "`text.verbosity` is not supported here: ask for it in a message.";
            return Err(ApiError::unsupported("text.verbosity", message));
        }
        let format = match &text.format {
            None | Some(TextFormat::Text) => ResponseFormat::Text,
            Some(TextFormat::JsonObject) => ResponseFormat::JsonObject,
            Some(TextFormat::JsonSchema { schema, .. }) => {
                return Ok(Some(("text.format", Source::JsonSchema(schema.clone()))));
            }
        };
        Ok(format.source("text.format")?.map(|source| ("text.format", source)))
    }

    /// What every form of the answer repeats.
    pub fn frame(&self, id: String, created: u64, model: &str, sampling: &Sampling) -> Frame {
        let tool = |tool: &FunctionTool| {
            json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict.unwrap_or(true),
            })
        };
        let format = match self.text.as_ref().and_then(|text| text.format.as_ref()) {
            None | Some(TextFormat::Text) => json!({ "type": "text" }),
            Some(TextFormat::JsonObject) => json!({ "type": "json_object" }),
            Some(TextFormat::JsonSchema { name, schema }) => {
                json!({ "type": "json_schema", "name": name.as_deref().unwrap_or("schema"), "schema": schema, "strict": true })
            }
        };
        let frame = json!({
            "id": id,
            "object": "response",
            "created_at": created,
            "model": model,
            "background": false,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "service_tier": "default",
            "store": false,
            "temperature": sampling.temperature,
            "text": { "format": format },
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": self.tools.iter().flatten().map(tool).collect::<Vec<_>>(),
            "top_logprobs": self.top_logprobs.unwrap_or(0),
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "user": self.user,
        });
        match frame {
            Value::Object(map) => Frame(map),
            _ => Frame(Map::new()),
        }
    }
}

impl InputItem {
    fn lay_out(&self, field: &str, messages: &mut Vec<Message>) -> Result<()> {
        let missing = |part: &str| {
            let field = format!("{field}.{part}");
            ApiError::invalid(&field, format!("`{field}` is missing."))
        };
        match self.kind.as_deref().unwrap_or("message") {
            "message" => {
                let role = match self.role.ok_or_else(|| missing("role"))? {
                    Role::System | Role::Developer => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                    Role::Tool => {
                        return Err(ApiError::invalid(format!("{field}.role"), "Use `function_call_output`."));
                    }
                };
                let content = self.content.as_ref().ok_or_else(|| missing("content"))?;
                messages.push(Message::new(role, content.text(field)?));
            }
            "function_call" => {
                let name = self.name.as_ref().ok_or_else(|| missing("name"))?;
                let arguments = self.arguments.as_ref().ok_or_else(|| missing("arguments"))?;
                let arguments: Map<String, Value> = serde_json::from_str(arguments).map_err(|_| {
                    let field = format!("{field}.arguments");
                    ApiError::invalid(&field, format!("`{field}` is not the text of a JSON object."))
                })?;
                let function = json!({ "name": name, "arguments": arguments });
                add_call(messages, json!({ "id": self.call_id, "type": "function", "function": function }));
            }
            "function_call_output" => {
                let output = self.output.as_ref().ok_or_else(|| missing("output"))?;
                let mut message = Message::new("tool", output.text(field)?);
                let id = self.call_id.as_ref().ok_or_else(|| missing("call_id"))?;
                message.fields.insert("tool_call_id".into(), id.as_str().into());
                messages.push(message);
            }
            _ => {
                let field = format!("{field}.type");
                let message =
                    format!("`{field}` is not supported here: only messages, function calls and their outputs are.");
                return Err(ApiError::unsupported(&field, message));
            }
        }
        Ok(())
    }
}

/// A call belongs to the assistant's message before it, if there is one.
fn add_call(messages: &mut Vec<Message>, call: Value) {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        messages.push(Message::new("assistant", Value::Null));
    }
    if let Some(last) = messages.last_mut() {
        let calls = last.fields.entry("tool_calls").or_insert_with(|| json!([]));
        if let Some(calls) = calls.as_array_mut() {
            calls.push(call);
        }
    }
}
