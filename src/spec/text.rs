//! The text of a data file. Of files that the program carries the build has made JSON, which is read many times
//! faster than TOML.

use std::borrow::Cow;
use std::ops::Deref;

use serde::de::DeserializeOwned;

/// A data file: its text, as which it can be read everywhere.
#[derive(Clone, Debug)]
pub struct Text {
    text: Cow<'static, str>,
    /// What the text says, as JSON.
    json: Option<&'static str>,
    /// What its first table says, as JSON.
    start: Option<&'static str>,
}

impl Text {
    /// A file that the program carries; `json` and `start` say what it says, and what its first table says.
    pub(super) const fn carried(
        text: &'static str,
        json: Option<&'static str>,
        start: Option<&'static str>,
    ) -> Text {
        Text { text: Cow::Borrowed(text), json, start }
    }

    /// What it says.
    ///
    /// # Errors
    /// It is no TOML, or not of this form.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self.json {
            Some(json) => serde_json::from_str(json).map_err(|err| err.to_string()),
            None => toml::from_str(&self.text).map_err(|err| err.to_string()),
        }
    }

    /// What its first table says, which is all that `T` asks for.
    ///
    /// # Errors
    /// It is no TOML, or not of this form.
    pub(super) fn parse_start<T: DeserializeOwned>(&self) -> Result<T, String> {
        if let Some(json) = self.start {
            return serde_json::from_str(json).map_err(|err| err.to_string());
        }
        let text: &str = &self.text;
        let end = text.find("\n[").and_then(|first| {
            // Comments may stand before the first table.
            let next = first + 2 + text.get(first + 2..)?.find("\n[")?;
            Some(if text.starts_with('[') { first } else { next })
        });
        // What looks like the start of a table may be within a list of lists.
        let start = end.map_or(text, |end| &text[..end]);
        toml::from_str(start).or_else(|_| self.parse())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text { text: Cow::Owned(text), json: None, start: None }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Text {
        Text::carried(text, None, None)
    }
}
