//! What a person may have meant by a word that nobody knows.

/// The known word that is the nearest to `wanted`, if it is near enough to have been meant: at most a
/// third of its letters are others (edits of a letter, and neighbours that change places).
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = known.into_iter().min_by_key(|word| distance(wanted, word))?;
    (3 * distance(wanted, nearest) <= wanted.chars().count().max(3)).then_some(nearest)
}

/// How many edits of a letter, and neighbours that change places, lie between two words; case counts
/// for nothing.
pub fn distance(word: &str, other: &str) -> usize {
    strsim::osa_distance(&word.to_lowercase(), &other.to_lowercase())
}

/// `; did you mean `llama`?`, or nothing.
pub fn did_you_mean<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, known).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_proposed_and_what_is_far_is_not() {
        let known = ["llama", "mamba", "gemma2", "qwen3_moe"];
        let near = |word: &str| nearest(word, known);
        assert_eq!(near("lama"), Some("llama"));
        assert_eq!(near("Gemma-2"), Some("gemma2"));
        assert_eq!(near("qwen3-moe"), Some("qwen3_moe"));
        assert_eq!(near("bert"), None);
    }
}
