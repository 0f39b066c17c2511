//! Probabilities of tokens, as chats and as plain completions tell them.

use engine::live::Scored;
use indexmap::IndexMap;
use serde::Serialize;
use text::{DecodeOptions, Decoder, Tokenizer};
use utoipa::ToSchema;

/// What stands for a probability of 0, whose logarithm JSON cannot say.
const IMPOSSIBLE: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// Of each token of a message.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// In order.
    pub content: Vec<TokenLogprob>,
    /// There are no refusals apart from text.
    #[schema(required)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// Of one token, and of those that could have stood in its place.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// The token as text; bytes that are no text become U+FFFD.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable tokens, most probable first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// Of one of the most probable tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TopLogprob {
    /// The token as text.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// As chats tell them.
pub fn of_chat(tokenizer: &Tokenizer, tokens: &[Scored]) -> ChatLogprobs {
    let top = |&(id, logprob): &(u32, f32)| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        TopLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: finite(logprob), bytes }
    };
    let one = |scored: &Scored| {
        let TopLogprob { token, logprob, bytes } = top(&(scored.token, scored.logprob.unwrap_or(IMPOSSIBLE)));
        TokenLogprob { token, logprob, bytes, top_logprobs: scored.top.iter().map(top).collect() }
    };
    ChatLogprobs { content: tokens.iter().map(one).collect(), refusal: None }
}

/// Of each token of a plain completion; the lists are of one length.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Where each token begins, in characters of the text; the first of a token's bytes may be inside of one.
    pub text_offset: Vec<usize>,
    /// The natural logarithm of each token's probability; the first token of a prompt has none.
    pub token_logprobs: Vec<Option<f32>>,
    /// The tokens as text; those that are no text by themselves as `bytes:\xe2\x96`.
    pub tokens: Vec<String>,
    /// The most probable tokens at each place and the one that stands there.
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<IndexMap<String, f32>>>,
}

/// Counts the characters that tokens become.
pub struct Offsets {
    decoder: Decoder,
    characters: usize,
}

impl Offsets {
    /// Of a prompt.
    pub fn of_prompt(tokenizer: &Tokenizer, show_special: bool) -> Self {
        let options = DecodeOptions { skip_special: !show_special, continues: false };
        Self { decoder: tokenizer.decoder(options), characters: 0 }
    }

    /// Of a completion, before which so many characters are told.
    pub fn behind(tokenizer: &Tokenizer, characters: usize, show_special: bool) -> Self {
        let options = DecodeOptions { skip_special: !show_special, continues: true };
        Self { decoder: tokenizer.decoder(options), characters }
    }

    /// As plain completions tell them, from where the last ones ended.
    pub fn of_completion(&mut self, tokenizer: &Tokenizer, tokens: &[Scored]) -> CompletionLogprobs {
        let mut all = CompletionLogprobs::default();
        for scored in tokens {
            // A character that this token leaves incomplete is told as U+FFFD, before the token.
            let broken = usize::from(self.decoder.is_broken_by(tokenizer, scored.token));
            all.text_offset.push(self.characters + broken);
            all.tokens.push(name(tokenizer, scored.token));
            all.token_logprobs.push(scored.logprob.map(finite));
            all.top_logprobs.push(scored.logprob.map(|own| {
                let chosen = (scored.token, own);
                let all =
                    scored.top.iter().chain(Some(&chosen).filter(|_| !scored.top.iter().any(|t| t.0 == scored.token)));
                all.map(|&(id, logprob)| (name(tokenizer, id), finite(logprob))).collect()
            }));
            self.characters += self.decoder.push(tokenizer, scored.token).unwrap_or_default().chars().count();
        }
        all
    }
}

/// A token as text that tells it from others.
fn name(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) => bytes.iter().fold("bytes:".to_string(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

impl CompletionLogprobs {
    /// These, and then those.
    pub fn extend(&mut self, more: Self) {
        self.text_offset.extend(more.text_offset);
        self.token_logprobs.extend(more.token_logprobs);
        self.tokens.extend(more.tokens);
        self.top_logprobs.extend(more.top_logprobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::sync::LazyLock;

    static MODELS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
        ["qwen3_moe_bpe", "mixtral_spm"].map(|name| Tokenizer::from_folder(models.join(name)).unwrap())
    });

    /// Where the characters of what bytes become begin, by Rust's own rule for U+FFFD.
    fn beginnings(bytes: &[u8]) -> Vec<usize> {
        let (mut at, mut beginnings) = (0, Vec::new());
        for chunk in bytes.utf8_chunks() {
            beginnings.extend(chunk.valid().char_indices().map(|(start, _)| at + start));
            at += chunk.valid().len();
            beginnings.extend(Some(at).filter(|_| !chunk.invalid().is_empty()));
            at += chunk.invalid().len();
        }
        beginnings
    }

    /// Ids that are likely to be parts of characters.
    fn ids(tokenizer: &Tokenizer) -> impl Strategy<Value = Vec<u32>> + use<> {
        let plain = |id: &u32| !tokenizer.is_special(*id) && tokenizer.token_bytes(*id).is_some_and(|b| !b.is_ascii());
        let parts: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(plain).collect();
        let any = (0..tokenizer.vocab_size() as u32).prop_filter("a special token", {
            let special: Vec<bool> = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.is_special(id)).collect();
            move |id| !special[*id as usize]
        });
        prop::collection::vec(prop_oneof![3 => prop::sample::select(parts), 1 => any], 1..20)
    }

    proptest! {
        /// A token begins in the character that its first byte belongs to.
        #[test]
        fn offsets_are_where_first_bytes_are(
            (model, ids) in (0..2usize).prop_flat_map(|model| (Just(model), ids(&MODELS[model]))),
            before in 0..3usize,
        ) {
            let tokenizer = &MODELS[model];
            let scored: Vec<_> = ids.iter().map(|&token| Scored { token, logprob: None, top: Vec::new() }).collect();
            let told = Offsets::behind(tokenizer, before, false).of_completion(tokenizer, &scored).text_offset;
            let bytes: Vec<&[u8]> = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
            let beginnings = beginnings(&bytes.concat());
            for (i, told) in told.into_iter().enumerate() {
                let byte = bytes[..i].concat().len();
                prop_assert_eq!(told, before + beginnings.partition_point(|&at| at <= byte) - 1, "token {} of {:?}", i, bytes);
            }
        }
    }
}
