//! Renders chats as `transformers` does.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::authorship::{Extent, Guard, StandIns, texts};
use super::python;
use super::sources::{DEFAULT, TemplateSources};
use super::time::CivilTime;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Instructions that a template may execute: far more than any chat needs, and about a second of work.
const FUEL: u64 = 10_000_000;

/// How deep macros may call each other.
const DEPTH: usize = 100;

/// Bytes that a chat may become.
const LONGEST: usize = 64 << 20;

/// The template that is used for requests with tools, if there is one.
const TOOL_USE: &str = "tool_use";

/// One message: a role, and whatever else the template knows what to do with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` ...
    pub role: String,
    /// `content` (a text, or a list of parts), `tool_calls`, `reasoning_content` and so on.
    #[serde(flatten)]
    pub fields: Map<String, Json>,
}

impl Message {
    /// A message with a content, which is a text or a list of parts.
    pub fn new(role: impl Into<String>, content: impl Into<Json>) -> Self {
        Self { role: role.into(), fields: Map::from_iter([("content".to_string(), content.into())]) }
    }
}

/// What a chat template is given.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Tools as JSON schemas, if the request names any.
    pub tools: Option<Vec<Json>>,
    /// End the prompt so that the assistant speaks next.
    pub add_generation_prompt: bool,
    /// The time that `strftime_now` prints. Without it that function is not defined.
    pub now: Option<CivilTime>,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Json>,
    /// A template by its name; otherwise `tool_use` for requests with tools, where there is one, and `default`.
    pub template: Option<String>,
}

/// A rendered chat, and the knowledge of which part of it the template wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPrompt {
    text: String,
    /// In order and apart from each other.
    trusted: Vec<Range<usize>>,
}

impl RenderedPrompt {
    /// The whole prompt.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the template wrote all of this range.
    pub(crate) fn is_trusted(&self, range: Range<usize>) -> bool {
        let after = self.trusted.partition_point(|trusted| trusted.start <= range.start);
        after.checked_sub(1).is_some_and(|i| range.end <= self.trusted[i].end)
    }
}

/// The chat templates of a tokeniser, ready to render.
pub struct ChatTemplate {
    environment: Environment<'static>,
    sources: TemplateSources,
    /// `bos_token` and the like.
    named: BTreeMap<String, String>,
    guard: Guard,
}

impl ChatTemplate {
    pub(crate) fn new(sources: &TemplateSources, tokenizer: &Tokenizer) -> Result<Self> {
        if sources.0.is_empty() {
            return Err(Error::NoTemplate);
        }
        let mut environment = environment().map_err(|error| template_error(DEFAULT, &error))?;
        for (name, source) in &sources.0 {
            let source = without_generation_tags(source);
            environment.add_template_owned(name.clone(), source).map_err(|error| template_error(name, &error))?;
        }
        let guard = Guard::new(tokenizer.special_texts())?;
        Ok(Self { environment, sources: sources.clone(), named: tokenizer.roles.named.clone(), guard })
    }

    /// Lays the chat out as text, character by character as `transformers` does.
    ///
    /// (One exception: where a message spells out a special token and the template acts on that, the message
    /// is taken as plain text.)
    pub fn render(&self, request: &ChatRequest) -> Result<RenderedPrompt> {
        let name = self.choose(request)?;
        let given = given(request)?;
        let plain = self.run(name, &given, request.now)?;
        let source = self.source_with_tokens(name);
        let stand_ins = StandIns::new(&texts(&given), std::iter::once(source.as_str()))?;
        let attempt = |extent| {
            let replaced = self.replace(&given, extent, &stand_ins);
            let rendered = self.run(name, &replaced, request.now)?;
            Ok(stand_ins.restore(&rendered))
        };
        let is_plain = |attempt: &Result<(String, _)>| matches!(attempt, Ok((text, _)) if *text == plain);
        let certain = attempt(Extent::Everything);
        if is_plain(&certain) {
            let (text, trusted) = certain?;
            return Ok(RenderedPrompt { text, trusted });
        }
        let careful = Some(attempt(Extent::Edges)).filter(is_plain);
        let (text, trusted) = careful.unwrap_or_else(|| attempt(Extent::Tokens))?;
        let trusted = self.guard.distrust(&text, trusted, &source);
        Ok(RenderedPrompt { text, trusted })
    }

    /// The template's source, and the special tokens that it names, such as `bos_token`.
    fn source_with_tokens(&self, name: &str) -> String {
        let source = self.sources.0.iter().find(|(other, _)| other == name).map_or("", |(_, source)| source);
        let named = self.named.iter().filter(|(name, _)| source.contains(name.as_str()));
        named.fold(source.to_string(), |text, (_, token)| text + "\n" + token)
    }

    /// Replaces what came from outside; the names of the variables did not.
    fn replace(&self, given: &Json, extent: Extent, stand_ins: &StandIns) -> Json {
        let entries = given.as_object().into_iter().flatten();
        entries.map(|(name, value)| (name.clone(), self.guard.replace(value, extent, stand_ins))).collect()
    }

    fn choose<'a>(&'a self, request: &'a ChatRequest) -> Result<&'a str> {
        let names = || self.sources.0.iter().map(|(name, _)| name.as_str());
        let wanted = match &request.template {
            Some(name) => name,
            None if request.tools.is_some() && names().any(|name| name == TOOL_USE) => TOOL_USE,
            None if self.sources.0.len() == 1 => return Ok(&self.sources.0[0].0),
            None => DEFAULT,
        };
        match names().find(|name| *name == wanted) {
            Some(name) => Ok(name),
            None => {
                Err(Error::NoSuchTemplate { name: wanted.to_string(), known: names().collect::<Vec<_>>().join(", ") })
            }
        }
    }

    fn run(&self, name: &str, given: &Json, now: Option<CivilTime>) -> Result<String> {
        let failed = |error| template_error(name, &error);
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        variables.extend(self.named.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str()))));
        let given = given.as_object().into_iter().flatten();
        variables.extend(given.map(|(name, value)| (name.as_str(), Value::from(minijinja::value::Serde(value)))));
        if let Some(now) = now {
            let strftime = move |format: &str| now.format(format).map_err(|error| python::invalid(&error));
            variables.insert("strftime_now", Value::from_function(strftime));
        }
        let mut out = Bounded(Vec::new());
        let template = self.environment.get_template(name).map_err(failed)?;
        template.render_captured_to(variables, &mut out).map_err(failed)?;
        String::from_utf8(out.0).map_err(|_| failed(python::invalid("the chat is not UTF-8")))
    }
}

/// Text up to [`LONGEST`] bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::other(format!("the chat is longer than {LONGEST} bytes")));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that comes from outside, as the variables of the template.
fn given(request: &ChatRequest) -> Result<Json> {
    let messages = serde_json::to_value(&request.messages)
        .map_err(|source| Error::Json { part: "the list of messages", source })?;
    let mut given = Map::new();
    given.insert("messages".into(), messages);
    given.insert("tools".into(), request.tools.clone().map_or(Json::Null, Json::Array));
    given.insert("documents".into(), Json::Null);
    given.insert("add_generation_prompt".into(), request.add_generation_prompt.into());
    given.extend(request.variables.clone());
    Ok(given.into())
}

/// The engine with the settings and functions of `transformers`.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(python::method);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("indent", python::indent);
    // A number given to these is an amount of memory, and no chat needs them.
    for name in ["batch", "format", "slice"] {
        environment.remove_filter(name);
    }
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        let refusal = Refusal(message);
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, refusal.0.clone()).with_source(refusal))
    });
    Ok(environment)
}

/// What a template says when it calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn template_error(name: &str, error: &minijinja::Error) -> Error {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    if let Some(refusal) = causes.find_map(|cause| cause.downcast_ref::<Refusal>()) {
        return Error::Refused(refusal.0.clone());
    }
    let mut message = error.kind().to_string();
    if let Some(detail) = error.detail() {
        message = format!("{message}: {detail}");
    }
    Error::Template { name: name.into(), line: error.line(), message }
}

/// `{% generation %}` marks what the assistant says, for training; it prints nothing. A block that is always
/// taken is the same to the engine.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
