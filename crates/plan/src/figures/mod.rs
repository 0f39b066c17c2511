//! What follows from a public report's own figures? Every claim, recomputed from a recipe and the catalogue, beside what was said.

pub mod chart;
mod decode;
mod facts;
mod formulas;
mod inputs;
pub mod solve;

pub use decode::Decode;
pub use facts::{Claim, Facts, Relation, Slip};
pub use inputs::Inputs;

use crate::hardware::HardwareError;
use crate::layout::LayoutError;
use serde::Serialize;
use thiserror::Error;

/// The recipe of the model that the report describes.
pub const RECIPE: &str = include_str!("../../../../recipes/gpt4.toml");

/// A table that cannot be computed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum FiguresError {
    /// The facts are damaged.
    #[error("the report's facts: {}", .0.to_string().trim_end())]
    Facts(#[from] toml::de::Error),
    /// A claim without a formula, or a formula whose claim or number the facts do not have.
    #[error("the report's facts and the formulas do not fit together: `{0}` is on one side alone")]
    Unmatched(String),
    /// A device that is not in the catalogue.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// A recipe that the report's claims cannot be computed from.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A recipe in which something is missing.
    #[error("{0}")]
    Recipe(String),
    /// A result that is no number.
    #[error("claim {id} comes to {value}: the recipe or the catalogue has a figure that it cannot be computed from")]
    NotFinite {
        /// The claim.
        id: String,
        /// What came out.
        value: f64,
    },
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The claim's name.
    pub id: String,
    /// What is claimed.
    pub text: String,
    /// Where.
    pub source: Vec<String>,
    /// How it is computed; `-` where nothing can be.
    pub formula: &'static str,
    /// The unit of both values.
    pub unit: String,
    /// As said.
    pub reported: Option<f64>,
    /// As it follows.
    pub computed: Option<f64>,
    /// Computed over reported, less one.
    pub deviation: Option<f64>,
    /// What to think of it.
    pub verdict: String,
    /// What is wrong with the unit, where that is what is wrong.
    pub unit_error: Option<String>,
}

/// Deviations up to this are agreement: the report rounds to one or two digits.
const AGREES: f64 = 0.08;
/// The same, once a slip of units is taken out.
const SLIPPED: f64 = 0.15;

/// Every claim, in the order of the facts.
///
/// # Errors
/// Claims and formulas that do not fit together, and results that are no numbers.
pub fn table(inputs: &Inputs) -> Result<Vec<Row>, FiguresError> {
    let formulas = formulas::all();
    let unmatched = |id: &str| FiguresError::Unmatched(id.to_owned());
    if let Some(formula) = formulas.iter().find(|f| inputs.facts.claim(f.id).is_none()) {
        return Err(unmatched(formula.id));
    }
    let row = |claim: &Claim| {
        let formula = formulas.iter().find(|f| f.id == claim.id).ok_or_else(|| unmatched(&claim.id))?;
        let computed = formula.compute.map(|compute| compute(inputs));
        match computed.filter(|value| !value.is_finite()) {
            Some(value) => Err(FiguresError::NotFinite { id: claim.id.clone(), value }),
            None => Ok(judge(claim, formula.text, computed)),
        }
    };
    inputs.facts.claims().iter().map(row).collect()
}

fn judge(claim: &Claim, formula: &'static str, computed: Option<f64>) -> Row {
    let both = claim.reported.zip(computed);
    let deviation = both.map(|(reported, computed)| computed / reported - 1.0);
    let slipped = both.and_then(|(reported, computed)| {
        let slip = claim.slip.as_ref()?;
        ((reported / slip.factor / computed - 1.0).abs() <= SLIPPED).then_some(slip)
    });
    let class = match (both, slipped) {
        (_, Some(slip)) => {
            let factor = if slip.factor < 1.0 { 1.0 / slip.factor } else { slip.factor };
            format!("units_error_{factor:.0}x")
        }
        (Some((reported, computed)), None) => {
            let holds = match claim.relation {
                Relation::About => (computed / reported - 1.0).abs() <= AGREES,
                Relation::Above => computed >= reported,
                Relation::Below => computed <= reported,
            };
            if holds { "ok" } else { "wrong" }.to_owned()
        }
        (None, None) => if computed.is_some() { "derived" } else { "none" }.to_owned(),
    };
    let verdict = claim.words.get(&class).cloned().unwrap_or(class);
    Row {
        id: claim.id.clone(),
        text: claim.text.clone(),
        source: claim.source.clone(),
        formula,
        unit: claim.unit.clone(),
        reported: claim.reported,
        computed,
        deviation,
        verdict,
        unit_error: slipped.map(|slip| slip.what.clone()),
    }
}
