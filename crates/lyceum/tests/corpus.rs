//! One command from texts to a model: the corpus of a recipe is made once, and only by that recipe.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const RECIPE: &str = r#"
[model]
hidden_size = 32
layers = 1
heads = 2
ffn_size = 32
experts = 2
top_k = 1

[data]
context = 32
sources = [{ name = "notes" }]

[data.corpus]
folder = "made/corpus.1"
paths = ["notes"]
filters = []
held_out = 0.0
vocab_size = 280

[train]
tokens = 128
batch = 64
micro_batch = 2
lr = 1e-3
"#;

fn train(folder: &Path, settings: &[&str]) -> Output {
    let recipe = folder.join("recipe.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.arg("train").arg(recipe).arg("--run").arg(folder.join("run")).args(["--threads", "1"]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_recipe_makes_its_corpus_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("notes")).unwrap();
    fs::create_dir(folder.join("made")).unwrap();
    for i in 0..20 {
        let note = format!("Note {i}. ").repeat(i + 10);
        fs::write(folder.join(format!("notes/{i}.txt")), note).unwrap();
    }
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();

    let first = train(folder, &[]);
    assert!(first.status.success() && text(&first).contains("the corpus is made"), "{}", text(&first));
    assert!(folder.join("run/model/tokenizer.json").is_file());

    // What a killed attempt leaves beside it does not matter; nor does what happens to the texts later.
    fs::create_dir(folder.join("made/corpus.1.making")).unwrap();
    fs::remove_dir_all(folder.join("notes")).unwrap();
    let again = train(folder, &["train.tokens=192"]);
    assert!(again.status.success() && !text(&again).contains("the corpus is made"), "{}", text(&again));

    let other = train(folder, &["data.corpus.vocab_size=281"]);
    assert!(other.status.code() == Some(1) && text(&other).contains("another data.corpus"), "{}", text(&other));
    let foreign = train(folder, &["data.corpus.folder=\"run\""]);
    assert!(foreign.status.code() == Some(1) && text(&foreign).contains("is no corpus"), "{}", text(&foreign));
    assert!(folder.join("run/model/tokenizer.json").is_file());
    let nothing = train(folder, &["data.corpus.paths=[]"]);
    assert!(nothing.status.code() == Some(1) && text(&nothing).contains("nothing to collect"), "{}", text(&nothing));
}
