//! Names of images: what an operator may type, checked once, at the edge.

use std::fmt;
use std::str::FromStr;

use brick_wire::limits::IMAGE_NAME_BYTES_MAX;

/// A valid image name: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

/// Why a text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("bad image name: it is empty; give it 1 to {IMAGE_NAME_BYTES_MAX} bytes")]
    Empty,
    /// Too long.
    #[error("bad image name: it is {0} bytes long; shorten it to at most {IMAGE_NAME_BYTES_MAX}")]
    Long(usize),
    /// A terminal would choke on it.
    #[error("bad image name: byte {0} is a control character; leave those out")]
    Control(usize),
}

impl ImageName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ImageName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > IMAGE_NAME_BYTES_MAX {
            return Err(NameError::Long(text.len()));
        }
        if let Some((index, _)) = text.char_indices().find(|(_, character)| character.is_control()) {
            return Err(NameError::Control(index));
        }
        Ok(ImageName(text.to_owned()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_printable_text() {
        assert!("vm-1 (ünïcode)".parse::<ImageName>().is_ok());
        assert!("x".repeat(255).parse::<ImageName>().is_ok());
        assert_eq!("".parse::<ImageName>(), Err(NameError::Empty));
        assert_eq!("x".repeat(256).parse::<ImageName>(), Err(NameError::Long(256)));
        assert_eq!("a\u{7}b".parse::<ImageName>(), Err(NameError::Control(1)));
        assert_eq!("a\nb".parse::<ImageName>(), Err(NameError::Control(1)));
    }
}
