//! Recipes with stages: what each stage is, and what is refused with which words.

use spec::recipe::{Recipe, Stage, stages};

const RECIPE: &str = r#"
[model]
hidden_size = 64
layers = 2
heads = 4
ffn_size = 96
experts = 8
top_k = 2

[data]
context = 64
sources = [{ name = "code" }]

[data.corpus]
folder = "corpus"
paths = ["code"]
chats = ["talk=chats.jsonl"]
vocab_size = 500

[train]
tokens = 1_000_000
batch = 4096
micro_batch = 8
lr = 1e-3
warmup_tokens = 100_000

[[stages]]
name = "pretrain"

[[stages]]
name = "instruct"
data = { sources = [{ name = "talk" }] }
train = { tokens = 64_000, warmup_tokens = 0, lr = 1e-4 }
"#;

fn parse(text: &str, settings: &[&str]) -> Result<Vec<Stage>, String> {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    stages::parse(text, &settings).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(settings: &[&str], expected: &[&str]) {
    let error = parse(RECIPE, settings).unwrap_err();
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_stage_is_the_recipe_with_its_own_keys() {
    let stages = parse(RECIPE, &[]).unwrap();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["pretrain", "instruct"]);
    let [first, second] = [&stages[0].recipe, &stages[1].recipe];
    let whole = RECIPE.split("[[stages]]").next().unwrap();
    assert_eq!(first, &Recipe::parse(whole, &[]).unwrap());
    assert_eq!((second.train.tokens, second.train.lr, second.train.micro_batch), (64_000, 1e-4, 8));
    assert_eq!(second.data.sources.len(), 1);
    assert_eq!(second.data.sources[0].path, "corpus/shards/talk");
    assert_eq!((&second.model, &second.data.corpus), (&first.model, &first.data.corpus));

    let next = second.continuing("run/pretrain/model");
    assert_eq!(next.model.tokenizer.as_deref(), Some("corpus/tokenizer"));
    assert_eq!(Recipe::parse(&next.to_toml().unwrap(), &[]), Ok(next));
}

#[test]
fn a_recipe_without_stages_is_one() {
    let whole = RECIPE.split("[[stages]]").next().unwrap();
    let stages = parse(whole, &["train.lr=2e-3"]).unwrap();
    assert_eq!((stages.len(), stages[0].name.as_deref(), stages[0].recipe.train.lr), (1, None, 2e-3));
    let error = Recipe::parse(RECIPE, &[]).unwrap_err().to_string();
    assert!(error.contains("pretrain, instruct"), "{error}");
}

#[test]
fn settings_reach_a_stage_by_its_name() {
    let stages =
        parse(RECIPE, &["stages.instruct.train.lr=5e-4", "stages.pretrain.train.tokens=2_000_000", "train.lr=7e-4"]);
    let stages = stages.unwrap();
    assert_eq!((stages[0].recipe.train.lr, stages[1].recipe.train.lr), (7e-4, 5e-4));
    assert_eq!((stages[0].recipe.train.tokens, stages[1].recipe.train.tokens), (2_000_000, 64_000));
    refused(&["stages.instruk.train.lr=1"], &["--set stages.instruk.train.lr=1", "no such entry"]);
    let by_name = parse(RECIPE, &["data.sources.code.epochs=3"]).unwrap();
    assert_eq!(by_name[0].recipe.data.sources[0].epochs, Some(3.0));
}

#[test]
fn what_a_stage_says_wrong_is_named_by_its_place() {
    refused(&["stages.instruct.train.foo=1"], &["stages.instruct.train.foo: unknown field `foo`", "lr"]);
    refused(&["stages.instruct.data.foo=1"], &["stages.instruct.data.foo: "]);
    refused(&["stages.instruct.model.layers=3"], &["stages.instruct.model: ", "data and train"]);
    refused(&["stages.instruct.train=3"], &["stages.instruct.train: 3 is no table"]);
    refused(&["stages.instruct.train.lr=fast"], &["stages.instruct: ", "fast", "train.lr"]);
    refused(&["stages.instruct.train.lr=0"], &["stages.instruct.train.lr is 0"]);
    refused(&["stages.instruct.train.batch=100"], &["stages.instruct.train.batch is 100", "multiples of 512"]);
    refused(&["stages.instruct.data.sources=[]"], &["stages.instruct: data.sources is empty"]);
    // The key is the recipe's, and only this stage makes it wrong.
    refused(&["stages.instruct.data.context=24"], &["stages.instruct: train.batch is 4096", "192"]);
    // What is wrong with every stage is the recipe's own.
    let error = parse(RECIPE, &["train.foo=1"]).unwrap_err();
    assert!(error.contains("`foo`") && !error.contains("stages."), "{error}");
    refused(&["tarin.lr=1"], &["tarin"]);
}

#[test]
fn the_first_stage_decides_model_and_tokenizer() {
    refused(
        &["stages.instruct.data.context=128"],
        &["stages.instruct.data.context is 128", "64 positions", "model.context"],
    );
    assert!(parse(RECIPE, &["stages.instruct.data.context=128", "model.context=128"]).is_ok());
    let corpus =
        |more: &str| format!("stages.instruct.data.corpus={{ folder = \"chats\", chats = [\"c.jsonl\"]{more} }}");
    assert!(parse(RECIPE, &[&corpus("")]).is_ok());
    refused(&[&corpus(", vocab_size = 300")], &["stages.instruct", "vocab_size"]);
    refused(
        &[&corpus(", vocab_size = 300, paths = [\"x\"]")],
        &["stages.instruct.data.corpus.vocab_size", "first stage"],
    );
    let dense = RECIPE.replace("experts = 8\ntop_k = 2\n", "family = \"llama\"\n");
    let error = parse(&dense, &["stages.instruct.train.balance=0.1"]).unwrap_err();
    assert!(error.contains("stages.instruct.train.balance is 0.1; a llama model has no experts"), "{error}");
}

#[test]
fn names_are_plain_and_each_its_own() {
    refused(&["stages.0.name=instruct"], &["stages.instruct: ", "two stages"]);
    refused(&["stages.0.name=Instruct"], &["two stages"]);
    refused(&["stages.0.name=Model"], &["stages[0].name", "another name"]);
    for name in ["", "a/b", "..", "a b", "é"] {
        refused(&[&format!("stages.0.name=\"{name}\"")], &["stages[0].name", "folder"]);
    }
    refused(&["stages.0.name=3"], &["stages[0].name: 3 is no string"]);
    let error = parse(&RECIPE.replace("name = \"pretrain\"\n", ""), &[]).unwrap_err();
    assert!(error.contains("stages[0]: it has no name"), "{error}");
    for wrong in ["stages = []\n", "stages = 3\n", "stages = [1]\n"] {
        let whole = RECIPE.split("[[stages]]").next().unwrap();
        let error = parse(&format!("{wrong}{whole}"), &[]).unwrap_err();
        assert!(error.contains("[[stages]]"), "{error}");
    }
}
