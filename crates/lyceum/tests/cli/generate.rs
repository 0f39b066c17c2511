//! `lyceum generate`.

use super::*;
use std::io::Read;

/// The 64 tokens of transformers, for one fixture.
fn agrees(name: &str) {
    let reference = Reference::of(name);
    let (prompt, count) = (joined(&reference.prompt, ","), reference.greedy.len().to_string());
    let path = model(name);
    let floats =
        ["--weights", "f32", "--kv-cache", "f32", "--temperature", "0", "--ignore-eos", "--ids", "--threads", "2"];
    let mut command = lyceum();
    command.arg("generate").arg(path).args(["--prompt-ids", &prompt, "--max-tokens", &count]);
    let output = command.args(["--context", &reference.context]).args(floats).output().unwrap();
    assert_eq!(stdout(output), joined(&reference.greedy, " ") + "\n", "{name}");
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let names = std::fs::read_dir(model(".")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| model(name).join("reference.safetensors").exists());
    assert!(names.len() > 15);
    names.iter().for_each(|name| agrees(name));
}

fn text_of(more: &[&str]) -> Value {
    let mut command = lyceum();
    command.arg("generate").arg(model("qwen3_moe_bpe")).args(["--prompt", "The quick", "--max-tokens", "40", "--json"]);
    json(command.args(["--ignore-eos"]).args(more).output().unwrap())
}

#[test]
fn json_says_what_text_mode_prints() {
    let out = text_of(&["--seed", "7"]);
    let mut keys: Vec<_> = out.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let rates = ["decode_tokens_per_s", "finish_reason", "prefill_tokens_per_s", "prompt_tokens", "text", "tokens"];
    assert_eq!(keys, [&["completion_tokens"], &rates[..]].concat());
    assert_eq!((out["completion_tokens"].as_u64(), out["finish_reason"].as_str()), (Some(40), Some("length")));
    assert_eq!(out["tokens"].as_array().unwrap().len(), 40);
    let path = model("qwen3_moe_bpe");
    let same = args!["generate", path, "--prompt", "The quick", "--max-tokens", "40", "--ignore-eos", "--seed", "7"];
    assert_eq!(stdout(run(same)), format!("{}\n", out["text"].as_str().unwrap()));
}

#[test]
fn a_seed_gives_the_same_tokens_and_another_gives_others() {
    assert_eq!(text_of(&["--seed", "7"])["tokens"], text_of(&["--seed", "7", "--threads", "1"])["tokens"]);
    assert_ne!(text_of(&["--seed", "7"])["tokens"], text_of(&["--seed", "8"])["tokens"]);
    assert_eq!(text_of(&["--top-k", "1"])["tokens"], text_of(&["--temperature", "0"])["tokens"]);
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let whole = text_of(&["--seed", "7"])["text"].as_str().unwrap().to_owned();
    let from = whole.char_indices().nth(12).unwrap().0;
    let stop: String = whole[from..].chars().take(4).collect();
    let out = text_of(&["--seed", "7", "--stop", &stop, "--stop", "never in there"]);
    assert_eq!(out["text"].as_str().unwrap(), &whole[..whole.find(&stop).unwrap()]);
    assert_eq!(out["finish_reason"], "stop");
}

#[test]
fn the_prompt_may_come_from_a_file_or_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "The quick").unwrap();
    let path = model("qwen3_moe_bpe");
    let expected = stdout(run(args!["generate", path, "--prompt", "The quick"]));
    assert_eq!(stdout(run(args!["generate", path, "--prompt-file", file])), expected);
    let mut piped = lyceum();
    piped.args(args!["generate", path, "--prompt-file", "-"]).stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(stdout(piped.output().unwrap()), expected);
}

#[test]
fn a_demo_in_the_users_data_folder_needs_no_arguments() {
    let data = tempfile::tempdir().unwrap();
    let demo = data.path().join("lyceum/models/demo");
    std::fs::create_dir_all(&demo).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model("qwen3_moe_bpe").join(file), demo.join(file)).unwrap();
    }
    let output = lyceum().env("XDG_DATA_HOME", data.path()).arg("generate").output().unwrap();
    assert!(!stdout(output).trim().is_empty());
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let path = model("qwen3_moe_bpe");
    let mut command = lyceum();
    command.args(args!["generate", path, "--prompt", "The quick", "--ignore-eos", "--max-tokens", "100"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success() && stderr.is_empty(), "{stderr}");
}
