//! How text is cut into words before bytes are merged: the ways that GGUF files know by name.
//!
//! A GGUF file of the kind `gpt2` names its way in `tokenizer.ggml.pre`. Each is written here as the
//! `tokenizer.json` of the models that use it writes it, so that it can be found by name and by content.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fast::Cut;

/// One way to cut text.
pub(crate) struct Pre {
    /// The names; the first is the one that is written.
    pub names: &'static [&'static str],
    cuts: Cuts,
    /// Whether text is first brought into Unicode's composed form.
    nfc: bool,
    /// A word that is a token is taken whole.
    pub ignore_merges: bool,
    /// What holds if a file does not say.
    pub add_bos: bool,
}

enum Cuts {
    /// GPT-2's own expression, which comes with the byte alphabet.
    Gpt2,
    /// Digits one by one, then as GPT-2.
    DigitsThenGpt2,
    /// Expressions, one after the other on what the one before has cut; what they do not match are words too.
    Expressions(&'static [&'static str]),
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);

const fn pre(names: &'static [&'static str], cuts: Cuts) -> Pre {
    Pre { names, cuts, nfc: false, ignore_merges: false, add_bos: false }
}

/// Every way that is known. Where two cut alike, the one that is written for both comes first.
static KNOWN: &[Pre] = &[
    pre(&["gpt-2", "phi-2", "jais", "trillion", "exaone4"], Cuts::Gpt2),
    Pre { nfc: true, ..pre(&["olmo", "mpt"], Cuts::Gpt2) },
    pre(&["starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"], Cuts::DigitsThenGpt2),
    Pre { nfc: true, ..pre(&["command-r"], Cuts::DigitsThenGpt2) },
    Pre {
        ignore_merges: true,
        add_bos: true,
        ..pre(
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"],
            Cuts::Expressions(&[LLAMA3]),
        )
    },
    pre(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], Cuts::Expressions(&[LLAMA3])),
    Pre { nfc: true, ..pre(&["qwen2", "deepseek-r1-qwen", "megrez"], Cuts::Expressions(&[QWEN2])) },
    pre(&["stablelm2", "hunyuan", "solar-open", "grok-2"], Cuts::Expressions(&[QWEN2])),
    Pre { nfc: true, ..pre(&["qwen35"], Cuts::Expressions(&[QWEN35])) },
    Pre { ignore_merges: true, ..pre(&["gpt-4o", "llama4", "kanana2", "minimax-m2"], Cuts::Expressions(&[GPT4O])) },
    Pre { ignore_merges: true, add_bos: true, ..pre(&["tekken"], Cuts::Expressions(&[TEKKEN])) },
    pre(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        Cuts::Expressions(&[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
    ),
    pre(
        &["deepseek-coder"],
        Cuts::Expressions(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    ),
    pre(&["falcon"], Cuts::Expressions(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"])),
    pre(&["bloom", "poro-chat", "gpt3-finnish"], Cuts::Expressions(&[r" ?[^(\s|.,!?…。，、।۔،)]+"])),
    pre(&["bailingmoe", "bailingmoe2", "llada-moe"], Cuts::Expressions(&[BAILING])),
    pre(&["default"], Cuts::Expressions(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"])),
];

impl Pre {
    /// The way of this name.
    pub fn named(name: &str) -> Result<&'static Self> {
        KNOWN.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| Error::Unsupported {
            what: format!("the pre-tokenizer `{name}` (tokenizer.ggml.pre)"),
            instead: format!(
                "these are: {}",
                KNOWN.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// The ways that a `tokenizer.json` with these sections may mean; they differ in `ignore_merges` at most.
    pub fn of_sections<'a>(
        normalizer: &'a Value,
        pre_tokenizer: &'a Value,
    ) -> impl Iterator<Item = &'static Self> + 'a {
        let is_empty = normalizer.get("normalizers").and_then(Value::as_array).is_some_and(Vec::is_empty);
        let normalizer = if is_empty { &Value::Null } else { normalizer };
        let same = move |pre: &&Self| {
            pre.normalizer() == *normalizer && essence(&pre.pre_tokenizer()) == essence(pre_tokenizer)
        };
        KNOWN.iter().filter(same)
    }

    /// The same way without expressions, if it is written out, and whether text is first composed.
    pub fn fast(&self) -> Option<(Cut, bool)> {
        let cut = match self.cuts {
            Cuts::Gpt2 => Cut::Gpt2,
            Cuts::Expressions([LLAMA3]) => Cut::Gpt4 { digits: 3 },
            Cuts::Expressions([QWEN2]) => Cut::Gpt4 { digits: 1 },
            _ => return None,
        };
        Some((cut, self.nfc))
    }

    /// The normalizer section.
    pub fn normalizer(&self) -> Value {
        if self.nfc { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// The pre-tokenizer section.
    pub fn pre_tokenizer(&self) -> Value {
        let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let split = |expression: &&str| json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false });
        let steps = match &self.cuts {
            Cuts::Gpt2 => return bytes(true),
            Cuts::DigitsThenGpt2 => vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)],
            Cuts::Expressions(expressions) => expressions.iter().map(split).chain([bytes(false)]).collect(),
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

/// A pre-tokenizer without what changes no token: `trim_offsets`.
fn essence(section: &Value) -> Value {
    match section {
        Value::Object(map) => {
            map.iter().filter(|(key, _)| *key != "trim_offsets").map(|(k, v)| (k.clone(), essence(v))).collect()
        }
        Value::Array(items) => items.iter().map(essence).collect(),
        other => other.clone(),
    }
}
