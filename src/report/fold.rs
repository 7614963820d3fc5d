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
    /// Of each cell, its text with `{}` for numbers.
    patterns: Vec<String>,
    /// Of each cell, the numbers in each of its places, over all rows.
    numbers: Vec<Vec<Vec<u64>>>,
    rows: usize,
}

/// Folds rows whose cells are alike but for the numbers between the dots of names, each at the place
/// of its first.
pub fn fold(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<Folded> {
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    let mut kinds: Vec<Kind> = Vec::new();
    for cells in rows {
        let (patterns, numbers): (Vec<String>, Vec<Vec<u64>>) =
            cells.iter().map(|cell| pattern(cell)).unzip();
        let place = match places.get(&patterns) {
            Some(place) => *place,
            None => {
                let empty = numbers.iter().map(|numbers| vec![Vec::new(); numbers.len()]).collect();
                kinds.push(Kind { patterns: patterns.clone(), numbers: empty, rows: 0 });
                places.insert(patterns, kinds.len() - 1);
                kinds.len() - 1
            }
        };
        kinds[place].rows += 1;
        for (of_cell, numbers) in kinds[place].numbers.iter_mut().zip(numbers) {
            for (of_place, number) in of_cell.iter_mut().zip(numbers) {
                // Neighbours often repeat the number of a layer.
                if of_place.last() != Some(&number) {
                    of_place.push(number);
                }
            }
        }
    }
    let folded = kinds.into_iter().map(|Kind { patterns, numbers, rows }| Folded {
        rows,
        cells: patterns.iter().zip(&numbers).map(|(cell, numbers)| fill(cell, numbers)).collect(),
    });
    folded.collect()
}

/// A name with `{}` for each part that is a number, and the numbers.
pub(super) fn pattern(name: &str) -> (String, Vec<u64>) {
    let mut numbers = Vec::new();
    let parts = name.split('.').map(|part| match part.parse::<u64>() {
        // `05` is no number to count with, and would be told without its zero.
        Ok(number) if part == "0" || !part.starts_with(['0', '+']) => {
            numbers.push(number);
            "{}"
        }
        _ => part,
    });
    let name = parts.collect::<Vec<_>>().join(".");
    (name, numbers)
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
