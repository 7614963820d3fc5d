use super::*;
use crate::base::cursor::Cursor;

/// Writes a pickle's value as Python would, with `…` for what is nested too deep to show.
fn show(pickle: &Pickle<'_>, id: NodeId, depth: u32) -> String {
    let Some(depth) = depth.checked_sub(1) else { return "…".to_owned() };
    let list = |ids: &[NodeId]| {
        ids.iter().map(|&id| show(pickle, id, depth)).collect::<Vec<_>>().join(", ")
    };
    let items = |items: &[(NodeId, NodeId)]| {
        let shown = items.iter().map(|&(key, value)| {
            format!("{}: {}", show(pickle, key, depth), show(pickle, value, depth))
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    match pickle.node(id) {
        Node::None => "None".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Int(int) => int.to_string(),
        Node::BigInt(bytes) => format!("big {bytes:?}"),
        Node::Float(float) => format!("{float:?}"),
        Node::Text(text) => format!("{text:?}"),
        Node::Bytes(bytes) => format!("b\"{}\"", bytes.escape_ascii()),
        Node::List(members) => format!("[{}]", list(members)),
        Node::Tuple(members) => format!("({})", list(members)),
        Node::Set(members) => format!("{{{}}}", list(members)),
        Node::Dict(pairs) => format!("{{{}}}", items(pairs)),
        Node::Global(..) => {
            let (module, name) = pickle.global(id).expect("globals have texts");
            format!("{module}.{name}")
        }
        Node::Persistent(id) => format!("@{}", show(pickle, *id, depth)),
        Node::Object(object) => {
            let mut text = format!(
                "{}{}",
                show(pickle, object.callable, depth),
                show(pickle, object.args, depth)
            );
            if let Some(kwargs) = object.kwargs {
                text += &format!(" with {}", show(pickle, kwargs, depth));
            }
            if !object.elements().is_empty() {
                text += &format!(" += [{}]", list(object.elements()));
            }
            if !object.items().is_empty() {
                text += &format!(" += {{{}}}", items(object.items()));
            }
            for &state in object.states() {
                text += &format!(" state {}", show(pickle, state, depth));
            }
            text
        }
    }
}

fn check(bytes: &[u8], expected: &str) {
    let mut cursor = Cursor::new(bytes, 0);
    let found = match Pickle::read(&mut cursor) {
        Ok(pickle) => {
            assert!(cursor.is_empty(), "{} bytes are left", cursor.left());
            show(&pickle, pickle.root(), 5)
        }
        Err(err) => format!("{:?}: {err}", err.kind()),
    };
    assert_eq!(found, expected);
}

#[test]
fn every_protocol_gives_the_same_value() {
    // Python 3.11: pickle.dumps({'a': [1, 2.5, None, True], 'b': (-3,), 'ü': 2**40}, protocol).
    let expected = "{\"a\": [1, 2.5, None, true], \"b\": (-3), \"ü\": 1099511627776}";
    check(b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\naNaI01\nasVb\np3\n(I-3\ntp4\nsV\xfc\np5\nL1099511627776L\ns.", expected);
    check(b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00NI01\neX\x01\x00\x00\x00bq\x03(J\xfd\xff\xff\xfftq\x04X\x02\x00\x00\x00\xc3\xbcq\x05L1099511627776L\nu.", expected);
    check(b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03J\xfd\xff\xff\xff\x85q\x04X\x02\x00\x00\x00\xc3\xbcq\x05\x8a\x06\x00\x00\x00\x00\x00\x01u.", expected);
    check(b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03J\xfd\xff\xff\xff\x85q\x04X\x02\x00\x00\x00\xc3\xbcq\x05\x8a\x06\x00\x00\x00\x00\x00\x01u.", expected);
    check(b"\x80\x04\x952\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88e\x8c\x01b\x94J\xfd\xff\xff\xff\x85\x94\x8c\x02\xc3\xbc\x94\x8a\x06\x00\x00\x00\x00\x00\x01u.", expected);
    check(b"\x80\x05\x952\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88e\x8c\x01b\x94J\xfd\xff\xff\xff\x85\x94\x8c\x02\xc3\xbc\x94\x8a\x06\x00\x00\x00\x00\x00\x01u.", expected);
}

#[test]
fn calls_are_recorded_and_not_made() {
    check(b"cos\nsystem\n(S'echo'\ntR.", "os.system(\"echo\")");
    check(b"(S'echo'\nios\nsystem\n.", "os.system(\"echo\")");
    check(b"(cos\nsystem\nS'echo'\no.", "os.system(\"echo\")");
    check(b"\x8c\x02os\x8c\x06system\x93)\x81}(S'a'\nI1\nub.", "os.system() state {\"a\": 1}");
    check(b"cm\nC\n)}S'k'\nI2\ns\x92]a.", "m.C() with {\"k\": 2} += [[]]");
    check(b"cm\nC\n)R(S'a'\nI1\nu(I1\nI2\ne.", "m.C() += [1, 2] += {\"a\": 1}");
    check(b"S'key'\nQ.", "@\"key\"");
    check(b"Pkey\n.", "@\"key\"");
}

#[test]
fn strings_of_python_2_are_unquoted() {
    check(b"S'a\\x41\\n\\'\\\\'\n.", r#""aA\n'\\""#);
    check(b"U\x02\xff\xfe.", r#"b"\xff\xfe""#);
    check(b"Va\\u00fc\xfc\n.", "\"aüü\"");
    check(b"Sabc\n.", "Malformed: STRING has no quotes around it (at byte 0x0)");
}

#[test]
fn sets_buffers_and_big_integers_are_read() {
    check(b"\x8f(K\x01K\x02\x90.", "{1, 2}");
    check(b"(K\x01\x91.", "{1}");
    check(b"\x96\x02\0\0\0\0\0\0\0ab.", "b\"ab\"");
    check(b"\x8a\x00.", "0");
    check(b"\x8a\x01\xff.", "-1");
    check(b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", "big [0, 0, 0, 0, 0, 0, 0, 0, 1]");
}

#[test]
fn claimed_lengths_are_not_believed() {
    check(b"\x8b\0\0\0\x80.", "Malformed: LONG4 takes -2147483648 bytes (at byte 0x0)");
    check(
        b"\x8b\xff\xff\xff\x7f.",
        "Malformed: the value of LONG4 takes 2147483647 bytes, 1 are left (at byte 0x5)",
    );
    check(
        b"\x8d\0\0\0\0\0\0\0\x80.",
        "Malformed: the value of BINUNICODE8 takes 9223372036854775808 bytes, 1 are left (at byte 0x9)",
    );
    check(
        b"\x80\x04\x95\xff\0\0\0\0\0\0\0.",
        "Malformed: FRAME announces 255 bytes, 1 are left (at byte 0x2)",
    );
}

#[test]
fn memo_indexes_may_be_any_number() {
    check(b"Nr\0\0\0\x80j\0\0\0\x80\x86.", "(None, None)");
    check(b"j\0\0\0\x80.", "Malformed: the memo has no value 2147483648 (at byte 0x0)");
    check(
        b"g99999999999999999999\n.",
        "Malformed: a memo index wants a number, `99999999999999999999` is there (at byte 0x0)",
    );
}

#[test]
fn what_lies_outside_of_the_file_is_refused() {
    let ext = "Unsupported: the pickle names a class by a number of Python's extension registry \
               (EXT), which is not in the file (at byte 0x0)";
    check(b"\x82\x01.", ext);
    check(b"\x83\x01\0.", ext);
    check(b"\x84\x01\0\0\0.", ext);
    check(
        b"\x97.",
        "Unsupported: the pickle keeps data in buffers outside of the file (NEXT_BUFFER) (at byte 0x0)",
    );
    check(b"\x80\x06.", "Unsupported: the pickle has protocol 6; 0 to 5 are known (at byte 0x0)");
}

#[test]
fn a_broken_program_is_refused() {
    check(b".", "Malformed: an opcode finds the pickle's stack empty (at byte 0x0)");
    check(b"N(0.", "None");
    check(b"(N(.", "Malformed: an opcode finds the pickle's stack empty (at byte 0x3)");
    check(b"N(a", "Malformed: an opcode finds the pickle's stack empty (at byte 0x2)");
    check(b"t", "Malformed: an opcode closes a mark, and none is open (at byte 0x0)");
    check(b"NNs.", "Malformed: an opcode finds the pickle's stack empty (at byte 0x2)");
    check(b"NNNs.", "Malformed: SETITEM wants a dictionary, the stack has `None` (at byte 0x3)");
    check(b"](NNu.", "Malformed: SETITEMS wants a dictionary, the stack has a list (at byte 0x4)");
    check(b"}(Nu.", "Malformed: a key of a dictionary has no value (at byte 0x3)");
    check(b"}}b.", "Malformed: BUILD wants an object, the stack has a dictionary (at byte 0x2)");
    check(b"}Na.", "Malformed: APPEND wants a list, the stack has a dictionary (at byte 0x2)");
    check(b"\xff.", "Malformed: 0xff is no opcode of a pickle (at byte 0x0)");
    check(
        b"N",
        "Malformed: an opcode of the pickle, which ends with STOP, takes 1 bytes, 0 are left (at byte 0x1)",
    );
}

#[test]
fn open_marks_are_limited() {
    check(&vec![b'('; 5000], "Limit: more than 1000 marks are open (at byte 0x3e8)");
}

#[test]
fn a_list_in_itself_is_read() {
    check(b"]q\0h\0a.", "[[[[[…]]]]]");
}

#[test]
fn deep_nesting_needs_no_stack() {
    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    check(&deep, "[[[[[…]]]]]");
}
