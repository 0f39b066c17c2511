//! `lyceum tokenizer`.

use super::*;

#[test]
fn text_becomes_ids_and_text_again() {
    let path = model("qwen3_moe_bpe");
    let text = "Grüße, 世界!\n  two lines";
    let ids = stdout(run(args!["tokenizer", "encode", path, text]));
    let arguments: Vec<_> = ids.split_whitespace().map(Into::into).collect();
    let decode = [args!["tokenizer", "decode", path].to_vec(), arguments].concat();
    assert_eq!(stdout(run(decode)), format!("{text}\n"));
    let out = json(run(args!["tokenizer", "encode", path, text, "--json"]));
    let listed: Vec<u32> = serde_json::from_value(out["ids"].clone()).unwrap();
    assert_eq!(joined(&listed, " ") + "\n", ids);
    assert_eq!(out["tokens"].as_array().unwrap().len(), listed.len());
    let back = json(run(args!["tokenizer", "decode", path, joined(&listed, ","), "--json"]));
    assert_eq!(back["text"], text);
}

#[test]
fn special_tokens_are_recognised_only_when_asked() {
    let path = model("qwen3_moe_bpe");
    let plain = stdout(run(args!["tokenizer", "encode", path, "<|im_end|>"]));
    assert!(plain.split_whitespace().count() > 1);
    assert_eq!(stdout(run(args!["tokenizer", "encode", path, "<|im_end|>", "--markers"])), "622\n");
    let file = path.join("tokenizer.json");
    assert_eq!(stdout(run(args!["tokenizer", "encode", file, "<|im_end|>"])), plain);
}
