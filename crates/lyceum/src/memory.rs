//! Memory of this process and of the machine, where the system tells (Linux).

use crate::output::bytes;
use miette::{Result, miette};
use spec::DecoderConfig;
use tensor::{KV_BLOCK, KvFormat};

/// Most memory that this process has held at once.
pub fn peak() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Memory that programs can still be given without swapping.
fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// Memory of the machine.
pub fn total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

/// A line such as `VmHWM:    1234 kB`, in bytes.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Refuses a K/V cache that the machine has no memory for.
pub fn check_cache(config: &DecoderConfig, format: KvFormat, sequences: usize, positions: usize) -> Result<()> {
    let per_token = config.kv_bytes_per_token(format.element_bytes(), format.scale_bytes());
    let positions = positions.checked_next_multiple_of(KV_BLOCK).and_then(|p| p.checked_mul(sequences));
    let needed = positions.and_then(|p| per_token.checked_mul(p as u64)).unwrap_or(u64::MAX);
    match available() {
        Some(free) if needed > free => Err(miette!(
            help = "ask for fewer tokens or a shorter context, or hold the cache in int8 (--kv-cache int8)",
            "the K/V cache would take {}, but only {} of memory are free",
            bytes(needed),
            bytes(free)
        )),
        _ => Ok(()),
    }
}
