//! Law 2: a sequence's logits have the same bits whatever else is in the batch, however its prompt was cut, wherever its blocks lie, with any number
//! of threads, in every weight and cache format.

use model::{Batch, Checkpoint, Decoder, LoadOptions, Workspace};
use proptest::prelude::*;
use std::cell::RefCell;
use std::path::Path;
use tensor::{Chunk, Device, Format, KV_BLOCK, KvFormat};

/// Families that between them use every operation.
const MODELS: [&str; 5] = ["mixtral_mqa", "qwen3_moe", "gpt_oss", "mistral", "alibi"];

fn load(name: &str, weights: Format, device: &mut Device) -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    let options = LoadOptions { weights: Some(weights), context: Some(1024), ..LoadOptions::default() };
    Decoder::load(&Checkpoint::open(&path).unwrap(), device, &options).unwrap()
}

/// How several sequences are computed: for each step, how many tokens of each.
type Schedule = Vec<Vec<usize>>;

/// Bits of the logits of every token of every sequence, computed step by step; blocks are dealt out in the order of `deal`.
fn run(
    decoder: &Decoder,
    device: &mut Device,
    kv: KvFormat,
    sequences: &[Vec<u32>],
    schedule: &Schedule,
    reverse: bool,
) -> Vec<Vec<Vec<u32>>> {
    let most = sequences.iter().map(Vec::len).sum();
    let mut blocks: Vec<u32> = (0..most as u32).collect();
    if reverse {
        blocks.reverse();
    }
    let mut cache = decoder.new_cache(kv, most);
    let mut workspace = Workspace::new(decoder, most, most);
    let tables: Vec<Vec<u32>> =
        sequences.iter().map(|s| (0..s.len().div_ceil(KV_BLOCK)).map(|_| blocks.pop().unwrap()).collect()).collect();
    let mut done = vec![0; sequences.len()];
    let mut bits: Vec<Vec<Vec<u32>>> = vec![Vec::new(); sequences.len()];
    for step in schedule {
        let (mut tokens, mut chunks) = (Vec::new(), Vec::new());
        for (i, &len) in step.iter().enumerate().filter(|(_, len)| **len > 0) {
            chunks.push(Chunk { row: tokens.len(), len, position: done[i], block_table: &tables[i] });
            tokens.extend(&sequences[i][done[i]..done[i] + len]);
        }
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch { tokens: &tokens, chunks: &chunks, logit_rows: &rows };
        let logits = decoder.forward(device, &mut cache, &mut workspace, &batch);
        let mut row = 0;
        for (i, &len) in step.iter().enumerate() {
            bits[i].extend((row..row + len).map(|r| logits.row(r).iter().map(|x| x.to_bits()).collect()));
            row += len;
            done[i] += len;
        }
    }
    bits
}

/// A schedule that computes sequences of these lengths in random pieces.
fn schedules(lens: Vec<usize>) -> impl Strategy<Value = Schedule> {
    proptest::collection::vec(1usize..40, 200).prop_map(move |pieces| {
        let mut pieces = pieces.into_iter().cycle();
        let mut left = lens.clone();
        let mut schedule = Vec::new();
        while left.iter().any(|&l| l > 0) {
            let step: Vec<usize> = left
                .iter()
                .map(|&l| {
                    let piece = pieces.next().unwrap();
                    // Small pieces are single tokens and some steps leave a sequence out, as decoding beside prefill does.
                    if piece < 8 {
                        0
                    } else if piece < 16 {
                        l.min(1)
                    } else {
                        l.min(piece)
                    }
                })
                .collect();
            if step.iter().all(|&l| l == 0) {
                continue;
            }
            left.iter_mut().zip(&step).for_each(|(l, s)| *l -= s);
            schedule.push(step);
        }
        schedule
    })
}

fn sequences(count: usize) -> Vec<Vec<u32>> {
    (0..count).map(|s| (0..40 + 13 * s).map(|i| ((i * 31 + s * 17 + i * i) % 41) as u32).collect()).collect()
}

fn check(format: Format) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 6,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    for (index, name) in MODELS.iter().enumerate() {
        let kv = KvFormat::ALL[index % 3];
        let mut one = Device::new(1);
        let devices = [1, 2].map(|threads| RefCell::new(Device::new(threads)));
        let decoder = load(name, format, &mut one);
        let sequences = sequences(5);
        let lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
        // Each sequence alone, its prompt in one piece.
        let alone: Vec<_> = sequences
            .iter()
            .map(|s| run(&decoder, &mut one, kv, std::slice::from_ref(s), &vec![vec![s.len()]], false).remove(0))
            .collect();
        runner
            .run(&(schedules(lens), any::<bool>(), any::<bool>()), |(schedule, reverse, threaded)| {
                let mut device = devices[usize::from(threaded)].borrow_mut();
                let together = run(&decoder, &mut device, kv, &sequences, &schedule, reverse);
                for (s, (a, b)) in alone.iter().zip(&together).enumerate() {
                    for (position, (a, b)) in a.iter().zip(b).enumerate() {
                        prop_assert!(a == b, "{name} {format} {kv:?}: sequence {s}, position {position}");
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}

macro_rules! formats {
    ($($test:ident $format:ident),*) => {
        $(#[test]
        fn $test() {
            check(Format::$format);
        })*
    };
}

formats!(f32 F32, f16 F16, bf16 Bf16, fp8 Fp8, int8 Int8, int4 Int4, mxfp4 Mxfp4);

#[test]
fn every_cache_format_with_the_formats_of_serving() {
    for kv in KvFormat::ALL {
        for format in [Format::Bf16, Format::Int8] {
            let mut device = Device::new(2);
            let decoder = load("mixtral_mqa", format, &mut device);
            let sequences = sequences(40);
            let alone: Vec<_> = sequences[..3]
                .iter()
                .map(|s| {
                    run(&decoder, &mut device, kv, std::slice::from_ref(s), &vec![vec![1]; s.len()], true).remove(0)
                })
                .collect();
            let shortest = sequences[0].len();
            let mut schedule = vec![vec![1; 40]; shortest];
            schedule.push(sequences.iter().map(|s| s.len() - shortest).collect());
            let together = run(&decoder, &mut device, kv, &sequences, &schedule, false);
            assert!(alone == together[..3], "{format} {kv:?}");
        }
    }
}
