//! What a text may have to look like, and how that is said to `llguidance`.

use super::GrammarError;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::regex_to_lark;
use serde_json::{Value, json};
use std::fmt::Write;
use text::Tokenizer;

/// Bytes of a source at most, all schemas together.
pub const MAX_BYTES: usize = 128 << 10;

/// Levels of arrays and objects in a schema at most.
pub const MAX_DEPTH: usize = 128;

/// Between two parts of a JSON text: one blank, or a line break and the indentation after it. A model that writes blanks for ever
/// is kept from it, one that lays out its JSON is not.
const WHITESPACE: &str = r"[\x20\t]|\r?\n[\x20\t]{0,64}";

/// What a text must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows. What `llguidance` cannot hold to is refused, never left unchecked.
    JsonSchema(Value),
    /// A regular expression in the syntax of the `regex` crate that the whole text matches.
    Regex(String),
    /// A context-free grammar in `llguidance`'s variant of Lark's syntax.
    Lark(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// Calls of functions.
    Calls(Calls),
}

/// Calls of functions, written as `begin` call (`between` call)* `end`, where a call is
/// `{"name": "...", "<arguments_key>": {...}}`. Markers may hold special tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// What may be called; at least one.
    pub functions: Vec<Function>,
    /// Before the first call, such as `<tool_call>\n`.
    pub begin: String,
    /// Between two calls.
    pub between: String,
    /// After the last call.
    pub end: String,
    /// The key of a call's arguments: `arguments` or `parameters`.
    pub arguments_key: String,
    /// Nothing but calls, at least one. Otherwise the text is free until `begin`, which need not come.
    pub required: bool,
    /// There may be more than one call.
    pub parallel: bool,
}

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

impl Source {
    /// What it is, in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
            Self::Choice(_) => "list of choices",
            Self::Calls(_) => "list of functions",
        }
    }

    /// Says it to `llguidance`, within limits of size and depth.
    pub(super) fn lower(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, GrammarError> {
        let kind = self.kind();
        let bytes = match self {
            Self::JsonObject => 0,
            Self::JsonSchema(schema) => size(schema, kind)?,
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(choices) => choices.iter().map(String::len).sum(),
            Self::Calls(calls) => calls.size(kind)?,
        };
        if bytes > MAX_BYTES {
            return Err(GrammarError::TooLarge { kind, bytes, limit: MAX_BYTES });
        }
        let lark = |text| Ok(TopLevelGrammar::from_lark(text));
        let lowered = match self {
            Self::JsonObject => compact(&json!({ "type": "object" })).map(json_grammar),
            Self::JsonSchema(schema) => compact(schema).map(json_grammar),
            Self::Regex(pattern) => whole_match(pattern).and_then(lark),
            Self::Lark(text) => lark(text.clone()),
            Self::Choice(choices) => one_of(choices).and_then(lark),
            Self::Calls(calls) => calls.lower(tokenizer),
        };
        lowered.map_err(|message: String| GrammarError::Invalid { kind, message })
    }
}

impl Calls {
    fn size(&self, kind: &'static str) -> Result<usize, GrammarError> {
        let markers = self.begin.len() + self.between.len() + self.end.len() + self.arguments_key.len();
        self.functions
            .iter()
            .try_fold(markers, |sum, function| Ok(sum + function.name.len() + size(&function.parameters, kind)?))
    }

    /// Each function's schema is a grammar of its own, so that references in it stay its own.
    fn lower(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, String> {
        if self.functions.is_empty() {
            return Err("it is empty".into());
        }
        let (begin, between, end) = (
            Marker::new(&self.begin, tokenizer)?,
            Marker::new(&self.between, tokenizer)?,
            Marker::new(&self.end, tokenizer)?,
        );
        let more = if self.parallel { format!("({} call)*", between.lark()) } else { String::new() };
        let calls = format!("call {more} {}", end.lark());
        let mut lark =
            if self.required { format!("start: {} {calls}\n", begin.lark()) } else { begin.after_text(&calls) };
        let names: Vec<_> = (0..self.functions.len()).map(|index| format!("call_{index}")).collect();
        writeln!(lark, "call: {}", names.join(" | ")).expect("a string takes all");
        let mut grammars = Vec::new();
        for (function, rule) in self.functions.iter().zip(names) {
            let head = format!("{{\"name\": {}, {}: ", json!(function.name), json!(self.arguments_key));
            writeln!(lark, "{rule}: {} @{rule} \"}}\"", json!(head)).expect("a string takes all");
            let schema = compact(&function.parameters).map_err(|message| format!("{}: {message}", function.name))?;
            grammars.push(GrammarWithLexer { name: Some(rule), ..GrammarWithLexer::from_json_schema(schema) });
        }
        grammars.insert(0, GrammarWithLexer::from_lark(lark));
        Ok(TopLevelGrammar { grammars, max_tokens: None })
    }
}

/// A text in which special tokens may stand.
struct Marker(Vec<Part>);

enum Part {
    Text(String),
    Special(u32),
}

impl Marker {
    fn new(text: &str, tokenizer: &Tokenizer) -> Result<Self, String> {
        let unreadable = |error: text::Error| format!("the marker {text:?} cannot be read: {error}");
        let ids = tokenizer.encode_with_markers(text).map_err(unreadable)?;
        let mut parts = Vec::new();
        let mut rest = text;
        for id in ids.into_iter().filter(|&id| tokenizer.is_special(id)) {
            let name = tokenizer.token(id).unwrap_or_default();
            if let Some((before, after)) = rest.split_once(name) {
                parts.extend((!before.is_empty()).then(|| Part::Text(before.into())));
                parts.push(Part::Special(id));
                rest = after;
            }
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.into())));
        Ok(Self(parts))
    }

    /// The marker as a sequence in a rule.
    fn lark(&self) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => json!(text).to_string(),
            Part::Special(id) => format!("<[{id}]>"),
        };
        self.0.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    /// Rules for free text in which the marker, once its first part is there, goes on to `rest`.
    fn after_text(&self, rest: &str) -> String {
        match self.0.split_first() {
            // Special tokens are in no text.
            Some((Part::Special(_), _)) => {
                format!("start: TEXT | TEXT {} {rest}\nTEXT: /(?s:.*)/\n", self.lark())
            }
            Some((Part::Text(first), others)) => {
                let others = Self(others.iter().map(Part::copy).collect()).lark();
                let first = escape(first);
                format!(
                    "start: FREE | head {others} {rest}\nhead[lazy]: /(?s:.*){first}/\nFREE: /(?s:.*)/ & ~/(?s:.*){first}(?s:.*)/\n"
                )
            }
            // A call is known by its brace.
            None => format!("start: FREE? | {rest}\nFREE: /[^{{](?s:.*)/\n"),
        }
    }
}

impl Part {
    fn copy(&self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.clone()),
            Self::Special(id) => Self::Special(*id),
        }
    }
}

/// A schema's length as compact JSON.
fn size(schema: &Value, kind: &'static str) -> Result<usize, GrammarError> {
    if is_deeper(schema, MAX_DEPTH) {
        return Err(GrammarError::TooDeep { kind, limit: MAX_DEPTH });
    }
    Ok(schema.to_string().len())
}

/// Whether arrays and objects nest deeper than `limit`. Without recursion: whoever built the value need not have been careful.
fn is_deeper(value: &Value, limit: usize) -> bool {
    let mut level = vec![value];
    for _ in 0..=limit {
        let mut below = Vec::new();
        for value in level {
            match value {
                Value::Array(items) => below.extend(items),
                Value::Object(entries) => below.extend(entries.values()),
                _ => {}
            }
        }
        if below.is_empty() {
            return false;
        }
        level = below;
    }
    true
}

fn json_grammar(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(schema)
}

/// The schema with the bound on whitespace, which `llguidance` reads from a key of its own.
fn compact(schema: &Value) -> Result<Value, String> {
    const OPTIONS: &str = "x-guidance";
    let mut entries = match schema {
        Value::Bool(true) => serde_json::Map::new(),
        Value::Bool(false) => return Err("`false` allows nothing".into()),
        Value::Object(entries) => entries.clone(),
        _ => return Err("a schema is an object or a boolean".into()),
    };
    if entries.contains_key(OPTIONS) {
        return Err(format!("the key `{OPTIONS}` is not supported: leave it out"));
    }
    entries.insert(OPTIONS.into(), json!({ "whitespace_pattern": WHITESPACE }));
    Ok(entries.into())
}

/// The grammar of texts that match a pattern as a whole.
fn whole_match(pattern: &str) -> Result<String, String> {
    regex_syntax::parse(pattern).map_err(|error| {
        // After an excerpt of several lines comes what is wrong.
        let message = error.to_string();
        message.lines().last().map_or_else(String::new, |line| line.trim_start_matches("error: ").to_string())
    })?;
    Ok(format!("start: /(?:{})/", regex_to_lark(pattern, "")))
}

fn one_of(choices: &[String]) -> Result<String, String> {
    if choices.is_empty() {
        return Err("it is empty".into());
    }
    let choices: Vec<_> = choices.iter().map(|choice| escape(choice)).collect();
    Ok(format!("start: /(?:{})/", choices.join("|")))
}

/// A regular expression for exactly this text, whatever the grammar around it means by some characters.
fn escape(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii();
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) }).collect()
}
