//! Text from ids as they come, one by one.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// How ids become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave special tokens out.
    pub skip_special: bool,
    /// The text goes on from another: keep the space that the first token of a whole text would lose.
    pub continues: bool,
}

/// Turns ids into text while they arrive; everything it gives is final.
///
/// A character that is split over tokens waits for its last byte, and bytes that can no longer become one turn
/// into U+FFFD, so that all the parts together equal [`Tokenizer::decode`] of all the ids.
#[derive(Clone, Debug)]
pub struct Decoder {
    skip_special: bool,
    /// Spaces still to be dropped from the beginning.
    strip: usize,
    /// The beginning of a character whose end is still to come.
    pending: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(strip: usize, options: DecodeOptions) -> Self {
        let strip = if options.continues { 0 } else { strip };
        Self { skip_special: options.skip_special, strip, pending: Vec::new() }
    }

    /// Takes the next id and gives the text that it completes. `tokenizer` is the one that made this decoder.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        let bytes = tokenizer.bytes_or_error(id)?;
        if self.skip_special && tokenizer.is_special(id) {
            return Ok(String::new());
        }
        let spaces = bytes.iter().take(self.strip).take_while(|&&byte| byte == b' ').count();
        self.strip = if spaces == bytes.len() { self.strip - spaces } else { 0 };
        self.pending.extend_from_slice(&bytes[spaces..]);
        Ok(self.take_final())
    }

    /// Whether the next id, by not going on with the character that those before it began, makes that one U+FFFD.
    pub fn is_broken_by(&self, tokenizer: &Tokenizer, id: u32) -> bool {
        let hidden = self.skip_special && tokenizer.is_special(id);
        let Some(&first) = tokenizer.token_bytes(id).and_then(<[u8]>::first).filter(|_| !hidden) else { return false };
        let bytes = [&self.pending[..], &[first]].concat();
        let broken = std::str::from_utf8(&bytes).err().and_then(|error| error.error_len());
        !self.pending.is_empty() && broken == Some(self.pending.len())
    }

    /// Ends the text: a character that is still incomplete becomes U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn take_final(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
