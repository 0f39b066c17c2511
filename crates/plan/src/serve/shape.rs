//! What a step reads and computes of a model, as counts: all that a price needs to know of it.

use serde::{Deserialize, Serialize};
use spec::{DecoderConfig, Ffn};

/// One layer. Elements are those of matrices; norms and biases take no time worth counting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerShape {
    /// Elements that every row multiplies by: attention, the dense or the shared network, the router.
    pub shared: f64,
    /// Elements of one routed expert.
    #[serde(default)]
    pub expert: f64,
    /// Routed experts, 0 in a dense layer.
    #[serde(default)]
    pub experts: usize,
    /// Experts that a row visits.
    #[serde(default)]
    pub top_k: usize,
    /// Numbers that a position adds to the cache.
    pub kv: f64,
    /// Parts into which tensor ranks can divide these without holding one twice: K/V heads; 1 for Multi-Query and latent attention.
    pub kv_heads: usize,
    /// FLOPs of scores and weighted sum for one query and one key, over all heads.
    pub pair_flops: f64,
    /// The same where a sequence has one row, if the layer then computes in another form (latent attention, absorbed).
    #[serde(default)]
    pub decode_pair_flops: Option<f64>,
    /// Positions that a query sees, its own among them; all before it if `None`.
    #[serde(default)]
    pub window: Option<u32>,
    /// Sums over tensor ranks: 2, or 1 where attention and network stand beside each other.
    pub reductions: usize,
}

/// A decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: f64,
    /// Elements of the head.
    pub head: f64,
    /// Query heads, for what tensor ranks can divide.
    pub heads: usize,
    /// All parameters.
    pub parameters: f64,
    /// Parameters outside the layers.
    pub outside: f64,
    /// First to last.
    pub layers: Vec<LayerShape>,
    /// Positions that the model was made for.
    pub context: u32,
}

impl LayerShape {
    /// Elements of all matrices.
    pub fn elements(&self) -> f64 {
        self.shared + self.experts as f64 * self.expert
    }

    /// Elements that one row multiplies by.
    pub fn active(&self) -> f64 {
        self.shared + self.top_k as f64 * self.expert
    }

    /// Experts that `rows` rows are expected to visit, if each chooses `top_k` different ones and all are as likely:
    /// E (1 - (1 - k/E)^n).
    pub fn experts_touched(&self, rows: f64) -> f64 {
        if self.experts == 0 {
            return 0.0;
        }
        let experts = self.experts as f64;
        experts * (1.0 - (1.0 - self.top_k as f64 / experts).powf(rows))
    }
}

impl Shape {
    /// The shape of a decoder, by the counts of `spec`.
    pub fn of(config: &DecoderConfig) -> Self {
        let counts = config.count_parameters();
        let layers = config.layers.iter().zip(&counts.layers).map(|(layer, count)| {
            let (expert, experts, top_k) = match &layer.ffn {
                Ffn::Dense(_) => (0.0, 0, 0),
                Ffn::Experts(moe) => {
                    (3.0 * config.hidden_size as f64 * moe.expert.ffn_size as f64, moe.experts, moe.top_k)
                }
            };
            LayerShape {
                shared: count.active_matrices as f64 - top_k as f64 * expert,
                expert,
                experts,
                top_k,
                kv: 2.0 * config.kv_size() as f64,
                kv_heads: config.kv_heads,
                pair_flops: 4.0 * config.q_size() as f64,
                decode_pair_flops: None,
                window: layer.attention.window.map(|window| window.min(u32::MAX as usize) as u32),
                reductions: 2,
            }
        });
        let outside = counts.embedding + counts.head + config.hidden_size as u64;
        Self {
            hidden: config.hidden_size as f64,
            head: counts.embedding as f64,
            heads: config.heads,
            parameters: counts.total as f64,
            outside: outside as f64,
            layers: layers.collect(),
            context: config.max_context.min(u32::MAX as usize) as u32,
        }
    }

    /// FLOPs of the matrices for one row, head included.
    pub fn row_flops(&self) -> f64 {
        2.0 * (self.layers.iter().map(LayerShape::active).sum::<f64>() + self.head)
    }

    /// Windows that differ, full attention (`None`) among them if a layer has it.
    pub fn windows(&self) -> Vec<Option<u32>> {
        let mut windows: Vec<_> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }
}
