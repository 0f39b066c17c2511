//! What does a device reach of its data sheet while it trains? A few constants for each, never for a model.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Shares of the data sheet's rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Of the peak, in products of large matrices.
    pub products: f64,
    /// Of the peak, in attention.
    pub attention: f64,
    /// Of the memory bandwidth, in everything else.
    pub bandwidth: f64,
    /// Of the links' bandwidth, in collectives.
    pub links: f64,
    /// Of the exchanges of tensor and expert parallelism, what runs beside computation.
    pub overlap: f64,
    /// Seconds that a layer takes beside what it computes, forward: launches. Backward it is twice as long.
    pub layer_seconds: f64,
    /// The same that a layer takes in addition if it has experts: routing, sorting, waiting for counts.
    pub expert_layer_seconds: f64,
}

impl Default for Efficiency {
    /// What well-made kernels reach on a device that nobody has fitted.
    fn default() -> Self {
        Self {
            products: 0.7,
            attention: 0.45,
            bandwidth: 0.8,
            links: 0.8,
            overlap: 0.0,
            layer_seconds: 15e-6,
            expert_layer_seconds: 150e-6,
        }
    }
}

/// Constants that cannot be.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EfficiencyError {
    /// Not TOML, an unknown or missing key.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// A share that is none.
    #[error("{device}.{field} is {value}; {allowed}")]
    Share {
        /// Of which device.
        device: String,
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        allowed: &'static str,
    },
}

impl Efficiency {
    /// The constants that ship with the program for the device of this id; [`Efficiency::default`] where nobody fitted any.
    ///
    /// # Errors
    /// None, unless the constants themselves are damaged; a test reads them all.
    pub fn of(device: &str) -> Result<Self, EfficiencyError> {
        let mut all = Self::embedded()?;
        let found = all.remove(device).unwrap_or_default();
        found.validate(device).map(|()| found)
    }

    /// All that ship with the program, by device.
    ///
    /// # Errors
    /// None, unless they are damaged.
    pub fn embedded() -> Result<BTreeMap<String, Self>, EfficiencyError> {
        Ok(toml::from_str(include_str!("../../catalogue/training.toml"))?)
    }

    /// Refuses what is no share.
    ///
    /// # Errors
    /// The first one.
    pub fn validate(&self, device: &str) -> Result<(), EfficiencyError> {
        let rates = [
            ("products", self.products),
            ("attention", self.attention),
            ("bandwidth", self.bandwidth),
            ("links", self.links),
        ];
        let wrong = |field, value, allowed| EfficiencyError::Share { device: device.into(), field, value, allowed };
        if let Some((field, value)) = rates.into_iter().find(|(_, share)| !(*share > 0.0 && *share <= 1.0)) {
            return Err(wrong(field, value, "allowed is above 0 to 1"));
        }
        if !(0.0..=1.0).contains(&self.overlap) {
            return Err(wrong("overlap", self.overlap, "allowed is 0 to 1"));
        }
        let seconds = [("layer_seconds", self.layer_seconds), ("expert_layer_seconds", self.expert_layer_seconds)];
        match seconds.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((field, value)) => Err(wrong(field, value, "allowed is 0 to 1 second")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn the_constants_are_shares_of_devices_that_exist() {
        let catalogue = Catalogue::embedded().unwrap();
        for (device, efficiency) in Efficiency::embedded().unwrap() {
            catalogue.get(&device).unwrap();
            efficiency.validate(&device).unwrap();
        }
        let wrong = Efficiency { overlap: 1.5, ..Efficiency::default() };
        assert!(wrong.validate("h100").unwrap_err().to_string().contains("h100.overlap is 1.5"));
    }
}
