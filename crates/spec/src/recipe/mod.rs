//! A recipe: one file that describes a model, its data, its training and its hardware.

pub mod data;
pub mod hardware;
pub mod model;
mod settings;
pub mod stages;
pub mod train;

pub use data::{CorpusRecipe, DataRecipe, InvalidData, Packing, SourceRecipe};
pub use hardware::{HardwareRecipe, LayoutRecipe, PipelineSchedule};
pub use model::{ModelRecipe, Start};
pub use stages::Stage;
pub use train::{BalanceForm, Batch, Export, OptimiserKind, Precision, Schedule, TrainRecipe};

use crate::validate::InvalidConfig;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use thiserror::Error;

/// A whole recipe. Its file is TOML; paths in it are relative to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What learns.
    pub model: ModelRecipe,
    /// What it learns from.
    pub data: DataRecipe,
    /// How it learns.
    pub train: TrainRecipe,
    /// What it runs on.
    #[serde(default)]
    pub hardware: HardwareRecipe,
}

/// A recipe that cannot be followed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RecipeError {
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// A `key=value` that cannot be applied.
    #[error("--set {setting}: {problem}")]
    Setting {
        /// What was given.
        setting: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A value outside of what the other keys allow.
    #[error("{key} is {value}; {allowed}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is allowed, and by which other keys.
        allowed: String,
    },
    /// A key that is needed.
    #[error("{key} is missing; {needed_by} needs it")]
    Missing {
        /// The key.
        key: String,
        /// What asks for it.
        needed_by: String,
    },
    /// A key that has no meaning beside another.
    #[error("{key} has no meaning {beside}: remove it")]
    Meaningless {
        /// The key.
        key: String,
        /// Beside what.
        beside: String,
    },
    /// What is wrong with a stage, its place first.
    #[error("{0}")]
    Stage(String),
    /// Several runs where one is meant.
    #[error("the recipe has stages ({}): each is a run of its own, and what was asked for looks at one", .0.join(", "))]
    Staged(Vec<String>),
    /// A data section that contradicts itself.
    #[error(transparent)]
    Data(#[from] InvalidData),
    /// A decoder that cannot be.
    #[error("[model] describes no possible decoder: {0}")]
    Decoder(#[from] InvalidConfig),
}

impl RecipeError {
    /// A value that is not allowed.
    pub fn value(key: &str, value: impl Display, allowed: impl Into<String>) -> Self {
        Self::Value { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }

    fn stage(place: impl Display, problem: impl Display) -> Self {
        Self::Stage(format!("{place}: {problem}"))
    }

    fn meaningless(key: impl Into<String>, beside: impl Into<String>) -> Self {
        Self::Meaningless { key: key.into(), beside: beside.into() }
    }
}

impl Recipe {
    /// Reads a recipe of one run, with `key=value` settings in place of what it says, and refuses contradictions.
    ///
    /// # Errors
    /// What cannot be understood or followed, by key, with what is allowed; stages, which [`stages::parse`] reads.
    pub fn parse(text: &str, settings: &[String]) -> Result<Self, RecipeError> {
        if let Some(names) = toml::from_str(text).ok().as_ref().and_then(stages::names) {
            return Err(RecipeError::Staged(names));
        }
        let mut recipe: Self = match settings {
            [] => toml::from_str(text)?,
            settings => {
                let mut table = toml::from_str(text)?;
                settings.iter().try_for_each(|setting| settings::apply(&mut table, setting))?;
                table.try_into()?
            }
        };
        recipe.resolve();
        recipe.validate()?;
        Ok(recipe)
    }

    /// The same run, but going on with the model in a folder, and with the tokeniser that the recipe names.
    pub fn continuing(&self, model: &str) -> Self {
        let tokenizer = self.model.tokenizer_path().map(str::to_owned);
        let model = ModelRecipe { tokenizer, from: Some(model.to_owned()), ..ModelRecipe::default() };
        Self { model, ..self.clone() }
    }

    /// Names what the corpus will hold where nothing else is named.
    fn resolve(&mut self) {
        self.data.find_shards();
        if self.model.tokenizer_path().is_none() {
            self.model.tokenizer = self.data.corpus.as_ref().and_then(CorpusRecipe::tokenizer);
        }
    }

    /// Refuses what contradicts itself, before any file is opened.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), RecipeError> {
        self.data.validate()?;
        self.model.start()?;
        self.train.validate(self.data.context)?;
        self.hardware.validate()?;
        if let Some(context) = self.model.context.filter(|&context| context < self.data.context) {
            let allowed = format!("the model's context is {context}: raise model.context, or lower data.context");
            return Err(RecipeError::value("data.context", self.data.context, allowed));
        }
        match self.train.needs_experts().filter(|_| !self.model.may_have_experts()) {
            Some((key, value)) => {
                let allowed = format!("a {} model has no experts: remove it", self.model.family());
                Err(RecipeError::value(key, value, allowed))
            }
            None => Ok(()),
        }
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// None that a parsed recipe could have.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}
