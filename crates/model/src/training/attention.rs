//! Attention's half of the tape.

use crate::attention::Attention;
use crate::decoder::Decoder;
use tensor::{Chunk, Device, KvCache, Tensor};

pub(super) struct AttentionTape {
    /// Queries and keys before norm and rotation, where there are norms.
    raw: Option<Tensor>,
    /// Queries, keys and values as attention read them.
    qkv: Tensor,
    attended: Tensor,
    /// The gradient of what the projection gave.
    dqkv: Tensor,
}

impl Attention {
    /// `residual += output(attention(normed))`.
    pub(super) fn forward_saving(
        &self,
        decoder: &Decoder,
        device: &mut Device,
        cache: &mut KvCache,
        chunks: &[Chunk<'_>],
        normed: &Tensor,
        residual: &mut Tensor,
    ) -> AttentionTape {
        let rows = normed.rows();
        let mut qkv = Tensor::stale(rows, self.qkv.rows());
        let mut attended = Tensor::stale(rows, self.output.cols());
        device.matmul(&self.qkv, normed, rows, self.qkv_bias.as_deref(), false, &mut qkv);
        let raw = self.qk_norms.is_some().then(|| device.copy(&qkv));
        device.store_kv(cache, 0, &self.transform(decoder), chunks, &mut qkv);
        device.attention(cache, 0, &self.spec(decoder.config.heads), chunks, &qkv, &mut attended);
        device.matmul(&self.output, &attended, rows, self.output_bias.as_deref(), true, residual);
        decoder.parallel.tensor.all_reduce_sum(residual, rows);
        AttentionTape { raw, qkv, attended, dqkv: Tensor::zeros(0, 0) }
    }

    /// Adds to `dnormed` the gradient of the layer's normed input, given that of its output. Sinks and the norms of queries and keys, which lie
    /// inside, get their gradients here.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward_input(
        &self,
        decoder: &Decoder,
        device: &mut Device,
        chunks: &[Chunk<'_>],
        dout: &Tensor,
        tape: &mut AttentionTape,
        dnormed: &mut Tensor,
        gradient: &mut Attention,
    ) {
        let (rows, config) = (dout.rows(), &decoder.config);
        let mut dattended = Tensor::stale(rows, self.output.cols());
        device.matmul_backward_input(&self.output, dout, rows, false, &mut dattended);
        let mut dqkv = Tensor::stale(rows, self.qkv.rows());
        let dsinks = gradient.sinks.as_deref_mut().unwrap_or_default();
        let spec = self.spec(config.heads);
        device.attention_backward(
            config.kv_heads,
            config.head_dim,
            &spec,
            chunks,
            &tape.qkv,
            &dattended,
            &mut dqkv,
            dsinks,
        );
        let dnorms = gradient.qk_norms.as_mut().map(|(q, k)| (q.as_mut_slice(), k.as_mut_slice()));
        let raw = tape.raw.as_ref().unwrap_or(&tape.qkv);
        device.qk_backward(config.head_dim, &self.transform(decoder), chunks, raw, &mut dqkv, dnorms);
        device.matmul_backward_input(&self.qkv, &dqkv, rows, true, dnormed);
        tape.dqkv = dqkv;
    }

    /// Adds the gradients of projections and biases, after [`Attention::backward_input`].
    pub(super) fn backward_weight(
        &self,
        device: &mut Device,
        dout: &Tensor,
        tape: &AttentionTape,
        normed: &Tensor,
        gradient: &mut Attention,
    ) {
        let rows = dout.rows();
        device.matmul_backward_weight(&tape.attended, dout, rows, &mut gradient.output);
        device.matmul_backward_weight(normed, &tape.dqkv, rows, &mut gradient.qkv);
        if let Some(bias) = &mut gradient.output_bias {
            device.bias_backward(dout, rows, bias);
        }
        if let Some(bias) = &mut gradient.qkv_bias {
            device.bias_backward(&tape.dqkv, rows, bias);
        }
    }
}
