//! Fill-in-the-middle: a document whose middle is moved behind what surrounds it, so that a model learns to
//! write what fits between two given texts.
//!
//! A text is cut at two characters into prefix, middle and suffix, and each part is tokenised for itself, as it
//! will be when an editor asks. Half of the documents are laid out prefix first (PSM), half suffix first (SPM):
//!
//! ```text
//! PSM  <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>
//! SPM  <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle <|endoftext|>
//! ```

use spec::random::{below, hash};
use std::sync::Arc;
use text::Tokenizer;

/// Tokens that the layout adds: three markers and the end of the text. Four more may come from tokenising
/// the parts apart; where that is not enough, the text is cut between tokens instead.
pub(super) const RESERVE: u32 = 8;

/// The names of the three tokens that models use, as (prefix, middle, suffix).
const NAMES: [[&str; 3]; 3] = [
    ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
    ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"],
    ["<fim-prefix>", "<fim-middle>", "<fim-suffix>"],
];

/// Rearranges documents.
#[derive(Clone, Debug)]
pub struct Fim {
    tokenizer: Arc<Tokenizer>,
    prefix: u32,
    middle: u32,
    suffix: u32,
    end_of_text: u32,
}

impl Fim {
    /// Rearranges with the tokens of this tokeniser; otherwise the name of the one that it lacks.
    pub fn new(tokenizer: &Arc<Tokenizer>, end_of_text: u32) -> Result<Self, &'static str> {
        let ids = |names: [&str; 3]| {
            let [prefix, middle, suffix] = names.map(|name| tokenizer.id_of(name));
            Some((prefix?, middle?, suffix?))
        };
        let found = NAMES.into_iter().find_map(ids);
        let (prefix, middle, suffix) = found
            .ok_or_else(|| NAMES[0].into_iter().find(|name| tokenizer.id_of(name).is_none()).unwrap_or(NAMES[0][0]))?;
        Ok(Self { tokenizer: tokenizer.clone(), prefix, middle, suffix, end_of_text })
    }

    /// Rearranges a document, or a part of one; `key` decides how. The result has at most `RESERVE` tokens more.
    ///
    /// Special tokens at its beginning stay there. A document with special tokens inside, or without text,
    /// stays as it is: nothing is returned.
    pub fn rearrange(&self, tokens: &[u32], key: u64) -> Option<Vec<u32>> {
        let is_special = |id: &&u32| self.tokenizer.is_special(**id);
        let lead = tokens.iter().take_while(is_special).count();
        let tail = tokens[lead..].iter().rev().take_while(is_special).count();
        let (lead, body) = (&tokens[..lead], &tokens[lead..tokens.len() - tail]);
        if body.is_empty() || body.iter().any(|id| is_special(&id)) {
            return None;
        }
        let room = body.len() + RESERVE as usize - 4;
        let parts = self.cut_text(body, key).filter(|parts| parts.iter().map(Vec::len).sum::<usize>() <= room);
        let [prefix, middle, suffix] = parts.unwrap_or_else(|| cut_tokens(body, key));
        let (before, after) = match hash(key, 2, 0, 0) & 1 {
            0 => ([&[self.prefix], &*prefix, &[self.suffix]].concat(), [].as_slice()),
            _ => (vec![self.prefix, self.suffix], &*prefix),
        };
        Some([lead, &before, &suffix, &[self.middle], after, &middle, &[self.end_of_text]].concat())
    }

    /// Prefix, middle and suffix, cut at characters; nothing where the tokens are no text.
    fn cut_text(&self, body: &[u32], key: u64) -> Option<[Vec<u32>; 3]> {
        let mut bytes = Vec::new();
        for &id in body {
            bytes.extend_from_slice(self.tokenizer.token_bytes(id)?);
        }
        let text = String::from_utf8(bytes).ok()?;
        let [from, to] = two_places(text.len(), key).map(|at| text.floor_char_boundary(at));
        let encode = |part: &str| self.tokenizer.encode(part).ok();
        Some([encode(&text[..from])?, encode(&text[from..to])?, encode(&text[to..])?])
    }
}

/// Prefix, middle and suffix, cut between tokens.
fn cut_tokens(body: &[u32], key: u64) -> [Vec<u32>; 3] {
    let [from, to] = two_places(body.len(), key);
    [body[..from].to_vec(), body[from..to].to_vec(), body[to..].to_vec()]
}

/// Two places from 0 to `len`, in order.
fn two_places(len: usize, key: u64) -> [usize; 2] {
    let mut places = [0, 1].map(|i| below(hash(key, i, 0, 0), len as u64 + 1) as usize);
    places.sort_unstable();
    places
}
