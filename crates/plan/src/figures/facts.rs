//! What was said? The report's claims, and numbers that they take from elsewhere.

use crate::hardware::Figure;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Claims and given numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    given: BTreeMap<String, Figure>,
    #[serde(rename = "claim")]
    claims: Vec<Claim>,
}

/// What somebody said.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its name.
    pub id: String,
    /// In words.
    pub text: String,
    /// Where.
    #[serde(rename = "where")]
    pub source: Vec<String>,
    /// The unit of the reported and of the computed value.
    pub unit: String,
    /// The value, where one was said.
    pub reported: Option<f64>,
    /// How the value was said to relate to the truth.
    #[serde(default)]
    pub relation: Relation,
    /// A slip of units that is suspected. It counts only where taking it out makes the claim right.
    pub slip: Option<Slip>,
    /// Finer words for `ok`, `wrong`, `derived` (a result without a claimed value) and `none` (no result).
    #[serde(default)]
    pub words: BTreeMap<String, String>,
}

/// How a claimed value relates to the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// It is about that.
    #[default]
    About,
    /// It is more than that.
    Above,
    /// It is less than that.
    Below,
}

/// A value given in the wrong unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slip {
    /// Reported over meant.
    pub factor: f64,
    /// What was confused.
    pub what: String,
}

impl Facts {
    /// The facts that ship with the program.
    ///
    /// # Errors
    /// None, unless they are damaged; a test reads them.
    pub fn embedded() -> Result<Self, toml::de::Error> {
        toml::from_str(include_str!("../../figures/report.toml"))
    }

    /// The claims in order.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The claim of this name.
    pub fn claim(&self, id: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.id == id)
    }

    /// Names of the given numbers.
    pub fn given_names(&self) -> impl Iterator<Item = &str> {
        self.given.keys().map(String::as_str)
    }

    /// A given number; NaN, which no table lets pass, where there is none.
    pub fn given(&self, name: &str) -> f64 {
        self.given.get(name).map_or(f64::NAN, |figure| figure.value)
    }

    /// Puts another number in place of a given one.
    pub fn set_given(&mut self, name: &str, value: f64) {
        if let Some(figure) = self.given.get_mut(name) {
            figure.value = value;
        }
    }

    /// What a claim reported; NaN where it reported nothing.
    pub fn reported(&self, id: &str) -> f64 {
        self.claim(id).and_then(|claim| claim.reported).unwrap_or(f64::NAN)
    }
}
