//! `lyceum eval`: a text costs what transformers says, and what cannot be measured is refused.

use super::*;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::ffi::OsString;

#[test]
fn eval_finds_coarser_formats_further_away() {
    let path = model("llama");
    let ids = joined(&Reference::of("llama").prompt, ",");
    let fixed = ["--task", "logits", "--weights", "f32,bf16,int8,int4", "--kv-cache", "f32", "--json"];
    let out = json(lyceum().arg("eval").arg(path).args(["--token-ids", &ids]).args(fixed).output().unwrap());
    let errors: Vec<_> =
        out["weights"].as_array().unwrap().iter().map(|e| e["rms_relative"].as_f64().unwrap()).collect();
    assert_eq!((errors.len(), errors[0]), (4, 0.0));
    assert!(errors.is_sorted(), "{errors:?}");
    assert_eq!(out["weights"][0]["argmax_agreement"], 1.0);
}

/// The text of the fixture in a file, and what transformers found.
fn reference(folder: &Path) -> (PathBuf, Value) {
    let fixture = model("..").join("perplexity.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let path = folder.join("text.txt");
    std::fs::write(&path, fixture["text"].as_str().unwrap()).unwrap();
    (path, fixture)
}

#[test]
fn a_text_costs_what_transformers_finds() {
    let folder = tempfile::tempdir().unwrap();
    let (path, fixture) = reference(folder.path());
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let [context, stride] = ["context", "stride"].map(|key| case[key].to_string());
        let fixed = args!["eval", model(name), "--task", "perplexity", "--file", path, "--json", "--threads", "2"];
        let more = args!["--context", context, "--stride", stride, "--weights", "f32,int4", "--kv-cache", "f32,int8"];
        let out = json(run(fixed.into_iter().chain(more)));
        let nats: Vec<f64> = serde_json::from_value(case["nats"].clone()).unwrap();
        let sum: f64 = nats.iter().sum();
        let rows = out["rows"].as_array().unwrap();
        let of = |row: &Value| [row["weights"].clone(), row["kv_cache"].clone()];
        assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), [["f32", "f32"], ["f32", "int8"], ["int4", "f32"]]);
        let mean = rows[0]["nats_per_token"].as_f64().unwrap();
        assert!((mean / (sum / nats.len() as f64) - 1.0).abs() < 1e-4, "{name}: {mean}");
        assert_eq!((&out["tokens"], &out["documents"]), (&nats.len().into(), &1.into()));
        // Without a token that begins every text, the first one of the text has nothing to be told from: here `fn`.
        let text = fixture["text"].as_str().unwrap().len();
        let bytes = if name == "mixtral_spm" { text } else { text - "fn".len() };
        assert_eq!(out["bytes"], bytes, "{name}");
        let per_byte = rows[0]["bits_per_byte"].as_f64().unwrap();
        assert!((per_byte * bytes as f64 * 2f64.ln() / sum - 1.0).abs() < 1e-4);
        assert!((rows[0]["perplexity"].as_f64().unwrap().ln() / mean - 1.0).abs() < 1e-9);
        for row in rows {
            let difference = row["nats_per_token"].as_f64().unwrap() - mean;
            assert_eq!(row["difference_nats"].as_f64().unwrap(), difference);
        }
    }
}

#[test]
fn several_files_are_documents_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = reference(folder.path());
    let measure = |more: &[OsString]| {
        let fixed = args!["eval", model("mixtral_spm"), "--task", "perplexity", "--weights", "int8", "--json"];
        json(run(fixed.iter().chain(more)))
    };
    let one = measure(&args!["--file", path]);
    let two = measure(&args!["--file", path, "--file", path]);
    assert_eq!((&one["documents"], &two["documents"]), (&1.into(), &2.into()));
    for key in ["tokens", "bytes"] {
        assert_eq!(2 * one[key].as_u64().unwrap(), two[key].as_u64().unwrap());
    }
    assert_eq!(one["rows"][0]["nats_per_token"], two["rows"][0]["nats_per_token"]);
    // Cut, the bytes are those of the tokens that are left.
    let cut = measure(&args!["--file", path, "--tokens", "40"]);
    assert_eq!(cut["tokens"], 39);
    assert!((39..=4 * 39).contains(&cut["bytes"].as_u64().unwrap()), "{cut}");
    // Ids stand for no bytes that anybody knows.
    let ids = measure(&args!["--token-ids", "1,2,3"]);
    assert_eq!((&ids["tokens"], &ids["rows"][0]["bits_per_byte"]), (&2.into(), &Value::Null));
    let fixed = args!["eval", model("mixtral_spm"), "--task", "perplexity", "--file", path];
    let table = stdout(run(fixed));
    let rows: Vec<_> = table.lines().filter(|line| line.ends_with('%')).collect();
    assert_eq!(rows.len(), 7, "{table}");
    assert!(rows[0].starts_with("f32") && rows[0].ends_with("+0.000%"), "{table}");
}

#[test]
fn what_has_no_perplexity_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = reference(folder.path());
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let eval =
        |name: &str, more: &[OsString]| run(args!["eval", model(name), "--task", "perplexity"].iter().chain(more));
    fails(eval("qwen3_moe_bpe", &args!["--file", write("empty", b"")]), 1, &["empty is empty"]);
    fails(eval("qwen3_moe_bpe", &args!["--file", write("short", b"a")]), 1, &["short has one token", "two"]);
    fails(eval("qwen3_moe_bpe", &args!["--file", write("binary", b"\xff\xfe")]), 1, &["binary", "UTF-8"]);
    fails(eval("qwen3_moe_bpe", &args!["--file", folder.path().join("none")]), 1, &["cannot read", "none"]);
    fails(eval("qwen3_moe_bpe", &args!["--file", *folder.path()]), 1, &[&folder.path().display().to_string()]);
    fails(eval("qwen3_moe_bpe", &args!["--token-ids", "7"]), 1, &["two"]);
    fails(eval("qwen3_moe_bpe", &args!["--file", path, "--tokens", "1"]), 1, &["two"]);
    fails(eval("llama", &args!["--file", path]), 1, &["no tokenizer.json"]);
    fails(eval("llama", &args!["--token-ids", "1,200"]), 1, &["200", "127"]);
    fails(eval("llama", &[]), 2, &["--file"]);
    fails(eval("llama", &args!["--token-ids", "1,2", "--stride", "200"]), 2, &["--stride 200", "1 to 128"]);
    fails(eval("llama", &args!["--token-ids", "1,2", "--context", "0"]), 2, &["--context 0"]);
    let logits = args!["eval", model("llama"), "--task", "logits", "--token-ids", "1,2", "--stride", "2"];
    fails(run(logits), 2, &["--stride", "perplexity"]);
    let logits = args!["eval", model("llama"), "--task", "logits", "--token-ids", "1,2", "--kv-cache", "f32,int8"];
    fails(run(logits), 2, &["--kv-cache"]);
}

#[test]
fn logits_that_overflow_are_an_error_and_no_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model("llama").join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = std::fs::read(model("llama").join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let huge: Vec<u8> =
        tensors.tensor("model.norm.weight").unwrap().data().chunks(4).flat_map(|_| f32::MAX.to_le_bytes()).collect();
    let mut views: HashMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    let norm = &views["model.norm.weight"];
    views.insert("model.norm.weight".into(), TensorView::new(norm.dtype(), norm.shape().to_vec(), &huge).unwrap());
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    for temperature in ["0", "0.8"] {
        let generate = args!["generate", *folder.path(), "--prompt-ids", "1,2", "--temperature", temperature];
        fails(run(generate), 1, &["position 2", "not finite"]);
    }
    let eval = args!["eval", *folder.path(), "--task", "perplexity", "--token-ids", "1,2,3", "--weights", "f32"];
    fails(run(eval), 1, &["with f32 weights", "not finite"]);
}
