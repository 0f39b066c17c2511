//! From a recipe to what a run works with, everything checked before any time is spent.

use crate::schedule::Schedules;
use crate::{Kind, OptimiserConfig, TrainError};
use data::{Mixture, paths};
use model::training::{self, Fresh, Objective, Unbiased, Upcycled};
use model::{Checkpoint, Decoder, LoadOptions, Parameters};
use spec::recipe::model::upcycled;
use spec::recipe::{BalanceForm, OptimiserKind, Precision, Recipe, RecipeError, Start};
use spec::{DecoderConfig, Ffn, HfConfig, ParameterTable};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::{Device, Format};
use text::Tokenizer;

/// What a run works with.
pub struct Setup {
    /// The recipe.
    pub recipe: Recipe,
    /// What is learned from.
    pub mixture: Mixture,
    /// Learning rate and batch.
    pub schedules: Schedules,
    /// The decoder.
    pub config: DecoderConfig,
    /// Its parameters.
    pub table: ParameterTable,
    /// The text of its `config.json`.
    pub config_json: String,
    /// The folder with the tokeniser's files.
    pub tokenizer: PathBuf,
    /// The checksum of the model that a stage goes on from.
    pub(crate) begun_from: Option<String>,
    origin: Origin,
}

/// Where the first weights come from.
enum Origin {
    Fresh(Fresh),
    From(Box<Checkpoint>),
    Unbiased(Box<Unbiased>),
    Upcycled(Box<Upcycled>),
}

impl Setup {
    /// Opens what a recipe names, relative to `base`, and refuses what does not fit together.
    ///
    /// # Errors
    /// By key or file, what is wrong and what is allowed.
    pub fn new(recipe: &Recipe, base: &Path) -> Result<Self, TrainError> {
        recipe.validate()?;
        one_rank_in_f32(recipe)?;
        let (folder, tokenizer) = tokenizer(recipe, base)?;
        let (origin, hf) = start(recipe, base, &tokenizer)?;
        let config = hf.decoder.clone();
        let config_json = hf.to_json()?;
        let (mixture, schedules) = data(recipe, base, &config, &tokenizer)?;
        Ok(Self {
            recipe: recipe.clone(),
            mixture,
            schedules,
            table: ParameterTable::new(&config),
            config,
            config_json,
            tokenizer: folder,
            begun_from: None,
            origin,
        })
    }

    /// The decoder before its first step.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn first_decoder(&self, device: &mut Device) -> Result<Decoder, TrainError> {
        let source: &dyn Parameters = match &self.origin {
            Origin::Fresh(fresh) => fresh,
            Origin::From(checkpoint) => &**checkpoint,
            Origin::Unbiased(unbiased) => &**unbiased,
            Origin::Upcycled(upcycled) => &**upcycled,
        };
        let context = Some(self.recipe.data.context);
        let options = LoadOptions { weights: Some(Format::F32), context, progress: None };
        Ok(Decoder::from_parameters(source, &self.table, &self.config, device, &options)?)
    }

    /// The optimiser's numbers.
    pub fn optimiser(&self) -> OptimiserConfig {
        let train = &self.recipe.train;
        OptimiserConfig {
            kind: match train.optimiser {
                OptimiserKind::Adamw => Kind::AdamW,
                OptimiserKind::Muon => Kind::Muon,
            },
            beta1: train.betas[0] as f32,
            beta2: train.betas[1] as f32,
            eps: train.eps as f32,
            weight_decay: train.weight_decay as f32,
            clip: train.clip as f32,
            momentum: train.momentum.unwrap_or(0.95) as f32,
        }
    }

    /// What is minimised; scale and share are each batch's own.
    pub fn objective(&self) -> Objective {
        let train = &self.recipe.train;
        Objective {
            balance: if has_experts(&self.config) { train.balance() as f32 } else { 0.0 },
            balance_form: match train.balance_form {
                BalanceForm::PerLayer => training::BalanceForm::PerLayer,
                BalanceForm::Pooled => training::BalanceForm::Pooled,
            },
            z: train.z as f32,
            capacity: train.capacity.map(|factor| factor as f32),
            recompute: train.recompute,
            ..Objective::default()
        }
    }

    /// Floating-point operations that one token costs, forward and backward: two per active weight and for attention's products over
    /// half a context, three times over.
    pub fn flops_per_token(&self) -> f64 {
        self.config.token_flops(self.recipe.data.context).training() as f64
    }
}

/// Refuses what a recipe may ask a plan for but not yet this trainer.
fn one_rank_in_f32(recipe: &Recipe) -> Result<(), RecipeError> {
    let layout = recipe.hardware.layout.unwrap_or_default();
    let degrees = [
        ("tensor", layout.tensor),
        ("pipeline", layout.pipeline),
        ("expert", layout.expert),
        ("interleave", layout.interleave),
    ];
    if let Some((key, degree)) = degrees.into_iter().find(|(_, degree)| *degree > 1) {
        let allowed = "the trainer runs on one rank so far: set it to 1 (`lyceum plan train` plans for more)";
        return Err(RecipeError::value(&format!("hardware.layout.{key}"), degree, allowed));
    }
    match recipe.train.precision {
        Precision::F32 => Ok(()),
        Precision::Bf16 => {
            let allowed = "the trainer computes in \"f32\" so far (`lyceum plan train` plans for more)";
            Err(RecipeError::value("train.precision", "\"bf16\"", allowed))
        }
    }
}

/// Refuses a stage that could not go on with the model of the recipe `model`, which need not be there yet.
///
/// # Errors
/// By key or file, what is wrong and what is allowed.
pub fn check(recipe: &Recipe, base: &Path, model: &Recipe) -> Result<(), TrainError> {
    let (_, tokenizer) = tokenizer(model, base)?;
    let (origin, hf) = start(model, base, &tokenizer)?;
    let hf = if recipe.train.bias_rate.is_some() { with_choice_bias(origin, hf)?.1 } else { hf };
    data(recipe, base, &hf.decoder, &tokenizer).map(drop)
}

/// Where the first weights come from, and what they make up.
fn start(recipe: &Recipe, base: &Path, tokenizer: &Tokenizer) -> Result<(Origin, HfConfig), TrainError> {
    let (origin, hf) = origin(recipe, base, tokenizer)?;
    check_vocabulary(&hf.decoder, tokenizer)?;
    let mut hf = HfConfig { quantisation: None, dtype: Some("float32".into()), ..hf };
    if hf.eos.is_empty() {
        (hf.bos, hf.eos) = (tokenizer.bos(), tokenizer.eos().to_vec());
    }
    if recipe.train.bias_rate.is_some() { with_choice_bias(origin, hf) } else { Ok((origin, hf)) }
}

/// The samples, enough of them and such as the model can take.
fn data(
    recipe: &Recipe,
    base: &Path,
    config: &DecoderConfig,
    tokenizer: &Arc<Tokenizer>,
) -> Result<(Mixture, Schedules), TrainError> {
    check_fit(recipe, config)?;
    let mixture = Mixture::open(&recipe.data, base, tokenizer, recipe.train.seed)?;
    let schedules = Schedules::new(&recipe.train, recipe.data.context);
    mixture.check(schedules.samples())?;
    Ok((mixture, schedules))
}

fn has_experts(config: &DecoderConfig) -> bool {
    config.layers.iter().any(|layer| matches!(layer.ffn, Ffn::Experts(_)))
}

/// The tokeniser, and the folder with its files.
fn tokenizer(recipe: &Recipe, base: &Path) -> Result<(PathBuf, Arc<Tokenizer>), TrainError> {
    let Some(named) = recipe.model.tokenizer_path() else {
        let needed_by = "a new model".to_owned();
        return Err(RecipeError::Missing { key: "model.tokenizer".into(), needed_by }.into());
    };
    let path = paths::join(base, named);
    let folder = if path.file_name().is_some_and(|name| name == "tokenizer.json") && path.is_file() {
        path.parent().unwrap_or(base).to_owned()
    } else if path.is_dir() {
        path
    } else {
        let allowed = "allowed is a folder with tokenizer.json, or that file";
        return Err(RecipeError::value("model.tokenizer", path.display(), allowed).into());
    };
    match Tokenizer::from_folder(&folder) {
        Ok(tokenizer) => Ok((folder, Arc::new(tokenizer))),
        Err(source) => Err(TrainError::Tokenizer { path: folder, source }),
    }
}

fn origin(recipe: &Recipe, base: &Path, tokenizer: &Tokenizer) -> Result<(Origin, HfConfig), TrainError> {
    let seed = recipe.train.seed;
    Ok(match recipe.model.start()? {
        Start::Fresh => {
            let decoder = recipe.model.decoder(tokenizer.vocab_size(), recipe.data.context)?;
            decoder.validate().map_err(RecipeError::from)?;
            (Origin::Fresh(Fresh { seed }), HfConfig::new(decoder))
        }
        Start::From(folder) => {
            let checkpoint = Checkpoint::open(&paths::join(base, folder))?;
            let config = checkpoint.config.clone();
            (Origin::From(Box::new(checkpoint)), config)
        }
        Start::Upcycle { dense, experts, top_k } => {
            let dense = Checkpoint::open(&paths::join(base, dense))?;
            let decoder = upcycled(dense.decoder(), experts, top_k)?;
            let config = HfConfig { decoder, ..dense.config.clone() };
            (Origin::Upcycled(Box::new(Upcycled { dense, seed })), config)
        }
    })
}

/// The same model with a bias on the choice of experts in every router, zero at first where it had none.
fn with_choice_bias(origin: Origin, mut hf: HfConfig) -> Result<(Origin, HfConfig), TrainError> {
    let had = hf.decoder.has_choice_bias();
    for layer in &mut hf.decoder.layers {
        if let Ffn::Experts(experts) = &mut layer.ffn {
            experts.choice_bias = true;
        }
    }
    // Families without a layout for it are refused here.
    hf.to_json()?;
    let origin = match origin {
        Origin::From(checkpoint) if !had => Origin::Unbiased(Box::new(Unbiased(*checkpoint))),
        origin => origin,
    };
    Ok((origin, hf))
}

fn check_vocabulary(config: &DecoderConfig, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    if tokenizer.vocab_size() > config.vocab_size {
        let allowed = format!("the tokenizer has {} ids, and each needs a row", tokenizer.vocab_size());
        return Err(RecipeError::value("model.vocab_size", config.vocab_size, allowed).into());
    }
    Ok(())
}

/// Data and model must agree in their sizes.
fn check_fit(recipe: &Recipe, config: &DecoderConfig) -> Result<(), TrainError> {
    if recipe.data.context > config.max_context {
        let allowed = format!("the model was made for {} positions", config.max_context);
        return Err(RecipeError::value("data.context", recipe.data.context, allowed).into());
    }
    match recipe.train.needs_experts().filter(|_| !has_experts(config)) {
        Some((key, value)) => Err(RecipeError::value(key, value, "the model has no experts: remove it").into()),
        None => Ok(()),
    }
}
