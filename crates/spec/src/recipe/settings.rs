//! `key=value` in place of what a recipe says.

use super::RecipeError;
use toml::{Table, Value};

/// Puts one setting into a recipe: `train.lr=1e-3`, `data.sources.0.weight=2` or `data.sources.code.weight=2` (entries of a list go by number or
/// name), `model.family="llama"` (quotes may be left out). Whether the key is known and the value of its type is found when the recipe is read.
pub(super) fn apply(recipe: &mut Table, setting: &str) -> Result<(), RecipeError> {
    let wrong = |problem: &str| RecipeError::Setting { setting: setting.into(), problem: problem.into() };
    let (key, value) = setting.split_once('=').ok_or_else(|| wrong("it has no `=`; give key=value"))?;
    let path: Vec<&str> = key.trim().split('.').collect();
    let Some((last, sections)) = path.split_last().filter(|_| path.iter().all(|part| !part.is_empty())) else {
        return Err(wrong("a part of its key is empty; give section.key=value"));
    };
    let Some((first, inner)) = sections.split_first() else {
        return Err(wrong("its key names no section; give section.key=value"));
    };
    let section = recipe.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    let place = inner.iter().try_fold(section, |at, part| step(at, part)).map_err(wrong)?;
    let value = parse(value.trim());
    match place {
        Value::Table(table) => drop(table.insert((*last).to_owned(), value)),
        place => *step(place, last).map_err(wrong)? = value,
    }
    Ok(())
}

fn step<'a>(at: &'a mut Value, part: &str) -> Result<&'a mut Value, &'static str> {
    match at {
        Value::Table(table) => Ok(table.entry(part).or_insert_with(|| Value::Table(Table::new()))),
        Value::Array(list) => {
            let named = list.iter().position(|entry| entry.get("name").and_then(Value::as_str) == Some(part));
            let index = named.or_else(|| part.parse().ok());
            index.and_then(|index| list.get_mut(index)).ok_or("the list has no such entry, by number or by name")
        }
        _ => Err("its key leads through something that is no section"),
    }
}

/// A TOML value, or else a string.
fn parse(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    let value = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.into()))
}
