//! `lyceum data inspect`.

use super::{explain, report};
use crate::failure::misuse;
use crate::output;
use clap::Args;
use data::collect::{Collection, Document, Sample};
use data::filters::RULES;
use data::sources::Kind;
use miette::{IntoDiagnostic, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Show what is in a collection, and what filters dropped
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    lyceum data inspect corpus\n  \
    lyceum data inspect corpus --dropped gopher-repetition\n  \
    lyceum data inspect corpus --documents 3 --source docs\n  \
    lyceum data inspect --filters")]
pub struct Inspect {
    /// The collection
    #[arg(value_name = "DIR", required_unless_present = "filters")]
    collection: Option<PathBuf>,

    /// Show documents that this filter dropped (also: exact, near, decontaminate)
    #[arg(long, value_name = "FILTER")]
    dropped: Option<String>,

    /// Show the first documents that were kept
    #[arg(long, value_name = "N", conflicts_with = "dropped")]
    documents: Option<usize>,

    /// Of this source only
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Check every shard against its hash
    #[arg(long)]
    verify: bool,

    /// List the filters that there are
    #[arg(long, conflicts_with = "collection")]
    filters: bool,

    /// Print JSON: one object, or one per document
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.filters {
            return self.print_filters();
        }
        let path = self.collection.as_ref().ok_or_else(|| misuse("name a collection"))?;
        let collection = Collection::open(path).map_err(explain)?;
        if let Some(name) = &self.source {
            collection.source(name).map_err(explain)?;
        }
        if self.verify {
            collection.verify().map_err(explain)?;
        }
        match (&self.dropped, self.documents) {
            (Some(filter), _) => self.print_dropped(&collection, filter),
            (None, Some(count)) => self.print_documents(&collection, count),
            (None, None) if self.json => output::json(&serde_json::to_value(collection.manifest()).into_diagnostic()?),
            (None, None) => output::facts(&report::rows(&collection)),
        }
    }

    fn print_dropped(&self, collection: &Collection, filter: &str) -> Result<()> {
        let samples = collection.samples(filter).map_err(explain)?;
        let mut samples = samples.iter().filter(|sample| self.is_of_source(&sample.document)).peekable();
        if samples.peek().is_none() && !self.json {
            return output::line(&format!("{filter} dropped nothing, or no samples were kept"));
        }
        samples.try_for_each(|sample| match self.json {
            true => output::json(&serde_json::to_value(sample).into_diagnostic()?),
            false => output::said(&sample_text(sample)),
        })
    }

    fn is_of_source(&self, document: &Document) -> bool {
        self.source.as_ref().is_none_or(|source| *source == document.source)
    }

    fn print_documents(&self, collection: &Collection, count: usize) -> Result<()> {
        let sources = collection.manifest().sources.iter().map(|source| &source.name);
        for source in sources.filter(|name| self.source.as_ref().is_none_or(|source| source == *name)) {
            for document in collection.documents(source).map_err(explain)?.take(count) {
                let document = document.map_err(explain)?;
                match self.json {
                    true => output::json(&serde_json::to_value(&document).into_diagnostic()?)?,
                    false => output::said(&document_text(&document, ""))?,
                }
            }
        }
        Ok(())
    }

    fn print_filters(&self) -> Result<()> {
        if self.json {
            return output::json(&RULES.iter().map(rule_json).collect());
        }
        let text = |rule: &data::filters::Rule| {
            let usual = if rule.by_default { "" } else { "; only if asked for" };
            format!("{} [{}{usual}] ({})", rule.about, kinds(rule.kinds).join(", "), rule.from)
        };
        let rows: Vec<_> = RULES.iter().map(|rule| (rule.name.to_owned(), text(rule))).collect();
        output::facts(&rows)
    }
}

fn kinds(kinds: &[Kind]) -> Vec<&'static str> {
    kinds.iter().map(|kind| kind.name()).collect()
}

fn rule_json(rule: &data::filters::Rule) -> Value {
    json!({ "name": rule.name, "about": rule.about, "from": rule.from, "kinds": kinds(rule.kinds), "by_default": rule.by_default })
}

fn sample_text(sample: &Sample) -> String {
    let detail = sample.detail.as_ref().map_or_else(String::new, |detail| format!(" ({})", one_line(detail)));
    document_text(&sample.document, &format!("{}{detail}", sample.reason))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A document under a line that says where it is from, and why it went.
fn document_text(document: &Document, reason: &str) -> String {
    let place = document.url.as_ref().unwrap_or(&document.path);
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("== {}, {place}{reason}\n{}\n\n", document.source, document.text.trim_end())
}
