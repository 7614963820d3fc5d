//! The text form of protobuf messages.

use std::fmt::Write as _;

/// A message, as text with two spaces for each level.
#[derive(Default)]
pub(super) struct Message {
    lines: Vec<String>,
}

impl Message {
    /// A field whose value is written as it is: a number, a word of an enum, a list.
    pub(super) fn field(mut self, name: &str, value: impl std::fmt::Display) -> Message {
        self.lines.push(format!("{name}: {value}"));
        self
    }

    /// A field of text.
    pub(super) fn text(self, name: &str, value: &str) -> Message {
        let quoted = quote(value);
        self.field(name, quoted)
    }

    /// A field that is a message.
    pub(super) fn message(mut self, name: &str, value: Message) -> Message {
        self.lines.push(format!("{name} {{"));
        self.lines.extend(value.lines.into_iter().map(|line| format!("  {line}")));
        self.lines.push("}".to_owned());
        self
    }

    /// The whole message.
    pub(super) fn finish(self) -> String {
        self.lines.into_iter().fold(String::new(), |text, line| text + &line + "\n")
    }
}

/// Text in quotes. Control characters are octal, as the form has it.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_ascii_control() => {
                let _ = write!(quoted, "\\{:03o}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_protobuf_reads_it() {
        let inner = Message::default().text("value", "a\"b\\c\nd\u{7}é");
        let text = Message::default().field("size", -1).message("entry", inner).finish();
        assert_eq!(text, "size: -1\nentry {\n  value: \"a\\\"b\\\\c\\nd\\007é\"\n}\n");
    }
}
