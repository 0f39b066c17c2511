//! Recipes: what is read, what is put in its place, and what is refused with which words.

use spec::recipe::{Batch, Recipe, Schedule, Start};
use spec::{Ffn, ParameterTable};

const RECIPE: &str = r#"
[model]
tokenizer = "tokenizer"
hidden_size = 64
layers = 2
heads = 4
ffn_size = 96
experts = 8
top_k = 2

[data]
context = 64
sources = [{ name = "code", path = "shards/code", epochs = 4.0 }]

[train]
tokens = 1_000_000
batch = 4096
micro_batch = 8
lr = 1e-3
warmup_tokens = 100_000
"#;

fn parse(settings: &[&str]) -> Result<Recipe, String> {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(RECIPE, &settings).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(settings: &[&str], expected: &[&str]) {
    let error = parse(settings).unwrap_err();
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn defaults_are_a_mixtral_with_one_kv_head() {
    let recipe = parse(&[]).unwrap();
    assert_eq!(recipe.model.start(), Ok(Start::Fresh));
    let decoder = recipe.model.decoder(500, 64).unwrap();
    assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.vocab_size, decoder.max_context), (1, 16, 500, 64));
    assert!(matches!(&decoder.layers[1].ffn, Ffn::Experts(moe) if moe.experts == 8 && moe.top_k == 2));
    assert!(ParameterTable::new(&decoder).iter().any(|p| p.name.contains("block_sparse_moe.experts.7.w2")));
    assert_eq!(recipe.train.schedule, Schedule::Cosine);
    assert_eq!(Recipe::parse(&recipe.to_toml().unwrap(), &[]), Ok(recipe));
}

#[test]
fn settings_take_the_place_of_what_is_written() {
    let recipe = parse(&[
        "train.lr=2e-4",
        "train.batch=[[0, 512], [10_000, 1024]]",
        "train.schedule=constant",
        "data.sources.0.epochs=2",
        "model.family = \"qwen3_moe\"",
        "hardware.threads=3",
    ]);
    let recipe = recipe.unwrap();
    assert_eq!(recipe.train.lr, 2e-4);
    assert_eq!(recipe.train.batch, Batch::Ramp(vec![[0, 512], [10_000, 1024]]));
    assert_eq!(recipe.train.schedule, Schedule::Constant);
    assert_eq!(recipe.data.sources[0].epochs, Some(2.0));
    assert_eq!(recipe.model.family(), "qwen3_moe");
    assert_eq!(recipe.hardware.threads, Some(3));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    refused(&["train.lr"], &["--set train.lr", "key=value"]);
    refused(&["lr=1"], &["section"]);
    refused(&["train..lr=1"], &["empty"]);
    refused(&["data.sources.7.epochs=1"], &["data.sources.7"]);
    refused(&["train.lr.x=1"], &["leads through"]);
    refused(&["train.lr=fast"], &["fast", "lr"]);
    refused(&["train.tokens=1.5"], &["1.5", "tokens"]);
    refused(&["train.learning_rate=1"], &["learning_rate", "lr"]);
    refused(&["tarin.lr=1"], &["tarin"]);
}

#[test]
fn contradictions_name_the_key_and_what_is_allowed() {
    refused(&["train.batch=4000"], &["train.batch is 4000", "multiples of 512", "micro_batch (8)"]);
    refused(&["train.batch=[[5, 512]]"], &["train.batch", "[0, "]);
    refused(&["train.batch=[[0, 512], [0, 1024]]"], &["train.batch", "rise"]);
    refused(&["train.batch=many"], &["a number of tokens, or a list"]);
    refused(&["train.micro_batch=0"], &["train.micro_batch is 0"]);
    refused(&["train.micro_batch=99999999999"], &["train.micro_batch"]);
    refused(&["train.lr=0"], &["train.lr is 0"]);
    refused(&["train.lr=nan"], &["train.lr is NaN"]);
    refused(&["train.final_lr=1"], &["train.final_lr is 1", "at most train.lr"]);
    refused(&["train.warmup_tokens=2_000_000"], &["train.warmup_tokens", "1000000"]);
    refused(&["train.schedule=wsd"], &["train.decay_tokens is missing", "wsd"]);
    refused(&["train.schedule=wsd", "train.decay_tokens=900_001"], &["train.decay_tokens", "900000"]);
    refused(&["train.schedule=constant", "train.final_lr=1e-4"], &["train.final_lr has no meaning"]);
    refused(&["train.schedule=linear"], &["linear", "cosine"]);
    refused(&["train.optimiser=sgd"], &["sgd", "adamw", "muon"]);
    refused(&["train.momentum=0.9"], &["train.momentum has no meaning", "adamw"]);
    refused(&["train.bias_rate=0"], &["train.bias_rate is 0", "above 0"]);
    refused(&["train.bias_rate=2"], &["train.bias_rate is 2"]);
    refused(&["train.capacity=-1"], &["train.capacity is -1"]);
    refused(&["train.precision=fp8"], &["fp8", "f32", "bf16"]);
    refused(&["train.keep_last=0"], &["train.keep_last is 0"]);
    refused(&["train.checkpoint_seconds=-1"], &["train.checkpoint_seconds is -1"]);
    refused(&["hardware.threads=0"], &["hardware.threads is 0"]);
    refused(&["model.heads=5"], &["model.heads is 5", "model.hidden_size (64)"]);
    refused(&["model.kv_heads=3"], &["num_key_value_heads"]);
    refused(&["model.top_k=9"], &["model.top_k is 9", "model.experts (8)"]);
    refused(&["model.family=gpt2"], &["gpt2", "mixtral", "llama"]);
    refused(&["model.family=llama"], &["model.experts has no meaning", "llama"]);
    refused(&["model.context=32"], &["data.context is 64", "32"]);
    refused(&["model.from=folder"], &["model.hidden_size has no meaning", "model.from"]);
    refused(&["model.from=a", "model.upcycle=b"], &["model.upcycle"]);
    refused(&["model.upcycle=b"], &["model.hidden_size has no meaning"]);
    refused(&["data.context=1"], &["data.context"]);
}

#[test]
fn a_wrong_file_is_shown_where_it_is_wrong() {
    let error = Recipe::parse(&RECIPE.replace("layers = 2", "layres = 2"), &[]).unwrap_err().to_string();
    assert!(error.contains("layres") && error.contains("line 5"), "{error}");
    let error = Recipe::parse("[model", &[]).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    let error = Recipe::parse(&RECIPE.replace("lr = 1e-3\n", ""), &[]).unwrap_err().to_string();
    assert!(error.contains("`lr`"), "{error}");
}

#[test]
fn keys_of_experts_have_no_meaning_without_them() {
    let dense = RECIPE.replace("experts = 8\ntop_k = 2\n", "family = \"llama\"\n");
    let parse = |setting: &str| Recipe::parse(&dense, &[setting.to_owned()]);
    assert!(parse("train.balance=0").is_ok());
    for key in ["train.balance", "train.bias_rate", "train.capacity"] {
        let error = parse(&format!("{key}=0.5")).unwrap_err().to_string();
        assert!(error.contains(&format!("{key} is 0.5; a llama model has no experts")), "{error}");
    }
}
