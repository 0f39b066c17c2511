//! What ranks hold adds up to the model, whatever divides it.

use proptest::prelude::*;
use spec::recipe::ModelRecipe;
use spec::{DecoderConfig, ParameterTable, Part, Slot};

fn gpt4() -> DecoderConfig {
    let text = include_str!("../../../recipes/gpt4.toml");
    let recipe = spec::recipe::Recipe::parse(text, &[]).unwrap();
    recipe.model.decoder(1, recipe.data.context).unwrap()
}

#[test]
fn the_report_s_model_has_the_report_s_size() {
    let config = gpt4();
    let count = config.count_parameters();
    let billions = |n: u64| (n as f64 / 1e8).round() / 10.0;
    assert_eq!(billions(count.total), 1830.5);
    assert_eq!(billions(config.layer_flops() / 2), 275.3);
    assert_eq!(billions(count.expert()), 111.0);
    assert_eq!(billions(count.attention()), 53.3);
    assert_eq!(config.kv_bytes_per_token(2, 0), 61_440);
    let listed: u64 = ParameterTable::new(&config).iter().map(|p| p.elements() as u64).sum();
    assert_eq!(listed, count.total);
}

#[test]
fn bytes_follow_the_precision_of_matrices_alone() {
    let config = gpt4();
    let table = ParameterTable::new(&config);
    let (whole, total) = (table.bytes(2.0, 2.0), config.count_parameters().total as f64);
    assert_eq!(whole, 2.0 * total);
    let kept = table.iter().filter(|p| !p.id.role.is_quantisable()).map(|p| p.elements() as f64).sum::<f64>();
    assert_eq!(table.bytes(1.0, 2.0), total + kept);
}

proptest! {
    #[test]
    fn ranks_hold_every_parameter_once(
        stages in 1..5_usize,
        tensor in prop::sample::select(vec![1, 2, 4, 8]),
        expert in prop::sample::select(vec![1, 2, 3, 6]),
        kv_heads in prop::sample::select(vec![1, 2, 4, 8]),
        tied: bool,
    ) {
        let recipe = ModelRecipe {
            hidden_size: Some(64), layers: Some(5), heads: Some(8), kv_heads: Some(kv_heads), ffn_size: Some(40),
            experts: Some(6), top_k: Some(2), tie_embeddings: Some(tied), ..ModelRecipe::default()
        };
        let config = recipe.decoder(99, 32).unwrap();
        let table = ParameterTable::new(&config);
        for parameter in table.iter() {
            let mut sum = 0;
            for stage in 0..stages {
                for t in 0..tensor {
                    for e in 0..expert {
                        let layers = std::iter::once(5 * stage / stages..5 * (stage + 1) / stages).collect();
                        let part = Part {
                            layers,
                            first: stage == 0,
                            last: stage + 1 == stages,
                            tensor: Slot { index: t, of: tensor },
                            expert: Slot { index: e, of: expert },
                        };
                        sum += parameter.held(&config, &part);
                    }
                }
            }
            let over_experts = if parameter.is_expert() { 1 } else { expert };
            let copies = parameter.copies(&config, tensor) * over_experts;
            // A tied embedding lies on the first stage and on the last.
            let ends = if tied && stages > 1 && parameter.stage() == spec::Stage::First { 2 } else { 1 };
            prop_assert_eq!(sum, (parameter.elements() * copies * ends) as u64, "{}", &parameter.name);
        }
        let held = table.held(&config, &Part::whole(&config));
        prop_assert_eq!(held.total(), config.count_parameters().total);
    }
}
