//! What does a device offer? The hardware catalogue: every figure with its source.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What numbers are multiplied in, or stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 32-bit floats, multiplied with 10 bits of mantissa.
    Tf32,
    /// 16-bit floats (IEEE).
    F16,
    /// 16-bit floats with the exponent of f32.
    Bf16,
    /// 8-bit floats.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
}

impl Precision {
    /// All of them, widest first.
    pub const ALL: [Self; 7] = [Self::F32, Self::Tf32, Self::F16, Self::Bf16, Self::Fp8, Self::Int8, Self::Int4];

    /// Bytes of one number in memory; scales of blocks are not in it.
    pub fn bytes(self) -> f64 {
        match self {
            Self::F32 | Self::Tf32 => 4.0,
            Self::F16 | Self::Bf16 => 2.0,
            Self::Fp8 | Self::Int8 => 1.0,
            Self::Int4 => 0.5,
        }
    }

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = HardwareError;

    fn from_str(text: &str) -> Result<Self, HardwareError> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| HardwareError::Precision { name: text.into(), known: names(Self::ALL.map(Self::name)) })
    }
}

/// A number and where it comes from: a key of [`Accelerator::sources`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The number, in the unit of its field.
    pub value: f64,
    /// Which source gives it.
    pub source: String,
}

/// A link between devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bytes per second that one device sends, while it receives as many.
    pub bandwidth: Figure,
    /// Seconds before the first byte arrives.
    pub latency: Figure,
}

/// One device and the links of the machine it stands in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// What the command line calls it.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// Sources by key: document, table, date.
    pub sources: BTreeMap<String, String>,
    /// Bytes of memory, as the data sheet states them.
    pub memory: Figure,
    /// Bytes per second from memory.
    pub bandwidth: Figure,
    /// Units that compute a tile of a product each (streaming multiprocessors, compute units), where a product is computed so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Figure>,
    /// Rows of a product that one instruction takes, full or not (a systolic array, a matrix instruction); none where small ones cost little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_rows: Option<Figure>,
    /// Devices that [`Accelerator::intra_node`] joins.
    pub devices_per_node: usize,
    /// Links inside a node.
    pub intra_node: Link,
    /// Links between nodes.
    pub inter_node: Link,
    /// US dollars for an hour of one device; none where nobody credible publishes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<Figure>,
    /// Watts that the device is designed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<Figure>,
    /// Interruptions of a run that one device causes in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_per_day: Option<Figure>,
    /// Dense FLOP per second (a multiply and an add are two) by what is multiplied.
    pub peak: BTreeMap<Precision, Figure>,
}

impl Accelerator {
    /// Reads one device from TOML.
    ///
    /// # Errors
    /// What is no TOML, an unknown or missing key, a number that is not finite and above zero, a source that is not listed.
    pub fn parse(text: &str) -> Result<Self, HardwareError> {
        let accelerator: Self = toml::from_str(text)?;
        accelerator.validate()?;
        Ok(accelerator)
    }

    /// Dense FLOP per second in `precision`. F16 and bf16 run alike on every device listed, so either stands for the other; what
    /// the device has no arithmetic for (8-bit weights on a device that only has 16-bit products) runs at its 16-bit rate.
    pub fn peak(&self, precision: Precision) -> f64 {
        use Precision::*;
        let stands_in: &[Precision] = match precision {
            F32 => &[F32],
            Tf32 => &[Tf32, F32],
            F16 | Bf16 => &[Bf16, F16, F32],
            Fp8 => &[Fp8, Bf16, F16, F32],
            Int8 => &[Int8, Bf16, F16, F32],
            Int4 => &[Int4, Int8, Bf16, F16, F32],
        };
        stands_in.iter().find_map(|precision| self.peak.get(precision)).map_or(0.0, |figure| figure.value)
    }

    /// Every figure by its name.
    pub fn figures(&self) -> Vec<(String, &Figure)> {
        let mut all = vec![
            ("memory".to_owned(), &self.memory),
            ("bandwidth".to_owned(), &self.bandwidth),
            ("intra_node.bandwidth".to_owned(), &self.intra_node.bandwidth),
            ("intra_node.latency".to_owned(), &self.intra_node.latency),
            ("inter_node.bandwidth".to_owned(), &self.inter_node.bandwidth),
            ("inter_node.latency".to_owned(), &self.inter_node.latency),
        ];
        let optional = [
            ("price_per_hour", &self.price_per_hour),
            ("watts", &self.watts),
            ("units", &self.units),
            ("tile_rows", &self.tile_rows),
            ("failures_per_day", &self.failures_per_day),
        ];
        all.extend(optional.into_iter().filter_map(|(name, figure)| Some((name.to_owned(), figure.as_ref()?))));
        all.extend(self.peak.iter().map(|(precision, figure)| (format!("peak.{precision}"), figure)));
        all
    }

    pub(crate) fn validate(&self) -> Result<(), HardwareError> {
        let wrong =
            |key: &str, problem: String| HardwareError::Figure { id: self.id.clone(), key: key.into(), problem };
        for (key, figure) in self.figures() {
            if !(figure.value.is_finite() && figure.value > 0.0) {
                return Err(wrong(&key, format!("{} is not a number above 0", figure.value)));
            }
            if !self.sources.contains_key(&figure.source) {
                return Err(wrong(&key, format!("its source `{}` is not in [sources]", figure.source)));
            }
        }
        if self.devices_per_node == 0 {
            return Err(wrong("devices_per_node", "a node has at least 1 device".into()));
        }
        if self.peak(Precision::Bf16) == 0.0 {
            return Err(wrong("peak", "it needs at least bf16, f16 or f32".into()));
        }
        Ok(())
    }
}

/// Many devices of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The device.
    pub accelerator: Accelerator,
    /// How many.
    pub devices: usize,
}

/// The devices that are known.
#[derive(Clone, Debug)]
pub struct Catalogue {
    accelerators: Vec<Accelerator>,
}

const EMBEDDED: &[&str] = &[
    include_str!("../catalogue/a100-40g.toml"),
    include_str!("../catalogue/a100-80g.toml"),
    include_str!("../catalogue/h100.toml"),
    include_str!("../catalogue/h100-96g.toml"),
    include_str!("../catalogue/h800.toml"),
    include_str!("../catalogue/h200.toml"),
    include_str!("../catalogue/h20.toml"),
    include_str!("../catalogue/b200.toml"),
    include_str!("../catalogue/mi300x.toml"),
    include_str!("../catalogue/tpuv4.toml"),
    include_str!("../catalogue/cpu.toml"),
];

impl Catalogue {
    /// The catalogue that ships with the program.
    ///
    /// # Errors
    /// None, unless a file of the catalogue itself is damaged; a test reads them all.
    pub fn embedded() -> Result<Self, HardwareError> {
        let accelerators = EMBEDDED.iter().map(|text| Accelerator::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { accelerators })
    }

    /// The devices in order.
    pub fn iter(&self) -> impl Iterator<Item = &Accelerator> {
        self.accelerators.iter()
    }

    /// Adds a device (a measured profile, say), in place of one with the same id.
    pub fn add(&mut self, accelerator: Accelerator) {
        self.accelerators.retain(|other| other.id != accelerator.id);
        self.accelerators.push(accelerator);
    }

    /// The device of this id.
    ///
    /// # Errors
    /// An id that is not there, with those that are.
    pub fn get(&self, id: &str) -> Result<&Accelerator, HardwareError> {
        self.iter().find(|accelerator| accelerator.id == id).ok_or_else(|| HardwareError::Unknown {
            id: id.into(),
            known: names(self.iter().map(|accelerator| accelerator.id.as_str())),
        })
    }

    /// `ID:DEVICES`, or `ID` for one node.
    ///
    /// # Errors
    /// An unknown id, or a count that is none.
    pub fn cluster(&self, text: &str) -> Result<Cluster, HardwareError> {
        let (id, count) = text.split_once(':').map_or((text, None), |(id, count)| (id, Some(count)));
        let accelerator = self.get(id)?.clone();
        let devices = match count {
            None => accelerator.devices_per_node,
            Some(count) => count
                .parse()
                .ok()
                .filter(|&devices| (1..=MOST_DEVICES).contains(&devices))
                .ok_or_else(|| HardwareError::Devices { text: text.into(), count: count.into() })?,
        };
        Ok(Cluster { accelerator, devices })
    }
}

/// The most devices of a cluster: beyond it, sums would no longer be exact.
const MOST_DEVICES: usize = 10_000_000;

/// Hardware that cannot be planned for.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum HardwareError {
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// No such device.
    #[error("unknown hardware `{id}`; known are {known}")]
    Unknown {
        /// What was asked for.
        id: String,
        /// What there is.
        known: String,
    },
    /// No such precision.
    #[error("unknown precision `{name}`; known are {known}")]
    Precision {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A count of devices that is none.
    #[error(
        "hardware `{text}`: `{count}` is no count of devices, allowed is 1 to 10000000; write h100:128 for 128 of them"
    )]
    Devices {
        /// The whole text.
        text: String,
        /// What should be a count.
        count: String,
    },
    /// A figure that cannot be.
    #[error("hardware `{id}`: {key}: {problem}")]
    Figure {
        /// Which device.
        id: String,
        /// Which figure.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    all.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        let catalogue = Catalogue::embedded().unwrap();
        for id in ["a100-40g", "a100-80g", "h100", "h800", "h200", "h20", "b200", "mi300x", "cpu"] {
            let accelerator = catalogue.get(id).unwrap();
            assert!(accelerator.peak(Precision::Int8) >= accelerator.peak(Precision::Bf16), "{id}");
            assert!(accelerator.peak(Precision::Bf16) >= accelerator.peak(Precision::F32), "{id}");
            assert!(accelerator.intra_node.bandwidth.value >= accelerator.inter_node.bandwidth.value, "{id}");
        }
    }

    #[test]
    fn an_unknown_device_lists_those_that_are_known() {
        let catalogue = Catalogue::embedded().unwrap();
        let error = catalogue.cluster("h1000:8").unwrap_err().to_string();
        assert!(error.contains("h1000") && error.contains("a100-40g, a100-80g, h100"), "{error}");
        for text in ["h100:0", "h100:-1", "h100:many", "h100:"] {
            assert!(matches!(catalogue.cluster(text), Err(HardwareError::Devices { .. })), "{text}");
        }
        assert_eq!(catalogue.cluster("h100").unwrap().devices, 8);
    }

    #[test]
    fn a_figure_needs_a_listed_source_and_a_value() {
        let text = EMBEDDED[0];
        let refused = |text: &str, expected: &str| {
            let error = Accelerator::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&text.replace("value = 624e12", "value = -624e12"), "peak.int8");
        refused(&text.replace("value = 624e12", "value = nan"), "peak.int8");
        refused(&text.replace("[sources]", "[sources]\nother = \"x\"").replace("datasheet =", "sheet ="), "[sources]");
        refused(&text.replace("devices_per_node", "devices_pernode"), "devices_pernode");
    }
}
