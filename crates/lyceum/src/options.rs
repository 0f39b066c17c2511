//! Flags that several commands share.

use clap::Args;
use std::thread::available_parallelism;
use tensor::{Device, Format, KvFormat};

/// How to compute.
#[derive(Args)]
pub struct Compute {
    /// Threads; all that the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Format of the weights while they compute: f32, f16, bf16, fp8, int8, int4 or mxfp4; as stored if not given
    #[arg(long, value_name = "FORMAT")]
    pub weights: Option<Format>,

    /// Format of the K/V cache: f32, bf16 or int8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub kv_cache: KvFormat,
}

impl Compute {
    /// The processor, with as many threads as asked.
    pub fn device(&self) -> Device {
        let all = || available_parallelism().map_or(1, usize::from);
        Device::new(self.threads.map_or_else(all, usize::from))
    }
}
