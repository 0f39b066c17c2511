//! A model whose arithmetic overflows now and then: what meets it fails alone.

use crate::common::*;
use engine::live::{Engine, Health, Job, KvMemory, Parts, PromptOutputs};
use engine::{GenerateError, Options, generate};
use model::files::FileError;
use model::{Checkpoint, Decoder, LoadOptions, ParameterRows, Parameters};
use spec::{Parameter, Role};
use tensor::{Device, KvFormat};

const NAME: &str = "qwen3_moe_bpe";
const KV: KvFormat = KvFormat::Bf16;

/// A model's parameters, but for one weight of the final norm, which makes logits overflow where its input is large.
struct Overflowing(Checkpoint);

impl Parameters for Overflowing {
    fn matrix<'a>(&'a self, parameter: &'a Parameter) -> Result<Box<dyn ParameterRows + 'a>, FileError> {
        Parameters::matrix(&self.0, parameter)
    }

    fn vector(&self, parameter: &Parameter) -> Result<Vec<f32>, FileError> {
        let mut values = Parameters::vector(&self.0, parameter)?;
        if parameter.id.role == Role::FinalNorm {
            values[3] = 3e38;
        }
        Ok(values)
    }
}

fn overflowing() -> (Decoder, Device) {
    let source = Overflowing(Checkpoint::open(&path(NAME)).unwrap());
    let mut device = Device::new(1);
    let options = LoadOptions { context: Some(CONTEXT), ..LoadOptions::default() };
    let (table, config) = (&source.0.table, source.0.decoder());
    let decoder = Decoder::from_parameters(&source, table, config, &mut device, &options).unwrap();
    (decoder, device)
}

fn overflowing_engine() -> Engine {
    let (decoder, device) = overflowing();
    let parts = Parts { decoder, tokenizer: tokenizer(NAME), device, draft: None, name: NAME.into() };
    Engine::start(parts, small(KV, KvMemory::Free)).unwrap()
}

#[test]
fn jobs_fail_where_plain_decoding_fails_and_the_others_go_on() {
    let (decoder, mut device) = overflowing();
    let engine = overflowing_engine();
    let jobs: Vec<_> = (0..60).map(|i| job(prompt(i, 1 + i as usize, 500), 1 + i as u32 % 7, sampling(0))).collect();
    let running: Vec<_> = jobs.iter().map(|job| submit(&engine, job.clone())).collect();
    let (mut failed, mut went_on) = (0, 0);
    for (i, (job, completion)) in jobs.iter().zip(running).enumerate() {
        let answer = answer(completion, 1);
        let mut expected = Vec::new();
        let options =
            Options { max_tokens: job.max_tokens as usize, sampling: sampling(0), stop_tokens: vec![], kv: KV };
        let outcome = generate(&decoder, &mut device, &job.prompt, &options, &mut |token| {
            expected.push(token);
            true
        });
        assert_eq!(answer.failed.is_some(), matches!(outcome, Err(GenerateError::NotFinite { .. })), "job {i}");
        assert_eq!(answer.choices[0].ids(), expected, "job {i}");
        failed += usize::from(answer.failed.is_some());
        went_on += usize::from(answer.failed.is_none());
    }
    assert!(failed > 5 && went_on > 5, "{failed} failed, {went_on} went on: the case shows nothing");
    assert_empty(&engine);
    assert_eq!(engine.stats().finished.failed, failed as u64);
    assert_eq!(engine.health(), Health::Healthy);
}

#[test]
fn a_failure_ends_all_choices_of_its_job() {
    let engine = overflowing_engine();
    let mut failed = 0;
    for i in 0..40 {
        let outputs = (i % 2 == 0).then_some(PromptOutputs::Logprobs(1));
        let wish = Job { choices: 4, prompt_outputs: outputs, ..job(prompt(i, 5, 500), 6, sampling(1)) };
        let answer = ask(&engine, wish);
        failed += usize::from(answer.failed.is_some_and(|message| message.contains("not finite")));
        assert!(outputs.is_none() || answer.prompt.is_none_or(|scores| scores.len() == 5));
    }
    assert!(failed > 0);
    assert_empty(&engine);
}
