"""The expression language of the LLM Standard, written from spec/expressions.md alone.

`evaluate(text, names)` gives a value (None, bool, int, float, str, list) or raises ExpressionError.
As a program it computes the vectors of spec/conformance/expressions.json anew and says which differ:
    python3 spec/python/expressions.py spec/conformance/expressions.json
"""

import json
import math
import re
import struct
import sys

TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)"
    r"|'(?P<word>[^']*)'|(?P<sign>==|!=|<=|>=|[<>+\-*/%^()\[\],]))"
)
ARITY = {
    "ceil_div": 2, "min": 2, "max": 2, "if": 3, "sqrt": 1, "ln": 1, "round_bf16": 1, "len": 1, "at": 2,
    "find": 2, "next": 3, "where": 2, "common": 1, "range": 3, "without": 2, "marks": 4, "unroll": 1, "letters": 1, "integers": 1, "put": 3,
}
MAX_LIST = 100_000
INT = range(-(2**63), 2**63)


class ExpressionError(Exception):
    pass


def fail(why):
    raise ExpressionError(why)


def f32(x):
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", f32(x)))[0]
    bits += 0x7FFF + (bits >> 16 & 1)
    return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]


def is_number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def same(a, b):
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if is_number(a) and is_number(b):
        return a == b if isinstance(a, int) and isinstance(b, int) else float(a) == float(b)
    return type(a) is type(b) and a == b


def truth(x):
    return False if x is None else x if isinstance(x, bool) else fail("neither true nor false")


def integer(x):
    if is_number(x) and (isinstance(x, int) or (x == math.floor(x) and abs(x) <= 2**53)):
        return int(x)
    fail("no integer")


def number(x):
    return x if is_number(x) else fail("no number")


def a_list(x):
    return x if isinstance(x, list) else fail("no list")


def fits(x):
    return x if not isinstance(x, int) or x in INT else fail("overflow")


def power(x, n):
    x, n = float(x), float(n)
    if n in (0.5, -0.5):
        root = math.sqrt(x) if x >= 0 else math.nan
        return root if n > 0 else inverse(root)
    if n == math.floor(n) and abs(n) <= 64:
        product = 1.0
        for _ in range(int(abs(n))):
            product *= x
        return product if n >= 0 else inverse(product)
    if x < 0 and n != math.floor(n) and math.isfinite(n):
        return math.nan
    try:
        return f32(x**n)
    except OverflowError:
        return -math.inf if x < 0 and n % 2 == 1 else math.inf
    except ZeroDivisionError:
        return inverse(x) if n % 2 == 1 else math.inf


def inverse(x):
    """1 / x as IEEE 754 has it."""
    return 1.0 / x if x else math.copysign(math.inf, x)


class Parser:
    def __init__(self, text):
        self.tokens, at = [], 0
        text = text.rstrip()
        while at < len(text):
            token = TOKEN.match(text, at) or fail("no token")
            self.tokens.append((token.lastgroup, token.group(token.lastgroup)))
            at = token.end()
        self.at = 0

    def peek(self, ahead=0):
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else (None, None)

    def take(self, kind, *texts):
        if self.peek()[0] == kind and self.peek()[1] in texts:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def left(self, part, kind, *signs):
        node = part()
        while op := self.take(kind, *signs):
            node = (op, node, part())
        return node

    def disjunction(self):
        return self.left(self.conjunction, "name", "or")

    def conjunction(self):
        return self.left(self.negation, "name", "and")

    def negation(self):
        return ("not", self.negation()) if self.take("name", "not") else self.compare()

    def compare(self):
        left = self.sum()
        op = self.take("sign", "==", "!=", "<=", ">=", "<", ">") or self.take("name", "in")
        if op is None and self.peek() == ("name", "not") and self.peek(1) == ("name", "in"):
            self.at, op = self.at + 2, "not in"
        return left if op is None else (op, left, self.sum())

    def sum(self):
        return self.left(self.product, "sign", "+", "-")

    def product(self):
        return self.left(self.power, "sign", "*", "/", "%")

    def power(self):
        left = self.unary()
        return ("^", left, self.power()) if self.take("sign", "^") else left

    def unary(self):
        return ("negate", self.unary()) if self.take("sign", "-") else self.primary()

    def items(self, end):
        items = []
        if self.take("sign", end):
            return items
        while True:
            items.append(self.disjunction())
            if self.take("sign", end):
                return items
            self.take("sign", ",") or fail("a comma is missing")

    def primary(self):
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            if text.isdigit() and int(text) in INT:
                return ("value", int(text))
            try:
                return ("value", float(text))
            except ValueError:
                fail("no number")
        if kind == "word":
            return ("value", text)
        if kind == "sign" and text == "(":
            inner = self.disjunction()
            self.take("sign", ")") or fail("a ) is missing")
            return inner
        if kind == "sign" and text == "[":
            return ("list", self.items("]"))
        if kind == "name" and text in ("true", "false", "null"):
            return ("value", {"true": True, "false": False, "null": None}[text])
        if kind == "name" and self.take("sign", "("):
            text in ARITY or fail("no such function")
            args = self.items(")")
            return ("call", text, args) if len(args) == ARITY[text] else fail("arity")
        return ("name", text) if kind == "name" else fail("a value is missing")


def call(name, args):
    if name == "ceil_div":
        a, b = map(integer, args)
        return -(-a // b) if a >= 0 and b > 0 else fail("no value")
    if name in ("min", "max"):
        a, b = map(number, args)
        exact = isinstance(a, int) and isinstance(b, int)
        return a if (a <= b if exact else float(a) <= float(b)) == (name == "min") else b
    if name == "sqrt":
        x = float(number(args[0]))
        return math.sqrt(x) if x >= 0 else math.nan
    if name == "ln":
        x = number(args[0])
        return f32(math.log(x)) if x > 0 else fail("no value")
    if name == "round_bf16":
        return bf16(float(number(args[0])))
    if name == "common" and not isinstance(args[0], list):
        return args[0]
    if name == "range":
        a, b, step = map(integer, args)
        return list(range(a, b, step)) if a >= 0 and step > 0 and b <= MAX_LIST else fail("no value")
    if name == "marks":
        count, places = integer(args[0]), [integer(place) for place in a_list(args[1])]
        0 <= count <= MAX_LIST or fail("no value")
        return [args[2] if i in places else args[3] for i in range(count)]
    if name == "letters":
        return list(args[0]) if isinstance(args[0], str) else fail("no word")
    if name == "integers" and isinstance(args[0], str):
        items = [item.strip() for item in args[0].split(",") if item.strip()]
        all(re.fullmatch(r"[+-]?[0-9]+", item) and int(item) in INT for item in items) or fail("no integers")
        return [int(item) for item in items]
    items = a_list(args[0])
    if name == "integers":
        return items
    if name == "put":
        at = [integer(place) for place in a_list(args[1])]
        all(0 <= place < len(items) for place in at) or fail("no place")
        return [args[2] if i in at else item for i, item in enumerate(items)]
    places = [i for i, item in enumerate(items) if len(args) > 1 and same(item, args[1])]
    if name == "len":
        return len(items)
    if name == "at":
        index = integer(args[1])
        return items[index] if 0 <= index < len(items) else fail("no entry")
    if name == "find":
        return places[0] if places else fail("no place")
    if name == "next":
        start = integer(args[2])
        start >= 0 or fail("no place")
        return next((place for place in places if place >= start), len(items))
    if name == "where":
        return places
    if name == "common":
        return items[0] if items and all(same(item, items[0]) for item in items) else fail("several")
    if name == "without":
        return [item for item in items if not any(same(item, out) for out in a_list(args[1]))]
    unrolled = []
    for pair in items:
        part, times = (a_list(pair) + [None, None])[:2] if len(a_list(pair)) == 2 else fail("no pair")
        times = integer(times)
        times >= 0 and len(unrolled) + len(a_list(part)) * times <= MAX_LIST or fail("too long")
        unrolled += part * times
    return unrolled


def operate(op, a, b):
    if op in ("==", "!="):
        return same(a, b) == (op == "==")
    if op in ("in", "not in"):
        return any(same(a, item) for item in a_list(b)) == (op == "in")
    a, b = number(a), number(b)
    if op in ("<", "<=", ">", ">="):
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
    if op == "^":
        return power(a, b)
    if isinstance(a, int) and isinstance(b, int):
        if op in "/%" and b == 0 or op == "/" and a % b != 0:
            fail("no whole quotient")
        return fits({"+": a + b, "-": a - b, "*": a * b}[op] if op in "+-*" else a // b if op == "/" else a % abs(b))
    a, b = float(a), float(b)
    if op in "/%" and b == 0:
        return math.nan if op == "%" or a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return {"+": a + b, "-": a - b, "*": a * b}[op] if op in "+-*" else a / b if op == "/" else math.fmod(math.fmod(a, b) + abs(b), abs(b))


def walk(node, names):
    kind, *rest = node
    if kind == "value":
        return rest[0]
    if kind == "name":
        return names[rest[0]] if rest[0] in names else fail("no such name")
    if kind == "list":
        return [walk(item, names) for item in rest[0]]
    if kind == "not":
        return not truth(walk(rest[0], names))
    if kind == "negate":
        return fits(-number(walk(rest[0], names)))
    if kind in ("and", "or"):
        left = truth(walk(rest[0], names))
        return left if left == (kind == "or") else truth(walk(rest[1], names))
    if kind == "call" and rest[0] == "if":
        return walk(rest[1][1 if truth(walk(rest[1][0], names)) else 2], names)
    if kind == "call":
        return call(rest[0], [walk(arg, names) for arg in rest[1]])
    return operate(kind, walk(rest[0], names), walk(rest[1], names))


def evaluate(text, names):
    parser = Parser(text)
    node = parser.disjunction()
    parser.at == len(parser.tokens) or fail("something follows")
    return walk(node, names)


def tagged(value):
    """A value with its kind, as the vectors have it: integers and floats are told apart."""
    if isinstance(value, list):
        return {"list": [tagged(item) for item in value]}
    kind = {type(None): "null", bool: "bool", int: "int", float: "float", str: "word"}[type(value)]
    return {kind: repr(value) if kind == "float" else value}


def main(path):
    with open(path) as file:
        vectors = json.load(file)
    wrong = 0
    for vector in vectors["vectors"]:
        try:
            value = tagged(evaluate(vector["text"], vectors["names"]))
        except (ExpressionError, RecursionError):
            value = "error"
        if value != vector["value"]:
            wrong += 1
            print(f"{vector['text']}: {value}, not {vector['value']}")
    print(f"{len(vectors['vectors']) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
