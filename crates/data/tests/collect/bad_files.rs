//! Files that are damaged, empty, binary, enormous or in the way.

use super::*;
use data::collect::Error;
use data::sources::{From, ReadOptions};

#[track_caller]
fn fails(result: Result<Collection>, parts: &[&str]) {
    let error = result.map(|_| ()).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn empty_and_binary_files_are_counted() {
    let desk = Desk::new();
    desk.write("in/a.txt", "");
    desk.write("in/b.txt", " \n\t\n");
    desk.write("in/c.txt", b"\x7fELF\x00\x01");
    desk.write("in/d.jsonl", "");
    desk.write("in/e.md", "text");
    let collection = desk.collect(&["in"], "out", &everything()).unwrap();
    assert_eq!(texts(&collection, "in"), ["text"]);
    assert_eq!(skipped(&collection, "in", Skip::Empty), 2);
    assert_eq!(skipped(&collection, "in", Skip::Binary), 1);
    assert_eq!(collection.source("in").unwrap().skipped[&Skip::Binary].first, ["c.txt"]);
}

#[test]
fn truncated_files_are_named() {
    let lines: String = (0..2000).map(|at| format!("{{\"text\": \"document {} {at}\"}}\n", at * 7919 % 1000)).collect();
    let page = b"HTTP/1.1 200 OK\r\n\r\n<p>page";
    let warc: Vec<u8> = (0..50).flat_map(|_| record("response", "http://a/", page)).collect();
    let rows: Vec<_> = (0..1000).map(|_| Some("text")).collect();
    let files = [
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.jsonl.zst", zst(lines.as_bytes())),
        ("a.txt.gz", gzip(lines.as_bytes())),
        ("a.warc", warc.clone()),
        ("a.warc.gz", gzip(&warc)),
        ("a.parquet", parquet(&rows)),
    ];
    for (name, content) in files {
        let desk = Desk::new();
        desk.write(name, &content);
        desk.collect(&[name], "whole", &everything()).unwrap();
        desk.write(&format!("in/{name}"), &content[..content.len() * 2 / 3]);
        desk.write("in/other.txt", "other");
        fails(desk.collect(&["in"], "out", &everything()), &[name, "is damaged"]);
        assert!(!desk.path("out").exists() && !desk.path(".out.partial").exists(), "nothing is left behind");
        let collection = desk.collect(&["in"], "out", &Options { skip_damaged: true, ..everything() }).unwrap();
        assert_eq!(skipped(&collection, "in", Skip::Damaged), 1, "{name}");
        assert_eq!(texts(&collection, "in").last().unwrap(), "other");
    }
}

#[test]
fn what_is_not_what_its_name_says_is_named() {
    for name in ["a.jsonl", "a.jsonl.gz", "a.txt.zst", "a.parquet", "a.warc", "a.warc.gz"] {
        let desk = Desk::new();
        desk.write(name, "this is neither\nof these\n".repeat(50));
        fails(desk.collect(&[name], "out", &everything()), &[name, "is damaged"]);
    }
}

#[test]
fn bad_records_are_named_or_counted() {
    let desk = Desk::new();
    desk.write("a.jsonl", "{\"text\": \"good\"}\n{\"text\": \"half\n{\"body\": \"x\", \"n\": 1}\n[1]\n{\"text\": 7}\n{\"text\": \"last\"}\n");
    fails(desk.collect(&["a.jsonl"], "out", &everything()), &["a.jsonl, line 2", "is damaged"]);
    let collection = desk.collect(&["a.jsonl"], "out", &Options { skip_damaged: true, ..everything() }).unwrap();
    assert_eq!(texts(&collection, "a"), ["good", "last"]);
    assert_eq!(skipped(&collection, "a", Skip::Damaged), 4);
    desk.write("b.jsonl", "{\"body\": \"x\", \"n\": 1}\n");
    fails(desk.collect(&["b.jsonl"], "b", &everything()), &["line 1", "no text called \"text\"", "body, n"]);
    desk.write("c.parquet", parquet(&[Some("x")]));
    let read = ReadOptions { field: "content".into(), ..ReadOptions::default() };
    fails(
        desk.collect(&["c.parquet"], "c", &Options { read, ..everything() }),
        &["c.parquet", "\"content\"", "url, text, n"],
    );
}

#[test]
fn enormous_lines_and_files_are_counted_and_do_not_fill_memory() {
    let desk = Desk::new();
    let long = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"short\"}}\n", "x".repeat(300_000));
    desk.write("in/a.jsonl", &long);
    desk.write("in/b.rs", "x".repeat(300_000));
    desk.write(
        "in/c.warc",
        [record("response", "http://a", &[b' '; 300_000]), record("conversion", "http://b", b"ok")].concat(),
    );
    desk.write("in/d.parquet", parquet(&[Some(&"x".repeat(300_000)), Some("fine")]));
    let read = ReadOptions { largest: 100_000, ..ReadOptions::default() };
    let collection = desk.collect(&["in"], "out", &Options { read, ..everything() }).unwrap();
    assert_eq!(texts(&collection, "in"), ["short", "ok", "fine"]);
    assert_eq!(skipped(&collection, "in", Skip::TooLarge), 4);
}

#[test]
fn what_cannot_work_is_refused_first() {
    let desk = Desk::new();
    desk.write("in/a.txt", "text");
    desk.write("other/in/b.txt", "text");
    desk.write("nothing/a.png", "x");
    fails(desk.collect(&["missing"], "out", &everything()), &["missing"]);
    fails(desk.collect(&["nothing"], "out", &everything()), &["nothing", "there is no text"]);
    fails(desk.collect(&[], "out", &everything()), &["nothing to collect"]);
    fails(desk.collect(&["in", "other/in"], "out", &everything()), &["two sources", "NAME=PATH"]);
    let named = |name: &str| Source { name: name.into(), from: From::Path(desk.path("in")) };
    for name in ["", ".", "..", "a/b", "samples", "a\\b"] {
        fails(collect(&[named(name)], &desk.path("out"), &everything(), &|_, _, _| ()), &["cannot name a source"]);
    }
    let filters = |name: &str| Options { filters: Some(vec![name.into()]), ..everything() };
    fails(desk.collect(&["in"], "out", &filters("gopher")), &["\"gopher\"", "gopher-quality"]);
    let scripts = Options { scripts: vec!["Latn".into()], ..everything() };
    fails(desk.collect(&["in"], "out", &scripts), &["script"]);
    fails(desk.collect(&["in"], "out", &Options { shard_bytes: 1, ..everything() }), &["shard", "at least"]);
    let against = Options { decontaminate: vec![desk.path("missing.jsonl")], ..everything() };
    fails(desk.collect(&["in"], "out", &against), &["missing.jsonl"]);
    assert!(!desk.path("out").exists());
}

#[test]
fn only_a_collection_is_replaced_and_only_if_asked() {
    let desk = Desk::new();
    desk.write("in/a.txt", "one");
    desk.collect(&["in"], "out", &everything()).unwrap();
    assert!(matches!(desk.collect(&["in"], "out", &everything()), Err(Error::Exists(_))));
    desk.write("in/b.txt", "two");
    let replace = Options { replace: true, ..everything() };
    let collection = desk.collect(&["in"], "out", &replace).unwrap();
    assert_eq!(texts(&collection, "in"), ["one", "two"]);
    desk.write("mine/notes.txt", "precious");
    fails(desk.collect(&["in"], "mine", &replace), &["mine", "it is no collection"]);
    assert!(desk.path("mine/notes.txt").exists());
    assert!(Collection::open(desk.path("mine")).is_err());
    // What a killed run has left is no trouble.
    desk.write(".new.partial/in/00000.jsonl.zst", "half");
    let collection = desk.collect(&["in"], "new", &everything()).unwrap();
    assert_eq!(texts(&collection, "in"), ["one", "two"]);
    collection.verify().unwrap();
}

#[test]
fn a_damaged_collection_says_so() {
    let desk = Desk::new();
    desk.write("in/a.txt", "one ".repeat(500));
    let collection = desk.collect(&["in"], "out", &everything()).unwrap();
    let shard = desk.path("out/in/00000.jsonl.zst");
    let mut bytes = fs::read(&shard).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    assert!(collection.verify().unwrap_err().to_string().contains("00000.jsonl.zst"));
    assert!(collection.documents("in").unwrap().any(|document| document.is_err()));
    fs::write(&shard, &bytes[..half]).unwrap();
    assert!(collection.documents("in").unwrap().any(|document| document.is_err()));
    let error = collection.documents("on").err().unwrap().to_string();
    assert!(error.contains("\"on\"") && error.contains("it has in"), "{error}");
    desk.write("out/collection.json", "{\"format\": 1}");
    assert!(Collection::open(desk.path("out")).is_err());
}
