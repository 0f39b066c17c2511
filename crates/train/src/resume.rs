//! Whether a checkpoint belongs to the run that wants to go on from it.

use crate::TrainError;
use crate::checkpoint::State;
use crate::setup::Setup;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A key with what it was and what it is.
struct Difference {
    key: String,
    was: String,
    is: String,
}

/// Refuses another model, other data, another order of them; returns what else the recipe says anew.
pub(crate) fn check(state: &State, setup: &Setup, checkpoint: &Path) -> Result<Vec<String>, TrainError> {
    let other =
        |d: Difference| TrainError::OtherRun { checkpoint: checkpoint.into(), key: d.key, was: d.was, is: d.is };
    if state.begun_from != setup.begun_from {
        return Err(TrainError::OtherOrigin {
            checkpoint: checkpoint.into(),
            from: setup.recipe.model.from.clone().unwrap_or_else(|| "none".into()),
        });
    }
    let mut changed = Vec::new();
    for difference in differences("", &value(&state.recipe), &value(&setup.recipe)) {
        match difference.key.as_str() {
            "train.seed" | "train.optimiser" => return Err(other(difference)),
            "train.bias_rate" if [&difference.was, &difference.is].contains(&&"null".to_owned()) => {
                return Err(other(difference));
            }
            // Folders may move; what is in them is compared below.
            key if key.starts_with("data.") && key.ends_with(".path") => {}
            key if key.starts_with("data.") => return Err(other(difference)),
            key if key.starts_with("train.") => {
                changed.push(format!("{key} was {}, it is {} from here on", difference.was, difference.is));
            }
            "model.from" | "model.upcycle" => {
                let Difference { key, was, is } = difference;
                changed
                    .push(format!("{key} was {was}, it is {is}: it changes nothing, the weights are the checkpoint's"));
            }
            // The rest of the model is in config.json, compared below; the machine may be another one.
            _ => {}
        }
    }
    check_model(setup, checkpoint)?;
    let ledger = setup.mixture.ledger(state.samples);
    let difference = differences("ledger", &value(&state.ledger), &value(&ledger)).into_iter().next();
    match difference {
        None => Ok(changed),
        Some(difference) => Err(other(Difference { key: format!("data ({})", difference.key), ..difference })),
    }
}

/// The checkpoint's `config.json` must be the recipe's.
fn check_model(setup: &Setup, checkpoint: &Path) -> Result<(), TrainError> {
    let path = checkpoint.join("config.json");
    let text = fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| TrainError::damaged(&path, e.to_string()));
    let difference = differences("", &parse(&text)?, &parse(&setup.config_json)?).into_iter().next();
    match difference {
        None => Ok(()),
        Some(Difference { key, was, is }) => {
            let key = format!("model (config.json: {key})");
            Err(TrainError::OtherRun { checkpoint: checkpoint.into(), key, was, is })
        }
    }
}

fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// Every place in which two values differ.
fn differences(key: &str, a: &Value, b: &Value) -> Vec<Difference> {
    let inside = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (a, b) {
        _ if a == b => Vec::new(),
        (Value::Object(x), Value::Object(y)) => {
            let added = y.keys().filter(|name| !x.contains_key(*name));
            let at = |name: &String| {
                let [x, y] = [x, y].map(|object| object.get(name).unwrap_or(&Value::Null));
                differences(&inside(name), x, y)
            };
            x.keys().chain(added).flat_map(at).collect()
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().flat_map(|(i, (x, y))| differences(&inside(&i.to_string()), x, y)).collect()
        }
        _ => vec![Difference { key: key.to_owned(), was: a.to_string(), is: b.to_string() }],
    }
}
