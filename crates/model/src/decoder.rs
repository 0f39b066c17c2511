//! The decoder: embeddings, layers, head; a step over the tokens of several sequences at once.

use crate::attention::Attention;
use crate::ffn::FeedForward;
use comm::Parallel;
use spec::DecoderConfig;
use tensor::{Chunk, Device, KvCache, KvFormat, Matrix, RopeTable, Routing, Tensor};

/// A decoder whose weights are packed for one device.
pub struct Decoder {
    pub(crate) config: DecoderConfig,
    /// Positions that sequences may reach; RoPE was resolved for it.
    pub(crate) context: usize,
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Vec<f32>,
    /// `None`: the embedding, transposed.
    pub(crate) head: Option<Matrix>,
    pub(crate) rope: Option<RopeTable>,
    pub(crate) parallel: Parallel,
}

/// One layer: attention, then feed-forward, each behind a norm and added to the residual stream.
pub(crate) struct Layer {
    pub attention_norm: Vec<f32>,
    pub attention: Attention,
    pub ffn_norm: Vec<f32>,
    pub ffn: FeedForward,
}

/// The tokens of one step. Chunks are the consecutive rows of `tokens` that belong to one sequence.
pub struct Batch<'a> {
    /// Token ids, all below the vocabulary's size.
    pub tokens: &'a [u32],
    /// One per sequence.
    pub chunks: &'a [Chunk<'a>],
    /// Rows whose logits are wanted.
    pub logit_rows: &'a [u32],
}

/// The tensors of a step, allocated once for its largest size.
pub struct Workspace {
    pub(crate) residual: Tensor,
    pub(crate) normed: Tensor,
    pub(crate) qkv: Tensor,
    pub(crate) attended: Tensor,
    pub(crate) router_logits: Tensor,
    pub(crate) routing: Routing,
    pub(crate) dispatch: tensor::Dispatch,
    pub(crate) expert_out: Tensor,
    /// Tokens that each expert was given since the start, `[layers][experts]`; empty for dense layers.
    pub(crate) expert_tokens: Vec<Vec<u64>>,
    selected: Tensor,
    selected_normed: Tensor,
    logits: Tensor,
}

impl Workspace {
    /// Tensors for steps of at most `tokens` tokens, of which at most `logit_rows` ask for logits.
    pub fn new(decoder: &Decoder, tokens: usize, logit_rows: usize) -> Self {
        let config = &decoder.config;
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (slots, experts) = decoder
            .layers
            .iter()
            .map(|l| l.ffn.slots_and_experts())
            .fold((1, 1), |(s, e), (ls, le)| (s.max(ls), e.max(le)));
        Self {
            residual: Tensor::zeros(tokens, config.hidden_size),
            normed: Tensor::zeros(tokens, config.hidden_size),
            qkv: Tensor::zeros(tokens, q + 2 * kv),
            attended: Tensor::zeros(tokens, q),
            router_logits: Tensor::zeros(tokens, experts),
            routing: Routing::default(),
            dispatch: tensor::Dispatch::default(),
            expert_out: Tensor::zeros(tokens * slots, config.hidden_size),
            expert_tokens: decoder.layers.iter().map(|l| vec![0; l.ffn.routed_experts()]).collect(),
            selected: Tensor::zeros(logit_rows, config.hidden_size),
            selected_normed: Tensor::zeros(logit_rows, config.hidden_size),
            logits: Tensor::zeros(logit_rows, config.vocab_size),
        }
    }

    /// Tokens that a step may have.
    pub fn max_tokens(&self) -> usize {
        self.residual.rows()
    }

    /// Rows that may ask for logits.
    pub fn max_logit_rows(&self) -> usize {
        self.logits.rows()
    }

    /// The logits that the last step computed, `[logit_rows, vocab]`.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Tokens that the router gave to each expert since the workspace was made, `[layers][experts]`; nothing for dense layers.
    pub fn expert_tokens(&self) -> &[Vec<u64>] {
        &self.expert_tokens
    }
}

impl Decoder {
    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Positions that sequences may reach.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A K/V cache of `blocks` blocks for this decoder.
    pub fn new_cache(&self, format: KvFormat, blocks: usize) -> KvCache {
        KvCache::new(format, self.layers.len(), blocks, self.config.kv_heads, self.config.head_dim)
    }

    /// Bytes of packed weights, vectors apart.
    pub fn weight_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(|l| l.attention.bytes() + l.ffn.bytes()).sum();
        self.embedding.bytes() + self.head.as_ref().map_or(0, Matrix::bytes) + layers
    }

    /// Bytes of packed weights that decoding one token of one sequence reads: every layer with the experts that it visits,
    /// and the head.
    pub fn active_weight_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(|l| l.attention.bytes() + l.ffn.active_bytes()).sum();
        self.head.as_ref().unwrap_or(&self.embedding).bytes() + layers
    }

    /// Computes a step: stores the keys and values of every token and returns the logits of `batch.logit_rows`,
    /// `[logit_rows, vocab]`.
    ///
    /// # Panics
    /// If the batch is larger than the workspace, a token is outside the vocabulary, or a position outside the context.
    pub fn forward<'w>(
        &self,
        device: &mut Device,
        cache: &mut KvCache,
        workspace: &'w mut Workspace,
        batch: &Batch<'_>,
    ) -> &'w Tensor {
        let rows = batch.tokens.len();
        assert!(rows <= workspace.max_tokens() && batch.logit_rows.len() <= workspace.max_logit_rows());
        assert!(
            batch.tokens.iter().all(|&t| (t as usize) < self.config.vocab_size),
            "a token is outside the vocabulary"
        );
        assert!(batch.chunks.iter().all(|c| c.position + c.len <= self.context), "a position is outside the context");
        let eps = self.config.norm_eps;
        device.embed(&self.embedding, batch.tokens, &mut workspace.residual);
        for (index, layer) in self.layers.iter().enumerate() {
            device.rms_norm(&workspace.residual, &layer.attention_norm, eps, rows, &mut workspace.normed);
            layer.attention.forward(self, index, device, cache, workspace, batch.chunks, rows);
            device.rms_norm(&workspace.residual, &layer.ffn_norm, eps, rows, &mut workspace.normed);
            layer.ffn.forward(&self.parallel, index, device, workspace, rows);
        }
        self.hidden(device, workspace, batch.logit_rows);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let wanted = batch.logit_rows.len();
        device.matmul(head, &workspace.selected_normed, wanted, None, false, &mut workspace.logits);
        &workspace.logits
    }

    /// The hidden states, after the final norm, of at most `max_logit_rows` rows of the step that `forward` computed last:
    /// `[rows, hidden]`. Its logits stay.
    ///
    /// # Panics
    /// If there are more rows than that, or a row is outside the step.
    pub fn hidden<'w>(&self, device: &mut Device, workspace: &'w mut Workspace, rows: &[u32]) -> &'w Tensor {
        assert!(rows.len() <= workspace.max_logit_rows());
        device.gather(&workspace.residual, rows, &mut workspace.selected);
        let eps = self.config.norm_eps;
        device.rms_norm(&workspace.selected, &self.final_norm, eps, rows.len(), &mut workspace.selected_normed);
        &workspace.selected_normed
    }
}
