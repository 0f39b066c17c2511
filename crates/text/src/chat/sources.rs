//! Where chat templates are found.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::roles::read_map;

/// The template that is used unless another is asked for.
pub(crate) const DEFAULT: &str = "default";

/// Template sources by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct TemplateSources(pub Vec<(String, String)>);

impl TemplateSources {
    /// One template, the default one.
    pub fn single(source: &str) -> Self {
        Self(vec![(DEFAULT.into(), source.into())])
    }

    /// Looks where model folders keep templates: files of their own go before `tokenizer_config.json`.
    pub fn from_folder(folder: &Path, tokenizer_config: &Map<String, Value>) -> Result<Self> {
        let mut sources = Self::default();
        if let Some(template) = tokenizer_config.get("chat_template") {
            sources.add_json(template).map_err(|error| error.in_file(folder.join("tokenizer_config.json")))?;
        }
        let path = folder.join("chat_template.json");
        if let Some(template) = read_map(&path)?.get("chat_template") {
            sources.add_json(template).map_err(|error| error.in_file(path))?;
        }
        if let Some(source) = read_text(&folder.join("chat_template.jinja"))? {
            sources.set(DEFAULT, source);
        }
        let more = folder.join("additional_chat_templates");
        if more.is_dir() {
            sources.add_folder(&more)?;
        }
        Ok(sources)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let failed = |source| Error::File { path: folder.into(), source };
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_string();
            if path.extension().is_some_and(|extension| extension == "jinja")
                && let Some(source) = read_text(&path)?
            {
                self.set(&name, source);
            }
        }
        Ok(())
    }

    /// A template, or a list of named ones.
    fn add_json(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Null => {}
            Value::String(source) => self.set(DEFAULT, source.clone()),
            Value::Array(list) => {
                for item in list {
                    let text = |key: &str| item.get(key).and_then(Value::as_str);
                    let (Some(name), Some(source)) = (text("name"), text("template")) else {
                        return Err(form());
                    };
                    self.set(name, source.into());
                }
            }
            _ => return Err(form()),
        }
        Ok(())
    }

    fn set(&mut self, name: &str, source: String) {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.into(), source));
    }

    /// As `tokenizer_config.json` holds them.
    pub fn to_json(&self) -> Option<Value> {
        match self.0.as_slice() {
            [] => None,
            [(name, source)] if name == DEFAULT => Some(source.clone().into()),
            several => Some(several.iter().map(|(name, source)| json!({ "name": name, "template": source })).collect()),
        }
    }

    /// The one template there is, for formats that hold one.
    pub fn only(&self) -> Result<Option<String>> {
        match self.0.as_slice() {
            [] => Ok(None),
            [(_, source)] => Ok(Some(source.clone())),
            several => Err(Error::NotExpressible {
                format: "a GGUF vocabulary",
                reason: format!("it has {} chat templates, and there is room for one", several.len()),
            }),
        }
    }
}

fn form() -> Error {
    Error::Unsupported {
        what: "this form of `chat_template`".into(),
        instead: "a text and a list of {name, template} are".into(),
    }
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.into(), source }),
    }
}
