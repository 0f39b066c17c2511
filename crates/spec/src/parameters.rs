//! The parameter table: every parameter of a decoder, by name and by role.

/// What a parameter does in its layer. Weights are stored `[outputs, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `[vocab, hidden]`.
    Embedding,
    /// RMSNorm before attention, `[hidden]`.
    AttentionNorm,
    /// `[heads * head_dim, hidden]`.
    QProj,
    /// `[kv_heads * head_dim, hidden]`.
    KProj,
    /// `[kv_heads * head_dim, hidden]`.
    VProj,
    /// `[hidden, heads * head_dim]`.
    OProj,
    /// Bias of [`Role::QProj`].
    QBias,
    /// Bias of [`Role::KProj`].
    KBias,
    /// Bias of [`Role::VProj`].
    VBias,
    /// Bias of [`Role::OProj`].
    OBias,
    /// RMSNorm of each query head, `[head_dim]`.
    QNorm,
    /// RMSNorm of each key head, `[head_dim]`.
    KNorm,
    /// One logit per query head, `[heads]`.
    Sinks,
    /// RMSNorm before the feed-forward half, `[hidden]`.
    FfnNorm,
    /// `[experts, hidden]`.
    Router,
    /// `[experts]`.
    RouterBias,
    /// `[ffn, hidden]`, of an expert if the id names one, else of the dense (or shared) network.
    Gate,
    /// `[ffn, hidden]`.
    Up,
    /// `[hidden, ffn]`.
    Down,
    /// Bias of [`Role::Gate`].
    GateBias,
    /// Bias of [`Role::Up`].
    UpBias,
    /// Bias of [`Role::Down`].
    DownBias,
    /// RMSNorm after the last layer, `[hidden]`.
    FinalNorm,
    /// `[vocab, hidden]`; absent when tied.
    Head,
}

/// Which parameter: role, layer, expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId {
    /// What it does.
    pub role: Role,
    /// Its layer; `None` for embedding, final norm and head.
    pub layer: Option<usize>,
    /// Its expert; `None` outside experts.
    pub expert: Option<usize>,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Which it is.
    pub id: ParameterId,
    /// Logical shape: `[outputs, inputs]` or `[n]`.
    pub shape: Vec<usize>,
}

/// Every parameter of a decoder, in the order of its layers.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterTable {
    /// The rows.
    pub parameters: Vec<Parameter>,
}
