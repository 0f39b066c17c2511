//! What a device reaches of what its data sheet says: one profile of a few constants for each, whatever it computes; never for a model.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Shares of the data sheet's rates, and seconds that no rate explains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Of the peak, in products of many rows in 16 bits or more.
    pub products: f64,
    /// Of the 8-bit peak, in such products.
    pub products_8bit: f64,
    /// Of the 16-bit peak, in attention of many rows.
    pub attention: f64,
    /// Of the memory bandwidth, in reading weights and cache.
    pub bandwidth: f64,
    /// The same of the experts that rows chose, where scattered matrices are read more slowly; as `bandwidth` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<f64>,
    /// Of the shorter of reading and multiplying in a product, what runs beside the longer: 1 where copies and arithmetic are units of their own.
    #[serde(default = "all")]
    pub hidden: f64,
    /// Of the memory bandwidth, in what stands between products: norms, activations, residuals, the optimiser. Infinite if all of it is fused away.
    pub activations: f64,
    /// Of the links' bandwidth, in collectives.
    pub links: f64,
    /// Seconds that a collective of inference takes beside the links' latency.
    pub collective_seconds: f64,
    /// Seconds that a layer of inference takes whatever it computes: launches, small operations.
    pub layer_seconds: f64,
    /// The same that such a layer takes in addition if it has experts: routing, sorting, gathering.
    pub expert_layer_seconds: f64,
    /// Seconds that a step of a server takes on each stage beside its layers: scheduling, launching.
    pub step_seconds: f64,
    /// Seconds that each token takes in addition which a step of a server chooses: sampling, sending.
    #[serde(default)]
    pub token_seconds: f64,
    /// Seconds that a request takes beside its steps, to the first token: reading it, making tokens of its text, handing it on.
    #[serde(default)]
    pub request_seconds: f64,
    /// What training reaches, whose kernels and collectives are others than those of inference.
    #[serde(default)]
    pub training: Training,
}

/// What a device reaches while it trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
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

impl Default for Training {
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

fn all() -> f64 {
    1.0
}

/// Constants that cannot be.
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
            products: 0.6,
            products_8bit: 0.6,
            attention: 0.4,
            bandwidth: 0.8,
            experts: None,
            hidden: 1.0,
            activations: 0.8,
            links: 0.7,
            collective_seconds: 10e-6,
            layer_seconds: 15e-6,
            expert_layer_seconds: 150e-6,
            step_seconds: 1e-3,
            token_seconds: 0.0,
            request_seconds: 0.05,
            training: Training::default(),
        }
    }
}

const EMBEDDED: &str = include_str!("../catalogue/efficiency.toml");

impl Efficiency {
    /// All that a data sheet promises, and nothing fixed: the bound that no kernel passes.
    pub const IDEAL: Self = Self {
        products: 1.0,
        products_8bit: 1.0,
        attention: 1.0,
        bandwidth: 1.0,
        experts: None,
        hidden: 1.0,
        activations: f64::INFINITY,
        links: 1.0,
        collective_seconds: 0.0,
        layer_seconds: 0.0,
        expert_layer_seconds: 0.0,
        step_seconds: 0.0,
        token_seconds: 0.0,
        request_seconds: 0.0,
        training: Training {
            products: 1.0,
            attention: 1.0,
            bandwidth: 1.0,
            links: 1.0,
            overlap: 1.0,
            layer_seconds: 0.0,
            expert_layer_seconds: 0.0,
        },
    };

    /// The constants that ship with the program for the device of this id; [`Efficiency::default`] where nobody fitted any.
    ///
    /// # Errors
    /// None, unless the catalogue itself is damaged; a test reads it.
    pub fn of(device: &str) -> Result<Self, EfficiencyError> {
        let found = Self::embedded()?.remove(device).unwrap_or_default();
        found.validate(device).map(|()| found)
    }

    /// All that ship with the program, by device.
    ///
    /// # Errors
    /// None, unless they are damaged.
    pub fn embedded() -> Result<BTreeMap<String, Self>, EfficiencyError> {
        Ok(toml::from_str(EMBEDDED)?)
    }

    /// Of a model alone, without what a server does around its steps.
    pub fn without_server(&self) -> Self {
        Self { step_seconds: 0.0, token_seconds: 0.0, request_seconds: 0.0, ..*self }
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self, of: &str) -> Result<(), EfficiencyError> {
        // A measured rate may pass what the data sheet says by a little (boost clocks, caches).
        let shares = [
            ("products", self.products),
            ("products_8bit", self.products_8bit),
            ("training.products", self.training.products),
            ("training.attention", self.training.attention),
            ("training.bandwidth", self.training.bandwidth),
            ("training.links", self.training.links),
            ("attention", self.attention),
            ("bandwidth", self.bandwidth),
            ("experts", self.experts.unwrap_or(self.bandwidth)),
            ("activations", self.activations),
            ("links", self.links),
        ];
        let seconds = [
            ("collective_seconds", self.collective_seconds),
            ("layer_seconds", self.layer_seconds),
            ("expert_layer_seconds", self.expert_layer_seconds),
            ("step_seconds", self.step_seconds),
            ("token_seconds", self.token_seconds),
            ("request_seconds", self.request_seconds),
            ("training.layer_seconds", self.training.layer_seconds),
            ("training.expert_layer_seconds", self.training.expert_layer_seconds),
        ];
        let wrong = |field, value, allowed| Err(EfficiencyError::Value { of: of.into(), field, value, allowed });
        if let Some((field, value)) = shares.into_iter().find(|(_, share)| !(*share > 0.0 && *share <= 1.5)) {
            return wrong(field, value, "allowed is above 0, up to 1.5");
        }
        let parts = [("training.overlap", self.training.overlap), ("hidden", self.hidden)];
        if let Some((field, value)) = parts.into_iter().find(|(_, part)| !(0.0..=1.0).contains(part)) {
            return wrong(field, value, "allowed is 0 to 1");
        }
        match seconds.into_iter().find(|(_, seconds)| !(0.0..=1.0).contains(seconds)) {
            Some((field, value)) => wrong(field, value, "allowed is 0 to 1 second"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_possible_and_of_devices_that_exist() {
        let catalogue = crate::Catalogue::embedded().unwrap();
        for (device, efficiency) in Efficiency::embedded().unwrap() {
            catalogue.get(&device).unwrap();
            efficiency.validate(&device).unwrap();
        }
        assert_eq!(Efficiency::of("nothing").unwrap(), Efficiency::default());
        let wrong = Training { overlap: 1.5, ..Training::default() };
        let wrong = Efficiency { training: wrong, ..Efficiency::default() };
        assert!(wrong.validate("h100").unwrap_err().to_string().contains("h100.training.overlap is 1.5"));
    }
}
