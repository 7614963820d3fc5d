//! What is done of a conversion in units.

/// Which part of a conversion is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The share of one of several units: every so-and-so-many-th shard.
    Share(Unit),
    /// What the units made is joined.
    Finish,
    /// All of it, with the shards that are there already.
    All,
}

/// One of several units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which one, from 1 on.
    pub number: u64,
    /// How many there are.
    pub count: u64,
}

impl std::str::FromStr for Unit {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Unit, String> {
        let numbers = word.split_once('/');
        let parsed = numbers.and_then(|(number, count)| {
            Some(Unit { number: number.parse().ok()?, count: count.parse().ok()? })
        });
        parsed
            .filter(|unit| 1 <= unit.number && unit.number <= unit.count)
            .ok_or_else(|| format!("{word:?} is no unit: write K/N, as 3/16, K from 1 to N"))
    }
}

/// How a conversion is done in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units<'a> {
    /// What is done now.
    pub part: Part,
    /// The digest that the plan has to have; any one if there is none.
    pub digest: Option<&'a str>,
}
