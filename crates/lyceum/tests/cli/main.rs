//! The program from outside: what it prints, how it exits, and that its tokens are those of transformers.

mod bench;
mod chat;
mod collect;
mod convert;
mod errors;
mod eval;
mod generate;
mod inspect;
mod plan;
mod plan_serve;
mod prepare;
mod report;
mod serve;
mod tokenizer;

use safetensors::SafeTensors;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name)
}

/// The program with no demo in reach but that of the source tree.
fn lyceum() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.env("XDG_DATA_HOME", "/nonexistent").env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

fn run<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    lyceum().args(arguments).output().unwrap()
}

/// Arguments of different types as one list.
macro_rules! args {
    ($($argument:expr),* $(,)?) => { [$(std::ffi::OsString::from(&$argument)),*] };
}
use args;

/// What it printed, once it has succeeded without complaint.
#[track_caller]
fn stdout(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(output: Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// It must fail with this status, say all of `parts`, and print nothing else; neither may it look like a crash.
#[track_caller]
fn fails(output: Output, status: i32, parts: &[&str]) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.starts_with("error: "), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    for never in ["panicked", "backtrace", "Error {", "Some("] {
        assert!(!stderr.contains(never), "{stderr}");
    }
}

/// What transformers computed for a fixture.
struct Reference {
    context: String,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

impl Reference {
    fn of(name: &str) -> Self {
        let bytes = std::fs::read(model(name).join("reference.safetensors")).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let data = tensors.tensor(name).unwrap().data();
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
        };
        let context = metadata.metadata().as_ref().unwrap()["served_context"].clone();
        Self { context, prompt: ids("prompt"), greedy: ids("greedy") }
    }
}

fn joined(ids: &[u32], separator: &str) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(separator)
}

/// The most probable continuation of ids, as text or ids, computed in floats.
fn greedy(model: &Path, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let prompt = joined(prompt, ",");
    let tokens = tokens.to_string();
    let fixed = ["--temperature", "0", "--ignore-eos", "--ids", "--threads", "2", "--json"];
    let mut arguments = args!["generate", *model, "--prompt-ids", prompt, "--max-tokens", tokens].to_vec();
    arguments.extend(fixed.map(Into::into));
    let out = json(run(arguments));
    serde_json::from_value(out["tokens"].clone()).unwrap()
}
