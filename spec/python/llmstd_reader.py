"""A reader of packages of the LLM Standard: standard library and numpy, written from spec/*.md alone.

    package = Package("llama-3-8b")              # opened, and refused where it breaks level container
    package.tensor("embed.tokens.weight")        # its numbers, quantized ones decoded
    package.digests()                            # recomputed from the bytes

As a program: `llmstd_reader.py PACKAGE…` checks packages and prints their digests, and without an argument it answers
the line protocol of spec/conformance/README.md.
"""

import hashlib
import json
import math
import os
import re
import struct
import sys

import numpy as np

import expressions
from quantized import decode, numbers, table

VERSION = (1, 0)
SETTINGS = """add_bos_token add_dummy_prefix add_eos_token add_prefix_space added_tokens_decoder do_lower_case legacy
    never_split split_special_tokens strip_accents tokenize_chinese_chars""".split()
MEMBERS = "spec requires conformance architecture hyperparameters tokens ties encodings tasks history".split()


class Refused(Exception):
    """A package that breaks level container: the rule, and why."""

    def __init__(self, rule, why):
        super().__init__(f"{rule}: {why}")
        self.rule = rule


TASK = set("id head pool normalize activation dense problem labels inputs outputs".split())
PORT = {"name", "dtype", "shape", "optional"}
MANIFEST = set("schema spec tool digests model tokenizer templates dtypes tensors files".split())
EVENTS = ("convert", "cast", "decode", "repack", "migrate")
BITS = {row["name"]: row["bits"] for row in table("dtypes.toml")["dtype"]}
FILES = table("files.toml")["file"]
COUNTS = {row["name"] for row in table("hparams.toml")["key"] if row["type"] in ("count", "counts")}


# ---- JSON ---------------------------------------------------------------------------------------------------------


def parse_json(data):
    def pairs(items):
        if len({key for key, _ in items}) != len(items):
            raise ValueError("a key stands twice")
        return dict(items)

    def constant(word):
        raise ValueError(f"{word} is no JSON")

    def real(text):
        return x if math.isfinite(x := float(text)) else constant(text)

    value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant, parse_float=real)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # Refuses a surrogate that stands alone.
    return value


def number_text(x):
    """A number as ECMAScript writes the nearest double."""
    x = float(x)
    if x == 0:
        return "0"
    digits, exponent = re.fullmatch(r"-?([0-9.]+)(?:e([+-][0-9]+))?", repr(x)).groups()
    whole, _, part = digits.partition(".")
    part = "" if part == "0" else part
    point = len(whole) + int(exponent or 0)
    digits = (whole + part).lstrip("0")
    point -= len(whole + part) - len(digits)
    digits = digits.rstrip("0")
    n, sign = len(digits), "-" if x < 0 else ""
    if n <= point <= 21:
        return sign + digits + "0" * (point - n)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    mantissa = digits[0] + ("." + digits[1:] if n > 1 else "")
    return f"{sign}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def canonical(value):
    """The text of RFC 8785."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\x7f")
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"


def digest(document):
    return hashlib.sha256(canonical(document).encode("utf-8")).hexdigest()


# ---- hashes of tensors --------------------------------------------------------------------------------------------


def text(t):
    t = t.encode("utf-8")
    return struct.pack("<Q", len(t)) + t


def leaves(name, dtype, shape, sha256):
    tail = text(dtype) + struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape) + bytes.fromhex(sha256)
    leaf = hashlib.sha256(text("llmstd.tensor.v1") + text(name) + tail).hexdigest()
    return leaf, hashlib.sha256(text("llmstd.content.v1") + tail).hexdigest()


# ---- names and their order ----------------------------------------------------------------------------------------

SEGMENT = re.compile(r"[a-z][a-z0-9_]{0,62}|0|[1-9][0-9]{0,8}")


def is_name(name):
    if len(name.encode("utf-8")) > 200:
        return False
    if name.startswith("extra."):
        return re.fullmatch(r"extra\.[!-~]+", name) is not None
    return all(SEGMENT.fullmatch(part) for part in name.split("."))


def alternatives(name):
    name = name.replace("{p}", "{p=weight|bias}")
    found = re.search(r"\{[^{}=]*=([^{}]*)\}", name)
    if not found:
        return [name]
    return [a for word in found[1].split("|") for a in alternatives(name[: found.start()] + word + name[found.end() :])]


ROLES = [name for row in table("roles.toml")["role"] for name in alternatives(row["name"])]
PATTERN = {"{stack}": "(?:encoder|decoder)", "{i}": "(0|[1-9][0-9]*)", "{name}": "(?:[a-z][a-z0-9_]{0,62})"}
MATCHERS = [
    re.compile("".join(PATTERN.get(part, re.escape(part)) for part in re.split(r"(\{[a-z]+\})", name))) for name in ROLES
]
FIRST_OF_LAYERS = next(i for i, name in enumerate(ROLES) if "{i}" in name)


def place(name):
    """Where a name stands in a package."""
    first = name.split(".")[0]
    section = {"encoder": 1, "decoder": 2, "heads": 3, "adapters": 4, "extra": 5}.get(first, 0)
    if section > 3:
        return (section, 0, 0, 0, name)
    for index, matcher in enumerate(MATCHERS):
        found = matcher.fullmatch(name)
        if not found:
            continue
        if section == 3:
            return (section, name.split(".")[1].encode(), 0, index, name)
        if "{i}" in ROLES[index]:
            return (section, 1, int(found[1]), index, name)
        return (section, 0 if index < FIRST_OF_LAYERS else 2, 0, index, name)
    return (section, 3 if section != 3 else name.split(".")[1].encode(), 0, len(ROLES), name)


def in_order(names, encoded):
    """Names in canonical order; the parts of a quantized tensor stand behind it."""

    def key(name):
        owner = next((e for e in encoded if name.startswith(e + ".")), None)
        return (place(owner), 1, name) if owner else (place(name), 0, name)

    return sorted(names, key=key)


# ---- packages -----------------------------------------------------------------------------------------------------


def role_of(path):
    def fits(pattern):
        if pattern.startswith("*"):
            return path.endswith(pattern[1:]) and path.count("/") == pattern.count("/")
        if pattern.endswith("*"):
            return path.startswith(pattern[:-1]) and path.count("/") == pattern.count("/")
        return path == pattern

    return next((row for row in FILES if any(map(fits, row["names"]))), {})


def gguf_template(data):
    """`tokenizer.chat_template` of a GGUF file."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at, (_, _, _, n) = 24, struct.unpack_from("<4sIQQ", data)

    def string(at):
        (size,) = struct.unpack_from("<Q", data, at)
        return data[at + 8 : at + 8 + size], at + 8 + size

    def skip(kind, at):
        if kind == 8:
            return string(at)[1]
        if kind == 9:
            inner, count = struct.unpack_from("<IQ", data, at)
            at += 12
            if inner in sizes:
                return at + sizes[inner] * count
            for _ in range(count):
                at = skip(inner, at)
            return at
        return at + sizes[kind]

    for _ in range(n):
        key, at = string(at)
        (kind,) = struct.unpack_from("<I", data, at)
        if key == b"tokenizer.chat_template" and kind == 8:
            return string(at + 4)[0]
        at = skip(kind, at + 4)
    return None


def is_inside(path):
    parts = path.split("/")
    return bool(path) and not set("\\\0") & set(path) and not any(part in ("", ".", "..") for part in parts)


def stacks_of(arch):
    """The stacks of an architecture; none for one that is not known."""
    try:
        head = table(f"arch/{arch}.toml")["arch"]
    except OSError:
        return []
    return head.get("stacks") or stacks_of(head.get("extends"))


def is_program(name, data):
    end = name.lower().rpartition(".")[2]
    if end in "pkl pickle joblib dill exe dylib bat ps1 jar wasm py pyc so dll sh js ipynb".split():
        return True
    if data.startswith((b"\x7fELF", b"#!")):
        return True
    pickled = data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5") or data.startswith(b"PK\3\4")
    return end in ("bin", "pt", "pth", "ckpt") and pickled


class Package:
    def __init__(self, folder, check=True):
        self.folder = folder
        self.files = {}
        for root, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            here = os.path.relpath(root, folder).replace(os.sep, "/")
            if here.count("/") > 2 or any(os.path.islink(os.path.join(root, name)) for name in folders):
                raise Refused("V111", f"{here} lies too deep, or has a link to a folder")
            for name in names:
                if not name.startswith("."):
                    path = os.path.join(root, name)
                    inside = os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
                    if not inside or not os.path.exists(path) or any("\ud800" <= c <= "\udfff" for c in name):
                        raise Refused("V111", f"{name!r} leads out of the folder or to nothing, or is not UTF-8")
                    self.files[os.path.relpath(path, folder).replace(os.sep, "/")] = path
        self.model = self._json("model.json", "V102")
        self._check_model()
        self.tensors = {}
        self.order = []
        self.shards = sorted(name for name in self.files if name.endswith(".safetensors") and "/" not in name)
        if not self.shards:
            raise Refused("V101", "there is no tensor file")
        for name in self.shards:
            self._read_header(name)
        self.manifest = self._json("manifest.json", "V103")
        if check:
            self._check()

    def read(self, name):
        with open(self.files[name], "rb") as file:
            return file.read()

    def _json(self, name, rule):
        if name not in self.files:
            raise Refused(rule, f"{name} is missing")
        try:
            value = parse_json(self.read(name))
        except (ValueError, RecursionError) as err:
            raise Refused(rule, f"{name}: {err}") from err
        if not isinstance(value, dict):
            raise Refused(rule, f"{name} is no object")
        return value

    def _check_model(self):
        model = self.model
        kinds = dict(zip(MEMBERS, (str, list, str, str, dict, dict, list, dict, list, list)))
        for member, value in model.items():
            if member not in kinds or not isinstance(value, kinds[member]):
                raise Refused("V102", f"model.json: {member!r} is none of its members, or of another type")
        version = re.fullmatch(r"(0|[1-9][0-9]*)\.([0-9]+)\.([0-9]+)", model.get("spec", ""))
        if not version or int(version[1]) != VERSION[0]:
            raise Refused("V116", f"version {model.get('spec')!r} is not read here")
        if model.get("requires"):
            raise Refused("V117", f"it requires {model['requires']}")
        for member in MEMBERS:
            if member not in model and member != "architecture":
                raise Refused("V124", f"{member} is not written")
        if model["conformance"] not in ("container", "schema", "full"):
            raise Refused("V102", "there is no such level")
        tokens = model["tokens"]
        if any(value is None or isinstance(value, list) != (name == "eos") for name, value in tokens.items()):
            raise Refused("V124", "a token is not in the normal form")
        if any(event.get("op") not in EVENTS for event in model["history"]):
            raise Refused("V124", "the history has an event that is not known")
        for event in model["history"]:
            if not all(isinstance(value, str) for value in event.values()):
                raise Refused("V102", "a member of an event is no text")
        for tie in model["ties"]:
            if not (isinstance(tie, list) and len(tie) == 2 and all(isinstance(name, str) for name in tie)):
                raise Refused("V102", "a tie is not two names")
        self._check_spelling()
        for task in model["tasks"]:
            if not isinstance(task, dict) or not {"id", "inputs", "outputs"} <= task.keys():
                raise Refused("V102", "a task is not whole")
            ports = task["inputs"] + task["outputs"]
            surplus = (task.keys() - TASK).union(*(port.keys() - PORT for port in ports))
            if surplus:
                raise Refused("V102", f"no members of a task or of its ports: {sorted(surplus)}")
            if None in task.values() or [] in (task.get("labels"), task.get("dense")) or False in [
                port.get("optional") for port in ports
            ]:
                raise Refused("V124", "a task is not in the normal form")
            if ("normalize" in task) != (task["id"] == "embedding"):
                raise Refused("V124", "`normalize` is of embeddings, and of them always")

    def _check_spelling(self):
        """Keys of stacks: as KEY where there is one stack, or one value for all."""
        hparams, stacks = self.model["hyperparameters"], stacks_of(self.model.get("architecture"))
        ids = [hparams[key] for key in hparams if key in COUNTS or key.partition(".")[2] in COUNTS]
        for value in ids + list(self.model["tokens"].values()):
            if any(isinstance(one, float) for one in (value if isinstance(value, list) else [value])):
                raise Refused("V124", f"{value} is no integer")
        for key, value in hparams.items():
            stack, _, rest = key.partition(".")
            if stack not in ("encoder", "decoder"):
                continue
            others = [f"{other}.{rest}" for other in ("encoder", "decoder") if other != stack]
            if len(stacks) == 1 or any(canonical(hparams.get(other, "none")) == canonical(value) for other in others):
                raise Refused("V124", f"{key} is not in the normal form")

    def _read_header(self, shard):
        data = self.read(shard)
        try:
            (size,) = struct.unpack_from("<Q", data)
            header = parse_json(data[8 : 8 + size])
            assert len(data) >= 8 + size and data[8:9] == b"{"
            metadata = header.pop("__metadata__", {})
            at, entries = 0, sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
            for name, entry in entries:
                start, end = entry["data_offsets"]
                bits = math.prod(entry["shape"]) * BITS[entry["dtype"]]
                assert start == at and end - start == bits // 8 and bits % 8 == 0, name
                at = end
            assert at == len(data) - 8 - size, "bytes behind the last tensor"
        except (AssertionError, KeyError, ValueError, struct.error, TypeError) as err:
            raise Refused("V101", f"{shard}: {err!r}") from err
        if metadata.get("llmstd") != self.model["spec"] or (8 + size) % 64:
            raise Refused("V110", f"{shard} does not say that it keeps version {self.model['spec']}")
        for name, entry in entries:
            if name in self.tensors:
                raise Refused("V108", f"{name} stands in two files")
            if not is_name(name):
                raise Refused("V112", f"{name!r} is no canonical name")
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            self.tensors[name] = dict(dtype=entry["dtype"], shape=entry["shape"], file=shard, start=start, len=end - start)
            self.order.append(name)

    def data(self, name):
        tensor = self.tensors[name]
        with open(self.files[tensor["file"]], "rb") as file:
            file.seek(tensor["start"])
            return file.read(tensor["len"])

    def stored(self, name):
        """The elements of a tensor as they lie in the file."""
        tensor = self.tensors[name]
        return numbers(tensor["dtype"], tensor["shape"], self.data(name))

    def tensor(self, name):
        """The numbers of a tensor; those of a tied one, and of a quantized one, decoded."""
        name = dict(self.model["ties"]).get(name, name)
        entry = self.model["encodings"].get(name)
        if not entry:
            return self.stored(name)
        parts = {"payload": (self.tensors[name]["dtype"], self.stored(name))}
        for other, tensor in self.tensors.items():
            if other.startswith(name + "."):
                parts[other[len(name) + 1 :]] = (tensor["dtype"], self.stored(other))
        return decode(entry["encoding"], entry["shape"], entry.get("parameters", {}), parts)

    def templates(self):
        found = {}
        for name in ("chat_template.json", "tokenizer_config.json"):
            if name in self.files:
                value = parse_json(self.read(name)).get("chat_template")
                named = [{"name": "default", "template": value}] if isinstance(value, str) else value or []
                found.update((one["name"], one["template"].encode()) for one in named)
        if "tokenizer.gguf" in self.files and (template := gguf_template(self.read("tokenizer.gguf"))) is not None:
            found["default"] = template
        for path in self.files:
            if path == "chat_template.jinja":
                found["default"] = self.read(path)
            elif path.startswith("additional_chat_templates/") and path.endswith(".jinja"):
                found[path.split("/", 1)[1][:-6]] = self.read(path)
        return {name: hashlib.sha256(template).hexdigest() for name, template in found.items()}

    def digests(self):
        """The seven digests, from the bytes."""
        model, hashes = self.model, {}
        for name in self.tensors:
            hashes[name] = hashlib.sha256(self.data(name)).hexdigest()
        rows = [[n, self.tensors[n]["dtype"], self.tensors[n]["shape"]] for n in sorted(self.tensors, key=str.encode)]
        arch, hparams = model.get("architecture"), model["hyperparameters"]
        ids = {p: hashlib.sha256(self.read(p)).hexdigest() for p in self.files if role_of(p).get("ids")}
        config = parse_json(self.read("tokenizer_config.json")) if "tokenizer_config.json" in self.files else {}
        settings = {key: config[key] for key in SETTINGS if config.get(key) is not None}
        templates = self.templates()
        ties = sorted(model["ties"], key=lambda tie: [name.encode() for name in tie])
        documents = {
            "weights": {"tensors": [row + [hashes[row[0]]] for row in rows]},
            "structure": dict(
                tensors=rows, architecture=arch, hyperparameters=hparams, ties=ties, encodings=model["encodings"]
            ),
            "tokenizer": {"files": ids, "settings": settings} if ids else None,
            "config": {"architecture": arch, "hyperparameters": hparams} if arch is not None else None,
            "interface": {"tasks": model["tasks"], "tokens": model["tokens"]} if model["tasks"] or model["tokens"] else None,
            "template": {"templates": templates} if templates else None,
        }
        self.documents = documents
        found = {n: d and digest({"digest": f"llmstd.{n}.v1", **d}) for n, d in documents.items()}
        found["model"] = digest({"digest": "llmstd.model.v1", "spec": model["spec"].split(".")[0], **found})
        self.hashes = hashes
        return found

    def _check(self):
        manifest, model = self.manifest, self.model
        if manifest.get("schema") != "llmstd.manifest/1" or not isinstance(manifest.get("tensors"), list):
            raise Refused("V103", "it is no manifest")
        if manifest.keys() - MANIFEST:
            raise Refused("V103", f"no members of a manifest: {sorted(manifest.keys() - MANIFEST)}")
        if manifest.get("spec") != model["spec"]:
            raise Refused("V116", "model.json and manifest.json are of two versions")
        if self.order != in_order(self.order, model["encodings"]):
            raise Refused("V113", "tensors are not in canonical order")
        n = len(self.shards)
        named = ["model.safetensors"] if n == 1 else [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
        if self.shards != named:
            raise Refused("V109", f"tensor files are called {self.shards}")
        if n > 1:
            index = self._json("model.safetensors.index.json", "V109")
            total = sum(tensor["len"] for tensor in self.tensors.values())
            weight_map = {name: tensor["file"] for name, tensor in self.tensors.items()}
            if index.get("weight_map") != weight_map or index.get("metadata", {}).get("total_size") != total:
                raise Refused("V109", "the index is not of these shards")
        if len({name.lower() for name in self.files}) != len(self.files):
            raise Refused("V119", "two names differ by case only")
        for name in self.files:
            if is_program(name, self.read(name)[:512]):
                raise Refused("V115", f"{name} is a program, or a pickle")
        if "source.json" in self.files and self._json("source.json", "V114").get("schema") != "llmstd.source/1":
            raise Refused("V114", "source.json is of another schema")
        said = manifest.get("model", {})
        for member in MEMBERS[1:-1]:
            empty = {"requires": [], "encodings": {}, "architecture": None}.get(member)
            if canonical(said.get(member, empty)) != canonical(model.get(member, empty)):
                raise Refused("V118", f"the manifest repeats other {member}")
        self._check_entries()
        digests = self.digests()
        if digests != manifest.get("digests"):
            wrong = [name for name, value in digests.items() if value != manifest["digests"].get(name)]
            raise Refused("V104", f"digests do not follow from the bytes: {wrong}")
        repeated = {"templates": (self.documents["template"] or {}).get("templates"), "tokenizer": self.documents["tokenizer"]}
        for member, document in repeated.items():
            if canonical(manifest.get(member) or document) != canonical(document):
                raise Refused("V104", f"{member} is not that of the files")

    def _check_entries(self):
        listed, census = set(), {}
        for entry in self.manifest["tensors"]:
            name = entry["name"]
            tensor = self.tensors.get(name)
            if tensor is None or name in listed or any(entry.get(key) != value for key, value in tensor.items()):
                raise Refused("V107", f"{name} is not what the manifest says")
            listed.add(name)
            if hashlib.sha256(self.data(name)).hexdigest() != entry["sha256"]:
                raise Refused("V120", f"{name} has other bytes")
            if leaves(name, entry["dtype"], entry["shape"], entry["sha256"]) != (entry["leaf"], entry["content"]):
                raise Refused("V104", f"the leaves of {name} do not follow")
            row = census.setdefault(entry["dtype"], dict(tensors=0, elements=0, bytes=0))
            row["tensors"] += 1
            row["elements"] += math.prod(entry["shape"])
            row["bytes"] += entry["len"]
        if listed != set(self.tensors):
            raise Refused("V107", "the manifest does not list every tensor")
        if census != self.manifest.get("dtypes"):
            raise Refused("V104", "the census does not follow")
        paths = [entry["path"] for entry in self.manifest["files"]]
        if paths != sorted(set(paths), key=str.encode):
            raise Refused("V105", "files are not listed once each, sorted by the bytes of their paths")
        for entry in self.manifest["files"]:
            path = entry["path"]
            if not is_inside(path):
                raise Refused("V111", f"{path!r} leads out of the package")
            if path not in self.files or os.path.getsize(self.files[path]) != entry["len"]:
                raise Refused("V105", f"{path} is missing, or of another length")
            if hashlib.sha256(self.read(path)).hexdigest() != entry["sha256"]:
                raise Refused("V121", f"{path} has other bytes")


# ---- the line protocol --------------------------------------------------------------------------------------------


def answer(request):
    do = request["do"]
    if do == "open":
        try:
            package = Package(request["package"])
        except Refused as refused:
            return {"refused": [refused.rule]}
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError, struct.error, OSError) as err:
            # A member is missing or of another type: the schemas of spec/1.0/schema say which.
            return {"refused": ["V103"], "why": repr(err)}
        return {"digests": package.digests(), "tensors": package.order, "sha256": package.hashes}
    if do == "values":
        values = np.ascontiguousarray(Package(request["package"]).tensor(request["tensor"]), np.float32)
        return {"shape": list(values.shape), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
    if do == "order":
        return {"ordered": in_order(request["names"], request["encoded"])}
    if do == "name":
        return {"legal": is_name(request["name"])}
    if do == "canonical":
        return {"text": canonical(parse_json(request["json"].encode()))}
    if do == "leaves":
        leaf, content = leaves(request["name"], request["dtype"], request["shape"], request["sha256"])
        return {"leaf": leaf, "content": content}
    if do == "expression":
        try:
            return {"value": expressions.tagged(expressions.evaluate(request["text"], request["names"]))}
        except expressions.ExpressionError:
            return {"value": "error"}
    return {"unsupported": do}


def main(paths):
    for path in paths:
        print(json.dumps({"package": path, **answer({"do": "open", "package": path})}))
    for line in sys.stdin if not paths else ():
        request = json.loads(line)
        try:
            said = answer(request)
        except Refused as refused:
            said = {"refused": [refused.rule]}
        except ValueError as err:
            said = {"unsupported": str(err)}
        print(json.dumps({"id": request["id"], **said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
