//! The tokens as `llguidance` sees them.

use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::sync::Arc;
use text::Tokenizer;

/// Longer tokens are never allowed: the trie counts depth in 10 bits.
const LONGEST_TOKEN: usize = 1000;

/// The trie of all tokens. Ends of texts are left to [`super::Grammar::mask`], as they differ by job.
struct Vocabulary {
    trie: TokTrie,
}

/// Builds the trie of a tokeniser's tokens.
pub fn environment(tokenizer: &Tokenizer) -> TokEnv {
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
    let info = TokRxInfo::new(words.len() as u32, INVALID_TOKEN);
    Arc::new(Vocabulary { trie: TokTrie::from(&info, &words) })
}

/// What the trie holds of a token: nothing if it is never allowed; special ones behind a byte that is in no text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let word = match bytes {
        [] | [MARK, ..] => Vec::new(),
        _ if tokenizer.is_special(id) => [&[MARK], bytes].concat(),
        _ => bytes.to_vec(),
    };
    if word.len() > LONGEST_TOKEN { Vec::new() } else { word }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    /// No: else tokens would be forced.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
