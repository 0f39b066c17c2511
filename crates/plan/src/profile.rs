//! A hardware profile: one device and what it reaches, as `plan calibrate` writes it and the other commands read it.

use crate::efficiency::{Efficiency, EfficiencyError};
use crate::hardware::{Accelerator, Catalogue, Cluster, HardwareError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A device and what it reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it reaches of the rates below.
    pub efficiency: Efficiency,
    /// The device. Its rates are limits, measured or from a data sheet.
    pub device: Accelerator,
}

/// A profile that cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ProfileError {
    /// Not TOML, an unknown or missing key.
    #[error("{}", .0.to_string().trim_end())]
    Form(#[from] toml::de::Error),
    /// A device that is not known, or cannot be.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// Shares that cannot be.
    #[error(transparent)]
    Efficiency(#[from] EfficiencyError),
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// What is no TOML, an unknown or missing key, a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        profile.device.validate()?;
        profile.efficiency.validate("efficiency")?;
        Ok(profile)
    }

    /// The profile as TOML.
    ///
    /// # Errors
    /// None that a profile could have.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// A device of the catalogue with what is known of its efficiency.
    ///
    /// # Errors
    /// A device that is not there.
    pub fn of(catalogue: &Catalogue, id: &str) -> Result<Self, ProfileError> {
        Ok(Self { device: catalogue.get(id)?.clone(), efficiency: Efficiency::of(id)? })
    }

    /// So many of its devices; `text` is `PROFILE:DEVICES`, where one node is meant without a number.
    ///
    /// # Errors
    /// A count that is none.
    pub fn cluster(&self, catalogue: &Catalogue, count: Option<&str>) -> Result<Cluster, ProfileError> {
        let mut catalogue = catalogue.clone();
        catalogue.add(self.device.clone());
        let id = &self.device.id;
        Ok(catalogue.cluster(&count.map_or_else(|| id.clone(), |count| format!("{id}:{count}")))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_was_written() {
        let catalogue = Catalogue::embedded().unwrap();
        for device in catalogue.iter() {
            let profile = Profile::of(&catalogue, &device.id).unwrap();
            assert_eq!(Profile::parse(&profile.to_toml().unwrap()).unwrap(), profile);
            assert_eq!(profile.cluster(&catalogue, Some("16")).unwrap().devices, 16);
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let catalogue = Catalogue::embedded().unwrap();
        let text = Profile::of(&catalogue, "h100").unwrap().to_toml().unwrap();
        let mut broken = Profile::parse(&text).unwrap();
        broken.efficiency.bandwidth = -0.5;
        let error = Profile::parse(&broken.to_toml().unwrap()).unwrap_err().to_string();
        assert!(error.contains("efficiency.bandwidth is -0.5"), "{error}");
        let error = Profile::parse(&text.replace("bandwidth", "band_width")).unwrap_err().to_string();
        assert!(error.contains("band_width"), "{error}");
        assert!(Profile::of(&catalogue, "h101").unwrap_err().to_string().contains("h100"));
    }
}
