//! A GGUF file's vocabulary, between the crate that reads files and the one that knows tokens.

use model::files::Vocabulary;
use text::GgufVocabulary;

/// What a file says, for the tokeniser.
pub fn from_file(file: &Vocabulary) -> GgufVocabulary {
    let file = file.clone();
    GgufVocabulary {
        model: file.model,
        pre: file.pre.unwrap_or_default(),
        tokens: file.tokens,
        scores: some(file.scores),
        token_types: some(file.token_types),
        merges: some(file.merges),
        bos: file.bos,
        eos: file.eos,
        eot: file.eot,
        eom: file.eom,
        unk: file.unk,
        pad: file.pad,
        add_bos: file.add_bos,
        add_eos: file.add_eos,
        add_space_prefix: file.add_space_prefix,
        chat_template: file.chat_template,
    }
}

/// What a tokeniser says, for a file.
pub fn to_file(tokens: GgufVocabulary) -> Vocabulary {
    Vocabulary {
        model: tokens.model,
        pre: Some(tokens.pre).filter(|pre| !pre.is_empty()),
        tokens: tokens.tokens,
        scores: tokens.scores.unwrap_or_default(),
        token_types: tokens.token_types.unwrap_or_default(),
        merges: tokens.merges.unwrap_or_default(),
        bos: tokens.bos,
        eos: tokens.eos,
        eot: tokens.eot,
        eom: tokens.eom,
        unk: tokens.unk,
        pad: tokens.pad,
        add_bos: tokens.add_bos,
        add_eos: tokens.add_eos,
        add_space_prefix: tokens.add_space_prefix,
        chat_template: tokens.chat_template,
    }
}

/// A list of nothing is none.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
