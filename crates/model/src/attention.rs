//! Self-attention: projections, positions, cache, output.

use crate::decoder::{Decoder, Workspace};
use tensor::{AttentionSpec, Chunk, Device, KvCache, Matrix, QkTransform};

/// The weights of one layer's attention.
pub(crate) struct Attention {
    /// Queries, keys and values as one matrix.
    pub qkv: Matrix,
    pub qkv_bias: Option<Vec<f32>>,
    pub output: Matrix,
    pub output_bias: Option<Vec<f32>>,
    /// RMSNorm weights of query and key heads.
    pub qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub sinks: Option<Vec<f32>>,
    pub window: Option<usize>,
    /// What scores are multiplied by.
    pub scale: f32,
    pub alibi_slopes: Option<Vec<f32>>,
}

impl Attention {
    pub(crate) fn bytes(&self) -> usize {
        self.qkv.bytes() + self.output.bytes()
    }

    /// What happens to queries and keys between projection and attention.
    pub(crate) fn transform<'a>(&'a self, decoder: &'a Decoder) -> QkTransform<'a> {
        QkTransform {
            heads: decoder.config.heads,
            norms: self.qk_norms.as_ref().map(|(q, k)| (q.as_slice(), k.as_slice(), decoder.config.norm_eps)),
            rope: decoder.rope.as_ref(),
        }
    }

    /// The shape and extras of this attention.
    pub(crate) fn spec(&self, heads: usize) -> AttentionSpec<'_> {
        AttentionSpec {
            heads,
            scale: self.scale,
            window: self.window,
            sinks: self.sinks.as_deref(),
            alibi_slopes: self.alibi_slopes.as_deref(),
        }
    }

    /// `residual += output(attention(normed))`, keys and values stored on the way.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn forward(
        &self,
        decoder: &Decoder,
        layer: usize,
        device: &mut Device,
        cache: &mut KvCache,
        workspace: &mut Workspace,
        chunks: &[Chunk<'_>],
        rows: usize,
    ) {
        let Workspace { residual, normed, qkv, attended, .. } = workspace;
        let config = &decoder.config;
        device.matmul(&self.qkv, normed, rows, self.qkv_bias.as_deref(), false, qkv);
        device.store_kv(cache, layer, &self.transform(decoder), chunks, qkv);
        let spec = self.spec(config.heads);
        device.attention(cache, layer, &spec, chunks, qkv, attended);
        // With tensor parallelism each rank adds its heads' part: the sum over ranks comes before the residual.
        device.matmul(&self.output, attended, rows, self.output_bias.as_deref(), true, residual);
        decoder.parallel.tensor.all_reduce_sum(residual, rows);
    }
}
