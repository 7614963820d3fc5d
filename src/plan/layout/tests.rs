use super::Layout;
use crate::checkpoint::row_major_strides;

/// A row-major input of this shape.
fn input(shape: &[u64]) -> Layout {
    Layout::of_input(0, 0, shape, &row_major_strides(shape))
}

/// The input's element at each place of the result.
fn elements(layout: &Layout) -> Vec<u64> {
    let n: u64 = layout.shape.iter().product();
    let mut elements = vec![u64::MAX; n as usize];
    for copy in layout.copies() {
        let mut places = vec![(copy.output_offset, copy.input_offset)];
        for dim in &copy.dims {
            let along = |&(output, input): &(u64, u64)| {
                let dim = *dim;
                (0..dim.len)
                    .map(move |i| (output + i * dim.output_stride, input + i * dim.input_stride))
            };
            places = places.iter().flat_map(along).collect();
        }
        for (output, input) in places {
            assert_eq!(elements[output as usize], u64::MAX, "{output} is filled twice");
            elements[output as usize] = input;
        }
    }
    assert!(layout.is_full());
    elements
}

#[test]
fn transpose_moves_rows_to_columns() {
    let layout = input(&[2, 3]).transpose(&[1, 0]).unwrap();
    assert_eq!(elements(&layout), [0, 3, 1, 4, 2, 5]);
    assert!(input(&[2, 3]).transpose(&[0, 0]).is_err());
}

#[test]
fn reshape_of_a_transpose_keeps_the_order_of_elements() {
    let layout = input(&[2, 6]).transpose(&[1, 0]).unwrap().reshape(&[3, 2, 2]).unwrap();
    assert_eq!(elements(&layout), [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
    // An edge that crosses the pattern is cut.
    let layout = input(&[2, 3]).transpose(&[1, 0]).unwrap().reshape(&[2, 3]).unwrap();
    assert_eq!(elements(&layout), [0, 3, 1, 4, 2, 5]);
}

#[test]
fn rope_is_the_published_permutation_and_goes_back() {
    // w.view(heads, d/2, 2).transpose(1, 2), here 2 heads of 4 with all dims rotary.
    let layout = input(&[8]).rope(2, 4, false, false).unwrap();
    assert_eq!(elements(&layout), [0, 2, 1, 3, 4, 6, 5, 7]);
    // Partial, at the end of each head of 6.
    let layout = input(&[12, 1]).rope(2, 4, true, false).unwrap();
    assert_eq!(elements(&layout), [0, 1, 2, 4, 3, 5, 6, 7, 8, 10, 9, 11]);
    for (heads, dim, last) in [(2, 4, false), (2, 6, false), (1, 8, true), (3, 2, true)] {
        let there = input(&[12, 5]).rope(heads, dim.min(12 / heads), last, false).unwrap();
        let back = there.rope(heads, dim.min(12 / heads), last, true).unwrap();
        assert_eq!(elements(&back), (0..60).collect::<Vec<_>>());
    }
}

#[test]
fn split_and_concat_are_inverse() {
    let whole = input(&[7, 3]);
    for sizes in [[2, 5], [0, 7], [6, 1]] {
        let pieces = whole.split(0, &sizes).unwrap();
        assert_eq!(elements(&Layout::concat(0, pieces).unwrap()), elements(&whole));
    }
    assert!(whole.split(0, &[3, 3]).is_err());
    let pieces = input(&[3, 4, 2]).unstack(1);
    assert_eq!(pieces[2].shape, [3, 2]);
    assert_eq!(elements(&pieces[2]), [4, 5, 12, 13, 20, 21]);
    assert_eq!(elements(&Layout::stack(1, pieces).unwrap()), (0..24).collect::<Vec<_>>());
}

#[test]
fn slices_of_merged_axes_cut_through_blocks() {
    let layout = input(&[3, 4]).transpose(&[1, 0]).unwrap().merge_axes(0);
    let all = elements(&layout);
    for from in 0..12 {
        for to in from + 1..=12 {
            let slice = layout.slice(0, from, to);
            assert_eq!(elements(&slice), all[from as usize..to as usize]);
        }
    }
}
