//! What learns: the `model` section of a recipe.

use super::RecipeError;
use crate::config::{
    Activation, AttentionLayer, DecoderConfig, DenseFfn, ExpertFfn, Family, Ffn, Layer, Position, Rope, RopeScaling,
    Router,
};
use crate::validate::limits;
use serde::{Deserialize, Serialize};

/// A new model by its sizes, one to go on with (`from`), or a dense one to become experts (`upcycle`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelRecipe {
    /// The folder of the tokeniser, or its `tokenizer.json`; that of `from` or `upcycle` if not given.
    pub tokenizer: Option<String>,
    /// The folder of a model to go on with.
    pub from: Option<String>,
    /// The folder of a dense model whose feed-forward networks become experts.
    pub upcycle: Option<String>,
    /// `mixtral` (the default), `qwen3_moe`, `llama` or `qwen3`.
    pub family: Option<String>,
    /// Rows of the embedding; as many as the tokeniser has ids if not given.
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// How many layers.
    pub layers: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// K/V heads, 1 (Multi-Query Attention) if not given.
    pub kv_heads: Option<usize>,
    /// Width of a head; `hidden_size / heads` if not given.
    pub head_dim: Option<usize>,
    /// Width of a feed-forward network: of an expert, where there are some.
    pub ffn_size: Option<usize>,
    /// Experts of each layer.
    pub experts: Option<usize>,
    /// Experts that each token visits.
    pub top_k: Option<usize>,
    /// Positions the model is made for; those of a sample if not given.
    pub context: Option<usize>,
    /// Base of the rotary frequencies, 10000 if not given.
    pub rope_theta: Option<f32>,
    /// Epsilon of the norms, 1e-5 if not given.
    pub norm_eps: Option<f32>,
    /// Whether the head is the embedding; it is not if not given.
    pub tie_embeddings: Option<bool>,
}

/// Where a model starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// From random weights.
    Fresh,
    /// From the weights of this folder.
    From(&'a str),
    /// From the dense model of this folder, as many experts and of these visited.
    Upcycle {
        /// The dense model.
        dense: &'a str,
        /// Experts of each layer.
        experts: usize,
        /// Experts that each token visits.
        top_k: usize,
    },
}

/// The families of new models.
const FAMILIES: [Family; 4] = [Family::Mixtral, Family::Qwen3Moe, Family::Llama, Family::Qwen3];

impl ModelRecipe {
    /// Where the model starts.
    ///
    /// # Errors
    /// Keys that do not go together, or are missing.
    pub fn start(&self) -> Result<Start<'_>, RecipeError> {
        match (&self.from, &self.upcycle) {
            (Some(_), Some(_)) => Err(RecipeError::meaningless("model.upcycle", "beside model.from")),
            (Some(from), None) => {
                self.only(&[], "beside model.from: the folder's config.json says it")?;
                Ok(Start::From(from))
            }
            (None, Some(dense)) => {
                self.only(&["experts", "top_k"], "beside model.upcycle: the folder's config.json says it")?;
                let (experts, top_k) = self.routed("model.upcycle")?;
                Ok(Start::Upcycle { dense, experts, top_k })
            }
            (None, None) => {
                if self.tokenizer.is_none() {
                    return Err(missing("model.tokenizer", "a new model"));
                }
                self.decoder(limits::VOCABULARY, self.context.unwrap_or(2))?.validate()?;
                Ok(Start::Fresh)
            }
        }
    }

    /// Where the tokeniser is: as the recipe says, or with the model that it starts from.
    pub fn tokenizer_path(&self) -> Option<&str> {
        self.tokenizer.as_deref().or(self.from.as_deref()).or(self.upcycle.as_deref())
    }

    /// The decoder of a new model; `tokens` and `context` are what a tokeniser and the data ask for.
    ///
    /// # Errors
    /// Keys that are missing, or have no meaning for the family.
    pub fn decoder(&self, tokens: usize, context: usize) -> Result<DecoderConfig, RecipeError> {
        let family = self.parse_family()?;
        let needed =
            |key: &str, value: Option<usize>| value.ok_or_else(|| missing(&format!("model.{key}"), "a new model"));
        let (hidden_size, heads) = (needed("hidden_size", self.hidden_size)?, needed("heads", self.heads)?);
        let dense =
            DenseFfn { ffn_size: needed("ffn_size", self.ffn_size)?, bias: false, activation: Activation::SwiGlu };
        let ffn = if has_experts(family) {
            let (experts, top_k) = self.routed(&format!("family {}", family.model_type()))?;
            Ffn::Experts(expert_ffn(experts, top_k, dense))
        } else {
            let given = [("experts", self.experts.is_some()), ("top_k", self.top_k.is_some())];
            if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                let beside = format!("for family {}, which has no experts", family.model_type());
                return Err(RecipeError::meaningless(format!("model.{key}"), beside));
            }
            Ffn::Dense(dense)
        };
        let layers = needed("layers", self.layers)?;
        if layers > limits::LAYERS {
            return Err(RecipeError::value("model.layers", layers, format!("allowed is 1 to {}", limits::LAYERS)));
        }
        Ok(DecoderConfig {
            family,
            vocab_size: self.vocab_size.unwrap_or(tokens),
            hidden_size,
            heads,
            kv_heads: self.kv_heads.unwrap_or(1),
            head_dim: self.head_dim(hidden_size, heads)?,
            layers: vec![Layer { attention: AttentionLayer { window: None }, ffn }; layers],
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            qk_norm: matches!(family, Family::Qwen3 | Family::Qwen3Moe),
            qkv_bias: false,
            output_bias: false,
            attention_sinks: false,
            position: Position::Rope(Rope { theta: self.rope_theta.unwrap_or(10_000.0), scaling: RopeScaling::None }),
            max_context: self.context.unwrap_or(context),
            tie_embeddings: self.tie_embeddings.unwrap_or(false),
        })
    }

    /// The name of the family.
    pub fn family(&self) -> &str {
        self.family.as_deref().unwrap_or(Family::Mixtral.model_type())
    }

    /// Whether the recipe leaves room for experts; a model to go on with may have some.
    pub(super) fn may_have_experts(&self) -> bool {
        self.from.is_some() || self.upcycle.is_some() || self.parse_family().is_ok_and(has_experts)
    }

    fn parse_family(&self) -> Result<Family, RecipeError> {
        let found = FAMILIES.into_iter().find(|family| family.model_type() == self.family());
        found.ok_or_else(|| {
            let names = FAMILIES.map(Family::model_type).join(", ");
            RecipeError::value("model.family", format!("{:?}", self.family()), format!("allowed are {names}"))
        })
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, RecipeError> {
        match self.head_dim {
            Some(head_dim) => Ok(head_dim),
            None if heads > 0 && hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
            None => {
                let allowed =
                    format!("it must divide model.hidden_size ({hidden_size}) where model.head_dim is not given");
                Err(RecipeError::value("model.heads", heads, allowed))
            }
        }
    }

    /// Experts, and of these visited.
    fn routed(&self, needed_by: &str) -> Result<(usize, usize), RecipeError> {
        let experts = self.experts.ok_or_else(|| missing("model.experts", needed_by))?;
        let top_k = self.top_k.ok_or_else(|| missing("model.top_k", needed_by))?;
        if experts > limits::EXPERTS || experts == 0 {
            return Err(RecipeError::value("model.experts", experts, format!("allowed is 1 to {}", limits::EXPERTS)));
        }
        if !(1..=experts).contains(&top_k) {
            let allowed = format!("allowed is 1 to model.experts ({experts})");
            return Err(RecipeError::value("model.top_k", top_k, allowed));
        }
        Ok((experts, top_k))
    }

    /// Refuses every size but the `allowed` ones.
    fn only(&self, allowed: &[&str], beside: &str) -> Result<(), RecipeError> {
        let given = [
            ("family", self.family.is_some()),
            ("vocab_size", self.vocab_size.is_some()),
            ("hidden_size", self.hidden_size.is_some()),
            ("layers", self.layers.is_some()),
            ("heads", self.heads.is_some()),
            ("kv_heads", self.kv_heads.is_some()),
            ("head_dim", self.head_dim.is_some()),
            ("ffn_size", self.ffn_size.is_some()),
            ("experts", self.experts.is_some()),
            ("top_k", self.top_k.is_some()),
            ("context", self.context.is_some()),
            ("rope_theta", self.rope_theta.is_some()),
            ("norm_eps", self.norm_eps.is_some()),
            ("tie_embeddings", self.tie_embeddings.is_some()),
        ];
        match given.into_iter().find(|(key, given)| *given && !allowed.contains(key)) {
            Some((key, _)) => Err(RecipeError::meaningless(format!("model.{key}"), beside)),
            None => Ok(()),
        }
    }
}

/// The sparse decoder that a dense one becomes: every layer's network as `experts` experts, `top_k` of them visited.
///
/// # Errors
/// A decoder whose family has no sparse one, or whose layers have experts already.
pub fn upcycled(dense: &DecoderConfig, experts: usize, top_k: usize) -> Result<DecoderConfig, RecipeError> {
    let found = dense.family.architecture();
    let family = match dense.family {
        Family::Llama | Family::Mistral => Family::Mixtral,
        Family::Qwen3 => Family::Qwen3Moe,
        _ => {
            let allowed = "allowed are dense models of LlamaForCausalLM, MistralForCausalLM and Qwen3ForCausalLM";
            return Err(RecipeError::value("model.upcycle", format!("a {found}"), allowed));
        }
    };
    let layer = |layer: &Layer| match &layer.ffn {
        Ffn::Dense(network) if !network.bias => {
            let ffn = Ffn::Experts(expert_ffn(experts, top_k, network.clone()));
            Ok(Layer { attention: layer.attention.clone(), ffn })
        }
        Ffn::Dense(_) => {
            let allowed = "its networks have biases, which no sparse family here has";
            Err(RecipeError::value("model.upcycle", format!("a {found}"), allowed))
        }
        Ffn::Experts(_) => {
            let allowed = "its layers have experts already: use model.from";
            Err(RecipeError::value("model.upcycle", format!("a {found}"), allowed))
        }
    };
    let layers = dense.layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok(DecoderConfig { family, layers, ..dense.clone() })
}

fn has_experts(family: Family) -> bool {
    matches!(family, Family::Mixtral | Family::Qwen3Moe)
}

/// Routed as Mixtral does: the weights of the chosen experts add up to one.
fn expert_ffn(experts: usize, top_k: usize, expert: DenseFfn) -> ExpertFfn {
    let router = Router::SoftmaxTopK { renormalise: true };
    ExpertFfn { experts, top_k, router, router_bias: false, choice_bias: false, expert, shared: None }
}

fn missing(key: &str, needed_by: &str) -> RecipeError {
    RecipeError::Missing { key: key.into(), needed_by: needed_by.into() }
}
