//! Each op there and back.

use super::*;
use crate::checkpoint::row_major_strides;
use crate::package::Value;
use crate::spec::expr::Expr;

fn names(name: &str) -> Result<Value, String> {
    match name {
        "num_heads" => Ok(Value::Int(6)),
        "num_kv_heads" => Ok(Value::Int(2)),
        "head_dim" | "v_head_dim" => Ok(Value::Int(4)),
        _ => Err(format!("there is no `{name}`")),
    }
}

/// The first input element of each row of each result.
#[track_caller]
fn check(ops: &[Op], shape: &[u64], expected: &[&[u64]]) {
    let input = TensorExpr::new(Layout::of_input(0, 0, shape, &row_major_strides(shape)));
    let results = run(ops, Direction::Import, &names, vec![input.clone()]).unwrap();
    let rows = results.iter().map(|expr| {
        let width: u64 = expr.layout.shape[1..].iter().product();
        (0..expr.layout.shape[0]).map(|row| first(expr, row * width)).collect::<Vec<_>>()
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let back = run(ops, Direction::Export, &names, results).unwrap();
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].layout.shape, shape);
    for copy in back[0].layout.copies() {
        assert_eq!(copy.input_offset, copy.output_offset);
        assert!(copy.dims.iter().all(|dim| dim.input_stride == dim.output_stride));
    }
    assert!(back[0].layout.is_full());
}

fn first(expr: &TensorExpr, place: u64) -> u64 {
    for copy in expr.layout.copies() {
        let mut left = place.checked_sub(copy.output_offset);
        let mut at = copy.input_offset;
        for dim in &copy.dims {
            left = left.and_then(|rest| {
                let steps = rest / dim.output_stride;
                at += steps * dim.input_stride;
                (steps < dim.len).then_some(rest % dim.output_stride)
            });
        }
        if left == Some(0) {
            return at;
        }
    }
    panic!("nothing fills {place}")
}

#[test]
fn grouped_rows_are_q_heads_then_k_then_v_of_each_group() {
    let q: Vec<u64> = (0..12).chain(20..32).collect();
    check(
        &[Op::QkvGrouped],
        &[40, 1],
        &[&q, &[12, 13, 14, 15, 32, 33, 34, 35], &[16, 17, 18, 19, 36, 37, 38, 39]],
    );
}

#[test]
fn values_go_through_inverse_kernels_on_the_way_out() {
    let ops = [
        (Op::NegExp, [Kernel::NegExp, Kernel::LnNeg]),
        (Op::LnNeg, [Kernel::LnNeg, Kernel::NegExp]),
    ];
    for (op, kernels) in ops {
        for (direction, kernel) in [Direction::Import, Direction::Export].into_iter().zip(kernels) {
            let input = TensorExpr::new(Layout::of_input(0, 0, &[4], &[1]));
            let results = run(std::slice::from_ref(&op), direction, &names, vec![input]).unwrap();
            assert_eq!(results[0].kernels, [kernel]);
        }
    }
}

#[test]
fn concatenated_rows_are_cut() {
    let q: Vec<u64> = (0..24).collect();
    let (k, v): (Vec<u64>, Vec<u64>) = ((24..32).collect(), (32..40).collect());
    check(&[Op::QkvConcat], &[40], &[&q, &k, &v]);
}

#[test]
fn pairs_take_turns() {
    check(&[Op::Pairs { axis: 0 }], &[6], &[&[0, 2, 4], &[1, 3, 5]]);
}

#[test]
fn rows_that_nothing_reads_repeat_the_first_and_are_cut() {
    let ops = [Op::UnusedRows { n: Expr::parse("num_kv_heads").unwrap() }];
    let rows: Vec<u64> = [0, 0].into_iter().chain((0..5).map(|row| 3 * row)).collect();
    check(&ops, &[5, 3], &[&rows]);
    assert_eq!(exactness(&ops, Direction::Import), Exactness::Exact);
    assert_eq!(exactness(&ops, Direction::Export), Exactness::Lossy);
    let short = TensorExpr::new(Layout::of_input(0, 0, &[2, 3], &row_major_strides(&[2, 3])));
    assert!(run(&ops, Direction::Export, &names, vec![short]).is_err());
}

#[test]
fn blocks_share_their_rows() {
    let n = Expr::parse("2").unwrap();
    check(&[Op::Blocks { n, parts: 3 }], &[12], &[&[0, 1, 6, 7], &[2, 3, 8, 9], &[4, 5, 10, 11]]);
}

#[test]
fn a_conv1d_is_turned_and_cut() {
    let ops = [Op::Transpose { perm: None }, Op::QkvConcat];
    let q: Vec<u64> = (0..24).collect();
    let (k, v): (Vec<u64>, Vec<u64>) = ((24..32).collect(), (32..40).collect());
    check(&ops, &[5, 40], &[&q, &k, &v]);
}

#[test]
fn factors_are_taken_out_on_the_way_in_and_put_in_on_the_way_out() {
    let number = |text: &str| Expr::parse(text).unwrap();
    let sizes = vec![number("num_kv_heads"), number("3")];
    let ops = [Op::DivideRows { sizes, c: number("[2.0, 1.0]") }, Op::Divide { c: number("0.5") }];
    let rows = TensorExpr::new(Layout::of_input(0, 0, &[5, 3], &row_major_strides(&[5, 3])));
    let (run_of, all) = (Some([0, 6]), None);
    let found = run(&ops, Direction::Import, &names, vec![rows.clone()]).unwrap();
    let out = |run, c| Kernel::Quotient { run, c: [c, 1.0] };
    assert_eq!(found[0].kernels, [out(run_of, 2.0), out(all, 0.5)]);
    let found = run(&ops, Direction::Export, &names, vec![rows.clone()]).unwrap();
    let put = |run, c| Kernel::Product { run, c: [c, 1.0] };
    assert_eq!(found[0].kernels, [put(all, 0.5), put(run_of, 2.0)]);
    assert_eq!(exactness(&ops, Direction::Import), Exactness::Rounded);
    // Rows that have factors by their places do not move.
    let [rule, _] = ops;
    let moved = [rule, Op::Transpose { perm: None }];
    assert!(run(&moved, Direction::Import, &names, vec![rows]).is_err());
}

#[test]
fn rows_of_zeros_are_cut_and_put_behind() {
    let ops = [Op::ZeroRows { n: Expr::parse("num_kv_heads").unwrap() }];
    let rows = |n| TensorExpr::new(Layout::of_input(0, 0, &[n, 3], &[3, 1]));
    let found = run(&ops, Direction::Import, &names, vec![rows(5)]).unwrap();
    assert_eq!((found[0].layout.shape.as_slice(), found[0].kernels.len()), (&[3, 3][..], 0));
    let found = run(&ops, Direction::Export, &names, vec![rows(3)]).unwrap();
    assert_eq!(found[0].layout.shape, [5, 3]);
    assert_eq!(found[0].kernels, [Kernel::ZeroFrom(9)]);
    assert_eq!(exactness(&ops, Direction::Import), Exactness::Lossy);
    assert!(run(&ops, Direction::Import, &names, vec![rows(2)]).is_err());
    // What a file leaves out is the other way round.
    let ops = [Op::MissingRows { n: Expr::parse("num_kv_heads").unwrap() }];
    let found = run(&ops, Direction::Import, &names, vec![rows(3)]).unwrap();
    assert_eq!(found[0].layout.shape, [5, 3]);
    assert_eq!(found[0].kernels, [Kernel::ZeroFrom(9)]);
    assert_eq!(exactness(&ops, Direction::Import), Exactness::Exact);
    let found = run(&ops, Direction::Export, &names, vec![rows(5)]).unwrap();
    assert_eq!((found[0].layout.shape.as_slice(), found[0].kernels.len()), (&[3, 3][..], 0));
    assert!(run(&ops, Direction::Export, &names, vec![rows(2)]).is_err());
}
