//! The account of a collection as a table.

use crate::output;
use data::collect::{Account, Collection, Count};
use std::collections::BTreeMap;

/// Crates that are named of those that are not there.
const NAMED: usize = 5;

/// What came in, what went and what stayed, source by source.
pub fn rows(collection: &Collection) -> Vec<(String, String)> {
    let manifest = collection.manifest();
    let mut rows = vec![("Collection".to_owned(), collection.folder().display().to_string())];
    let mut all = Count::default();
    for account in &manifest.sources {
        rows.push((format!("Source {}", account.name), format!("{} files", account.files)));
        rows.extend(source(account));
        all.documents += account.kept.documents;
        all.bytes += account.kept.bytes;
    }
    rows.push(("Kept in all".to_owned(), amount(all)));
    rows
}

fn source(account: &Account) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut add = |title: &str, text: String| rows.push((format!("  {title}"), text));
    if !account.not_found.is_empty() {
        add("not here", missing(&account.not_found));
    }
    for (why, skips) in &account.skipped {
        add("skipped", format!("{} {}, such as {}", skips.count, why.name(), skips.first.join(", ")));
    }
    add("read", amount(account.read));
    for mended in &account.mended {
        add("mended", format!("{} documents by {}", mended.documents, mended.filter));
    }
    for dropped in account.dropped.iter().filter(|dropped| dropped.count.documents > 0) {
        let reasons = reasons(&dropped.reasons);
        add("dropped", format!("{} by {}: {reasons}", amount(dropped.count), dropped.filter));
    }
    let compressed = account.shards.iter().map(|shard| shard.compressed).sum();
    add(
        "kept",
        format!("{} in {} shards, {} on disk", amount(account.kept), account.shards.len(), output::bytes(compressed)),
    );
    rows
}

fn amount(count: Count) -> String {
    format!("{} documents, {}", count.documents, output::bytes(count.bytes))
}

/// Reasons with their counts, the commonest first.
fn reasons(reasons: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = reasons.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let texts: Vec<_> = sorted.into_iter().map(|(reason, count)| format!("{reason} ({count})")).collect();
    texts.join("; ")
}

fn missing(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", ..." } else { "" };
    let first = names[..names.len().min(NAMED)].join(", ");
    format!("{} crates: {first}{more} (cargo fetch brings them)", names.len())
}
