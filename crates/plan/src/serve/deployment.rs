//! How a model is put on devices, in one piece: what a command line or a line of a fleet's file says.

use super::layout::{Formats, KvSplit, Layout, LayoutError};
use super::roofline::Roofline;
use super::service::{Draft, Limits, Service, ServiceError};
use super::shape::Shape;
use crate::hardware::Precision;
use crate::profile::Profile;
use serde::Deserialize;

/// Layout, formats and limits. What is not given has its usual value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deployment {
    /// Ranks that share every matrix.
    pub tensor: usize,
    /// Stages.
    pub pipeline: usize,
    /// Groups that hold different experts.
    pub expert: usize,
    /// Layers of the first stage.
    pub first_layers: Option<usize>,
    /// How the cache is divided over tensor ranks.
    pub kv_split: KvSplit,
    /// Whether communication hides behind the other half of a step.
    pub overlap: bool,
    /// Whether tensor ranks divide matrices both ways.
    pub plane: bool,
    /// Weights in memory.
    pub weights: Precision,
    /// Products; that of the weights (16 bits for 4-bit ones) if not given.
    pub arithmetic: Option<Precision>,
    /// Keys and values.
    pub cache: Precision,
    /// Rows of a step at most.
    pub step_tokens: u32,
    /// Sequences of a step at most.
    pub step_sequences: u32,
    /// Positions that a sequence may reach; the model's if not given.
    pub context: Option<u32>,
}

impl Default for Deployment {
    fn default() -> Self {
        Self {
            tensor: 1,
            pipeline: 1,
            expert: 1,
            first_layers: None,
            kv_split: KvSplit::Heads,
            overlap: false,
            plane: false,
            weights: Precision::Bf16,
            arithmetic: None,
            cache: Precision::Bf16,
            step_tokens: 2048,
            step_sequences: 256,
            context: None,
        }
    }
}

/// A draft model that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafting {
    /// The draft model.
    pub shape: Shape,
    /// As in [`Draft`].
    pub acceptance: f64,
    /// As in [`Draft`].
    pub most: u32,
    /// As in [`Draft`].
    pub adaptive: bool,
}

impl Deployment {
    /// Who holds what.
    pub fn layout(&self) -> Layout {
        Layout {
            tensor: self.tensor,
            pipeline: self.pipeline,
            expert: self.expert,
            first_layers: self.first_layers,
            kv: self.kv_split,
            overlap: self.overlap,
            plane: self.plane,
        }
    }

    /// Its formats.
    pub fn formats(&self) -> Formats {
        let usual = Formats::of(self.weights);
        Formats { arithmetic: self.arithmetic.unwrap_or(usual.arithmetic), cache: self.cache, ..usual }
    }

    /// Copies of the model that so many devices hold.
    ///
    /// # Errors
    /// Devices that a whole number of copies does not fill.
    pub fn copies(&self, devices: usize) -> Result<usize, LayoutError> {
        let each = self.layout().devices();
        if each == 0 || devices < each || !devices.is_multiple_of(each) {
            return Err(LayoutError::Degree {
                field: "devices",
                value: devices,
                allowed: format!(
                    "a copy of the model takes {each} ({} tensor x {} pipeline x {} expert): give a multiple of it",
                    self.tensor, self.pipeline, self.expert
                ),
            });
        }
        Ok(devices / each)
    }

    /// What its steps take.
    ///
    /// # Errors
    /// A layout that does not divide the model.
    pub fn roofline(&self, shape: &Shape, profile: &Profile) -> Result<Roofline, LayoutError> {
        Roofline::new(shape, self.layout(), self.formats(), &profile.device, profile.efficiency)
    }

    /// One copy that serves requests of `typical` tokens, each device for so many dollars an hour.
    ///
    /// # Errors
    /// What does not fit or cannot be, by its field.
    pub fn service(
        &self,
        shape: &Shape,
        profile: &Profile,
        drafting: Option<&Drafting>,
        typical: u32,
        dollars: f64,
    ) -> Result<Service, ServiceError> {
        let roofline = self.roofline(shape, profile)?;
        let draft = drafting.map(|drafting| {
            // On the devices of the first stage, in their formats.
            let layout = Layout { tensor: self.tensor, ..Layout::ONE };
            let roofline = Roofline::new(&drafting.shape, layout, self.formats(), &profile.device, profile.efficiency)?;
            let Drafting { acceptance, most, adaptive, .. } = *drafting;
            Ok::<_, LayoutError>(Draft { roofline, acceptance, most, adaptive })
        });
        let context = match self.context {
            Some(context) if context == 0 || context > shape.context => {
                let allowed = "allowed is 1 to the context that the model was made for";
                return Err(ServiceError::Value { field: "context", value: context.into(), allowed });
            }
            given => given.unwrap_or(shape.context),
        };
        let limits = Limits { step_tokens: self.step_tokens, step_sequences: self.step_sequences, context, typical };
        Service::new(roofline, draft.transpose()?, limits, dollars * self.layout().devices() as f64)
    }
}
