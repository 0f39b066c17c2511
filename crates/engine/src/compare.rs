//! What does a precision cost? The distance of one decoder's logits from another's, over the same tokens.

use crate::runner::RunError;
use model::{Batch, Decoder, Workspace};
use tensor::{Chunk, Device, KV_BLOCK, KvCache, KvFormat};

/// How far logits are from those of a reference, over all positions of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitError {
    /// The largest difference, over the largest logit of the reference.
    pub max_relative: f64,
    /// The root of the mean squared difference, over that of the reference's logits.
    pub rms_relative: f64,
    /// The mean Kullback-Leibler divergence of the next-token distributions from the reference's, in nats.
    pub kl_nats: f64,
    /// The share of positions at which both find the same token most probable.
    pub argmax_agreement: f64,
}

/// Positions computed at once: enough for the kernels, and few enough that logits of a large vocabulary stay small.
pub(crate) const CHUNK: usize = 64;

/// Compares `other` with `reference`, each with its own K/V format, at every position of `tokens`.
///
/// # Errors
/// If there are no tokens, or they do not fit a decoder.
pub fn logit_error(
    reference: (&Decoder, KvFormat),
    other: (&Decoder, KvFormat),
    device: &mut Device,
    tokens: &[u32],
) -> Result<LogitError, RunError> {
    let mut reference = Scorer::new(reference, tokens)?;
    let mut other = Scorer::new(other, tokens)?;
    let mut sums = Sums::default();
    each_row(&mut reference, &mut other, device, tokens, &mut |reference, other| sums.add(reference, other));
    Ok(sums.error())
}

/// Calls `take` with both decoders' logits at every position, in order.
pub(crate) fn each_row(
    one: &mut Scorer<'_>,
    other: &mut Scorer<'_>,
    device: &mut Device,
    tokens: &[u32],
    take: &mut dyn FnMut(&[f32], &[f32]),
) {
    for position in (0..tokens.len()).step_by(CHUNK) {
        let chunk = &tokens[position..tokens.len().min(position + CHUNK)];
        one.score(device, position, chunk);
        other.score(device, position, chunk);
        for row in 0..chunk.len() {
            take(one.logits(row), other.logits(row));
        }
    }
}

/// One decoder's pass over the tokens.
pub(crate) struct Scorer<'m> {
    decoder: &'m Decoder,
    cache: KvCache,
    blocks: Vec<u32>,
    workspace: Workspace,
    rows: Vec<Vec<f32>>,
}

impl<'m> Scorer<'m> {
    pub(crate) fn new((decoder, kv): (&'m Decoder, KvFormat), tokens: &[u32]) -> Result<Self, RunError> {
        crate::runner::check(tokens, 0, decoder.config().vocab_size, decoder.context())?;
        let blocks = tokens.len().div_ceil(KV_BLOCK);
        Ok(Self {
            decoder,
            cache: decoder.new_cache(kv, blocks),
            blocks: (0..blocks as u32).collect(),
            workspace: Workspace::new(decoder, CHUNK, CHUNK),
            rows: Vec::new(),
        })
    }

    pub(crate) fn score(&mut self, device: &mut Device, position: usize, tokens: &[u32]) {
        let chunk = Chunk { row: 0, len: tokens.len(), position, block_table: &self.blocks };
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch { tokens, chunks: &[chunk], logit_rows: &rows };
        let logits = self.decoder.forward(device, &mut self.cache, &mut self.workspace, &batch);
        self.rows = (0..tokens.len()).map(|row| logits.row(row).to_vec()).collect();
    }

    pub(crate) fn logits(&self, row: usize) -> &[f32] {
        &self.rows[row]
    }
}

/// What the positions add up to.
#[derive(Default)]
struct Sums {
    positions: usize,
    largest: f64,
    largest_difference: f64,
    squares: f64,
    squared_differences: f64,
    divergence: f64,
    agreements: usize,
}

impl Sums {
    fn add(&mut self, reference: &[f32], other: &[f32]) {
        let (from, to) = (log_sum_exp(reference), log_sum_exp(other));
        for (&r, &o) in reference.iter().zip(other) {
            let (r, o) = (f64::from(r), f64::from(o));
            self.largest = self.largest.max(r.abs());
            self.largest_difference = self.largest_difference.max((r - o).abs());
            self.squares += r * r;
            self.squared_differences += (r - o) * (r - o);
            self.divergence += (r - from).exp() * ((r - from) - (o - to));
        }
        self.positions += 1;
        self.agreements += usize::from(crate::sampling::argmax(reference) == crate::sampling::argmax(other));
    }

    fn error(&self) -> LogitError {
        let positions = self.positions as f64;
        LogitError {
            max_relative: self.largest_difference / self.largest,
            rms_relative: (self.squared_differences / self.squares).sqrt(),
            kl_nats: self.divergence / positions,
            argmax_agreement: self.agreements as f64 / positions,
        }
    }
}

/// `ln sum exp`, without overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    largest + logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_follow_their_definitions() {
        let mut sums = Sums::default();
        // Probabilities 3/4, 1/4 against 1/2, 1/2; then the same twice.
        sums.add(&[3f32.ln(), 0.0], &[0.0, 0.0]);
        sums.add(&[1.0, 2.0], &[1.0, 2.0]);
        let error = sums.error();
        let kl = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((error.kl_nats - kl / 2.0).abs() < 1e-7);
        assert!((error.max_relative - 3f64.ln() / 2.0).abs() < 1e-7);
        assert!((error.rms_relative - (1.2069 / 6.2069f64).sqrt()).abs() < 1e-4);
        assert_eq!(error.argmax_agreement, 1.0);
    }
}
