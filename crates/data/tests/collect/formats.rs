//! Every kind of file that is read.

use super::*;
use data::sources::{Kind, ReadOptions};

#[test]
fn folders_are_read_in_order_of_their_names() {
    let desk = Desk::new();
    desk.write("in/b.txt", "second");
    desk.write("in/a/z.rs", "fn third() {}");
    desk.write("in/a.md", "# First");
    desk.write("in/README", "zeroth");
    desk.write("in/.hidden/x.txt", "never");
    desk.write("in/image.png", "never");
    let collection = desk.collect(&["in"], "out", &everything()).unwrap();
    let documents = documents(&collection, "in");
    let found: Vec<_> = documents.iter().map(|d| (d.path.as_str(), d.text.as_str(), d.source.as_str())).collect();
    let wanted = [("README", "zeroth"), ("a/z.rs", "fn third() {}"), ("a.md", "# First"), ("b.txt", "second")];
    assert_eq!(found, wanted.map(|(path, text)| (path, text, "in")));
    assert_eq!(skipped(&collection, "in", Skip::UnknownKind), 1);
    collection.verify().unwrap();
}

#[test]
fn json_lines_packed_and_not() {
    let lines = "{\"text\": \"One \\u00e9\", \"id\": 3, \"url\": \"http://x\"}\n\n\
                 {\"lang\": \"de\", \"text\": \"Zwei\", \"meta\": {\"a\": [1]}, \"path\": \"z.txt\"}\r\n{\"text\":\"  \"}";
    for (name, content) in
        [("a.jsonl", lines.into()), ("a.jsonl.gz", gzip(lines.as_bytes())), ("a.jsonl.zst", zst(lines.as_bytes()))]
    {
        let desk = Desk::new();
        desk.write(name, content);
        let collection = desk.collect(&[name], "out", &everything()).unwrap();
        let found = documents(&collection, "a");
        let new = |text: &str, path: &str| Document {
            text: text.into(),
            source: "a".into(),
            path: path.into(),
            url: None,
            lang: None,
        };
        let first = Document { url: Some("http://x".into()), ..new("One é", &format!("{name}:1")) };
        let second = Document { lang: Some("de".into()), ..new("Zwei", "z.txt") };
        assert_eq!(found, [first, second]);
        assert_eq!(skipped(&collection, "a", Skip::Empty), 1);
    }
}

#[test]
fn a_collection_can_be_collected_again() {
    let desk = Desk::new();
    desk.write("in/a.txt", "one");
    desk.write("in/b.txt", "two");
    desk.collect(&["in"], "first", &everything()).unwrap();
    let again = desk.collect(&["first"], "second", &everything()).unwrap();
    assert_eq!(texts(&again, "first"), ["one", "two"]);
    assert_eq!(documents(&again, "first")[1].path, "b.txt");
}

#[test]
fn other_fields_hold_text_if_asked() {
    let desk = Desk::new();
    desk.write("a.jsonl", "{\"content\": \"here\", \"text\": \"not here\"}\n");
    let read = ReadOptions { field: "content".into(), ..ReadOptions::default() };
    let collection = desk.collect(&["a.jsonl"], "out", &Options { read, ..everything() }).unwrap();
    assert_eq!(texts(&collection, "a"), ["here"]);
}

#[test]
fn parquet_files() {
    let desk = Desk::new();
    let long: Vec<_> = (0..1300).map(|at| format!("text number {at}")).collect();
    let mut rows: Vec<_> = long.iter().map(|text| Some(text.as_str())).collect();
    rows[3] = None;
    rows[1299] = None;
    desk.write("a.parquet", parquet(&rows));
    let collection = desk.collect(&["a.parquet"], "out", &everything()).unwrap();
    let wanted: Vec<_> = rows.iter().flatten().copied().collect();
    assert_eq!(texts(&collection, "a"), wanted);
    assert_eq!(skipped(&collection, "a", Skip::Empty), 2);
    let last = documents(&collection, "a").pop().unwrap();
    assert_eq!((last.path.as_str(), last.url.as_deref()), ("a.parquet:1299", Some("http://298")));
}

#[test]
fn web_archives() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n<title>T</title><p>caf\xe9</p>";
    let packed = gzip(b"<p>packed</p>");
    let packed =
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n".as_slice(), &packed].concat();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<p>a \r\n3\r\nb c\r\n0\r\n\r\n";
    let records = [
        record("warcinfo", "", b"software: test"),
        record("response", "http://a/", page),
        record("request", "http://a/", b"GET / HTTP/1.1\r\n\r\n"),
        record("response", "http://b/", b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\nno"),
        record("response", "http://c/", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\nno"),
        record("response", "http://d/", &packed),
        record("response", "http://e/", chunked),
        record("conversion", "http://f/", "plain text of a page".as_bytes()),
    ];
    let members: Vec<u8> = records.iter().flat_map(|record| gzip(record)).collect();
    for (name, content) in
        [("a.warc", records.concat()), ("a.warc.gz", members), ("a.warc.zst", zst(&records.concat()))]
    {
        let desk = Desk::new();
        desk.write(name, content);
        let collection = desk.collect(&[name], "out", &everything()).unwrap();
        assert_eq!(texts(&collection, "a"), ["T\n\ncafé", "packed", "a b c", "plain text of a page"]);
        let urls: Vec<_> = documents(&collection, "a").into_iter().map(|document| document.url.unwrap()).collect();
        assert_eq!(urls, ["http://a/", "http://d/", "http://e/", "http://f/"]);
        assert_eq!(skipped(&collection, "a", Skip::NoPage), 2);
    }
}

#[test]
fn long_texts_are_cut_between_paragraphs_and_nothing_is_lost() {
    let desk = Desk::new();
    let text: String =
        (0..3000).map(|at| format!("Paragraph {at} é.{}", if at % 3 == 0 { "\n\n" } else { "\n" })).collect();
    desk.write("a.txt", &text);
    desk.write("a.rs", &text);
    let read = ReadOptions { piece: 5000, ..ReadOptions::default() };
    let options = Options { read: read.clone(), shard_bytes: 20_000, ..everything() };
    let collection = desk.collect(&["a.txt"], "out", &options).unwrap();
    let pieces = documents(&collection, "a");
    assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), text);
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.text.len() <= 5000));
    assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.text.ends_with("\n\n")));
    assert_eq!((pieces[0].path.as_str(), pieces[1].path.as_str()), ("a.txt", "a.txt#2"));
    let account = collection.source("a").unwrap();
    assert!(account.shards.len() > 2 && account.shards.iter().all(|shard| shard.count.bytes <= 20_000));
    // Code is not cut, and one long line can be.
    let whole = desk.collect(&["a.rs"], "code", &Options { read: read.clone(), ..everything() }).unwrap();
    assert_eq!(texts(&whole, "a"), [text]);
    let line = "é".repeat(50_000);
    desk.write("line.txt", &line);
    let collection = desk.collect(&["line.txt"], "line", &Options { read, ..everything() }).unwrap();
    assert_eq!(texts(&collection, "line").concat(), line);
}

#[test]
fn kinds_decide_which_filters_apply() {
    let desk = Desk::new();
    desk.write("in/main.rs", "fn main() {\n    println!(\"hello to the world of code\");\n}\n");
    let options = Options { copies: everything().copies, ..Options::default() };
    let collection = desk.collect(&["in"], "out", &options).unwrap();
    assert_eq!(collection.source("in").unwrap().kept.documents, 1);
    let read = ReadOptions { kind: Some(Kind::Text), ..ReadOptions::default() };
    let collection = desk.collect(&["in"], "text", &Options { read, ..options }).unwrap();
    let account = collection.source("in").unwrap();
    assert_eq!((account.kept.documents, account.shards.len()), (0, 0));
    let dropped: Vec<_> = account.dropped.iter().filter(|dropped| dropped.count.documents > 0).collect();
    assert_eq!(dropped.len(), 1);
    assert_eq!(dropped[0].filter, "c4");
    assert_eq!(dropped[0].reasons["a curly brace"], 1);
    let samples = collection.samples("c4").unwrap();
    assert_eq!((samples.len(), samples[0].document.path.as_str()), (1, "main.rs"));
}
