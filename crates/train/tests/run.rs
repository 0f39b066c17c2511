//! Runs of a tiny model: what they learn, that nothing but the recipe decides it, and what becomes of damage.

mod common;

use common::{Project, RECIPE, assert_same, checkpoints, log, outcome};
use model::Checkpoint;
use spec::recipe::Recipe;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use train::{Options, Outcome, Progress, TrainError, Watcher, train};

/// Keeps notes, and asks to stop after a step.
#[derive(Default)]
struct Notes<'a> {
    notes: Vec<String>,
    stop: Option<(u64, &'a AtomicBool)>,
}

impl Watcher for Notes<'_> {
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn progress(&mut self, progress: &Progress) {
        if let Some((_, stop)) = self.stop.filter(|(step, _)| *step == progress.step) {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// A run of the project's recipe with settings, stopped after a step if one is given.
fn run(
    project: &Project,
    name: &str,
    settings: &[&str],
    stop_after: Option<u64>,
) -> (Result<Outcome, TrainError>, Vec<String>) {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::parse(RECIPE, &settings).unwrap();
    let stop = AtomicBool::new(false);
    let mut notes = Notes { notes: Vec::new(), stop: stop_after.map(|step| (step, &stop)) };
    let options = Options { base: &project.path("."), run: &project.path(name), threads: 1, stop: &stop };
    let result = train(&recipe, &options, &mut notes);
    (result, notes.notes)
}

/// A run to its end.
fn finished(project: &Project, name: &str, settings: &[&str]) -> PathBuf {
    let (result, notes) = run(project, name, settings, None);
    assert!(matches!(result, Ok(Outcome::Finished { .. })), "{result:?} {notes:?}");
    project.path(name)
}

#[test]
fn a_run_learns_and_leaves_a_model_that_opens() {
    let project = Project::new();
    let folder = finished(&project, "run", &["train.tokens=25_600"]);
    let log = log(&folder);
    let steps: Vec<_> = log.iter().filter(|line| line.get("loss").is_some()).collect();
    let loss = |line: &serde_json::Value| line["loss"].as_f64().unwrap();
    let (first, last) = (loss(steps[0]), loss(steps[steps.len() - 1]));
    assert!((first - 629f64.ln()).abs() < 0.2 && last < 0.8 * first, "{first} {last}");
    assert_eq!(steps.len(), 105);
    let tokens: Vec<_> = steps.iter().map(|line| line["tokens"].as_u64().unwrap()).collect();
    assert_eq!((tokens[0], tokens[10], tokens[104]), (128, 1536, 25_600));
    assert!(steps[0]["sources"]["up"].is_f64() && steps[0]["layers"][1]["load"].as_array().unwrap().len() == 4);
    let held_out: Vec<_> = log.iter().filter_map(|line| line.get("held_out")).collect();
    assert!(held_out.len() == 10 && held_out[0]["down"].is_f64());
    let model = Checkpoint::open(&folder.join("model")).unwrap();
    assert_eq!(model.decoder().kv_heads, 1);
    assert_eq!(model.tensors()[0].type_name, "BF16");
    assert_eq!(checkpoints(&folder), [104, 105]);
    let ledger: data::Ledger = serde_json::from_str(&fs::read_to_string(folder.join("ledger.json")).unwrap()).unwrap();
    assert_eq!(ledger.samples, 800);
}

#[test]
fn threads_change_no_bit_and_recomputing_neither() {
    let project = Project::new();
    let only_weights = |folder: PathBuf| {
        let mut files = outcome(&folder);
        files.retain(|name, _| name.ends_with(".safetensors") || name == "log.jsonl" || name == "ledger.json");
        files
    };
    let two = only_weights(finished(&project, "two", &["hardware.threads=2"]));
    assert!(two.len() == 6, "{:?}", two.keys());
    assert_same(&only_weights(finished(&project, "one", &[])), &two);
    assert_same(&only_weights(finished(&project, "again", &["train.recompute=true"])), &two);
    let muon = only_weights(finished(&project, "muon", &["train.optimiser=muon", "hardware.threads=2"]));
    assert!(muon["log.jsonl"] != two["log.jsonl"]);
    assert_same(&only_weights(finished(&project, "muon one", &["train.optimiser=muon"])), &muon);
}

#[test]
fn micro_batches_of_any_size_learn_the_same() {
    let project = Project::new();
    let losses =
        |folder: PathBuf| -> Vec<f64> { log(&folder).iter().filter_map(|line| line.get("loss")?.as_f64()).collect() };
    // The balance loss is each micro-batch's own.
    let two = losses(finished(&project, "two", &["train.balance=0"]));
    let one = losses(finished(&project, "one", &["train.balance=0", "train.micro_batch=1"]));
    let four = losses(finished(&project, "four", &["train.balance=0", "train.micro_batch=4"]));
    assert!(two.len() == 35);
    for (a, b) in two.iter().zip(&one).chain(two.iter().zip(&four)) {
        assert!((a - b).abs() < 2e-3 * a, "{a} {b}");
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_bit_for_bit() {
    let project = Project::new();
    let undisturbed = outcome(&finished(&project, "whole", &[]));
    // After step 10 the batch grows.
    for (i, steps) in [vec![1], vec![4, 5, 10, 11], vec![34], vec![35]].iter().enumerate() {
        let name = format!("parts {i}");
        for &step in steps {
            let (result, _) = run(&project, &name, &[], Some(step));
            // The last step is followed by no other.
            let ended = matches!(result, Ok(Outcome::Interrupted { step: at }) if at == step);
            assert!(ended || step == 35, "{result:?}");
        }
        assert_same(&outcome(&finished(&project, &name, &[])), &undisturbed);
    }
    // Once more changes nothing.
    assert_same(&outcome(&finished(&project, "whole", &[])), &undisturbed);
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let project = Project::new();
    let undisturbed = outcome(&finished(&project, "whole", &[]));
    let damages: [&dyn Fn(&PathBuf); 4] = [
        &|step| fs::remove_file(step.join("manifest.json")).unwrap(),
        &|step| fs::remove_file(step.join("optimiser/second/model.safetensors")).unwrap(),
        &|step| {
            let path = step.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - 9;
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        &|step| {
            let path = step.join("state.json");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
    ];
    for (i, damage) in damages.iter().enumerate() {
        let name = format!("run {i}");
        run(&project, &name, &[], Some(10)).0.unwrap();
        assert!(checkpoints(&project.path(&name)).ends_with(&[8, 10]));
        damage(&project.path(&name).join("checkpoints/step-10"));
        let (result, notes) = run(&project, &name, &[], None);
        assert!(matches!(result, Ok(Outcome::Finished { .. })), "{result:?}");
        assert!(notes.iter().any(|n| n.contains("step-10 is damaged")), "{notes:?}");
        assert!(notes.iter().any(|n| n.contains("step-8")), "{notes:?}");
        assert_same(&outcome(&project.path(&name)), &undisturbed);
    }
}

#[test]
fn without_a_whole_checkpoint_nothing_is_begun_anew() {
    let project = Project::new();
    run(&project, "run", &[], Some(2)).0.unwrap();
    fs::write(project.path("run/checkpoints/step-2/config.json"), "{}").unwrap();
    for _ in 0..2 {
        let (result, _) = run(&project, "run", &[], None);
        assert!(matches!(result, Err(TrainError::NoWholeCheckpoint { .. })), "{result:?}");
    }
}

/// Bytes are as they were written, by another version: that is no damage, and nothing is set aside.
#[test]
fn a_checkpoint_of_another_version_is_left_alone() {
    let project = Project::new();
    run(&project, "run", &[], Some(2)).0.unwrap();
    let step = project.path("run/checkpoints/step-2");
    let json =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(step.join(name)).unwrap()).unwrap() };
    let (mut state, mut manifest) = (json("state.json"), json("manifest.json"));
    state["mood"] = "new".into();
    let state = state.to_string();
    let sum = twox_hash::XxHash3_128::oneshot(state.as_bytes());
    manifest["files"]["state.json"] = serde_json::json!({ "bytes": state.len(), "xxh3": format!("{sum:032x}") });
    fs::write(step.join("state.json"), state).unwrap();
    fs::write(step.join("manifest.json"), manifest.to_string()).unwrap();
    let (result, notes) = run(&project, "run", &[], None);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("another version") && error.contains("mood"), "{error} {notes:?}");
    assert_eq!(checkpoints(&project.path("run")), [2]);
}

#[test]
fn another_model_other_data_or_another_order_is_refused() {
    let project = Project::new();
    run(&project, "run", &[], Some(2)).0.unwrap();
    let refused = |settings: &[&str], expected: &str| {
        let (result, _) = run(&project, "run", settings, None);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&["model.hidden_size=64", "model.head_dim=16"], "hidden_size");
    refused(&["model.experts=5"], "num_local_experts");
    refused(&["train.seed=4"], "train.seed");
    refused(&["train.optimiser=muon"], "train.optimiser");
    refused(&["data.sources.0.weight=3"], "data.sources.0.weight");
    refused(&["data.context=16"], "data.context");
    let (_, notes) = run(&project, "run", &["train.lr=2e-3"], Some(3));
    assert!(notes.iter().any(|n| n.contains("train.lr was 0.01, it is 0.002")), "{notes:?}");
    // The same documents elsewhere are the same data; other documents of the same lengths in the same place are not.
    fs::rename(project.path("up"), project.path("moved")).unwrap();
    let moved = ["train.lr=2e-3", "data.sources.0.path=moved"];
    assert!(run(&project, "run", &moved, Some(4)).0.is_ok());
    fs::remove_dir_all(project.path("moved")).unwrap();
    common::write_source(&project.path("tokenizer"), &project.path("moved"), "up", 7);
    refused(&moved, "sources.0.shards");
}

#[test]
fn what_does_not_fit_together_is_said_before_anything_is_written() {
    let project = Project::new();
    let refused = |settings: &[&str], expected: &[&str]| {
        let (result, _) = run(&project, "run", settings, None);
        let error = result.unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        assert!(!project.path("run").exists());
    };
    refused(&["data.sources.0.fim_rate=0.5"], &["up", "<|fim_prefix|>"]);
    refused(&["model.vocab_size=600"], &["model.vocab_size is 600", "629"]);
    refused(&["model.tokenizer=none"], &["model.tokenizer", "none"]);
    refused(&["data.sources.1.path=none"], &["down", "none"]);
    refused(&["data.sources.1.epochs=0.1"], &["down", "epochs", "fewer tokens"]);
    let settings = ["model.heads=3", "model.head_dim=16", "model.kv_heads=2"].map(str::to_owned);
    let error = Recipe::parse(RECIPE, &settings).unwrap_err().to_string();
    assert!(error.contains("num_key_value_heads"), "{error}");
}

#[test]
fn a_run_that_cannot_trust_its_numbers_stops() {
    let project = Project::new();
    let settings =
        ["train.lr=1e20", "train.clip=0", "train.warmup_tokens=640", "train.max_skips=3", "train.checkpoint_every=1"];
    let (result, notes) = run(&project, "run", &settings, None);
    let Ok(Outcome::Diverged { step, skipped: 3, reason, checkpoint }) = result else { panic!("{result:?}") };
    assert!(reason.contains("NaN") || reason.contains("inf"), "{reason}");
    assert!(notes.iter().filter(|note| note.contains("changes nothing")).count() == 3, "{notes:?}");
    // The weights that these numbers came from are no checkpoint to go on from.
    let left = checkpoints(&project.path("run"));
    assert!(left.iter().all(|left| *left < step - 3), "{left:?} {step}");
    assert_eq!(checkpoint, left.last().map(|last| project.path(&format!("run/checkpoints/step-{last}"))));
    let skipped = log(&project.path("run")).iter().filter(|line| line.get("skipped").is_some()).count();
    assert_eq!(skipped, 3);
}

#[test]
fn two_programs_do_not_train_in_one_folder() {
    let project = Project::new();
    fs::create_dir(project.path("run")).unwrap();
    let lock = fs::File::create(project.path("run/lock")).unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(run(&project, "run", &[], None).0, Err(TrainError::InUse { .. })));
}

#[test]
fn old_checkpoints_go_and_chosen_ones_stay() {
    let project = Project::new();
    let folder = finished(&project, "run", &["train.checkpoint_every=3", "train.keep_every=9", "train.keep_last=3"]);
    assert_eq!(checkpoints(&folder), [9, 18, 27, 30, 33, 35]);
    let hidden = fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}

#[test]
fn a_model_goes_on_with_its_weights_alone() {
    let project = Project::new();
    let first = finished(&project, "first", &["train.export=f32", "train.eval_every=35"]);
    let sizes = RECIPE.find("hidden_size").unwrap()..RECIPE.find("[data]").unwrap();
    let mut recipe = RECIPE.to_owned();
    recipe.replace_range(sizes, "");
    let recipe = recipe.replace("tokenizer = \"tokenizer\"", "from = \"first/model\"");
    // An update so small that no weight takes notice.
    let settings = ["train.lr=1e-30", "train.warmup_tokens=0", "train.eval_every=1", "train.tokens=256"];
    let recipe = Recipe::parse(&recipe, &settings.map(str::to_owned)).unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { base: &project.path("."), run: &project.path("second"), threads: 1, stop: &stop };
    train(&recipe, &options, &mut Notes::default()).unwrap();
    let held_out = |run: PathBuf| log(&run).iter().rev().find_map(|line| line.get("held_out").cloned()).unwrap();
    assert_eq!(held_out(first), held_out(project.path("second")));
}

/// Tokens that no batch divides, a bias on the choice of experts, and choices that are dropped.
#[test]
fn what_experts_are_given_goes_on_bit_for_bit() {
    let project = Project::new();
    let settings = ["train.tokens=2_470", "train.bias_rate=0.02", "train.capacity=1.1", "train.export=f32"];
    let whole = finished(&project, "whole", &settings);
    let entries: Vec<_> = log(&whole).into_iter().filter(|line| line.get("lr").is_some()).collect();
    let last = entries.last().unwrap();
    assert_eq!((last["tokens"].as_u64(), last["batch"].as_u64()), (Some(2_496), Some(192)));
    for entry in &entries {
        let layers = entry["layers"].as_array().unwrap();
        let dropped: u64 = layers.iter().map(|layer| layer["dropped"].as_u64().unwrap()).sum();
        assert_eq!(entry["dropped"], dropped);
    }
    assert!(entries.iter().any(|entry| entry["dropped"].as_u64() > Some(0)));
    // The bias follows from the loads in the log, and nothing else moves it.
    let model = Checkpoint::open(&whole.join("model")).unwrap();
    for layer in 0..2 {
        let id = spec::ParameterId::layer(spec::Role::ChoiceBias, layer);
        let mut expected = [0f32; 4];
        for entry in &entries {
            let load: Vec<u64> = serde_json::from_value(entry["layers"][layer]["load"].clone()).unwrap();
            let total: u64 = load.iter().sum();
            expected.iter_mut().zip(load).for_each(|(bias, load)| match (4 * load).cmp(&total) {
                std::cmp::Ordering::Less => *bias += 0.02,
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => *bias -= 0.02,
            });
        }
        assert_eq!(model.vector(id).unwrap(), expected);
        assert!(expected.iter().any(|bias| *bias != 0.0));
    }
    let (result, notes) = run(&project, "parts", &settings, Some(6));
    assert!(matches!(result, Ok(Outcome::Interrupted { step: 6 })));
    assert!(notes.iter().any(|note| note.contains("LyceumMixtralForCausalLM")), "{notes:?}");
    assert_same(&outcome(&finished(&project, "parts", &settings)), &outcome(&whole));
    // Without it, it is another model.
    let (result, _) = run(&project, "whole", &settings[..1], None);
    assert!(result.unwrap_err().to_string().contains("train.bias_rate"));
    // A model that has none gets one, and begins with what it would have said without.
    let first = finished(&project, "first", &["train.tokens=2_560", "train.export=f32"]);
    let sizes = RECIPE.find("hidden_size").unwrap()..RECIPE.find("[data]").unwrap();
    let mut from = RECIPE.to_owned();
    from.replace_range(sizes, "");
    fs::rename(first.join("model"), project.path("dense")).unwrap();
    let from = from.replace("tokenizer = \"tokenizer\"", "from = \"dense\"");
    let loss = |name: &str, more: &[&str]| {
        let settings: Vec<String> =
            ["train.balance=0", "train.tokens=1_280"].iter().chain(more).map(|s| (*s).into()).collect();
        let recipe = Recipe::parse(&from, &settings).unwrap();
        let stop = AtomicBool::new(false);
        let options = Options { base: &project.path("."), run: &project.path(name), threads: 1, stop: &stop };
        train(&recipe, &options, &mut Notes::default()).unwrap();
        log(&project.path(name))[0]["loss"].as_f64().unwrap()
    };
    assert_eq!(loss("unbiased", &[]), loss("biased", &["train.bias_rate=0.01"]));
}

/// Instruction tuning on a stream: samples of which nothing is to be learned change nothing, and are no reason to stop.
#[test]
fn batches_without_targets_are_passed_over() {
    let project = Project::new();
    let tokenizer = text::Tokenizer::from_folder(project.path("tokenizer")).unwrap();
    let id = data::shards::TokenizerId::of(&tokenizer).unwrap();
    let mut writer = data::shards::SetWriter::new(&project.path("chats"), "chats", id, 620, 4096).unwrap();
    for i in 0..200u32 {
        let tokens: Vec<u32> = (0..32).map(|k| (i * 13 + k) % 600).collect();
        // Most have no answer, some a long one.
        let mask: Vec<bool> = (0..32).map(|k| i % 8 == 0 && k > 20).collect();
        writer.push(&data::shards::Document { text_bytes: 32, tokens, mask: Some(mask) }, false).unwrap();
    }
    writer.finish().unwrap();
    let settings = [
        "data.sources=[{ name = \"chats\", path = \"chats\", epochs = 2 }]",
        "data.packing=stream",
        "train.batch=64",
        "train.tokens=6_400",
        "train.max_skips=1",
    ];
    let folder = finished(&project, "run", &settings);
    let steps: Vec<_> = log(&folder).into_iter().filter(|line| line.get("lr").is_some()).collect();
    let (without, with): (Vec<_>, Vec<_>) = steps.iter().partition(|line| line["targets"] == 0);
    assert!(without.len() > 20 && with.len() > 20, "{} {}", without.len(), with.len());
    assert!(without.iter().all(|line| line["skipped"] == "its batch has no targets" && line["loss"].is_null()));
    assert!(with.iter().all(|line| line.get("skipped").is_none() && line["targets"].as_u64() <= Some(22)));
    let (result, _) = run(&project, "parts", &settings, Some(17));
    assert!(matches!(result, Ok(Outcome::Interrupted { step: 17 })));
    assert_same(&outcome(&finished(&project, "parts", &settings)), &outcome(&folder));
}
