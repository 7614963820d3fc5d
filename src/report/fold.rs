//! Rows that differ in the numbers of their names alone, as one row: `blk.{0-17}.attn_q.weight`.

use std::collections::HashMap;

/// Some rows of a table that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The cells, with the numbers of all rows in names.
    pub cells: Vec<String>,
    /// How many rows it stands for.
    pub rows: usize,
}

/// Rows of one pattern.
struct Kind {
    /// Of each cell, its text with `{}` for numbers, and how many these are.
    patterns: Vec<(String, usize)>,
    /// The numbers at each place of all cells, over all rows.
    numbers: Vec<Vec<u64>>,
    rows: usize,
}

/// Folds rows whose cells are alike but for the numbers between the dots of names, each at the place
/// of its first.
pub fn fold(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<Folded> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut kinds: Vec<Kind> = Vec::new();
    // The patterns of a row, each behind a byte that no text has, and its numbers: there may be half a
    // million rows of few kinds.
    let (mut key, mut numbers) = (String::new(), Vec::new());
    for cells in rows {
        key.clear();
        numbers.clear();
        let mut ends = Vec::with_capacity(cells.len());
        for cell in &cells {
            push_pattern(cell, &mut key, &mut numbers);
            ends.push((key.len(), numbers.len()));
            key.push('\0');
        }
        let place = match places.get(&key) {
            Some(place) => *place,
            None => {
                let mut from = (0, 0);
                let patterns = ends.iter().map(|&(end, n)| {
                    let pattern = (key[from.0..end].to_owned(), n - from.1);
                    from = (end + 1, n);
                    pattern
                });
                let patterns = patterns.collect();
                kinds.push(Kind { patterns, numbers: vec![Vec::new(); numbers.len()], rows: 0 });
                places.insert(key.clone(), kinds.len() - 1);
                kinds.len() - 1
            }
        };
        kinds[place].rows += 1;
        for (of_place, number) in kinds[place].numbers.iter_mut().zip(&numbers) {
            // Neighbours often repeat the number of a layer.
            if of_place.last() != Some(number) {
                of_place.push(*number);
            }
        }
    }
    let folded = kinds.into_iter().map(|Kind { patterns, numbers, rows }| {
        let mut numbers = numbers.as_slice();
        let cells = patterns.iter().map(|(pattern, n)| {
            let (own, rest) = numbers.split_at(*n);
            numbers = rest;
            fill(pattern, own)
        });
        Folded { rows, cells: cells.collect() }
    });
    folded.collect()
}

/// A name with `{}` for each part that is a number, and the numbers.
pub(super) fn pattern(name: &str) -> (String, Vec<u64>) {
    let (mut text, mut numbers) = (String::new(), Vec::new());
    push_pattern(name, &mut text, &mut numbers);
    (text, numbers)
}

fn push_pattern(name: &str, text: &mut String, numbers: &mut Vec<u64>) {
    for (at, part) in name.split('.').enumerate() {
        if at != 0 {
            text.push('.');
        }
        match part.parse::<u64>() {
            // `05` is no number to count with, and would be told without its zero.
            Ok(number) if part == "0" || !part.starts_with(['0', '+']) => {
                numbers.push(number);
                text.push_str("{}");
            }
            _ => text.push_str(part),
        }
    }
}

/// Puts the numbers of each place into a pattern: `{0-11}` where there are several.
pub(super) fn fill(pattern: &str, numbers: &[Vec<u64>]) -> String {
    let mut text = String::new();
    for (index, part) in pattern.split("{}").enumerate() {
        if index != 0 {
            let mut of_place = numbers.get(index - 1).cloned().unwrap_or_default();
            of_place.sort_unstable();
            of_place.dedup();
            text.push_str(&ranges(&of_place));
        }
        text.push_str(part);
    }
    text
}

/// More runs of numbers than this help nobody.
const MAX_RUNS: usize = 12;

/// `{0-3,7}`, or a number alone.
fn ranges(numbers: &[u64]) -> String {
    if let [number] = numbers {
        return number.to_string();
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    let mut words: Vec<String> = runs.iter().map(run).collect();
    if MAX_RUNS < words.len() {
        words.truncate(MAX_RUNS);
        words.push("…".to_owned());
    }
    format!("{{{}}}", words.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_ranges() {
        for (numbers, expected) in [
            (&[3][..], "3"),
            (&[0, 1, 2, 7], "{0-2,7}"),
            (&[u64::MAX - 1, u64::MAX], "{18446744073709551614-18446744073709551615}"),
        ] {
            assert_eq!(ranges(numbers), expected);
        }
    }

    #[test]
    fn rows_that_differ_in_numbers_are_one() {
        let row = |name: &str, shape: &str| vec![name.to_owned(), shape.to_owned()];
        let rows = [
            row("embed", "[9, 4]"),
            row("layers.0.up", "[4]"),
            row("layers.0.down", "[4]"),
            row("layers.1.up", "[4]"),
            row("layers.2.up", "[8]"),
        ];
        let folded: Vec<(String, usize)> =
            fold(rows).into_iter().map(|row| (row.cells[0].clone(), row.rows)).collect();
        let wanted =
            [("embed", 1), ("layers.{0-1}.up", 2), ("layers.0.down", 1), ("layers.2.up", 1)];
        assert_eq!(folded, wanted.map(|(name, rows)| (name.to_owned(), rows)));
    }
}
