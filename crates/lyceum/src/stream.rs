//! A completion on its way to the reader: tokens become text, and stop strings end it.

use crate::output;
use engine::StopStrings;
use miette::{IntoDiagnostic, Report, Result};
use text::{DecodeOptions, Decoder, Tokenizer};

/// Collects the text of a completion and, if asked, prints it as it grows.
pub struct Stream<'t> {
    /// `None`: the text is the ids themselves.
    tokens: Option<(&'t Tokenizer, Decoder)>,
    stops: StopStrings,
    print: bool,
    text: String,
    error: Option<Report>,
}

impl<'t> Stream<'t> {
    /// Text by `tokenizer`, or ids where there is none; printed as it comes if `print`.
    pub fn new(tokenizer: Option<&'t Tokenizer>, options: DecodeOptions, stops: &[String], print: bool) -> Self {
        let tokens = tokenizer.map(|t| (t, t.decoder(options)));
        Self { tokens, stops: StopStrings::new(stops.to_vec()), print, text: String::new(), error: None }
    }

    /// Takes the next token; false when the completion is over.
    pub fn push(&mut self, token: u32) -> bool {
        let piece = match &mut self.tokens {
            Some((tokenizer, decoder)) => decoder.push(tokenizer, token).into_diagnostic(),
            None if self.text.is_empty() => Ok(token.to_string()),
            None => Ok(format!(" {token}")),
        };
        let shown = piece.and_then(|piece| {
            let shown = self.stops.push(&piece);
            self.show(&shown)
        });
        self.error = shown.err();
        self.error.is_none() && !self.stops.found()
    }

    /// The whole text. What was held back in case it became a stop string comes through now.
    pub fn finish(mut self) -> Result<String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let last = self.tokens.take().map_or_else(String::new, |(_, decoder)| decoder.finish());
        let mut rest = self.stops.push(&last);
        rest += &std::mem::replace(&mut self.stops, StopStrings::new(Vec::new())).finish();
        self.show(&rest)?;
        Ok(self.text)
    }

    fn show(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        if self.print && !piece.is_empty() { output::said(piece) } else { Ok(()) }
    }
}
