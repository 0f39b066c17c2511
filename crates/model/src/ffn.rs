//! The feed-forward half of a layer: one network, or a router and its experts.

use crate::decoder::Workspace;
use comm::Parallel;
use tensor::{Choice, Device, Expert, Gating, Matrix, RouterKind};

/// The weights of one layer's feed-forward half.
pub(crate) struct FeedForward {
    /// `None`: the one network of a dense layer is `experts[0]`.
    pub router: Option<Router>,
    pub experts: Vec<Expert>,
    /// Visited by every token, beside the routed experts.
    pub shared: Option<Expert>,
    pub gating: Gating,
}

/// Chooses experts, in f32.
pub(crate) struct Router {
    pub weight: Matrix,
    pub bias: Option<Vec<f32>>,
    /// Added to probabilities for the choice alone.
    pub choice_bias: Option<Vec<f32>>,
    pub kind: RouterKind,
    pub top_k: usize,
}

impl Router {
    pub(crate) fn choice(&self) -> Choice<'_> {
        Choice { kind: self.kind, top_k: self.top_k, bias: self.choice_bias.as_deref() }
    }
}

impl FeedForward {
    /// Results per token, and router logits per token.
    pub(crate) fn slots_and_experts(&self) -> (usize, usize) {
        self.router.as_ref().map_or((1, 1), |r| (r.top_k, r.weight.rows()))
    }

    /// Experts that a router chooses from; none in a dense layer.
    pub(crate) fn routed_experts(&self) -> usize {
        self.router.as_ref().map_or(0, |_| self.experts.len())
    }

    pub(crate) fn bytes(&self) -> usize {
        let router = self.router.as_ref().map_or(0, |r| r.weight.bytes());
        router + self.experts.iter().chain(&self.shared).map(expert_bytes).sum::<usize>()
    }

    /// Bytes that one token reads: its experts have all the same size.
    pub(crate) fn active_bytes(&self) -> usize {
        let router = self.router.as_ref().map_or(0, |r| r.weight.bytes());
        let visited = self.experts.iter().take(self.slots_and_experts().0).chain(&self.shared);
        router + visited.map(expert_bytes).sum::<usize>()
    }

    /// `residual += ffn(normed)`.
    pub(crate) fn forward(
        &self,
        parallel: &Parallel,
        layer: usize,
        device: &mut Device,
        workspace: &mut Workspace,
        rows: usize,
    ) {
        let Workspace { residual, normed, router_logits, routing, dispatch, expert_out, expert_tokens, .. } = workspace;
        match &self.router {
            Some(router) => {
                device.matmul(&router.weight, normed, rows, router.bias.as_deref(), false, router_logits);
                device.route(router_logits, self.experts.len(), rows, router.choice(), routing);
                dispatch.from_routing(routing, self.experts.len());
                let given = dispatch.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as u64);
                expert_tokens[layer].iter_mut().zip(given).for_each(|(all, new)| *all += new);
            }
            None => {
                routing.all_to_one(rows);
                dispatch.from_routing(routing, 1);
            }
        }
        device.expert_ffn(&self.experts, self.gating, dispatch, normed, expert_out);
        parallel.tensor.all_reduce_sum(expert_out, rows * routing.top_k);
        device.combine(routing, expert_out, rows, residual);
        if let Some(shared) = &self.shared {
            routing.all_to_one(rows);
            dispatch.from_routing(routing, 1);
            device.expert_ffn(std::slice::from_ref(shared), self.gating, dispatch, normed, expert_out);
            device.combine(routing, expert_out, rows, residual);
        }
    }
}

fn expert_bytes(expert: &Expert) -> usize {
    expert.gate_up.bytes() + expert.down.bytes()
}
