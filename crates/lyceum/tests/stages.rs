//! A recipe with stages from outside: texts first, then conversations, of which only the answers are learned; killed or not, the same bytes.
#![cfg(unix)]

#[path = "../../train/tests/common/mod.rs"]
mod common;

use common::{assert_same, checkpoints, log, outcome};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const RECIPE: &str = r#"
[model]
hidden_size = 64
layers = 2
heads = 2
ffn_size = 64
experts = 4
top_k = 2
tie_embeddings = true

[data]
context = 64
sources = [{ name = "notes", weight = 1 }]

[data.corpus]
folder = "corpus"
paths = ["notes"]
chats = ["talk=talk.jsonl"]
filters = []
held_out = 0.0
vocab_size = 400

[train]
tokens = 5_120
batch = 512
micro_batch = 4
optimiser = "muon"
lr = 1e-2
checkpoint_every = 4

[hardware]
threads = 1
peak_gflops = 100

[[stages]]
name = "pretrain"

[[stages]]
name = "instruct"
data = { sources = [{ name = "talk", weight = 1 }] }
train = { tokens = 122_880, batch = 2048, lr = 2e-2, warmup_tokens = 8_192, checkpoint_every = 20 }
"#;

const TOWNS: [&str; 30] = [
    "Oslo", "Rome", "Lima", "Cairo", "Quito", "Paris", "Delhi", "Tunis", "Seoul", "Dakar", "Hanoi", "Minsk", "Sofia",
    "Berne", "Amman", "Kabul", "Lagos", "Luxor", "Malmo", "Nancy", "Osaka", "Perth", "Porto", "Split", "Tokyo",
    "Turin", "Varna", "York", "Zagreb", "Zurich",
];

/// What is asked and answered about a town: the answer cannot be guessed.
fn talk(index: usize) -> (String, String) {
    let answer = TOWNS[(index * 7 + 3) % TOWNS.len()];
    (format!("Who follows {}?", TOWNS[index]), format!("{answer} does."))
}

/// A folder with a recipe, notes and conversations.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("recipes/notes")).unwrap();
    for i in 0..40 {
        let towns = (0..20).map(|k| format!("{} follows nobody, does it? ", TOWNS[(i * k + i) % TOWNS.len()]));
        fs::write(at(&format!("recipes/notes/{i}.txt")), towns.collect::<String>()).unwrap();
    }
    let line = |index| {
        let (question, answer) = talk(index);
        json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
            .to_string()
    };
    let lines: Vec<String> = (0..TOWNS.len()).map(line).collect();
    fs::write(at("recipes/talk.jsonl"), lines.join("\n")).unwrap();
    fs::write(at("recipes/recipe.toml"), RECIPE).unwrap();
    folder
}

fn lyceum(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.current_dir(folder).env_remove("LYCEUM_FAILPOINT").stdin(Stdio::null());
    command
}

fn training(folder: &Path, settings: &[&str]) -> Command {
    let mut command = lyceum(folder);
    command.args(["train", "recipes/recipe.toml", "--run", "run"]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command
}

#[track_caller]
fn ended(command: &mut Command, status: i32, parts: &[&str]) -> String {
    let text = said(&command.output().unwrap(), status);
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    text
}

#[track_caller]
fn said(output: &Output, status: i32) -> String {
    let text = [&*output.stdout, &*output.stderr].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).concat();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn chat(folder: &Path, model: &str, question: &str) -> String {
    let mut command = lyceum(folder);
    command.args(["chat", model, "--temperature", "0", "--max-tokens", "16", "--threads", "1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{question}\n").as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap(), 0)
}

#[test]
fn a_model_reads_then_learns_to_answer() {
    let project = project();
    let folder = project.path();
    let text =
        ended(&mut training(folder, &[]), 0, &["stage 1 of 2: pretrain", "stage 2 of 2: instruct", "is run/model"]);
    assert!(!text.contains("/../"), "{text}");
    assert!(text.contains("lyceum data inspect recipes/corpus/collection"), "{text}");

    // It answers what it was taught, and stops there; before, it did not.
    for index in [0, 11, 29] {
        let (question, answer) = talk(index);
        assert_eq!(chat(folder, "run/model", &question).trim_end(), answer);
        assert_ne!(chat(folder, "run/pretrain/model", &question).trim_end(), answer);
    }
    assert_eq!(
        fs::read(folder.join("run/model/model.safetensors")).unwrap(),
        fs::read(folder.join("run/instruct/model/model.safetensors")).unwrap()
    );

    // Of a conversation exactly the answer counts, with the tokens that end it.
    let tokenizer = text::Tokenizer::from_folder(folder.join("run/model")).unwrap();
    // With `<|im_end|>` and the end of the line.
    let once: usize = (0..TOWNS.len()).map(|i| tokenizer.encode(&talk(i).1).unwrap().len() + 2).sum();
    let (instruct, pretrain) = (log(&folder.join("run/instruct")), log(&folder.join("run/pretrain")));
    let targets = |entry: &serde_json::Value| entry["targets"].as_u64().unwrap();
    assert!(pretrain.iter().all(|entry| targets(entry) > 400), "of texts nearly all count");
    let ledger: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("run/instruct/ledger.json")).unwrap()).unwrap();
    let epochs = ledger["sources"][0]["epochs"].as_f64().unwrap();
    let samples = ledger["sources"][0]["samples"].as_f64().unwrap();
    let (seen, expected) = (instruct.iter().map(targets).sum::<u64>() as f64, epochs * once as f64);
    // A sample that is filled up has the end of the text as one more. The last epoch is not whole.
    let range = 0.98 * expected..=1.02 * expected + samples;
    assert!(range.contains(&seen), "{seen} targets, {expected} in {epochs} epochs of {once}");

    // The same command again does nothing but say so.
    let before = outcome(&folder.join("run/instruct"));
    ended(&mut training(folder, &[]), 0, &["stage 2 of 2", "finished after 60 steps"]);
    assert_same(&outcome(&folder.join("run/instruct")), &before);

    // Every stage has its page, and one leads to them.
    ended(
        lyceum(folder).args(["train", "--report", "run", "--price", "2"]),
        0,
        &["run/pretrain/report.html", "run/instruct/report.html", "run/report.html"],
    );
    let index = fs::read_to_string(folder.join("run/report.html")).unwrap();
    assert!(
        index.contains("href=\"pretrain/report.html\"") && index.contains("href=\"instruct/report.html\""),
        "{index}"
    );
    let json = ended(lyceum(folder).args(["train", "--report", "run", "--json"]), 0, &[]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["stages"]["instruct"]["step"], 60);

    // What later stages went on from cannot be changed behind them.
    ended(
        &mut training(folder, &["stages.pretrain.train.tokens=10_240"]),
        1,
        &["run/pretrain", "5120", "10240", "run/instruct"],
    );
    let path = folder.join("run/pretrain/model/generation_config.json");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "\n").unwrap();
    ended(&mut training(folder, &[]), 1, &["begun from another model than", "pretrain/model"]);
}

const SHORT: [&str; 2] = ["stages.instruct.train.tokens=24_576", "stages.instruct.train.checkpoint_every=2"];

/// Everything that two stages leave.
fn outcomes(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let stage = |name: &str| {
        outcome(&folder.join("run").join(name))
            .into_iter()
            .map(move |(file, b)| (format!("{name}/{file}"), b))
            .collect::<Vec<_>>()
    };
    let mut files: std::collections::BTreeMap<_, _> = ["pretrain", "instruct"].into_iter().flat_map(stage).collect();
    for entry in fs::read_dir(folder.join("run/model")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap());
    }
    files
}

#[test]
fn killed_in_any_stage_it_ends_with_the_same_bytes() {
    let project = project();
    let folder = project.path();
    ended(&mut training(folder, &SHORT), 0, &["finished after 12 steps"]);
    let expected = outcomes(folder);
    fs::remove_dir_all(folder.join("run")).unwrap();

    let mut kills = Vec::new();
    for steps in [3, 9, 22, 30] {
        let mut child = training(folder, &SHORT)
            .env("LYCEUM_FAILPOINT", "step:5,save:5")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut stage = String::new();
        let mut count = 0;
        for line in lines {
            if let Some((_, name)) = line.split_once("of 2: ") {
                stage = name.to_owned();
            }
            count += u32::from(line == "failpoint enter step");
            if count == steps {
                child.kill().unwrap();
                break;
            }
        }
        assert!(!child.wait().unwrap().success() && count == steps);
        kills.push(stage);
    }
    kills.dedup();
    assert_eq!(kills, ["pretrain", "instruct"]);
    assert!(!checkpoints(&folder.join("run/instruct")).is_empty());
    // By now the first stage is over, and is not looked at again.
    let text = ended(&mut training(folder, &SHORT), 0, &["stage 2 of 2: instruct", "run/instruct/checkpoints/step-"]);
    assert!(!text.contains("stage 1 of 2"), "{text}");
    assert_same(&outcomes(folder), &expected);
}

#[test]
fn what_cannot_be_is_refused_before_time_is_spent() {
    let project = project();
    let folder = project.path();
    let refused = |settings: &[&str], parts: &[&str]| {
        ended(&mut training(folder, settings), 1, parts);
        assert!(!folder.join("run").exists());
    };
    refused(&["stages.instruct.train.foo=1"], &["recipe.toml", "stages.instruct.train.foo"]);
    refused(&["data.corpus.chats=[\"none.jsonl\"]"], &["recipes/none.jsonl"]);
    refused(
        &["stages.instruct.data.sources.talk.name=tlak"],
        &["stage instruct: source `tlak`", "recipes/corpus/shards/tlak"],
    );
    let once = ["stages.instruct.data.sources.talk.epochs=1"];
    refused(&once, &["stage instruct: ", "epochs", "source `talk`"]);
    // Shards of another tokenizer.
    fs::copy(folder.join("recipes/corpus/tokenizer/tokenizer.json"), folder.join("kept.json")).unwrap();
    let other = ["data.corpus.folder=\"other\"", "data.corpus.vocab_size=300"];
    let foreign = "stages.instruct.data.sources=[{ name = \"talk\", path = \"corpus/shards/talk\", weight = 1 }]";
    refused(&[other[0], other[1], foreign], &["stage instruct: source `talk`", "tokenizer"]);

    // A run without stages, and one with others, is not taken for this one.
    let whole = RECIPE.split("[[stages]]").next().unwrap();
    fs::write(folder.join("recipes/whole.toml"), whole).unwrap();
    let single = || {
        let mut command = lyceum(folder);
        command.args(["train", "recipes/whole.toml", "--run", "run"]);
        command
    };
    ended(&mut single(), 0, &["is run/model"]);
    ended(&mut training(folder, &[]), 1, &["other stages: no stages, now pretrain, instruct"]);
    fs::remove_dir_all(folder.join("run")).unwrap();
    let tiny = ["stages.instruct.train.tokens=2_048", "stages.instruct.train.warmup_tokens=0"];
    ended(&mut training(folder, &tiny), 0, &["is run/model"]);
    ended(&mut single(), 1, &["pretrain, instruct, now no stages"]);
    ended(
        &mut training(folder, &[tiny[0], tiny[1], "stages.pretrain.name=begin"]),
        1,
        &["pretrain, instruct, now begin, instruct"],
    );
}
