//! Text that comes from files of others, on a terminal.

/// Text without what would steer a terminal: control characters but line breaks and tabs. Colours stay
/// where this program may have put them.
pub fn tame(text: &str, has_colors: bool) -> String {
    let mut tamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        tamed.push_str(&rest[..at]);
        rest = &rest[at..];
        match color_len(rest).filter(|_| has_colors) {
            Some(len) => {
                tamed.push_str(&rest[..len]);
                rest = &rest[len..];
            }
            None => {
                tamed.push('\u{fffd}');
                rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            }
        }
    }
    tamed + rest
}

/// The length of the code of a colour that a text begins with.
fn color_len(text: &str) -> Option<usize> {
    let code = text.strip_prefix("\u{1b}[")?;
    let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    code[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal_but_our_colours() {
        let text = "\u{1b}[31ma\u{1b}[0m\tb\u{1b}]0;c\u{7}\r\n\u{9b}d";
        let wanted = "\u{1b}[31ma\u{1b}[0m\tb\u{fffd}]0;c\u{fffd}\u{fffd}\n\u{fffd}d";
        assert_eq!(tame(text, true), wanted);
        assert!(!tame(text, false).contains('\u{1b}'));
    }
}
