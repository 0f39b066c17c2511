//! From collected documents to shards.

use crate::{args, fails, json, run, stdout};
use data::collect::{Options, collect};
use data::sources::{From, Source};
use std::fs;
use std::path::Path;

fn collection(folder: &Path) {
    let input = folder.join("input");
    fs::create_dir(&input).unwrap();
    for i in 0..50 {
        let words: String = (0..40).map(|k| format!("fn item_{}(x: u32) {{ {} }}\n", (i * k) % 17, k)).collect();
        fs::write(input.join(format!("{i}.txt")), words).unwrap();
    }
    let source = Source { name: "code".into(), from: From::Path(input) };
    let options = Options { filters: Some(Vec::new()), ..Options::default() };
    collect(&[source], &folder.join("corpus"), &options, &|_, _, _| {}).unwrap();
}

#[test]
fn documents_become_a_tokenizer_and_shards_with_an_account() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    collection(folder.path());
    let train = args!["tokenizer", "train", "--data", at("corpus"), "--vocab-size", "300", "--out", at("tokenizer")];
    assert_eq!(stdout(run(train.clone())), "");
    fails(run(train), 1, &["exists already"]);
    for (size, expected) in [("100", "267"), ("90000", "at most")] {
        let train = args!["tokenizer", "train", "--data", at("corpus"), "--vocab-size", size, "--out", at("none")];
        fails(run(train), 1, &[expected]);
    }
    let ids = json(run(args!["tokenizer", "encode", at("tokenizer"), "fn item_3(x: u32)", "--json"]));
    assert!(ids["ids"].as_array().unwrap().len() < 12, "{ids}");
    let data = at("corpus");
    let prepare = args![
        "data",
        "prepare",
        "--data",
        data,
        "--tokenizer",
        at("tokenizer"),
        "--out",
        at("shards"),
        "--held-out",
        "20%",
        "--json"
    ];
    let made = json(run(prepare.clone()));
    let source = &made["sources"][0];
    assert_eq!(source["source"], "code");
    assert_eq!(source["tokenizer"]["vocab_size"], 300);
    let documents = |part: &str| source[part]["documents"].as_u64().unwrap();
    assert!(documents("train") + documents("held_out") > 10 && documents("held_out") > 0, "{made}");
    fails(run(prepare), 1, &["exists already"]);

    let recipe = "[data]\ncontext = 32\n[[data.sources]]\nname = \"code\"\npath = \"shards/code\"\n";
    fs::write(at("recipe.toml"), recipe).unwrap();
    let expected = stdout(run(args!["data", "stats", at("shards"), "--verify"]));
    assert!(expected.starts_with("code  "), "{expected}");
    assert_eq!(stdout(run(args!["data", "stats", at("recipe.toml")])), expected);
    assert_eq!(stdout(run(args!["data", "stats", at("shards/code")])), expected);
    let with_corpus =
        "data = { context = 32, sources = [{ name = \"code\" }], corpus = { folder = \".\", paths = [\"x\"] } }";
    fs::write(at("corpus.toml"), with_corpus).unwrap();
    assert_eq!(stdout(run(args!["data", "stats", at("corpus.toml")])), expected);
    fs::create_dir(at("run")).unwrap();
    let ledger = data::Ledger {
        samples: 5,
        sources: vec![data::SourceLedger {
            shards: String::new(),
            name: "code".into(),
            samples: 5,
            tokens: 150,
            epochs: 0.5,
            ..Default::default()
        }],
    };
    fs::write(at("run/ledger.json"), serde_json::to_vec(&ledger).unwrap()).unwrap();
    let seen = stdout(run(args!["data", "stats", at("recipe.toml"), "--run", at("run")]));
    assert!(seen.contains("150 tokens in 5 samples, 0.500 epochs"), "{seen}");

    fs::write(at("recipe.toml"), recipe.replace("context", "contxt")).unwrap();
    fails(run(args!["data", "stats", at("recipe.toml")]), 1, &["recipe.toml", "contxt"]);
    fails(run(args!["data", "stats", at("run")]), 2, &["lyceum data prepare"]);
    fails(run(args!["data", "prepare", "--tokenizer", at("tokenizer"), "--out", at("x")]), 2, &["--data"]);
}
