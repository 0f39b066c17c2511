//! Calls of tools: how a model is bound to write them, and how they are read out of its text as it comes.

mod parser;

pub use parser::{Piece, ToolParser};

use engine::grammar::{Calls, Function, Source};
use serde_json::{Value, json};
use text::{ChatRequest, ChatTemplate, Message};

/// How a family of models writes calls: `begin` call (`between` call)* `end`, where a call is
/// `{"name": "...", "arguments": {...}}`. Blanks at the edges of markers are what a model is taught, not what is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolFormat {
    /// Before the first call.
    pub begin: &'static str,
    /// Between two calls.
    pub between: &'static str,
    /// After the last call.
    pub end: &'static str,
}

/// Hermes and Qwen: each call between tags.
const TAGS: ToolFormat =
    ToolFormat { begin: "<tool_call>\n", between: "\n</tool_call>\n<tool_call>\n", end: "\n</tool_call>" };

/// Mistral: a list after a marker.
const LIST: ToolFormat = ToolFormat { begin: "[TOOL_CALLS] [", between: ", ", end: "]" };

/// The key of a call's arguments.
const ARGUMENTS: &str = "arguments";

impl ToolFormat {
    /// The format that a chat template teaches or repeats; `None` if it knows no tools, or no format that is known here.
    pub fn of(template: &ChatTemplate) -> Option<Self> {
        let tool = json!({ "type": "function", "function": { "name": "probe", "description": "", "parameters": {} } });
        let call = json!([{ "id": "call00000", "type": "function", "function": { "name": "probe", "arguments": {} } }]);
        let mut called = Message::new("assistant", "");
        called.fields.insert("tool_calls".into(), call);
        let mut result = Message::new("tool", "1");
        result.fields.insert("tool_call_id".into(), "call00000".into());
        let messages = vec![Message::new("user", "a"), called, result];
        let request =
            ChatRequest { messages, tools: Some(vec![tool]), add_generation_prompt: true, ..ChatRequest::default() };
        let rendered = template.render(&request).ok()?;
        let teaches = |format: &Self| rendered.text().contains("probe") && rendered.text().contains(format.marker());
        [TAGS, LIST].into_iter().find(teaches)
    }

    /// What begins calls, without blanks and brackets that may follow.
    fn marker(&self) -> &'static str {
        self.begin.trim_end_matches(['\n', ' ', '['])
    }

    /// The grammar of these functions' calls.
    pub fn source(&self, functions: Vec<Function>, required: bool, parallel: bool) -> Source {
        Source::Calls(Calls {
            functions,
            begin: self.begin.into(),
            between: self.between.into(),
            end: self.end.into(),
            arguments_key: ARGUMENTS.into(),
            required,
            parallel,
        })
    }
}

/// What functions without a schema of their own take.
pub fn any_arguments() -> Value {
    json!({ "type": "object" })
}

impl ToolFormat {
    /// Whether the marker is a special token, which text leaves out unless told otherwise.
    pub fn is_special(&self, tokenizer: &text::Tokenizer) -> bool {
        tokenizer.id_of(self.marker()).is_some_and(|id| tokenizer.is_special(id))
    }
}
