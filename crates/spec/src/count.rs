//! What a decoder adds up to: parameters, arithmetic and cache bytes per token.

use crate::config::{DecoderConfig, DenseFfn, Ffn, Layer};

/// Parameters of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LayerCount {
    /// Attention with its norm, biases and sinks.
    pub attention: u64,
    /// The feed-forward half with its norm and router, all experts.
    pub ffn: u64,
    /// The same, the experts that one token visits.
    pub ffn_active: u64,
    /// Elements of the matrices that one token multiplies by, router included.
    pub active_matrices: u64,
    /// One routed expert; 0 where the layer is dense.
    pub expert: u64,
}

/// Parameters of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterCount {
    /// All of them; tied embeddings count once.
    pub total: u64,
    /// Those one token computes with: every layer with `top_k` of its experts, the final norm and the head (when tied, the
    /// embedding in its place). Looking up a row of the embedding is no computation.
    pub active: u64,
    /// `vocab * hidden`.
    pub embedding: u64,
    /// `vocab * hidden`, 0 when tied.
    pub head: u64,
    /// Layer by layer.
    pub layers: Vec<LayerCount>,
}

/// FLOPs of one token, forward; a multiply and an add are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenFlops {
    /// Matrix products of the layers, of the experts that the token visits.
    pub layers: u64,
    /// Attention scores and the weighted sum of values.
    pub attention: u64,
    /// The head.
    pub head: u64,
}

impl TokenFlops {
    /// All of the forward pass.
    pub fn forward(self) -> u64 {
        self.layers + self.attention + self.head
    }

    /// Forward and backward. Gradients of a product are two products of its size: by its inputs, and by its weights (by its other input, in attention).
    pub fn training(self) -> u64 {
        3 * self.forward()
    }
}

impl ParameterCount {
    /// One routed expert over all layers.
    pub fn expert(&self) -> u64 {
        self.layers.iter().map(|layer| layer.expert).sum()
    }

    /// Attention of all layers.
    pub fn attention(&self) -> u64 {
        self.layers.iter().map(|layer| layer.attention).sum()
    }
}

impl DecoderConfig {
    /// FLOPs of a token of a sample of `context` tokens, each of which sees those before it: half of them in the mean.
    pub fn token_flops(&self, context: usize) -> TokenFlops {
        let attention = self.attention_flops(context.div_ceil(2));
        TokenFlops { layers: self.layer_flops(), attention, head: self.head_flops() }
    }

    /// Counts parameters by arithmetic; [`crate::ParameterTable`] lists the same ones.
    pub fn count_parameters(&self) -> ParameterCount {
        let embedding = self.vocab_size as u64 * self.hidden_size as u64;
        let head = if self.tie_embeddings { 0 } else { embedding };
        let layers: Vec<_> = self.layers.iter().map(|l| self.count_layer(l)).collect();
        let outside = embedding + head + self.hidden_size as u64;
        let sum = |f: fn(&LayerCount) -> u64| layers.iter().map(f).sum::<u64>();
        ParameterCount {
            total: outside + sum(|l| l.attention + l.ffn),
            active: embedding + self.hidden_size as u64 + sum(|l| l.attention + l.ffn_active),
            embedding,
            head,
            layers,
        }
    }

    fn count_layer(&self, layer: &Layer) -> LayerCount {
        let hidden = self.hidden_size as u64;
        let (q, kv) = (self.q_size() as u64, self.kv_size() as u64);
        let matrices = 2 * hidden * (q + kv);
        let mut attention = hidden + matrices;
        attention += if self.qkv_bias { q + 2 * kv } else { 0 };
        attention += if self.output_bias { hidden } else { 0 };
        attention += if self.qk_norm { 2 * self.head_dim as u64 } else { 0 };
        attention += if self.attention_sinks { self.heads as u64 } else { 0 };

        let network = |ffn: &DenseFfn| {
            let wide = ffn.ffn_size as u64;
            let matrices = 3 * hidden * wide;
            let biases = if ffn.bias { 2 * wide + hidden } else { 0 };
            (matrices, matrices + biases)
        };
        let (ffn, ffn_active, ffn_matrices, expert) = match &layer.ffn {
            Ffn::Dense(dense) => {
                let (matrices, all) = network(dense);
                (all, all, matrices, 0)
            }
            Ffn::Experts(moe) => {
                let (matrices, one) = network(&moe.expert);
                let (shared_matrices, shared) = moe.shared.as_ref().map_or((0, 0), network);
                let experts = moe.experts as u64;
                let router_matrix = experts * hidden;
                let biases = u64::from(moe.router_bias) + u64::from(moe.choice_bias);
                let always = router_matrix + shared + biases * experts;
                let visited = moe.top_k as u64;
                let visited_matrices = router_matrix + shared_matrices + visited * matrices;
                (always + experts * one, always + visited * one, visited_matrices, one)
            }
        };
        LayerCount {
            attention,
            ffn: hidden + ffn,
            ffn_active: hidden + ffn_active,
            active_matrices: matrices + ffn_matrices,
            expert,
        }
    }

    /// FLOPs of the layers' matrix products for one token, forward: 2 per active element. Neither attention
    /// scores nor the head are in it.
    pub fn layer_flops(&self) -> u64 {
        let elements = |l| self.count_layer(l).active_matrices;
        2 * self.layers.iter().map(elements).sum::<u64>()
    }

    /// FLOPs of the head for one token whose logits are wanted, forward.
    pub fn head_flops(&self) -> u64 {
        2 * self.vocab_size as u64 * self.hidden_size as u64
    }

    /// FLOPs of attention scores and their weighted sum, forward, for one token that sees `context` tokens
    /// (itself included), or its window's share of them: 2 for each of both products.
    pub fn attention_flops(&self, context: usize) -> u64 {
        let visible = |l: &Layer| l.attention.window.map_or(context, |w| w.min(context)) as u64;
        let keys: u64 = self.layers.iter().map(visible).sum();
        4 * self.q_size() as u64 * keys
    }

    /// Bytes that one token adds to the K/V cache over all layers, `element_bytes` for each element and
    /// `scale_bytes` for each head's K and each head's V (0 where the cache has no scales).
    pub fn kv_bytes_per_token(&self, element_bytes: usize, scale_bytes: usize) -> u64 {
        let head = self.head_dim as u64 * element_bytes as u64 + scale_bytes as u64;
        2 * self.layers.len() as u64 * self.kv_heads as u64 * head
    }
}
