//! Random texts under a mask.

use engine::grammar::{Allowed, Compiler, Grammar, Source};
use spec::random::{hash, unit};
use std::sync::Arc;
use std::time::Duration;
use text::Tokenizer;

/// A tokeniser of the fixtures with its compiler.
pub struct Drawer {
    pub tokenizer: Arc<Tokenizer>,
    pub compiler: Compiler,
    /// A special token in the role of the end.
    pub end: u32,
}

/// What came of a draw.
pub struct Drawn {
    pub text: String,
    pub tokens: Vec<u32>,
    /// The text ended; otherwise the limit of tokens was reached.
    pub ended: bool,
}

impl Drawer {
    /// One with bytes in its vocabulary, and one of SentencePiece.
    pub fn both() -> [Self; 2] {
        ["qwen", "llama2"].map(Self::new)
    }

    pub fn new(name: &str) -> Self {
        let folder = format!("{}/../../tests/fixtures/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
        let tokenizer = Arc::new(Tokenizer::from_folder(folder).unwrap());
        let end = tokenizer.eos()[0];
        // Tests run on machines that do other things too.
        let compiler = Compiler::new(tokenizer.clone()).unwrap().waiting(Duration::from_secs(600));
        Self { compiler, tokenizer, end }
    }

    /// A special token that is not the end.
    pub fn special(&self) -> String {
        let mut ids = 0..self.tokenizer.vocab_size() as u32;
        let id = ids.find(|&id| id != self.end && self.tokenizer.is_special(id)).unwrap();
        self.tokenizer.token(id).unwrap().to_string()
    }

    pub fn compile(&self, source: &Source) -> Grammar {
        self.compiler.compile(source).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The logits that a mask leaves: finite where a token is allowed.
    pub fn mask(&self, grammar: &mut Grammar) -> (Allowed, Vec<f32>) {
        let mut logits = vec![0.0; self.tokenizer.vocab_size() + 3];
        let allowed = grammar.mask(&mut logits, &[self.end]).unwrap();
        (allowed, logits)
    }

    /// Draws tokens evenly among those allowed; after the `patience`th, those that close brackets and quotes and the end are preferred.
    pub fn draw(&self, mut grammar: Grammar, seed: u64, patience: u64, limit: u64) -> Drawn {
        let mut drawn = Drawn { text: String::new(), tokens: Vec::new(), ended: false };
        let mut bytes = Vec::new();
        for step in 0..limit {
            let (allowed, mut logits) = self.mask(&mut grammar);
            if allowed == Allowed::Nothing {
                assert!(grammar.is_complete());
                drawn.ended = true;
                break;
            }
            for (token, logit) in logits.iter_mut().enumerate() {
                *logit += unit(hash(seed, 1, step, token as u64)) as f32;
                if step >= patience && self.closes(token as u32) {
                    *logit += unit(hash(seed, 2, step, 0)) as f32;
                }
            }
            let token = engine::sampling::argmax(&logits);
            assert!(logits[token as usize].is_finite());
            if token == self.end {
                assert!(grammar.may_end().unwrap());
                drawn.ended = true;
                break;
            }
            grammar.push(token).unwrap();
            drawn.tokens.push(token);
            bytes.extend_from_slice(self.tokenizer.token_bytes(token).unwrap());
        }
        // The grammar allows UTF-8 only; a text that was cut off may end within a character.
        drawn.text =
            if drawn.ended { String::from_utf8(bytes).unwrap() } else { String::from_utf8_lossy(&bytes).into() };
        drawn
    }

    fn closes(&self, token: u32) -> bool {
        let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        token == self.end || (!bytes.is_empty() && bytes.iter().all(|byte| b"\"}]".contains(byte)))
    }
}
