"""Judges the goldens of `llmstd interface` with the libraries that read them.

    python -m venv venv && venv/bin/pip install \
        'tritonclient[grpc]==2.73.0' mlflow-skinny==3.17.2 numpy pandas openapi-spec-validator==0.9.0 \
        jsonschema PyYAML
    venv/bin/python tests/oracle/interface.py triton mlflow openapi oip
    python -m venv tf && tf/bin/pip install tensorflow-serving-api==2.21.0
    tf/bin/python tests/oracle/interface.py tf-serving

`oip` is judged by the schema of kserve/open-inference-protocol at d49cc23, whose metadata part is
fixtures/schemas/oip-metadata.schema.json.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted(path for path in (ROOT / "fixtures/interface").iterdir() if path.is_dir())


def tasks(case):
    return json.loads((case / "json/interface.json").read_text())["tasks"]


def sizes(port):
    return [dim.get("size", -1) for dim in port["dims"]]


def triton(case):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    for task in tasks(case):
        folder = case / "triton" / task["name"]
        config = text_format.Parse(
            (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        assert config.name == folder.name
        for ports, stored in ((task["inputs"], config.input), (task["outputs"], config.output)):
            assert [port["name"] for port in ports] == [port.name for port in stored]
            assert [sizes(port) for port in ports] == [list(port.dims) for port in stored]
        assert [port["optional"] for port in task["inputs"]] == [p.optional for p in config.input]
        types = {"I64": model_config_pb2.TYPE_INT64, "F32": model_config_pb2.TYPE_FP32}
        for port, stored in zip(task["inputs"] + task["outputs"], [*config.input, *config.output]):
            assert types[port["dtype"]] == stored.data_type
        for output in config.output:
            if output.label_filename:
                labels = (folder / output.label_filename).read_text().splitlines()
                assert labels == task["labels"] and output.dims[-1] == len(labels)
        assert config.parameters["task"].string_value == task["id"]


def mlflow(case):
    import mlflow.pyfunc
    import numpy as np
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    loader = "class Echo:\n    def predict(self, data, params=None):\n        return data, params\n\n"
    loader += "def _load_pyfunc(path):\n    return Echo()\n"
    for task in tasks(case):
        stored = case / "mlflow" / task["name"] / "MLmodel"
        model = Model.load(str(stored))
        assert model.metadata["llmstd"]["task"]["id"] == task["id"]
        inputs = model.signature.inputs
        assert inputs.input_names() == [port["name"] for port in task["inputs"]]
        # A flavor is what the server adds; this one gives back what it is given.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "code").mkdir()
            Path(folder, "code/echo_loader.py").write_text(loader)
            text = stored.read_text().replace(
                "flavors: {}",
                "flavors:\n  python_function:\n    loader_module: echo_loader\n    code: code\n",
            )
            Path(folder, "MLmodel").write_text(text)
            loaded = mlflow.pyfunc.load_model(folder, suppress_warnings=True)
        dtypes = {"I64": np.int64, "F32": np.float32}

        def value(port, dtype=None):
            shape = [2 if size < 0 else size for size in sizes(port)]
            return np.zeros(shape, dtype or dtypes[port["dtype"]])

        given = {port["name"]: value(port) for port in task["inputs"]}
        data, params = loaded.predict(given)
        assert list(data) == list(given)
        defaults = {
            known["name"]: known["default"] for known in task["parameters"] if "default" in known
        }
        told = {name: list(v) if isinstance(v, np.ndarray) else v for name, v in (params or {}).items()}
        assert told == defaults, (told, defaults)
        first = task["inputs"][0]
        for bad in (value(first, np.complex64), value(first)[0], np.array(["text"])):
            try:
                loaded.predict({**given, first["name"]: bad})
            except MlflowException:
                continue
            raise AssertionError(f"{stored}: {bad.dtype} {bad.shape} is taken")
        for name in defaults:
            try:
                loaded.predict(given, params={name: {"no": "value"}})
            except MlflowException:
                continue
            raise AssertionError(f"{stored}: {name} may be anything")


def openapi(case):
    import jsonschema
    from openapi_spec_validator import OpenAPIV31SpecValidator, validate

    document = json.loads((case / "openapi/openapi.json").read_text())
    validate(document, cls=OpenAPIV31SpecValidator)
    types = {"I64": ("INT64", 0), "F32": ("FP32", 0.5)}

    def tensor(port):
        shape = [2 if size < 0 else size for size in sizes(port)]
        datatype, data = types[port["dtype"]]
        for size in reversed(shape):
            data = [data] * size
        return {"name": port["name"], "datatype": datatype, "shape": shape, "data": data}

    for task in tasks(case):
        def takes(kind, value):
            root = {"$ref": f"#/components/schemas/{task['id']}.{kind}", **document}
            return jsonschema.Draft202012Validator(root).is_valid(value)

        inputs = [tensor(port) for port in task["inputs"]]
        needed = [tensor(port) for port in task["inputs"] if not port["optional"]]
        assert takes("request", {"inputs": inputs})
        assert takes("request", {"inputs": needed})
        assert not takes("request", {"inputs": needed[1:]})
        assert not takes("request", {"inputs": inputs + inputs[:1]})
        assert not takes("request", {"inputs": [{**inputs[0], "name": "other"}, *inputs[1:]]})
        assert not takes("request", {"inputs": [{**inputs[0], "datatype": "BYTES"}, *inputs[1:]]})
        defaults = {k["name"]: k["default"] for k in task["parameters"] if "default" in k}
        assert takes("request", {"inputs": inputs, "parameters": defaults})
        for name in defaults:
            assert not takes("request", {"inputs": inputs, "parameters": {name: {}}})
        outputs = [tensor(port) for port in task["outputs"]]
        assert takes("response", {"model_name": task["name"], "outputs": outputs})
        if "labels" in task:
            shape = outputs[0]["shape"][:-1] + [len(task["labels"]) + 1]
            wrong = [{**outputs[0], "shape": shape}]
            assert not takes("response", {"model_name": task["name"], "outputs": wrong})


def oip(case):
    import jsonschema

    schema = json.loads((ROOT / "fixtures/schemas/oip-metadata.schema.json").read_text())
    for task in tasks(case):
        metadata = json.loads((case / "oip" / task["name"] / "metadata.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(metadata)
        assert [port["shape"] for port in metadata["inputs"]] == [sizes(p) for p in task["inputs"]]


def tf_serving(case):
    from google.protobuf import text_format
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2
    from tensorflow_serving.config import model_server_config_pb2

    stored = case / "tf-serving"
    text = (stored / "signature_def_map.pbtxt").read_text()
    signatures = text_format.Parse(text, get_model_metadata_pb2.SignatureDefMap()).signature_def
    all_tasks = tasks(case)
    types = {"I64": types_pb2.DT_INT64, "F32": types_pb2.DT_FLOAT}
    expected = {"serving_default": (all_tasks[0], all_tasks[0]["inputs"])}
    for task in all_tasks:
        expected[task["id"]] = (task, task["inputs"])
        needed = [port for port in task["inputs"] if not port["optional"]]
        if needed != task["inputs"]:
            expected[task["id"] + "-required"] = (task, needed)
    assert sorted(signatures) == sorted(expected)
    for key, (task, inputs) in expected.items():
        signature = signatures[key]
        assert signature.method_name == "tensorflow/serving/predict"
        for ports, infos in ((inputs, signature.inputs), (task["outputs"], signature.outputs)):
            assert sorted(infos) == sorted(port["name"] for port in ports)
            for port in ports:
                info = infos[port["name"]]
                assert info.dtype == types[port["dtype"]]
                assert [dim.size for dim in info.tensor_shape.dim] == sizes(port)
                assert [dim.name for dim in info.tensor_shape.dim] == [d["name"] for d in port["dims"]]
    config = text_format.Parse(
        (stored / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (served,) = config.model_config_list.config
    assert served.base_path == f"/models/{served.name}"


JUDGES = {"triton": triton, "mlflow": mlflow, "openapi": openapi, "oip": oip, "tf-serving": tf_serving}

if __name__ == "__main__":
    names = sys.argv[1:] or sys.exit(f"name some of: {' '.join(JUDGES)}")
    for name in names:
        for case in CASES:
            JUDGES[name](case)
            print(name, case.name, "accepted")
