//! How many cache blocks there is memory for.

use model::Decoder;
use tensor::{KV_BLOCK, KvCache, KvFormat};

/// Memory for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvMemory {
    /// So many bytes.
    Bytes(usize),
    /// What is free when the engine starts, less a reserve, and no more than all sequences at full length need.
    Free,
}

/// No room for keys and values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Not even for one block.
    #[error(
        "{bytes} bytes of memory for keys and values hold no block of {KV_BLOCK} positions, which takes {block}; give more \
         (--kv-memory), or hold them in int8 (--kv-cache int8)"
    )]
    Bytes {
        /// What there is.
        bytes: usize,
        /// What a block takes.
        block: usize,
    },
    /// The system does not say what is free.
    #[error("this system does not say how much memory is free; say how much to use for keys and values (--kv-memory)")]
    Unknown,
}

/// Left for everything else: steps' tensors, requests, other programs. At least this, and this part of what is free.
const RESERVE_BYTES: usize = 256 << 20;
const RESERVE_PART: usize = 8;

/// Blocks of a cache, and bytes of them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub count: u32,
    pub bytes: usize,
}

/// Blocks for a model and, as many, for its draft model.
pub(super) fn blocks(
    memory: KvMemory,
    format: KvFormat,
    models: &[&Decoder],
    sequences: u32,
) -> Result<Blocks, MemoryError> {
    let block: usize = models.iter().map(|m| block_bytes(m, format)).sum();
    // More would never be owned; the prefix cache alone does not need them.
    let useful =
        models.iter().map(|m| m.context().div_ceil(KV_BLOCK)).max().unwrap_or(1).saturating_mul(sequences as usize);
    let (bytes, most) = match memory {
        KvMemory::Bytes(bytes) => (bytes, usize::MAX),
        KvMemory::Free => {
            let free = free().ok_or(MemoryError::Unknown)?;
            (free.saturating_sub(RESERVE_BYTES.max(free / RESERVE_PART)), useful)
        }
    };
    match (bytes / block).min(most).min(u32::MAX as usize - 1) {
        0 => Err(MemoryError::Bytes { bytes, block }),
        count => Ok(Blocks { count: count as u32, bytes: count * block }),
    }
}

fn block_bytes(decoder: &Decoder, format: KvFormat) -> usize {
    let config = decoder.config();
    KvCache::bytes_of(format, config.layers.len(), 1, config.kv_heads, config.head_dim)
}

/// Bytes that this process can still be given without swapping, by the machine and by the limits of its group.
fn free() -> Option<usize> {
    let machine = field(&read("/proc/meminfo")?, "MemAvailable:").map(|kib| kib * 1024);
    [machine, group_free()].into_iter().flatten().min()
}

/// What the limit of the control group leaves, if there is one; cached file pages do not count as used.
fn group_free() -> Option<usize> {
    let number = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let (most, used) = (number("/sys/fs/cgroup/memory.max")?, number("/sys/fs/cgroup/memory.current")?);
    let cached = read("/sys/fs/cgroup/memory.stat").and_then(|text| field(&text, "inactive_file ")).unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(cached)))
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_their_whole_name() {
        let text = "MemTotal:       16000 kB\nMemAvailable:   1234 kB\ninactive_file 77\n";
        assert_eq!(field(text, "MemAvailable:"), Some(1234));
        assert_eq!(field(text, "inactive_file "), Some(77));
        assert_eq!(field(text, "MemFree:"), None);
        assert_eq!(field("MemAvailable: none", "MemAvailable:"), None);
    }

    #[test]
    fn this_machine_has_free_memory_and_no_more_than_all() {
        let Some(text) = read("/proc/meminfo") else { return };
        let total = field(&text, "MemTotal:").unwrap() * 1024;
        assert!((1..=total).contains(&free().unwrap()));
    }
}
