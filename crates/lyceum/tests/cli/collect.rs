//! `lyceum data`.

use super::*;
use std::fs;

/// A folder with texts in it, good and bad.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    fs::create_dir(&input).unwrap();
    let good = "The sailor found the letter before winter came. A baker carried her basket while it rained. The teacher opened \
                a window near the old river. One miller wanted the garden with a quiet smile. The doctor painted his lantern for no \
                clear reason. The farmer counted the bridge after that long journey. ";
    fs::write(input.join("a.txt"), good).unwrap();
    fs::write(input.join("b.txt"), "Too short.").unwrap();
    fs::write(input.join("c.txt"), format!("{good}\n")).unwrap();
    fs::write(input.join("d.bin"), "x").unwrap();
    folder
}

#[test]
fn a_collection_is_made_and_looked_at() {
    let folder = folder();
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    let named = format!("notes={}", input.display());
    let made = json(run(args!["data", "collect", named, "--out", out, "--json"]));
    let source = &made["sources"][0];
    assert_eq!(
        (&source["name"], &source["read"]["documents"], &source["kept"]["documents"]),
        (&"notes".into(), &3.into(), &1.into())
    );
    assert_eq!(source["skipped"]["unknown-kind"]["count"], 1);
    let text = stdout(run(args!["data", "inspect", out, "--verify"]));
    for part in
        ["Source notes", "fewer than five sentences (1)", "the same text as an earlier document (1)", "1 documents"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let dropped = stdout(run(args!["data", "inspect", out, "--dropped", "exact"]));
    assert!(
        dropped.starts_with("== notes, c.txt: the same text as an earlier document (notes: a.txt)\nThe sailor"),
        "{dropped}"
    );
    let document = json(run(args!["data", "inspect", out, "--documents", "1", "--source", "notes", "--json"]));
    assert_eq!(document["path"], "a.txt");
    fails(run(args!["data", "inspect", out, "--dropped", "gopher"]), 2, &["gopher-quality"]);
    fails(run(args!["data", "inspect", out, "--source", "on"]), 1, &["\"on\"", "notes"]);
    fails(run(args!["data", "inspect", input]), 1, &["it is no collection"]);
    fails(run(args!["data", "collect", input, "--out", out]), 1, &["exists already", "--replace"]);
    let all = json(run(args![
        "data",
        "collect",
        input,
        "--out",
        out,
        "--replace",
        "--filters",
        "none",
        "--dedup",
        "none",
        "--json"
    ]));
    assert_eq!(all["sources"][0]["kept"]["documents"], 3);
    let without = json(run(args![
        "data",
        "collect",
        input,
        "--out",
        out,
        "--replace",
        "--without",
        "c4,gopher-quality,stop-words,fineweb",
        "--json"
    ]));
    assert_eq!(without["sources"][0]["kept"]["documents"], 2);
}

#[test]
fn misuse_is_told_before_any_work() {
    let folder = folder();
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    let collect = |more: &[&str]| {
        lyceum().args(["data", "collect"]).arg(&input).arg("--out").arg(&out).args(more).output().unwrap()
    };
    fails(collect(&["--filters", "gopher"]), 2, &["gopher-quality"]);
    fails(collect(&["--without", "c5"]), 2, &["\"c5\"", "c4"]);
    fails(collect(&["--dedup", "fuzzy"]), 2, &["fuzzy", "near"]);
    fails(collect(&["--profile", "poem"]), 2, &["poem", "docs"]);
    fails(collect(&["--scripts", "Elvish"]), 2, &["Elvish", "Latin"]);
    fails(collect(&["--decontaminate", "/no/such.jsonl"]), 1, &["/no/such.jsonl"]);
    fails(collect(&["--cargo=/no/such/Cargo.lock"]), 1, &["/no/such/Cargo.lock", "--cargo=PATH"]);
    fails(run(args!["data", "collect", "--out", out]), 2, &["PATH"]);
    fails(run(args!["data", "collect", "/no/such/folder", "--out", out]), 1, &["/no/such/folder"]);
    fs::write(input.join("e.jsonl"), "{\"body\": \"x\"}\n").unwrap();
    fails(collect(&[]), 1, &["e.jsonl, line 1", "body", "--text-field"]);
    fs::write(input.join("e.jsonl"), "{\"text").unwrap();
    fails(collect(&[]), 1, &["e.jsonl, line 1", "is damaged", "--skip-damaged"]);
    assert!(!out.exists());
}

#[test]
fn filters_are_listed() {
    let text = stdout(run(["data", "inspect", "--filters"]));
    assert!(text.contains("gopher-repetition") && text.contains("arXiv:2112.11446"), "{text}");
    for command in ["collect", "inspect"] {
        assert!(stdout(run(["data", command, "--help"])).contains("Example"));
    }
}
