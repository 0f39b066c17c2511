//! Multi-head Latent Attention (DeepSeek-V2, arXiv 2405.04434): what it multiplies and what it keeps, as counts.

use serde::{Deserialize, Serialize};

/// Widths of latent attention. Queries, keys and values pass through narrow matrices; keys and values are cached compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Of the compressed queries.
    pub q: usize,
    /// Of the compressed keys and values.
    pub kv: usize,
    /// Of a head's query and key without position.
    pub nope: usize,
    /// Of a head's query with position, and of the one key with position that all heads share.
    pub rope: usize,
    /// Of a head's value.
    pub value: usize,
}

impl Latent {
    /// Numbers that a position adds to the cache of a layer.
    pub fn cached(&self) -> usize {
        self.kv + self.rope
    }

    /// Width of a head's query and key together with position.
    pub fn score(&self) -> usize {
        self.nope + self.rope
    }

    /// Matrices that go to or come from the compressed form, `(inputs, outputs)`: no head owns a part of them.
    pub fn narrow(&self, hidden: usize) -> [(usize, usize); 2] {
        [(hidden, self.q), (hidden, self.cached())]
    }

    /// Matrices that make the heads out of it.
    pub fn wide(&self, heads: usize) -> [(usize, usize); 2] {
        [(self.q, heads * self.score()), (self.kv, heads * (self.nope + self.value))]
    }

    /// Elements of all matrices of a layer, that of the output included.
    pub fn elements(&self, hidden: usize, heads: usize) -> usize {
        let product = |(inputs, outputs): (usize, usize)| inputs * outputs;
        let made: usize = self.narrow(hidden).into_iter().chain(self.wide(heads)).map(product).sum();
        made + heads * self.value * hidden
    }

    /// FLOPs of scores and weighted sum for one query and one key, over all heads.
    pub fn pair_flops(&self, heads: usize) -> usize {
        2 * heads * (self.score() + self.value)
    }

    /// The same with the wide matrices absorbed into queries and outputs, so that scores and sums run over the compressed form: what decoding does.
    pub fn absorbed_pair_flops(&self, heads: usize) -> usize {
        2 * heads * (self.cached() + self.kv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_as_deepseek_v3_does() {
        let latent = Latent { q: 1536, kv: 512, nope: 128, rope: 64, value: 128 };
        // 61 layers of it are 11.4 of the 671 billion parameters; the cache is 70 kB a token in 16 bits (DeepSeek's figure).
        assert_eq!(latent.elements(7168, 128), 187_105_280);
        assert_eq!(2 * 61 * latent.cached(), 70_272);
    }
}
