//! What clients may ask: fields that are read, fields that are refused by name, and the rest, of which a header warns.

pub mod conversation;
pub mod format;
pub mod generation;
pub mod prompt;

use crate::error::{ApiError, Result};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// A field that is known, and that this server cannot honour.
pub struct Unsupported {
    /// Its name.
    pub field: &'static str,
    /// Whether a value asks for nothing, so that it may be given. (`null` never asks for anything.)
    pub harmless: fn(&Value) -> bool,
    /// The way out, as a sentence.
    pub instead: &'static str,
}

/// Never harmless.
pub const NEVER: fn(&Value) -> bool = |_| false;
/// `false` asks for nothing.
pub const FALSE: fn(&Value) -> bool = |value| *value == Value::Bool(false);

impl Unsupported {
    /// A field with no harmless value.
    pub const fn new(field: &'static str, instead: &'static str) -> Self {
        Self { field, harmless: NEVER, instead }
    }

    /// A field that may have some values.
    pub const fn unless(field: &'static str, harmless: fn(&Value) -> bool, instead: &'static str) -> Self {
        Self { field, harmless, instead }
    }
}

/// A request's fields, of which each part of the server takes its own.
pub struct Fields {
    all: Value,
    known: BTreeSet<String>,
}

impl Fields {
    /// All that was sent. `null` says the same as no field.
    pub fn new(mut map: Map<String, Value>) -> Self {
        map.retain(|_, value| !value.is_null());
        Self { all: Value::Object(map), known: BTreeSet::new() }
    }

    /// Reads the fields of `T`.
    ///
    /// # Errors
    /// A field that is missing or has the wrong type, named by its path.
    pub fn read<'de, T: Deserialize<'de> + ToSchema>(&'de mut self) -> Result<T> {
        self.known.extend(names(&T::schema()));
        serde_path_to_error::deserialize(&self.all).map_err(|error| {
            let path = error.path().to_string();
            let problem = error.into_inner();
            match path.as_str() {
                "." => incomplete(&problem.to_string()),
                _ => ApiError::invalid(&path, format!("`{path}` is not valid: {problem}.")),
            }
        })
    }

    /// Refuses what is known and unsupported; what is unknown becomes warnings.
    pub fn finish(mut self, unsupported: &[&[Unsupported]]) -> Result<Warnings> {
        let map = self.all.as_object_mut().map(std::mem::take).unwrap_or_default();
        let unsupported = || unsupported.iter().copied().flatten();
        for Unsupported { field, harmless, instead } in unsupported() {
            if map.get(*field).is_some_and(|value| !harmless(value)) {
                return Err(ApiError::unsupported(*field, format!("`{field}` is not supported here: {instead}")));
            }
        }
        let is_known = |name: &String| self.known.contains(name) || unsupported().any(|u| u.field == *name);
        Ok(Warnings(map.into_iter().map(|(name, _)| name).filter(|name| !is_known(name)).collect()))
    }
}

/// A request without a field that it needs.
fn incomplete(problem: &str) -> ApiError {
    let message = format!("The request is not complete: {problem}.");
    match problem.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) => ApiError::invalid(field, message),
        None => ApiError::malformed(message),
    }
}

/// The fields of a schema.
fn names(schema: &RefOr<Schema>) -> Vec<String> {
    match schema {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Fields that nobody knows. They have no effect, and the answer's headers say so.
pub struct Warnings(Vec<String>);

/// Names in a warning at most, and characters of each.
const WARNED: usize = 8;
const NAME: usize = 64;

impl Warnings {
    /// Adds the header, if there is something to warn of.
    pub fn attach(&self, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let plain = |name: &String| {
            name.chars().take(NAME).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>()
        };
        let names: Vec<_> = self.0.iter().take(WARNED).map(plain).collect();
        let more = if self.0.len() > WARNED { ", and more" } else { "" };
        if let Ok(value) = HeaderValue::from_str(&format!("unknown fields have no effect: {}{more}", names.join(", ")))
        {
            headers.insert(HeaderName::from_static("x-lyceum-warning"), value);
        }
    }
}
