"""The LLM Standard in Python: model checkpoints of any layout, read without copies, converted,
validated and compared.

``open(path)`` gives a package or any supported checkpoint as a mapping from names to NumPy arrays.
The other functions do what the command ``llmstd`` does, and return its JSON as dicts.
No pickle is ever run.

    >>> import llmstd
    >>> model = llmstd.open("./bert-base.std")
    >>> model.architecture
    'bert'
    >>> model["embed.tokens.weight"].shape
    (30522, 768)
"""

from ._calls import convert, diff, inspect, interface, manifest, validate, verify
from ._llmstd import Error, Refused, __version__
from ._model import Model, Tensor, open

__all__ = [
    "Error",
    "Model",
    "Refused",
    "Tensor",
    "__version__",
    "convert",
    "diff",
    "inspect",
    "interface",
    "manifest",
    "open",
    "validate",
    "verify",
]
