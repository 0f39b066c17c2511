//! Where training starts, and that what is in memory is what is written.

mod common;

use common::{fixture_model, values};
use model::files::write_parameters;
use model::training::{Fresh, MicroBatch, Upcycled};
use model::{Checkpoint, Decoder, LoadOptions, Parameters};
use spec::recipe::model::upcycled;
use spec::{HfConfig, Init, ParameterTable};
use tensor::{Device, Format};

fn load(source: &dyn Parameters, config: &spec::DecoderConfig, threads: usize) -> Decoder {
    let options = LoadOptions { weights: Some(Format::F32), ..LoadOptions::default() };
    let table = ParameterTable::new(config);
    Decoder::from_parameters(source, &table, config, &mut Device::new(threads), &options).unwrap()
}

#[test]
fn fresh_weights_follow_the_table_and_nothing_else() {
    for name in ["mixtral_mqa", "gpt_oss", "llama"] {
        let config = Checkpoint::open(&fixture_model(name)).unwrap().decoder().clone();
        let table = ParameterTable::new(&config);
        let (decoder, again, other) = (
            load(&Fresh { seed: 1 }, &config, 1),
            load(&Fresh { seed: 1 }, &config, 3),
            load(&Fresh { seed: 2 }, &config, 2),
        );
        for parameter in table.iter() {
            let read = |decoder: &Decoder| decoder.read_parameter(parameter.id).unwrap();
            let weights = read(&decoder);
            assert!(weights == read(&again), "{}", parameter.name);
            match parameter.init {
                Init::Ones => assert!(weights.iter().all(|w| *w == 1.0)),
                Init::Zeros => assert!(weights.iter().all(|w| *w == 0.0)),
                Init::Normal { std } => {
                    assert!(weights != read(&other), "{}", parameter.name);
                    let square: f32 = weights.iter().map(|w| w * w).sum();
                    let found = (square / weights.len() as f32).sqrt();
                    let slack = 5.0 / (weights.len() as f32).sqrt();
                    assert!((found / std - 1.0).abs() < slack, "{}: {found} {std}", parameter.name);
                }
            }
        }
    }
}

#[test]
fn a_decoder_written_from_memory_is_read_bit_for_bit() {
    for name in ["mixtral_mqa", "gpt_oss", "qwen3_moe", "llama_odd"] {
        let source = Checkpoint::open(&fixture_model(name)).unwrap();
        let decoder = load(&source, source.decoder(), 2);
        let folder = tempfile::tempdir().unwrap();
        let config = HfConfig { quantisation: None, ..source.config.clone() };
        std::fs::write(folder.path().join("config.json"), config.to_json().unwrap()).unwrap();
        write_parameters(&decoder, &source.table, folder.path()).unwrap();
        let back = Checkpoint::open(folder.path()).unwrap();
        for parameter in source.table.iter() {
            let bits = |checkpoint| values(checkpoint, parameter).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(&source) == bits(&back), "{name}: {}", parameter.name);
        }
    }
}

#[test]
fn an_upcycled_model_says_what_the_dense_one_says() {
    for name in ["mistral", "qwen3"] {
        let dense = Checkpoint::open(&fixture_model(name)).unwrap();
        let config = upcycled(dense.decoder(), 4, 2).unwrap();
        let mut device = Device::new(2);
        let tokens: Vec<u32> = (0..20).map(|i| i * 5 % 100).collect();
        let targets: Vec<u32> = (0..20).map(|i| i * 7 % 100).collect();
        let batch = MicroBatch { tokens: &tokens, targets: &targets, documents: &[20] };
        let before = load(&dense, dense.decoder(), 2).token_losses(&mut device, &batch);
        let sparse = load(&Upcycled { dense, seed: 1 }, &config, 2);
        let after = sparse.token_losses(&mut device, &batch);
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4), "{name}: {before:?} {after:?}");
    }
    for (name, reason) in [("mixtral", "allowed are dense models"), ("../gradients/llama", "biases")] {
        let source = Checkpoint::open(&fixture_model(name)).unwrap();
        let error = upcycled(source.decoder(), 4, 2).unwrap_err().to_string();
        assert!(error.contains("model.upcycle") && error.contains(reason), "{error}");
    }
}
