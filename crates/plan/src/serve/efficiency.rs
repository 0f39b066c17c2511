//! What a device reaches of what its data sheet says: a few constants for each, never for a model.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Shares of the data sheet's rates, and seconds that no rate explains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Of the peak, in products of many rows.
    pub compute: f64,
    /// Of the memory bandwidth, in reading weights and cache.
    pub bandwidth: f64,
    /// Of the 16-bit peak, in attention of many rows.
    pub attention: f64,
    /// Of the links' bandwidth, in collectives.
    pub link: f64,
    /// Seconds that a collective takes beside the links' latency.
    pub collective_seconds: f64,
    /// Seconds that a layer takes whatever it computes: launches, small operations.
    pub layer_seconds: f64,
    /// The same that a layer takes in addition if it has experts: routing, sorting, gathering.
    pub expert_layer_seconds: f64,
    /// Seconds that a step takes on each stage beside its layers: scheduling, sampling.
    pub step_seconds: f64,
    /// Seconds that a request takes beside its steps, to the first token: reading it, making tokens of its text, handing it on.
    #[serde(default)]
    pub request_seconds: f64,
}

/// Efficiencies that make no sense.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EfficiencyError {
    /// Not TOML, an unknown or missing key.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// A share that is none, or a time that is below zero.
    #[error("{of}.{field} is {value}; {allowed}")]
    Value {
        /// Of which device.
        of: String,
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Default for Efficiency {
    /// What well-made kernels reach on a device that nobody has fitted.
    fn default() -> Self {
        Self {
            compute: 0.6,
            bandwidth: 0.8,
            attention: 0.4,
            link: 0.7,
            collective_seconds: 10e-6,
            layer_seconds: 15e-6,
            expert_layer_seconds: 150e-6,
            step_seconds: 1e-3,
            request_seconds: 0.05,
        }
    }
}

const EMBEDDED: &str = include_str!("../../catalogue/serving.toml");

impl Efficiency {
    /// All that a data sheet promises, and nothing fixed: the bound that no kernel passes.
    pub const IDEAL: Self = Self {
        compute: 1.0,
        bandwidth: 1.0,
        attention: 1.0,
        link: 1.0,
        collective_seconds: 0.0,
        layer_seconds: 0.0,
        expert_layer_seconds: 0.0,
        step_seconds: 0.0,
        request_seconds: 0.0,
    };

    /// The constants that ship with the program for the device of this id; [`Efficiency::default`] where there are none.
    ///
    /// # Errors
    /// None, unless the catalogue itself is damaged; a test reads it.
    pub fn of(device: &str) -> Result<Self, EfficiencyError> {
        let mut all: BTreeMap<String, Self> = toml::from_str(EMBEDDED)?;
        let found = all.remove(device).unwrap_or_default();
        found.validate(device)?;
        Ok(found)
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self, of: &str) -> Result<(), EfficiencyError> {
        // A measured rate may pass what the data sheet says by a little (boost clocks).
        let shares = [
            ("compute", self.compute),
            ("bandwidth", self.bandwidth),
            ("attention", self.attention),
            ("link", self.link),
        ];
        let seconds = [
            ("collective_seconds", self.collective_seconds),
            ("layer_seconds", self.layer_seconds),
            ("expert_layer_seconds", self.expert_layer_seconds),
            ("step_seconds", self.step_seconds),
            ("request_seconds", self.request_seconds),
        ];
        let wrong = |field, value, allowed| EfficiencyError::Value { of: of.into(), field, value, allowed };
        for (field, value) in shares {
            if !(value > 0.0 && value <= 1.5) {
                return Err(wrong(field, value, "allowed is above 0, up to 1.5"));
            }
        }
        for (field, value) in seconds {
            if !(0.0..=1.0).contains(&value) {
                return Err(wrong(field, value, "allowed is 0 to 1 second"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_of_devices_that_exist() {
        let all: BTreeMap<String, Efficiency> = toml::from_str(EMBEDDED).unwrap();
        let catalogue = crate::Catalogue::embedded().unwrap();
        for (id, efficiency) in &all {
            catalogue.get(id).unwrap();
            efficiency.validate(id).unwrap();
        }
        assert_eq!(Efficiency::of("nothing").unwrap(), Efficiency::default());
    }
}
