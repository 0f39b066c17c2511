//! What is planned for: a model and the hardware.

use crate::failure::misuse;
use miette::{Context, IntoDiagnostic, Result, miette};
use model::Checkpoint;
use plan::profile::Profile;
use plan::{Catalogue, Cluster};
use spec::{DecoderConfig, HfConfig};
use std::path::Path;

/// The decoder of a recipe (`.toml`), of a folder with a `config.json`, or of a GGUF file. Weights need not be there.
pub fn decoder(path: &Path) -> Result<DecoderConfig> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        let recipe = super::recipe(path, &[])?;
        let vocabulary = recipe.model.vocab_size.ok_or_else(|| {
            miette!(
                help = "write model.vocab_size into the recipe",
                "{}: model.vocab_size is missing, and a plan opens no tokeniser",
                path.display()
            )
        })?;
        return recipe.model.decoder(vocabulary, recipe.data.context).into_diagnostic();
    }
    if path.is_dir() {
        let file = path.join("config.json");
        let config = HfConfig::from_json(&read(&file)?).into_diagnostic();
        return Ok(config.wrap_err_with(|| file.display().to_string())?.decoder);
    }
    Ok(Checkpoint::open(path).into_diagnostic()?.decoder().clone())
}

/// `DEVICE:COUNT` or `PROFILE.toml:COUNT`: what the device reaches, and how many there are (one node if not given).
pub fn hardware(text: &str) -> Result<(Profile, Cluster)> {
    let catalogue = Catalogue::embedded().into_diagnostic()?;
    let (name, count) = match text.rsplit_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    let profile = if name.ends_with(".toml") {
        Profile::parse(&read(Path::new(name))?).into_diagnostic().wrap_err_with(|| name.to_owned())?
    } else {
        Profile::of(&catalogue, name).map_err(|error| misuse(error.to_string()))?
    };
    let cluster = profile.cluster(&catalogue, count).map_err(|error| misuse(error.to_string()))?;
    Ok((profile, cluster))
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))
}
