//! What products were made of.

/// The number that gives this one when it is multiplied by `a` and then by `b`, each product rounded; where several do, the
/// one next to the quotient. What is no such product has the quotient.
pub(super) fn quotient(x: f32, [a, b]: [f32; 2]) -> f32 {
    /// Four roundings leave a number that is not near 0 no further away.
    const MOST: usize = 4;
    let quotient = x / b / a;
    let above = std::iter::successors(Some(quotient), |near| Some(near.next_up()));
    let below = std::iter::successors(Some(quotient), |near| Some(near.next_down()));
    let mut near = above.zip(below).take(MOST + 1).flat_map(|(above, below)| [above, below]);
    near.find(|near| near * a * b == x).unwrap_or(quotient)
}
