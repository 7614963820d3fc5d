use super::Expr;
use crate::package::Value;

#[track_caller]
fn check(text: &str, expected: &str) {
    let names = |name: &str| match name {
        "heads" => Ok(Value::Int(6)),
        "kv.heads" => Ok(Value::Int(2)),
        "d" => Ok(Value::Int(8)),
        "kind" => Ok(Value::Symbol("rope".to_owned())),
        "off" => Ok(Value::Null),
        "list" => Ok(Value::List(vec![Value::Int(1), Value::Int(3)])),
        _ => Err(format!("there is no `{name}`")),
    };
    let actual = match Expr::parse(text).and_then(|expr| expr.eval(&names)) {
        Ok(value) => value.to_string(),
        Err(why) => format!("error: {why}"),
    };
    assert_eq!(actual, expected, "{text}");
}

#[test]
fn sums_and_products_bind_as_in_school() {
    check("heads*d + 2*kv.heads - 1", "51");
    check("(heads + kv.heads) * d", "64");
    check("-2 + 5", "3");
    check("2^3^0", "2.0");
    check("d^-0.5", "0.35355339059327373");
}

#[test]
fn next_looks_from_an_index_on_and_ends_at_the_length() {
    check("next(list, 3, 0)", "1");
    check("next(list, 1, 1)", "2");
    check("next(list, 1, 7)", "2");
    check("next(list, 1, -1)", "error: `next(list, 1, -1)`: next([1, 3], 1, -1) has no value");
}

#[test]
fn integers_divide_exactly_or_not_at_all() {
    check("heads / kv.heads", "3");
    check("d / heads", "error: `d / heads`: 8 is not divisible by 6");
    check("ceil_div(d, 3)", "3");
    check("7 % 4", "3");
    check(
        "9223372036854775807 + 1",
        "error: `9223372036854775807 + 1`: 9223372036854775807 + 1 overflows",
    );
}

#[test]
fn conditions() {
    check("kind == 'rope' and not (heads < 6)", "true");
    check("3 in list or false", "true");
    check("2 not in list", "true");
    check("off == null", "true");
    check("off and missing", "false");
    check("if(heads > 5, 'many', 'few')", "\"many\"");
    check("1 == 1.0", "true");
}

#[test]
fn lists_of_layers() {
    check("range(1, 8, 3)", "[1, 4, 7]");
    check("range(3, 2, 1)", "[]");
    check("without(range(0, 5, 1), [3, 0, 9])", "[1, 2, 4]");
    check("where(['full', 'ssm', 'full'], 'full')", "[0, 2]");
}

#[test]
fn places_of_a_list_and_back() {
    check("marks(3, [0, 2], 0, 1)", "[0, 1, 0]");
    check("where(marks(4, [1, 3], 0, 1), 0)", "[1, 3]");
    check("marks(-1, [], 0, 1)", "error: `marks(-1, [], 0, 1)`: marks(-1, [], 0, 1) has no value");
}

#[test]
fn lists() {
    check("find(list, 3)", "1");
    check("where([5, 3, 5.0], 5)", "[0, 2]");
    check("where(list, 7)", "[]");
    check("unroll([[['a', 'b'], 2], [['c'], 1]])", r#"["a", "b", "a", "b", "c"]"#);
    check("len(unroll([[[], 9]]))", "0");
    check(
        "unroll([[[1], 4097]])",
        "error: `unroll([[[1], 4097]])`: unroll([[[1], 4097]]) has no value",
    );
    check("unroll([1])", "error: `unroll([1])`: unroll([1]) has no value");
}

#[test]
fn depth_is_counted_whatever_makes_it() {
    let deep = "error: the expression nests deeper than 64 levels";
    for n in [100, 900] {
        check(&format!("{}1", "-".repeat(n)), deep);
        check(&format!("{}true", "not ".repeat(n)), deep);
        check(&format!("{}1", "(".repeat(n)), deep);
        check(&format!("{}1", "[".repeat(n)), deep);
    }
    check(&format!("{}1", "2^".repeat(100)), deep);
    check(&format!("{}1{}", "len(".repeat(100), ")".repeat(100)), deep);
    check(&format!("{}1", "-(not ".repeat(100)), deep);
    let long = "error: the expression has more than 1000 words and signs";
    for link in ["-", "not ", "2^", "(", "[", "1 + ", "2 * ", "true or ", "true and "] {
        check(&format!("{}1", link.repeat(1_000_000)), long);
    }
    check(&format!("{}5", "-".repeat(62)), "5");
    check(&format!("{}7{}", "(".repeat(60), ")".repeat(60)), "7");
    check(&format!("1{}", " + 1".repeat(499)), "500");
}

#[test]
fn a_list_is_no_longer_than_a_model_has_layers() {
    check("len(range(0, 4096, 1))", "4096");
    check("range(0, 4097, 1)", "error: `range(0, 4097, 1)`: range(0, 4097, 1) has no value");
    check(
        "marks(4611686018427387904, [], 0, 1)",
        "error: `marks(4611686018427387904, [], 0, 1)`: \
             marks(4611686018427387904, [], 0, 1) has no value",
    );
}

#[test]
fn errors_say_what_is_wrong() {
    check("missing + 1", "error: `missing + 1`: there is no `missing`");
    check("1 +", "error: the expression ends too early");
    check("f(1)", "error: there is no function `f`");
    check("min(1)", "error: `min` takes 2 values, not 1");
    check("1 2", "error: `1 2`: Number(Int(2)) stands where the end should be");
}
