//! A training step's forward and backward pass through a decoder whose weights are f32.
//!
//! The forward pass runs the same operations as inference, over an f32 cache, and keeps what gradients need. The backward pass walks it
//! from the loss to the embedding. Gradients are a decoder of the same shape ([`Decoder::zeros_like`]), added to until they are cleared.

mod attention;
mod ffn;
mod fresh;
mod parameters;

pub use fresh::{Fresh, Unbiased, Upcycled};
pub use parameters::{Held, Piece, TensorMut, TensorRef};

use crate::decoder::{Decoder, Layer};
use attention::AttentionTape;
use ffn::FfnTape;
use std::ops::Range;
use tensor::{Chunk, Device, IGNORE, KV_BLOCK, KvCache, KvFormat, Tensor};

/// Rows whose logits are held at a time.
const LOGIT_ROWS: usize = 512;

/// The tokens of one micro-batch: documents one after the other, each a sequence of its own.
pub struct MicroBatch<'a> {
    /// Inputs.
    pub tokens: &'a [u32],
    /// What each position should predict; [`IGNORE`] for none.
    pub targets: &'a [u32],
    /// Lengths of the documents; they add up to the tokens.
    pub documents: &'a [usize],
}

/// How the routers' auxiliary losses are formed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum BalanceForm {
    /// Each layer on its own, `E * sum of f_e P_e` with `f_e` the share of the choices, averaged over layers (Fedus 2021).
    #[default]
    PerLayer,
    /// All layers' routers pooled and `f_e` summed over choices, as `load_balancing_loss_func` of transformers.
    Pooled,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Objective {
    /// One over the valid targets of the whole batch, so that micro-batches add up to its mean.
    pub scale: f32,
    /// This micro-batch's share of the batch's tokens: the weight of its auxiliary losses.
    pub share: f32,
    /// Coefficient of the balance loss.
    pub balance: f32,
    /// Its form.
    pub balance_form: BalanceForm,
    /// Coefficient of the router z-loss.
    pub z: f32,
    /// The most rows that an expert takes, as a multiple of its even share of a micro-batch; those that come after, in the order of tokens, pass it by
    /// (Lepikhin 2020). `None`: experts take all.
    pub capacity: Option<f32>,
    /// Compute each layer's activations again for its gradient instead of keeping them.
    pub recompute: bool,
}

/// What a micro-batch gave.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Cross-entropy of each position, 0 where there is no target.
    pub tokens: Vec<f32>,
    /// The balance loss, coefficient apart.
    pub balance: f32,
    /// The mean squared log-sum-exp of router logits, coefficient apart.
    pub z: f32,
    /// Experts that each token visits in layers that have experts.
    pub top_k: usize,
    /// Choices per expert of each layer that has experts.
    pub loads: Vec<Vec<u32>>,
    /// Choices of each such layer that its experts had no room for.
    pub dropped: Vec<u32>,
    /// Mean router probability per expert of each such layer.
    pub mean_probabilities: Vec<Vec<f32>>,
    /// Mean entropy of the router's probabilities of each such layer, in nats.
    pub entropies: Vec<f32>,
}

/// What the forward pass keeps.
struct LayerTape {
    /// The residual stream before the layer.
    input: Tensor,
    kept: Option<Kept>,
}

/// Everything inside a layer.
struct Kept {
    attention_normed: Tensor,
    attention: AttentionTape,
    /// The residual stream between attention and feed-forward.
    middle: Tensor,
    ffn_normed: Tensor,
    ffn: FfnTape,
}

impl Decoder {
    /// One micro-batch: adds the gradients of `objective` to `gradients` and returns the losses.
    ///
    /// # Panics
    /// If weights are not f32, `gradients` has another shape, or tokens and documents do not add up.
    pub fn loss_and_gradients(
        &self,
        device: &mut Device,
        batch: &MicroBatch<'_>,
        objective: &Objective,
        gradients: &mut Decoder,
    ) -> Losses {
        let rows = batch.tokens.len();
        assert!(rows > 0 && batch.targets.len() == rows && batch.documents.iter().sum::<usize>() == rows);
        let blocks: Vec<u32> = (0..).take(batch.documents.iter().map(|d| d.div_ceil(KV_BLOCK)).sum()).collect();
        let chunks = documents(batch.documents, &blocks);
        // Layers run one after the other, so one layer's cache serves all.
        let mut cache = KvCache::new(KvFormat::F32, 1, blocks.len(), self.config.kv_heads, self.config.head_dim);

        let mut residual = Tensor::stale(rows, self.config.hidden_size);
        device.embed(&self.embedding, batch.tokens, &mut residual);
        let top_k = self.layers.iter().find_map(|l| l.ffn.router.as_ref()).map_or(0, |r| r.top_k);
        let mut losses = Losses { top_k, ..Losses::default() };
        let mut tape = Vec::new();
        for layer in &self.layers {
            let input = device.copy(&residual);
            let kept = self.layer_forward(layer, device, &mut cache, &chunks, objective.capacity, &mut residual);
            kept.ffn.observe(&mut losses);
            tape.push(LayerTape { input, kept: (!objective.recompute).then_some(kept) });
        }
        ffn::finish(&mut losses, objective.balance_form);

        let mut dresidual = self.head_backward(device, batch, objective, &residual, &mut losses, gradients);
        for (index, (layer, entry)) in self.layers.iter().zip(tape).enumerate().rev() {
            let mut kept = entry.kept.unwrap_or_else(|| {
                let mut residual = device.copy(&entry.input);
                self.layer_forward(layer, device, &mut cache, &chunks, objective.capacity, &mut residual)
            });
            let gradient = &mut gradients.layers[index];
            self.layer_backward(
                layer,
                index,
                device,
                &chunks,
                objective,
                &losses,
                &entry.input,
                &mut kept,
                &mut dresidual,
                gradient,
            );
        }
        device.embed_backward(batch.tokens, &dresidual, &mut gradients.embedding);
        losses
    }

    /// Cross-entropy of each position, without gradients; experts take all, as in inference.
    pub fn token_losses(&self, device: &mut Device, batch: &MicroBatch<'_>) -> Vec<f32> {
        let rows = batch.tokens.len();
        let blocks: Vec<u32> = (0..).take(batch.documents.iter().map(|d| d.div_ceil(KV_BLOCK)).sum()).collect();
        let chunks = documents(batch.documents, &blocks);
        let mut cache = KvCache::new(KvFormat::F32, 1, blocks.len(), self.config.kv_heads, self.config.head_dim);
        let mut residual = Tensor::stale(rows, self.config.hidden_size);
        device.embed(&self.embedding, batch.tokens, &mut residual);
        for layer in &self.layers {
            self.layer_forward(layer, device, &mut cache, &chunks, None, &mut residual);
        }
        let mut losses = vec![0.0; rows];
        self.for_each_logits(device, &residual, batch.targets, 1.0, &mut losses, &mut |_, _, _, _| ());
        losses
    }

    fn layer_forward(
        &self,
        layer: &Layer,
        device: &mut Device,
        cache: &mut KvCache,
        chunks: &[Chunk<'_>],
        capacity: Option<f32>,
        residual: &mut Tensor,
    ) -> Kept {
        let (rows, hidden) = (residual.rows(), self.config.hidden_size);
        let mut attention_normed = Tensor::stale(rows, hidden);
        device.rms_norm(residual, &layer.attention_norm, self.config.norm_eps, rows, &mut attention_normed);
        let attention = layer.attention.forward_saving(self, device, cache, chunks, &attention_normed, residual);
        let middle = device.copy(residual);
        let mut ffn_normed = Tensor::stale(rows, hidden);
        device.rms_norm(residual, &layer.ffn_norm, self.config.norm_eps, rows, &mut ffn_normed);
        let ffn = layer.ffn.forward_saving(device, &ffn_normed, capacity, residual);
        Kept { attention_normed, attention, middle, ffn_normed, ffn }
    }

    /// Takes `dresidual` from after the layer to before it.
    #[allow(clippy::too_many_arguments)]
    fn layer_backward(
        &self,
        layer: &Layer,
        index: usize,
        device: &mut Device,
        chunks: &[Chunk<'_>],
        objective: &Objective,
        losses: &Losses,
        input: &Tensor,
        kept: &mut Kept,
        dresidual: &mut Tensor,
        gradient: &mut Layer,
    ) {
        let (rows, eps) = (dresidual.rows(), self.config.norm_eps);
        let mut dnormed = Tensor::zeros(rows, self.config.hidden_size);
        let auxiliary = ffn::Auxiliary::of(self, index, objective, losses, rows);
        layer.ffn.backward_input(device, dresidual, auxiliary, &mut kept.ffn, &mut dnormed);
        layer.ffn.backward_weight(device, &kept.ffn, &kept.ffn_normed, &mut gradient.ffn);
        device.rms_norm_backward_weight(&kept.middle, eps, &dnormed, rows, &mut gradient.ffn_norm);
        device.rms_norm_backward_input(&kept.middle, &layer.ffn_norm, eps, &dnormed, rows, dresidual);

        let mut dnormed = Tensor::zeros(rows, self.config.hidden_size);
        layer.attention.backward_input(
            self,
            device,
            chunks,
            dresidual,
            &mut kept.attention,
            &mut dnormed,
            &mut gradient.attention,
        );
        layer.attention.backward_weight(
            device,
            dresidual,
            &kept.attention,
            &kept.attention_normed,
            &mut gradient.attention,
        );
        device.rms_norm_backward_weight(input, eps, &dnormed, rows, &mut gradient.attention_norm);
        device.rms_norm_backward_input(input, &layer.attention_norm, eps, &dnormed, rows, dresidual);
    }

    /// Final norm, head and loss, some rows at a time; returns the gradient of the residual stream.
    fn head_backward(
        &self,
        device: &mut Device,
        batch: &MicroBatch<'_>,
        objective: &Objective,
        residual: &Tensor,
        losses: &mut Losses,
        gradients: &mut Decoder,
    ) -> Tensor {
        let (rows, hidden, eps) = (residual.rows(), self.config.hidden_size, self.config.norm_eps);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut dresidual = Tensor::zeros(rows, hidden);
        losses.tokens = vec![0.0; rows];
        let mut token_losses = std::mem::take(&mut losses.tokens);
        self.for_each_logits(
            device,
            residual,
            batch.targets,
            objective.scale,
            &mut token_losses,
            &mut |device, range, normed, dlogits| {
                let count = range.len();
                let dhead = gradients.head.as_mut().unwrap_or(&mut gradients.embedding);
                device.matmul_backward_weight(normed, dlogits, count, dhead);
                let mut dnormed = Tensor::stale(count, hidden);
                device.matmul_backward_input(head, dlogits, count, false, &mut dnormed);
                let x = device.copy_rows(residual, range.clone());
                let mut dx = Tensor::zeros(count, hidden);
                device.rms_norm_backward_weight(&x, eps, &dnormed, count, &mut gradients.final_norm);
                device.rms_norm_backward_input(&x, &self.final_norm, eps, &dnormed, count, &mut dx);
                device.write_rows(&dx, range.start, &mut dresidual);
            },
        );
        losses.tokens = token_losses;
        dresidual
    }

    /// Hands the logits' gradients to `f`, some rows at a time, losses written.
    fn for_each_logits(
        &self,
        device: &mut Device,
        residual: &Tensor,
        targets: &[u32],
        scale: f32,
        losses: &mut [f32],
        f: &mut TakeLogits<'_>,
    ) {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        for first in (0..residual.rows()).step_by(LOGIT_ROWS) {
            let range = first..residual.rows().min(first + LOGIT_ROWS);
            if targets[range.clone()].iter().all(|&t| t == IGNORE) {
                continue;
            }
            let x = device.copy_rows(residual, range.clone());
            let mut normed = Tensor::stale(range.len(), self.config.hidden_size);
            device.rms_norm(&x, &self.final_norm, self.config.norm_eps, range.len(), &mut normed);
            let mut logits = Tensor::stale(range.len(), self.config.vocab_size);
            device.matmul(head, &normed, range.len(), None, false, &mut logits);
            device.cross_entropy(&mut logits, &targets[range.clone()], scale, &mut losses[range.clone()]);
            f(device, range, &normed, &logits);
        }
    }
}

/// Takes (device, rows, final norm's output, gradient of the logits).
type TakeLogits<'a> = dyn FnMut(&mut Device, Range<usize>, &Tensor, &Tensor) + 'a;

/// One chunk per document, blocks dealt out in order.
fn documents<'a>(lens: &[usize], blocks: &'a [u32]) -> Vec<Chunk<'a>> {
    let (mut row, mut block) = (0, 0);
    lens.iter()
        .map(|&len| {
            let count = len.div_ceil(KV_BLOCK);
            let chunk = Chunk { row, len, position: 0, block_table: &blocks[block..block + count] };
            (row, block) = (row + len, block + count);
            chunk
        })
        .collect()
}
