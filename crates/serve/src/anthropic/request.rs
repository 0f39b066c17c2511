//! What a message may be asked with.

use crate::error::{ApiError, Result};
use crate::request::conversation::{Conversation, Tool, ToolChoice};
use crate::request::generation::{Generation, OneOrMore, check_stops, within};
use crate::request::{FALSE, Unsupported};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::Message;
use utoipa::ToSchema;

/// A message's request.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct MessagesRequest {
    /// The model's name; the one that is served if it is left out.
    pub model: Option<String>,
    /// What was said, oldest first.
    #[schema(min_items = 1)]
    pub messages: Vec<Turn>,
    /// Tokens generated at most.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// What the model is told before.
    pub system: Option<Content>,
    /// Text that ends the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// Answer in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// Divides the logits; 0 always takes the most probable token.
    #[schema(minimum = 0, maximum = 1)]
    pub temperature: Option<f64>,
    /// Choose among the so many most probable tokens.
    #[schema(minimum = 0)]
    pub top_k: Option<i64>,
    /// Choose among the most probable tokens that together reach this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ToolSpec>>,
    /// Whether it does.
    pub tool_choice: Option<ToolChoiceSpec>,
    /// Who asks. No effect on the answer.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted without effect")]
    pub metadata: Option<Map<String, Value>>,
}

/// Fields that this server cannot honour.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported::unless("thinking", |value| value["type"] == "disabled", "thoughts are not told from text."),
    Unsupported::unless("service_tier", |tier| *tier == "auto" || *tier == "standard_only", "there is one tier."),
    Unsupported::new("container", "nothing is run here."),
    Unsupported::new("mcp_servers", "nothing is run here."),
    Unsupported::new("context_management", "shorten the conversation before it is sent."),
    Unsupported::new("output_format", "use /v1/chat/completions with `response_format`."),
    Unsupported::new("output_config", "use /v1/chat/completions with `response_format`."),
    Unsupported::unless("store", FALSE, "nothing is stored."),
];

/// One turn.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Turn {
    /// Who speaks.
    pub role: Speaker,
    /// What is said.
    pub content: Content,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

/// What is said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it must be a text or a list of blocks")]
pub enum Content {
    /// As one text.
    Text(String),
    /// In blocks.
    Blocks(Vec<Block>),
}

/// A block of what is said.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Block {
    /// `text`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of a call: its name.
    pub id: Option<String>,
    /// Of a call: the function.
    pub name: Option<String>,
    /// Of a call: its arguments.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Map<String, Value>>,
    /// Of a result: which call.
    pub tool_use_id: Option<String>,
    /// Of a result: what was returned.
    #[schema(value_type = Option<Object>)]
    pub content: Option<Value>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ToolSpec {
    /// `custom`, the default.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Object)]
    pub input_schema: Option<Value>,
}

/// Whether tools are called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ToolChoiceSpec {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: ToolChoiceKind,
    /// With `tool`: which.
    pub name: Option<String>,
    /// There is one call at most.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolChoiceKind {
    /// As the model likes.
    Auto,
    /// At least one is.
    Any,
    /// A certain one is.
    Tool,
    /// None is.
    None,
}

impl MessagesRequest {
    /// What chat completions have too.
    ///
    /// # Errors
    /// A field out of its range.
    pub fn generation(&self) -> Result<Generation> {
        let stops = self.stop_sequences.clone().unwrap_or_default();
        check_stops("stop_sequences", &stops)?;
        self.temperature.map(|temperature| within("temperature", temperature, 0.0, 1.0)).transpose()?;
        Ok(Generation {
            model: self.model.clone(),
            stream: self.stream,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            stop: Some(OneOrMore::More(stops)),
            ..Generation::default()
        })
    }

    /// The conversation.
    ///
    /// # Errors
    /// Blocks that cannot be understood; a maximum of 0.
    pub fn conversation(&self) -> Result<Conversation> {
        if self.max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens", "`max_tokens` must be at least 1."));
        }
        if self.messages.last().is_some_and(|last| last.role == Speaker::Assistant) {
            let message = "`messages` must end with the user's: beginnings of answers are not supported here.";
            return Err(ApiError::unsupported("messages", message));
        }
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(Message::new("system", system.texts("system")?.join("\n")));
        }
        for (index, turn) in self.messages.iter().enumerate() {
            turn.lay_out(&format!("messages[{index}]"), &mut messages)?;
        }
        let parallel = |choice: &ToolChoiceSpec| !choice.disable_parallel_tool_use.unwrap_or(false);
        Ok(Conversation {
            tools: self.functions()?,
            choice: self.choice()?,
            parallel: self.tool_choice.as_ref().is_none_or(parallel),
            max_tokens: self.max_tokens,
            ..Conversation::of("messages", messages)
        })
    }

    fn functions(&self) -> Result<Vec<Tool>> {
        let one = |(index, tool): (usize, &ToolSpec)| {
            if tool.kind.as_ref().is_some_and(|kind| kind != "custom") {
                let field = format!("tools[{index}].type");
                let message = format!("`{field}` is not supported here: only functions of the client can be called.");
                return Err(ApiError::unsupported(field, message));
            }
            let ToolSpec { name, description, input_schema: parameters, .. } = tool.clone();
            Ok(Tool { name, description, parameters })
        };
        self.tools.iter().flatten().enumerate().map(one).collect()
    }

    fn choice(&self) -> Result<ToolChoice> {
        let Some(choice) = &self.tool_choice else { return Ok(ToolChoice::Auto) };
        match (choice.kind, &choice.name) {
            (ToolChoiceKind::Auto, _) => Ok(ToolChoice::Auto),
            (ToolChoiceKind::Any, _) => Ok(ToolChoice::Required),
            (ToolChoiceKind::None, _) => Ok(ToolChoice::None),
            (ToolChoiceKind::Tool, Some(name)) => Ok(ToolChoice::Named(name.clone())),
            (ToolChoiceKind::Tool, None) => {
                Err(ApiError::invalid("tool_choice.name", "`tool_choice.name` is missing."))
            }
        }
    }
}

impl Content {
    fn texts(&self, field: &str) -> Result<Vec<String>> {
        let blocks = match self {
            Self::Text(text) => return Ok(vec![text.clone()]),
            Self::Blocks(blocks) => blocks,
        };
        let one = |(index, block): (usize, &Block)| match (&*block.kind, &block.text) {
            ("text", Some(text)) => Ok(text.clone()),
            _ => Err(not_understood(&format!("{field}[{index}]"))),
        };
        blocks.iter().enumerate().map(one).collect()
    }
}

fn not_understood(field: &str) -> ApiError {
    let message = format!("`{field}` is not supported here: only text, tool_use and tool_result are understood.");
    ApiError::unsupported(field, message)
}

impl Turn {
    /// A turn of Anthropic's may be several messages of others: each result of a tool is one.
    fn lay_out(&self, field: &str, messages: &mut Vec<Message>) -> Result<()> {
        let role = if self.role == Speaker::User { "user" } else { "assistant" };
        let blocks = match &self.content {
            Content::Text(text) => {
                messages.push(Message::new(role, text.as_str()));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let (mut texts, mut calls) = (Vec::new(), Vec::new());
        for (index, block) in blocks.iter().enumerate() {
            let field = format!("{field}.content[{index}]");
            match (&*block.kind, self.role) {
                ("text", _) => texts.push(block.text.clone().ok_or_else(|| missing(&field, "text"))?),
                ("tool_use", Speaker::Assistant) => {
                    let name = block.name.as_ref().ok_or_else(|| missing(&field, "name"))?;
                    let function = json!({ "name": name, "arguments": block.input.clone().unwrap_or_default() });
                    calls.push(json!({ "id": block.id, "type": "function", "function": function }));
                }
                ("tool_result", Speaker::User) => messages.push(block.result(&field)?),
                _ => return Err(not_understood(&field)),
            }
        }
        if texts.is_empty() && calls.is_empty() {
            return Ok(());
        }
        let content = if texts.is_empty() { Value::Null } else { texts.join("\n").into() };
        let mut message = Message::new(role, content);
        if !calls.is_empty() {
            message.fields.insert("tool_calls".into(), calls.into());
        }
        messages.push(message);
        Ok(())
    }
}

fn missing(field: &str, part: &str) -> ApiError {
    let field = format!("{field}.{part}");
    ApiError::invalid(&field, format!("`{field}` is missing."))
}

impl Block {
    fn result(&self, field: &str) -> Result<Message> {
        let content = match &self.content {
            None => String::new(),
            Some(content) => {
                let content = Content::deserialize(content).map_err(|_| not_understood(&format!("{field}.content")))?;
                content.texts(&format!("{field}.content"))?.join("\n")
            }
        };
        let mut message = Message::new("tool", content);
        let id = self.tool_use_id.as_ref().ok_or_else(|| missing(field, "tool_use_id"))?;
        message.fields.insert("tool_call_id".into(), id.as_str().into());
        Ok(message)
    }
}
