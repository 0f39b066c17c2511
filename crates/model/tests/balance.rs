//! What keeps experts evenly busy: the bias on their choice, and the most that each of them takes.

mod differences;

use model::training::{Fresh, Losses, MicroBatch, Objective};
use model::{Decoder, LoadOptions};
use spec::recipe::model::ModelRecipe;
use spec::{DecoderConfig, Ffn, ParameterId, ParameterTable, Role};
use tensor::{Device, Format};

const EXPERTS: usize = 4;
const TOP_K: usize = 2;
const TOKENS: usize = 60;

fn config(choice_bias: bool) -> DecoderConfig {
    let recipe = ModelRecipe {
        hidden_size: Some(24),
        layers: Some(2),
        heads: Some(3),
        ffn_size: Some(20),
        experts: Some(EXPERTS),
        top_k: Some(TOP_K),
        ..ModelRecipe::default()
    };
    let mut config = recipe.decoder(50, 64).unwrap();
    for layer in &mut config.layers {
        let Ffn::Experts(moe) = &mut layer.ffn else { panic!() };
        moe.choice_bias = choice_bias;
    }
    config
}

/// Weights large enough for routers to have preferences.
fn decoder(config: &DecoderConfig) -> (Decoder, ParameterTable) {
    let table = ParameterTable::new(config);
    let options = LoadOptions { weights: Some(Format::F32), ..LoadOptions::default() };
    let mut decoder =
        Decoder::from_parameters(&Fresh { seed: 5 }, &table, config, &mut Device::new(1), &options).unwrap();
    for parameter in table.iter().filter(|p| p.shape.len() == 2) {
        let values: Vec<f32> = decoder.read_parameter(parameter.id).unwrap().iter().map(|w| w * 10.0).collect();
        assert!(decoder.write_parameter(parameter.id, &values));
    }
    (decoder, table)
}

fn run(decoder: &Decoder, threads: usize, objective: Objective) -> (Losses, Decoder) {
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (i * i * 3 + 7 * i) % 50).collect();
    let targets: Vec<u32> = (0..TOKENS as u32).map(|i| (i * 11 + 2) % 50).collect();
    let batch = MicroBatch { tokens: &tokens, targets: &targets, documents: &[35, 25] };
    let mut gradients = decoder.zeros_like();
    let objective = Objective { scale: 1.0, share: 1.0, ..objective };
    let losses = decoder.loss_and_gradients(&mut Device::new(threads), &batch, &objective, &mut gradients);
    (losses, gradients)
}

fn bits(decoder: &Decoder, table: &ParameterTable) -> Vec<u32> {
    table.iter().flat_map(|p| decoder.read_parameter(p.id).unwrap()).map(f32::to_bits).collect()
}

#[test]
fn what_is_dropped_is_what_there_is_no_room_for() {
    let (decoder, table) = decoder(&config(false));
    let (dropless, gradients) = run(&decoder, 1, Objective::default());
    assert_eq!(dropless.dropped, [0, 0]);
    // An even share of all choices is TOKENS * TOP_K / EXPERTS; with room for every token nothing changes, not even a bit.
    let enough = Objective { capacity: Some(EXPERTS as f32 / TOP_K as f32), ..Objective::default() };
    let (roomy, same) = run(&decoder, 1, enough);
    assert!(roomy.tokens == dropless.tokens && roomy.dropped == [0, 0]);
    assert_eq!(bits(&same, &table), bits(&gradients, &table));
    for factor in [0.01f32, 0.5, 0.9, 1.0, 1.3] {
        let objective = Objective { capacity: Some(factor), ..Objective::default() };
        let (losses, gradients) = run(&decoder, 1, objective);
        let room = (f64::from(factor) * 30.0).ceil() as u32;
        for (load, &dropped) in losses.loads.iter().zip(&losses.dropped) {
            assert_eq!(load.iter().sum::<u32>(), (TOKENS * TOP_K) as u32);
            assert_eq!(dropped, load.iter().map(|load| load.saturating_sub(room)).sum::<u32>());
        }
        assert!(losses.dropped[0] > 0, "{factor}");
        // In the order of tokens, whatever the threads and whether or not it is computed twice.
        for (threads, recompute) in [(3, false), (2, true)] {
            let (again, twice) = run(&decoder, threads, Objective { recompute, ..objective });
            assert!(again.tokens == losses.tokens && bits(&twice, &table) == bits(&gradients, &table));
        }
    }
}

#[test]
fn gradients_follow_finite_differences_where_choices_are_dropped() {
    let (mut decoder, table) = decoder(&config(true));
    let objective = Objective { capacity: Some(0.7), ..Objective::default() };
    let (losses, gradients) = run(&decoder, 1, objective);
    assert!(losses.dropped.iter().all(|&dropped| dropped > 0));
    for bias in table.iter().filter(|p| p.id.role == Role::ChoiceBias) {
        assert!(gradients.read_parameter(bias.id).unwrap().iter().all(|g| *g == 0.0));
    }
    differences::agree(&mut decoder, &table, &gradients, &mut |decoder| {
        run(decoder, 1, objective).0.tokens.iter().map(|&l| f64::from(l)).sum()
    });
}

#[test]
fn a_bias_on_the_choice_evens_out_the_load() {
    let (mut decoder, _) = decoder(&config(true));
    let uneven = |losses: &Losses| -> u32 {
        let layer = |load: &Vec<u32>| load.iter().map(|&load| load.abs_diff(30)).sum::<u32>();
        losses.loads.iter().map(layer).sum()
    };
    let (first, _) = run(&decoder, 1, Objective::default());
    let bias = |decoder: &Decoder| decoder.read_parameter(ParameterId::layer(Role::ChoiceBias, 1)).unwrap();
    assert_eq!(bias(&decoder), [0.0; EXPERTS]);
    let choices = |losses: &Losses| -> Vec<Vec<u64>> {
        losses.loads.iter().map(|load| load.iter().map(|&load| load.into()).collect()).collect()
    };
    decoder.balance_choices(choices(&first).iter().map(Vec::as_slice), 0.25);
    let expected = first.loads[1].iter().map(|&load| match load {
        ..30 => 0.25,
        30 => 0.0,
        _ => -0.25,
    });
    assert_eq!(bias(&decoder), expected.collect::<Vec<f32>>());
    // Steps too small to leap over what is even.
    let (mut decoder, _) = self::decoder(&config(true));
    let mut last = first.clone();
    for _ in 0..200 {
        decoder.balance_choices(choices(&last).iter().map(Vec::as_slice), 0.01);
        last = run(&decoder, 1, Objective::default()).0;
    }
    assert!(uneven(&last) * 3 < uneven(&first), "{:?} {:?}", first.loads, last.loads);
}
