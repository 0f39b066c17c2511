//! Stages: one recipe for several runs, of which each goes on with the model of the one before.

use super::{Recipe, RecipeError, settings};
use toml::{Table, Value};

/// Where a recipe lists its stages.
const KEY: &str = "stages";
/// What a stage may say instead of the recipe.
const SECTIONS: [&str; 2] = ["data", "train"];
/// What lies in the folder of a run beside the folders of its stages.
const TAKEN: [&str; 3] = ["model", "checkpoints", "lock"];

/// One of the runs that a recipe asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name; a recipe without stages asks for one run, which has none.
    pub name: Option<String>,
    /// What it does. The model is the recipe's own in every stage; where its weights come from, only the first one says
    /// ([`Recipe::continuing`] is for the others).
    pub recipe: Recipe,
}

/// Reads a recipe with its stages, in order, with `key=value` settings in place of what it says (`stages.NAME.train.lr=1e-4`).
///
/// The keys of a stage's `data` and `train` stand in place of the recipe's own, whole: a stage that has `data.sources` has those alone.
///
/// # Errors
/// What cannot be understood or followed, by key, with what is allowed.
pub fn parse(text: &str, with: &[String]) -> Result<Vec<Stage>, RecipeError> {
    let mut table: Table = toml::from_str(text)?;
    if !table.contains_key(KEY) {
        return Ok(vec![Stage { name: None, recipe: Recipe::parse(text, with)? }]);
    }
    with.iter().try_for_each(|setting| settings::apply(&mut table, setting))?;
    let listed = table.remove(KEY);
    let mut stages: Vec<Stage> = Vec::new();
    for (name, own) in overlays(listed)? {
        let mut recipe = read(&table, &name, &own)?;
        match stages.first() {
            None => recipe.resolve(),
            Some(first) => {
                recipe.model = first.recipe.model.clone();
                recipe.data.find_shards();
            }
        }
        recipe.validate().map_err(|error| of_stage(&name, &own, error))?;
        if let Some(first) = stages.first() {
            follows(&recipe, &first.recipe).map_err(|error| of_stage(&name, &own, error))?;
        }
        stages.push(Stage { name: Some(name), recipe });
    }
    Ok(stages)
}

/// The names of the stages that a table lists, as far as they have some.
pub(super) fn names(table: &Table) -> Option<Vec<String>> {
    let listed = table.get(KEY)?.as_array().map(Vec::as_slice).unwrap_or_default();
    Some(listed.iter().filter_map(|stage| Some(stage.get("name")?.as_str()?.to_owned())).collect())
}

/// Every stage's name and sections, all of them known.
fn overlays(listed: Option<Value>) -> Result<Vec<(String, Table)>, RecipeError> {
    let Some(Value::Array(listed)) = listed.filter(|value| value.as_array().is_some_and(|list| !list.is_empty()))
    else {
        return Err(RecipeError::stage(KEY, "each stage is a table: [[stages]], with a name"));
    };
    let mut found: Vec<(String, Table)> = Vec::new();
    for (index, stage) in listed.into_iter().enumerate() {
        let Value::Table(mut own) = stage else {
            return Err(RecipeError::stage(format!("{KEY}[{index}]"), "a stage is a table: [[stages]], with a name"));
        };
        let name = match own.remove("name") {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(RecipeError::stage(format!("{KEY}[{index}].name"), format!("{other} is no string")));
            }
            None => return Err(RecipeError::stage(format!("{KEY}[{index}]"), "it has no name: add name = \"...\"")),
        };
        check_name(&name, index)?;
        if found.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            let problem = "two stages have this name, and would share a folder: rename one of them";
            return Err(RecipeError::stage(format!("{KEY}.{name}"), problem));
        }
        for (section, value) in &own {
            if !SECTIONS.contains(&section.as_str()) {
                let problem = "a stage has a name, and tables data and train; everything else is the recipe's own";
                return Err(RecipeError::stage(format!("{KEY}.{name}.{section}"), problem));
            }
            if !value.is_table() {
                return Err(RecipeError::stage(format!("{KEY}.{name}.{section}"), format!("{value} is no table")));
            }
        }
        found.push((name, own));
    }
    Ok(found)
}

/// Names are folders, on every system.
fn check_name(name: &str, index: usize) -> Result<(), RecipeError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let problem = if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        "it names a folder: allowed are 1 to 64 letters a-z, digits, - and _".to_owned()
    } else if TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(name)) {
        "that is what something else in the folder of the run is called: take another name".to_owned()
    } else {
        return Ok(());
    };
    Err(RecipeError::stage(format!("{KEY}[{index}].name"), format!("{name:?}: {problem}")))
}

/// The recipe with a stage's own keys.
fn read(base: &Table, name: &str, own: &Table) -> Result<Recipe, RecipeError> {
    let mut merged = base.clone();
    for (section, keys) in own.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?))) {
        match merged.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table.extend(keys.clone()),
            other => *other = Value::Table(keys.clone()),
        }
    }
    let error = match merged.try_into::<Recipe>() {
        Ok(recipe) => return Ok(recipe),
        Err(error) => error,
    };
    // What is as wrong without the stage is not the stage's.
    match base.clone().try_into::<Recipe>() {
        Err(without) if without.message() == error.message() => Err(without.into()),
        _ => {
            let unknown = keys(own).find(|(_, key)| error.message().starts_with(&format!("unknown field `{key}`")));
            let at = unknown.map_or_else(String::new, |(section, key)| format!(".{section}.{key}"));
            Err(RecipeError::stage(format!("{KEY}.{name}{at}"), error.to_string().trim_end()))
        }
    }
}

/// What only a stage after the first can do wrong: its model is not made for it.
fn follows(recipe: &Recipe, first: &Recipe) -> Result<(), RecipeError> {
    let is_new = first.model.from.is_none() && first.model.upcycle.is_none();
    let positions = first.model.context.unwrap_or(first.data.context);
    if is_new && recipe.data.context > positions {
        let allowed = format!("the first stage makes the model for {positions} positions: raise model.context");
        return Err(RecipeError::value("data.context", recipe.data.context, allowed));
    }
    let learns = recipe.data.corpus.as_ref().filter(|corpus| corpus.vocab_size.is_some());
    match learns.filter(|corpus| first.data.corpus.as_ref() != Some(*corpus)) {
        Some(_) => {
            let beside = "after the first stage, whose tokenizer the model has";
            Err(RecipeError::meaningless("data.corpus.vocab_size", beside))
        }
        None => Ok(()),
    }
}

/// An error of a stage's recipe, with the stage's name: by its own key where it has it.
fn of_stage(name: &str, own: &Table, error: RecipeError) -> RecipeError {
    let key = match &error {
        RecipeError::Value { key, .. } | RecipeError::Missing { key, .. } | RecipeError::Meaningless { key, .. } => key,
        _ => "",
    };
    let mut parts = key.split('.');
    let has = parts.next().and_then(|section| own.get(section)?.get(parts.next()?)).is_some();
    let joined = if has { "." } else { ": " };
    RecipeError::Stage(format!("{KEY}.{name}{joined}{error}"))
}

/// A stage's own keys, with their sections.
fn keys(own: &Table) -> impl Iterator<Item = (&String, &String)> {
    own.iter()
        .flat_map(|(section, keys)| keys.as_table().into_iter().flat_map(move |t| t.keys().map(move |k| (section, k))))
}
