//! `lyceum convert`, there and back.

use super::*;
use tempfile::tempdir;

/// What a model says, by its ids and by its text.
fn says(path: &Path) -> (Vec<u32>, String) {
    let fixed = ["--prompt", "Once upon", "--temperature", "0", "--max-tokens", "24"];
    let text = stdout(lyceum().arg("generate").arg(path).args(fixed).output().unwrap());
    (greedy(path, &[5, 9, 200, 31], 32), text)
}

fn convert(from: &Path, to: &Path, weights: &str) {
    stdout(run(args!["convert", *from, *to, "--weights", weights]));
}

#[test]
fn folder_to_gguf_and_back_says_the_same() {
    let folder = tempdir().unwrap();
    let [half, file, copy, back] = ["half", "a.gguf", "b.gguf", "back"].map(|name| folder.path().join(name));
    convert(&model("qwen3_moe_bpe"), &half, "bf16");
    convert(&half, &file, "bf16");
    stdout(run(args!["convert", file, copy]));
    stdout(run(args!["convert", copy, back]));
    let expected = says(&half);
    for path in [file, copy, back] {
        assert_eq!(says(&path), expected, "{}", path.display());
    }
}

#[test]
fn gguf_to_folder_and_back_says_the_same() {
    let folder = tempdir().unwrap();
    let [there, back] = ["there", "back.gguf"].map(|name| folder.path().join(name));
    let source = model("../gguf/mixtral_spm.gguf");
    convert(&source, &there, "bf16");
    convert(&there, &back, "bf16");
    assert_eq!(says(&back), says(&there));
    // The folder's norms and router are bf16 now, so tokens are compared, not what the model says.
    let encode = |path: &Path| stdout(run(args!["tokenizer", "encode", *path, "Grüße, the two worlds", "--whole"]));
    assert_eq!(encode(&there), encode(&source));
}

#[test]
fn a_tokeniser_that_gguf_cannot_hold_may_be_left_out() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    fails(run(args!["convert", model("mixtral_spm"), path, "--weights", "bf16"]), 1, &["merges", "--no-tokenizer"]);
    stdout(run(args!["convert", model("mixtral_spm"), path, "--weights", "bf16", "--no-tokenizer"]));
    fails(run(args!["generate", path, "--prompt", "x"]), 1, &["no tokeniser", "--prompt-ids"]);
    assert_eq!(greedy(&path, &[1, 2, 3], 4).len(), 4);
}

#[test]
fn a_lossless_copy_keeps_every_token() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy");
    stdout(run(args!["convert", model("mixtral_mqa"), copy]));
    let prompt = Reference::of("mixtral_mqa").prompt;
    assert_eq!(greedy(&copy, &prompt, 32), greedy(&model("mixtral_mqa"), &prompt, 32));
}

#[test]
fn every_precision_can_be_written_and_read() {
    let folder = tempdir().unwrap();
    for weights in ["f32", "f16", "bf16", "fp8", "int8", "int4", "mxfp4"] {
        let path = folder.path().join(weights);
        convert(&model("llama"), &path, weights);
        assert_eq!(greedy(&path, &[1, 2, 3], 4).len(), 4);
        let again = folder.path().join(format!("{weights}-again"));
        stdout(run(args!["convert", path, again]));
        assert_eq!(greedy(&path, &[1, 2, 3], 16), greedy(&again, &[1, 2, 3], 16));
    }
    for weights in ["f16", "bf16", "q8_0"] {
        let path = folder.path().join(format!("{weights}.gguf"));
        let output = run(args!["convert", model("llama"), path, "--weights", weights]);
        assert!(output.status.success());
        assert_eq!(greedy(&path, &[1, 2, 3], 4).len(), 4);
    }
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_but_a_model_ever() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("copy");
    convert(&model("llama"), &path, "bf16");
    fails(run(args!["convert", model("llama"), path, "--weights", "f32"]), 1, &["copy exists already", "--force"]);
    stdout(run(args!["convert", model("llama"), path, "--weights", "int8", "--force"]));
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["copy"]);
    std::fs::write(path.join("thesis.txt"), "years of work").unwrap();
    fails(run(args!["convert", model("llama"), path, "--force"]), 1, &["thesis.txt is no part of a model"]);
    fails(run(args!["convert", path, path, "--force"]), 2, &["where the source is"]);
    fails(run(args!["convert", path, *folder.path(), "--force"]), 2, &["where the source is"]);
    assert!(path.join("thesis.txt").exists());
}

#[test]
fn a_failed_replacement_leaves_what_was_there() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    convert(&model("qwen3_moe_bpe"), &path, "bf16");
    let before = std::fs::read(&path).unwrap();
    // GGUF has no word for ALiBi.
    let refused = run(args!["convert", model("alibi"), path, "--weights", "bf16", "--force"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_precision_that_cannot_be_held_must_be_chosen() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    fails(run(args!["convert", model("llama"), path]), 2, &["a.gguf", "--weights f16, bf16 or q8_0"]);
    fails(run(args!["convert", model("llama"), path, "--weights", "int4"]), 2, &["f16, bf16 or q8_0"]);
    fails(run(args!["convert", model("llama"), path, "--weights", "q3"]), 2, &["q3", "q8_0"]);
    assert!(!path.exists());
}
