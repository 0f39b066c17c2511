//! Errors say what was wrong, where and what to do; 1 is a failure, 2 a misuse.

use super::*;

fn llama(more: &[&str]) -> Output {
    lyceum().arg("generate").arg(model("llama")).args(["--prompt-ids", "1,2"]).args(more).output().unwrap()
}

#[test]
fn misuse_is_status_2() {
    let path = model("llama");
    fails(llama(&["--threads", "0"]), 2, &["--threads", "0"]);
    fails(llama(&["--weights", "q9"]), 2, &["q9", "int8"]);
    fails(llama(&["--kv-cache", "fp4"]), 2, &["fp4", "bf16"]);
    fails(llama(&["--temperature=-1"]), 2, &["temperature is -1"]);
    fails(llama(&["--temperature", "NaN"]), 2, &["temperature"]);
    fails(llama(&["--top-p", "0"]), 2, &["top_p"]);
    fails(llama(&["--max-tokens", "0"]), 2, &["--max-tokens"]);
    fails(llama(&["--prompt", "both"]), 2, &["cannot be used with"]);
    fails(llama(&["--stop", "x"]), 2, &["--stop needs text"]);
    fails(llama(&["--stop", ""]), 2, &["--stop"]);
    fails(llama(&["--unknown"]), 2, &["--unknown"]);
    fails(run(args!["generate", path]), 2, &["--prompt"]);
    fails(run(args!["bench", path, "--prompt-tokens", "0", "--gen-tokens", "0"]), 2, &["nothing to measure"]);
    fails(run(args!["bench", path, "--parallel", "0"]), 2, &["--parallel"]);
    fails(run(args!["eval", path, "--task", "logits"]), 2, &["--file"]);
    fails(run(["frobnicate"]), 2, &["frobnicate"]);
}

#[test]
fn failures_are_status_1() {
    fails(run(["inspect", "/no/such/model"]), 1, &["/no/such/model"]);
    fails(run(args!["generate", model("llama"), "--prompt", "Hi"]), 1, &["no tokenizer.json", "--prompt-ids"]);
    fails(run(args!["chat", model("llama")]), 1, &["no tokenizer.json"]);
    fails(llama(&["--prompt-ids", "1000000"]), 1, &["1000000", "vocabulary of 127"]);
    fails(llama(&["--max-tokens", "4000000000"]), 1, &["context of"]);
    fails(llama(&["--context", "0"]), 1, &["context of 0"]);
    fails(llama(&["--context", "99999999999999"]), 1, &["99999999999999"]);
    fails(run(args!["generate", model("qwen3_moe_bpe"), "--prompt", ""]), 1, &["no tokens"]);
    fails(run(args!["generate", model("qwen3_moe_bpe"), "--prompt-file", "/none"]), 1, &["cannot read /none"]);
    fails(run(args!["tokenizer", "decode", model("qwen3_moe_bpe"), "99999"]), 1, &["99999"]);
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "not a model").unwrap();
    fails(run(args!["inspect", path]), 1, &["notes.txt", "neither a folder with config.json nor a .gguf file"]);
    let gguf = folder.path().join("broken.gguf");
    std::fs::write(&gguf, "not a model").unwrap();
    fails(run(args!["inspect", gguf]), 1, &["broken.gguf"]);
    fails(run(args!["generate", *folder.path(), "--prompt", "x"]), 1, &["no config.json", "broken.gguf"]);
    let bytes = folder.path().join("bytes.txt");
    std::fs::write(&bytes, [0xff, 0xfe]).unwrap();
    fails(run(args!["generate", model("qwen3_moe_bpe"), "--prompt-file", bytes]), 1, &["bytes.txt", "UTF-8"]);
}

#[test]
fn a_cache_beyond_memory_is_refused_before_it_is_made() {
    let many = ["--context", "16000000", "--parallel", "60000", "--prompt-tokens", "0"];
    let output = lyceum().arg("bench").arg(model("llama")).args(many).output().unwrap();
    fails(output, 1, &["K/V cache", "--kv-cache int8"]);
}

#[test]
fn a_tokeniser_with_more_ids_than_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(model("llama").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::copy(model("qwen3_moe_bpe").join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    fails(run(args!["generate", *folder.path(), "--prompt", "Hi"]), 1, &["127"]);
}

#[cfg(unix)]
#[test]
fn arguments_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let odd = OsStr::from_bytes(b"/no/such/\xff");
    fails(run([OsStr::new("inspect"), odd]), 1, &["/no/such/"]);
    let folder = model("qwen3_moe_bpe");
    fails(run([OsStr::new("generate"), folder.as_os_str(), OsStr::new("--prompt"), odd]), 2, &["UTF-8"]);
}

#[test]
fn help_has_an_example_for_every_command() {
    for command in ["bench", "chat", "convert", "data", "eval", "generate", "inspect", "tokenizer", "train"] {
        let help = stdout(run([command, "--help"]));
        assert!(help.contains("Example") && help.contains(&format!("lyceum {command}")), "{help}");
    }
    assert_eq!(run([""; 0]).status.code(), Some(2));
    assert!(stdout(run(["--version"])).starts_with("lyceum "));
}
