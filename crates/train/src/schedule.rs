//! Learning rate and batch as functions of the tokens seen.

use spec::recipe::{Schedule, TrainRecipe};
use std::f64::consts::PI;

/// What each step does, given the tokens seen before it.
#[derive(Clone, Debug)]
pub struct Schedules {
    tokens: u64,
    context: u64,
    stages: Vec<[u64; 2]>,
    warmup: f64,
    shape: Schedule,
    /// Tokens seen when the learning rate begins to fall, and over how many it does.
    decay: (f64, f64),
    lr: f64,
    final_lr: f64,
}

impl Schedules {
    /// The schedules of a recipe that was validated, with samples of `context` tokens.
    pub fn new(recipe: &TrainRecipe, context: usize) -> Self {
        let left = recipe.tokens - recipe.warmup_tokens;
        let decay = recipe.decay_tokens.unwrap_or(left);
        let begins = match recipe.schedule {
            Schedule::Cosine => recipe.warmup_tokens,
            Schedule::Wsd | Schedule::Constant => recipe.tokens - decay,
        };
        Self {
            tokens: recipe.tokens,
            context: context as u64,
            stages: recipe.batch.stages(),
            warmup: recipe.warmup_tokens as f64,
            shape: recipe.schedule,
            decay: (begins as f64, decay as f64),
            lr: recipe.lr,
            final_lr: recipe.final_lr(),
        }
    }

    /// Tokens of the whole run.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Samples of the whole run.
    pub fn samples(&self) -> u64 {
        self.tokens.div_ceil(self.context)
    }

    /// Samples of the batch that comes after `seen` tokens: at the end as many as are left.
    pub fn batch(&self, seen: u64) -> u64 {
        let stage = self.stages.iter().rev().find(|[from, _]| *from <= seen);
        let batch = stage.map_or(self.context, |[_, tokens]| *tokens);
        (batch / self.context).min(self.tokens.saturating_sub(seen).div_ceil(self.context))
    }

    /// The learning rate of the step after which `seen` tokens have been seen.
    pub fn lr(&self, seen: u64) -> f64 {
        let seen = seen as f64;
        if seen < self.warmup {
            return self.lr * seen / self.warmup;
        }
        let (begins, length) = self.decay;
        let done = if length > 0.0 { ((seen - begins) / length).clamp(0.0, 1.0) } else { 0.0 };
        let height = match self.shape {
            Schedule::Constant => 1.0,
            Schedule::Wsd => 1.0 - done,
            Schedule::Cosine => 0.5 + 0.5 * (PI * done).cos(),
        };
        self.final_lr + (self.lr - self.final_lr) * height
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schedules(more: serde_json::Value) -> Schedules {
        let mut recipe = json!({ "tokens": 1000, "batch": 40, "micro_batch": 1, "lr": 2.0, "warmup_tokens": 100 });
        recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Schedules::new(&serde_json::from_value(recipe).unwrap(), 10)
    }

    #[test]
    fn learning_rates_rise_and_fall_at_their_tokens() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let cosine = schedules(json!({ "final_lr": 0.5 }));
        near(cosine.lr(50), 1.0);
        near(cosine.lr(100), 2.0);
        near(cosine.lr(550), 1.25);
        near(cosine.lr(1000), 0.5);
        near(cosine.lr(1010), 0.5);
        let wsd = schedules(json!({ "schedule": "wsd", "decay_tokens": 200, "final_lr": 0.0 }));
        near(wsd.lr(800), 2.0);
        near(wsd.lr(900), 1.0);
        near(wsd.lr(1000), 0.0);
        near(schedules(json!({ "schedule": "constant" })).lr(1000), 2.0);
        // No tokens are left after the warm-up.
        near(schedules(json!({ "warmup_tokens": 1000 })).lr(1000), 2.0);
    }

    #[test]
    fn batches_grow_and_the_last_takes_what_is_left() {
        let ramp = schedules(json!({ "batch": [[0, 20], [100, 300]], "tokens": 995 }));
        let mut seen = 0;
        let mut batches = Vec::new();
        while seen < ramp.tokens() {
            batches.push(ramp.batch(seen));
            seen += ramp.batch(seen) * 10;
        }
        assert_eq!(batches, [2, 2, 2, 2, 2, 30, 30, 30]);
        assert_eq!(batches.iter().sum::<u64>(), ramp.samples());
    }
}
