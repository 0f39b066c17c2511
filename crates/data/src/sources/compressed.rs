//! Opening files that may be packed.

use super::{Compression, Counted};
use crate::collect::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::AtomicU64;

const BUFFER: usize = 256 << 10;

/// The content of a file, unpacked as it is read.
pub(super) fn open<'p>(
    path: &Path,
    compression: Compression,
    progress: &'p AtomicU64,
) -> Result<Box<dyn BufRead + 'p>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let file = BufReader::with_capacity(BUFFER, Counted { inner: file, progress });
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        Compression::Zstd => {
            let decoder = zstd::Decoder::with_buffer(file).map_err(Error::reading(path))?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
    })
}
