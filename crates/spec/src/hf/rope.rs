//! RoPE in `config.json`: `rope_parameters` (transformers 5) and `rope_scaling` with `rope_theta` (before).

use super::HfError;
use super::keys::{Keys, brief};
use crate::config::{Rope, RopeScaling};
use serde_json::{Map, Value, json};

/// What the scalings refer to beyond their own object.
pub(super) struct Surroundings {
    pub(super) family_theta: f64,
    pub(super) family_default: RopeScaling,
    pub(super) max_context: usize,
}

/// Reads whichever spelling is there. Where both are, they must agree.
pub(super) fn read(keys: &mut Keys, around: &Surroundings) -> Result<Rope, HfError> {
    let outer_theta = keys.number("rope_theta")?;
    let outer_original = keys.size_or_null("original_max_position_embeddings", None)?;
    let mut found = Vec::new();
    for (name, place) in [("rope_scaling", "rope_scaling."), ("rope_parameters", "rope_parameters.")] {
        if let Some(map) = keys.object(name)? {
            let rope = one(map, place, outer_theta, outer_original, around)?;
            found.push((name, map, rope));
        }
    }
    match found.as_slice() {
        [] => Ok(Rope {
            theta: outer_theta.unwrap_or(around.family_theta) as f32,
            scaling: around.family_default.clone(),
        }),
        [(_, _, rope)] => Ok(rope.clone()),
        [first, second, ..] if first.2 == second.2 => Ok(first.2.clone()),
        [first, second, ..] => Err(HfError::Disagree {
            first: first.0.into(),
            first_value: brief(&Value::Object(first.1.clone())),
            second: second.0.into(),
            second_value: brief(&Value::Object(second.1.clone())),
        }),
    }
}

/// One object, of either spelling.
fn one(
    map: &Map<String, Value>,
    place: &'static str,
    outer_theta: Option<f64>,
    outer_original: Option<usize>,
    around: &Surroundings,
) -> Result<Rope, HfError> {
    let mut keys = Keys::new(map, place);
    for nested in ["full_attention", "sliding_attention"] {
        if let Some(value) = keys.given(nested) {
            return Err(keys.unsupported(nested, value, "RoPE must be the same in all layers"));
        }
    }
    let theta = match (keys.number("rope_theta")?, outer_theta) {
        (Some(inner), Some(outer)) if inner != outer => {
            return Err(HfError::Disagree {
                first: keys.path("rope_theta"),
                first_value: inner.to_string(),
                second: "rope_theta".into(),
                second_value: outer.to_string(),
            });
        }
        (inner, outer) => inner.or(outer).unwrap_or(around.family_theta),
    };
    if let Some(value) = keys.given("partial_rotary_factor")
        && value.as_f64() != Some(1.0)
    {
        return Err(keys.unsupported("partial_rotary_factor", value, "it must be 1.0 or absent"));
    }
    let kind = kind(&mut keys)?;
    let mut reader = Reader { keys: &mut keys, kind, outer_original, max_context: around.max_context };
    let scaling = reader.scaling()?;
    keys.finish()?;
    Ok(Rope { theta: theta as f32, scaling })
}

fn kind<'a>(keys: &mut Keys<'a>) -> Result<&'a str, HfError> {
    let (new, old) = (keys.text("rope_type")?, keys.text("type")?);
    match (new, old) {
        (Some(new), Some(old)) if new != old => Err(HfError::Disagree {
            first: keys.path("rope_type"),
            first_value: new.into(),
            second: keys.path("type"),
            second_value: old.into(),
        }),
        (new, old) => Ok(new.or(old).unwrap_or("default")),
    }
}

struct Reader<'k, 'a> {
    keys: &'k mut Keys<'a>,
    kind: &'a str,
    outer_original: Option<usize>,
    max_context: usize,
}

impl Reader<'_, '_> {
    fn scaling(&mut self) -> Result<RopeScaling, HfError> {
        match self.kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.required("factor")? as f32 }),
            "dynamic" => {
                Ok(RopeScaling::Dynamic { factor: self.required("factor")? as f32, original_context: self.max_context })
            }
            "yarn" => self.yarn(),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.required("factor")? as f32,
                low_freq_factor: self.required("low_freq_factor")? as f32,
                high_freq_factor: self.required("high_freq_factor")? as f32,
                original_context: self.original()?,
            }),
            "longrope" | "su" => self.longrope(),
            other => Err(HfError::Unsupported {
                key: self.keys.path("rope_type"),
                found: format!("{other:?}"),
                allowed: "allowed are default, linear, dynamic, yarn, llama3, longrope".into(),
            }),
        }
    }

    fn required(&mut self, key: &'static str) -> Result<f64, HfError> {
        self.keys
            .number(key)?
            .ok_or_else(|| HfError::Missing { key: self.keys.path(key), needed_by: format!("rope_type {}", self.kind) })
    }

    /// The one beside the object wins over the one inside, as in transformers; the last resort is the model's
    /// whole context.
    fn original(&mut self) -> Result<usize, HfError> {
        let inner = self.keys.size_or_null("original_max_position_embeddings", None)?;
        Ok(self.outer_original.or(inner).unwrap_or(self.max_context))
    }

    /// `factor`, or what the two contexts say.
    fn factor(&mut self, original: usize) -> Result<f64, HfError> {
        let implied = self.max_context as f64 / original.max(1) as f64;
        Ok(self.keys.number("factor")?.unwrap_or(implied))
    }

    fn yarn(&mut self) -> Result<RopeScaling, HfError> {
        let original_context = self.original()?;
        let factor = self.factor(original_context)?;
        let mscale = self.keys.number("mscale")?.filter(|&m| m != 0.0);
        let mscale_all = self.keys.number("mscale_all_dim")?.filter(|&m| m != 0.0);
        let scale = |m: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
        };
        let attention_factor = match (self.keys.number("attention_factor")?, mscale, mscale_all) {
            (Some(given), _, _) => given,
            (None, Some(one), Some(all)) => scale(one) / scale(all),
            _ => scale(1.0),
        };
        let beta = |b: Option<f64>, default: f64| b.filter(|&b| b != 0.0).unwrap_or(default) as f32;
        Ok(RopeScaling::Yarn {
            factor: factor as f32,
            original_context,
            beta_slow: beta(self.keys.number("beta_slow")?, 1.0),
            beta_fast: beta(self.keys.number("beta_fast")?, 32.0),
            truncate: self.keys.flag("truncate", true)?,
            attention_factor: attention_factor as f32,
        })
    }

    fn longrope(&mut self) -> Result<RopeScaling, HfError> {
        let original_context = self.original()?;
        let factor = self.factor(original_context)?;
        let attention_factor = match self.keys.number("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
        };
        let missing = |key: &str| HfError::Missing {
            key: format!("rope_parameters.{key}"),
            needed_by: "rope_type longrope".into(),
        };
        let short = self.keys.numbers("short_factor")?;
        let long = self.keys.numbers("long_factor")?;
        Ok(RopeScaling::LongRope {
            short_factor: short.ok_or_else(|| missing("short_factor"))?,
            long_factor: long.ok_or_else(|| missing("long_factor"))?,
            original_context,
            attention_factor: attention_factor as f32,
        })
    }
}

/// An f32 as the shortest JSON number that reads back the same.
pub(super) fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// `rope_parameters`; theta included.
pub(super) fn to_json(rope: &Rope) -> Value {
    let mut map = match &rope.scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear { factor } => {
            json!({ "rope_type": "linear", "factor": number(*factor) })
        }
        RopeScaling::Dynamic { factor, .. } => {
            json!({ "rope_type": "dynamic", "factor": number(*factor) })
        }
        RopeScaling::Yarn { factor, original_context, beta_slow, beta_fast, truncate, attention_factor } => json!({
            "rope_type": "yarn",
            "factor": number(*factor),
            "original_max_position_embeddings": original_context,
            "beta_slow": number(*beta_slow),
            "beta_fast": number(*beta_fast),
            "truncate": truncate,
            "attention_factor": number(*attention_factor),
        }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": number(*factor),
            "low_freq_factor": number(*low_freq_factor),
            "high_freq_factor": number(*high_freq_factor),
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => json!({
            "rope_type": "longrope",
            "short_factor": short_factor.iter().copied().map(number).collect::<Vec<_>>(),
            "long_factor": long_factor.iter().copied().map(number).collect::<Vec<_>>(),
            "original_max_position_embeddings": original_context,
            "attention_factor": number(*attention_factor),
        }),
    };
    map["rope_theta"] = number(rope.theta);
    map
}
