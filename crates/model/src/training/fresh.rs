//! Where training starts: random weights, or a dense model whose networks become experts.
//!
//! A random weight is a function of (seed, name of the parameter, place in it), so that it is the same on every mesh.

use crate::files::{Checkpoint, FileError};
use crate::parameters::{ParameterRows, Parameters};
use spec::random::{hash, mix, name, unit};
use spec::{Init, Parameter, ParameterId, Role};
use std::f64::consts::TAU;
use tensor::{Format, MatrixSource};

/// What random numbers are for.
const WEIGHTS: u64 = 0x5745_4947_4854;

/// The weights of an untrained model, as [`Parameter::init`] says.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Another seed gives other weights.
    pub seed: u64,
}

impl Fresh {
    fn rows<'a>(&self, parameter: &'a Parameter) -> FreshRows<'a> {
        let key = hash(self.seed, WEIGHTS, name(&parameter.name), place_in_tensor(parameter));
        FreshRows { parameter, key }
    }
}

/// Parameters that share a tensor have keys of their own.
fn place_in_tensor(parameter: &Parameter) -> u64 {
    match parameter.view {
        spec::View::Whole => 0,
        spec::View::Stacked { expert, start, step, .. } => (expert * step + start) as u64 + 1,
    }
}

impl Parameters for Fresh {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        Ok(Box::new(self.rows(parameter)))
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        let mut values = vec![0.0; parameter.elements()];
        self.rows(parameter).fill(0, &mut values);
        Ok(values)
    }
}

struct FreshRows<'a> {
    parameter: &'a Parameter,
    key: u64,
}

impl FreshRows<'_> {
    /// Writes the elements from `first` on.
    fn fill(&self, first: usize, out: &mut [f32]) {
        match self.parameter.init {
            Init::Ones => out.fill(1.0),
            Init::Zeros => out.fill(0.0),
            Init::Normal { std } => {
                out.iter_mut().zip(first as u64..).for_each(|(out, i)| *out = std * normal(self.key, i));
            }
        }
    }
}

/// Number `index` of a normal distribution: both halves of a Box-Muller pair have the same radius and angle.
fn normal(key: u64, index: u64) -> f32 {
    let bits = mix(key ^ mix(index / 2));
    // In 0..1, zero left out.
    let radius = (-2.0 * (1.0 - unit(bits)).ln()).sqrt();
    let angle = TAU * unit(mix(bits));
    (radius * if index.is_multiple_of(2) { angle.cos() } else { angle.sin() }) as f32
}

impl MatrixSource for FreshRows<'_> {
    fn rows(&self) -> usize {
        self.parameter.shape[0]
    }

    fn cols(&self) -> usize {
        self.parameter.shape.get(1).copied().unwrap_or(1)
    }

    fn format(&self) -> Format {
        Format::F32
    }

    fn read_f32(&self, row: usize, out: &mut [f32]) {
        self.fill(row * self.cols(), out);
    }
}

impl ParameterRows for FreshRows<'_> {
    fn name(&self) -> &str {
        &self.parameter.name
    }
}

/// A dense model with its feed-forward networks copied into every expert, and a router that knows nothing yet (Komatsuzaki 2022). Where the
/// weights of the chosen experts add up to one it says what the dense model says.
pub struct Upcycled {
    /// The dense model.
    pub dense: Checkpoint,
    /// Seeds the router.
    pub seed: u64,
}

impl Upcycled {
    /// Which parameter of the dense model this one starts from; the router has none.
    fn origin(parameter: &Parameter) -> Option<ParameterId> {
        let is_new = matches!(parameter.id.role, Role::Router | Role::RouterBias | Role::ChoiceBias);
        (!is_new).then_some(ParameterId { expert: None, ..parameter.id })
    }
}

impl Parameters for Upcycled {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        match Self::origin(parameter) {
            Some(id) => Ok(Box::new(self.dense.matrix(id)?)),
            None => Ok(Box::new(Fresh { seed: self.seed }.rows(parameter))),
        }
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        match Self::origin(parameter) {
            Some(id) => self.dense.vector(id),
            None => Fresh { seed: self.seed }.vector(parameter),
        }
    }
}

/// A model whose routers get a bias on the choice of experts, zero at first.
pub struct Unbiased(pub Checkpoint);

impl Parameters for Unbiased {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        Ok(Box::new(self.0.matrix(parameter.id)?))
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        match parameter.id.role {
            Role::ChoiceBias => Ok(vec![0.0; parameter.elements()]),
            _ => self.0.vector(parameter.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_normal() {
        let values: Vec<f64> = (0..200_000).map(|i| f64::from(normal(7, i))).collect();
        let n = values.len() as f64;
        let moment = |power: i32| values.iter().map(|v| v.powi(power)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.01, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.1, "{} {}", moment(3), moment(4));
        // Neighbours are halves of one pair; they must not know of each other.
        let together = values.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n;
        assert!(together.abs() < 0.01, "{together}");
    }
}
