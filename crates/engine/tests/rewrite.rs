//! A rewritten sequence continues as a new one would, bit by bit.

use engine::Runner;
use model::{Checkpoint, Decoder, LoadOptions};
use std::path::Path;
use tensor::{Device, KvFormat};

#[test]
fn a_rewritten_sequence_has_the_logits_of_a_new_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/mixtral_mqa");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut device = Device::new(2);
    let decoder = Decoder::load(&checkpoint, &mut device, &LoadOptions::default()).unwrap();
    let histories: [&[u32]; 4] = [&[1, 2, 3, 4, 5, 6, 7], &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 2, 9], &[1, 2, 9]];
    for kv in KvFormat::ALL {
        let mut fresh = Vec::new();
        for history in histories {
            let mut runner = Runner::new(&decoder, &mut device, kv, &[history.to_vec()], 0).unwrap();
            assert!(runner.step());
            fresh.push(runner.logits(0).map(<[f32]>::to_vec));
        }
        let mut runner = Runner::new(&decoder, &mut device, kv, &[vec![1, 2, 3]], 40).unwrap();
        for (history, expected) in histories.iter().zip(fresh) {
            runner.rewrite(0, history, 2).unwrap();
            assert!(runner.logits(0).is_none());
            assert!(runner.step());
            assert!(runner.logits(0) == expected.as_deref(), "{history:?} with {} keys", kv.name());
            runner.push(0, 50);
            assert!(runner.step());
        }
        assert!(runner.rewrite(0, &[1; 60], 20).is_err());
        assert!(runner.rewrite(0, &[], 1).is_err());
        assert!(runner.rewrite(0, &[1000], 1).is_err());
    }
}
