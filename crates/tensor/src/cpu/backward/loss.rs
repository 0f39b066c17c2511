//! Cross-entropy and its gradient.

// One writer per row.
#![allow(unsafe_code)]

use super::vector::{exp_less, lane_sum};
use crate::buffer::Tensor;
use crate::cpu::Device;

/// A target that is not learned from.
pub const IGNORE: u32 = u32::MAX;

impl Device {
    /// Turns the first rows of `logits` (`[targets.len(), vocab]`) into the gradient of `sum of losses * scale` and writes each row's
    /// loss, `-ln softmax(logits)[target]`, to `losses`; rows whose target is [`IGNORE`] have loss and gradient zero.
    pub fn cross_entropy(&mut self, logits: &mut Tensor, targets: &[u32], scale: f32, losses: &mut [f32]) {
        let cols = logits.cols();
        assert!(targets.len() <= logits.rows() && losses.len() == targets.len());
        let level = self.level;
        let logits = logits.shared();
        let losses: Vec<_> = losses.iter_mut().map(std::sync::Mutex::new).collect();
        self.for_rows(targets.len(), &|r| {
            // SAFETY: one writer per row.
            let row = unsafe { logits.part(r, 0, cols) };
            let Ok(mut loss) = losses[r].lock() else { return };
            if targets[r] == IGNORE {
                row.fill(0.0);
                **loss = 0.0;
                return;
            }
            let target = targets[r] as usize;
            let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
            let at_target = row[target] - max;
            exp_less(level, row, max);
            let sum = lane_sum(row);
            **loss = sum.ln() - at_target;
            let factor = scale / sum;
            row.iter_mut().for_each(|p| *p *= factor);
            row[target] -= scale;
        });
    }
}
