//! Files of models that are not read here: what they are, and what to do.

use std::fmt;

/// A kind of file that is not read.
#[derive(Debug)]
pub struct Known {
    /// What it is, after "is".
    pub what: &'static str,
    /// What to do now.
    pub advice: &'static str,
    /// Bytes that it begins with, at an offset.
    magic: &'static [(usize, &'static [u8])],
    /// The ends of its names, or whole names.
    names: &'static [&'static str],
    /// Whether it holds a model, and is not a page or a packing.
    pub is_model: bool,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is {}: {}", self.what, self.advice)
    }
}

/// What says that a page was saved in place of a file.
const PAGE: &str =
    "fetch the file itself: a login, a licence to accept or a wrong link gives a page";

/// The kinds, the surest signs first.
static KINDS: &[Known] = &[
    Known {
        what: "an HTML page, not weights",
        advice: PAGE,
        magic: &[(0, b"<!DOCTYPE"), (0, b"<!doctype"), (0, b"<html"), (0, b"<HTML")],
        names: &[".html"],
        is_model: false,
    },
    Known {
        what: "an XML text, not weights",
        advice: PAGE,
        magic: &[(0, b"<?xml")],
        names: &[],
        is_model: false,
    },
    Known {
        what: "a file of elements of an ONNX graph",
        advice: "name the `.onnx` file beside it, which says what they are",
        magic: &[],
        names: &[".onnx_data", ".onnx.data"],
        is_model: true,
    },
    Known {
        what: "a graph of ONNX Runtime",
        advice: "convert the ONNX graph that it was made of, or the checkpoint before that",
        magic: &[(4, b"ORTM")],
        names: &[".ort"],
        is_model: true,
    },
    Known {
        what: "a Core ML model",
        advice: "convert the checkpoint that it was exported from",
        magic: &[],
        names: &[".mlmodel", ".mlpackage", "weight.bin"],
        is_model: true,
    },
    Known {
        what: "a TensorRT engine, which holds code of one kind of GPU",
        advice: "convert the checkpoint that it was built from",
        magic: &[(0, b"ftrt"), (0, b"ptrt")],
        names: &[".engine", ".plan", ".trt"],
        is_model: false,
    },
    Known {
        what: "a model of RTen",
        advice: "convert the ONNX graph that it was made of",
        magic: &[(0, b"RTEN")],
        names: &[".rten"],
        is_model: true,
    },
    Known {
        what: "a shard of a TensorFlow.js model",
        advice: "convert the SavedModel or the HDF5 file that it was made of",
        magic: &[],
        names: &["group1-shard1of1.bin", "group1-shard1of2.bin", "group1-shard1of3.bin"],
        is_model: true,
    },
    Known {
        what: "the graph of a SavedModel of TensorFlow",
        advice: "name the folder that it is in: its weights are in `variables`",
        magic: &[],
        names: &["saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb", "fingerprint.pb"],
        is_model: true,
    },
    Known {
        what: "the graph of a TensorFlow checkpoint",
        advice: "name the `.index` file beside it, which says where the weights are",
        magic: &[],
        names: &[".ckpt.meta"],
        is_model: true,
    },
    Known {
        what: "a file of elements of a TensorFlow checkpoint",
        advice: "name the `.index` file beside it, which says what they are",
        magic: &[],
        names: &[".data-00000-of-00001", ".data-00000-of-00002"],
        is_model: true,
    },
    Known {
        what: "a frozen graph of TensorFlow, whose weights are constants of it",
        advice: "convert the checkpoint that it was frozen from",
        magic: &[],
        names: &[".pb"],
        is_model: true,
    },
    Known {
        what: "the description of an array of zarr",
        advice: "name the folder of the checkpoint, which has `_METADATA` or `manifest.ocdbt`",
        magic: &[],
        names: &[".zarray", "zarr.json"],
        is_model: false,
    },
    Known {
        what: "a part of an OCDBT store",
        advice: "name the folder that has `manifest.ocdbt`",
        magic: &[(0, b"\x0c\xdb\x20\xde"), (0, b"\x0c\xdb\x12\x34")],
        names: &[],
        is_model: false,
    },
    Known {
        what: "a program of PaddlePaddle",
        advice: "name the `.pdiparams` file beside it, which has the weights",
        magic: &[],
        names: &[".pdmodel"],
        is_model: false,
    },
    Known {
        what: "the parameters of an MXNet model",
        advice: "load it with `mxnet.nd.load` and save the arrays with numpy.savez",
        magic: &[(0, b"\x12\x01\0\0\0\0\0\0")],
        names: &[".params"],
        is_model: true,
    },
    Known {
        what: "a part of a OneFlow checkpoint",
        advice: "load it with `oneflow.load` and save the tensors as safetensors",
        magic: &[],
        names: &["pickled_data"],
        is_model: true,
    },
    Known {
        what: "a fastText model",
        advice: "its vectors are no transformer's; `fasttext dump` prints them",
        magic: &[(0, b"\xba\x16\x4f\x2f")],
        names: &[".ftz"],
        is_model: true,
    },
    Known {
        what: "a model of llama2.c",
        advice: "convert the checkpoint that `export.py` made it of: the file has no names",
        magic: &[(0, b"24ka")],
        // Those of its first version begin with the numbers of a config.
        names: &["stories260K.bin", "stories15M.bin", "stories42M.bin", "stories110M.bin"],
        is_model: true,
    },
    Known {
        what: "weights of an OpenVINO graph",
        advice: "convert the checkpoint that it was exported from",
        magic: &[],
        names: &["openvino_model.bin", "openvino_model.xml"],
        is_model: true,
    },
    Known {
        what: "a CTranslate2 model",
        advice: "convert the checkpoint that it was made from",
        magic: &[(4, b"\x10\0TransformerSpec"), (4, b"\x0c\0WhisperSpec")],
        names: &[],
        is_model: true,
    },
    Known {
        what: "a model of ggml from before GGUF",
        advice: "make a GGUF file of its source, or bring it to GGUF with the scripts of llama.cpp of 2023",
        magic: &[(0, b"lmgg"), (0, b"fmgg"), (0, b"tjgg"), (0, b"algg")],
        names: &[],
        is_model: true,
    },
    Known {
        what: "a 7z archive",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"7z\xbc\xaf\x27\x1c")],
        names: &[".7z"],
        is_model: false,
    },
    Known {
        what: "a file that gzip packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\x1f\x8b")],
        names: &[".gz", ".tgz"],
        is_model: false,
    },
    Known {
        what: "a file that zstd packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\x28\xb5\x2f\xfd")],
        names: &[".zst"],
        is_model: false,
    },
    Known {
        what: "a file that xz packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\xfd7zXZ")],
        names: &[".xz"],
        is_model: false,
    },
    Known {
        what: "a tar archive",
        advice: "name it instead of the folder: what is inside is read where it lies",
        magic: &[(257, b"ustar")],
        names: &[".tar", ".nemo"],
        is_model: false,
    },
    Known {
        what: "a zip archive, and no checkpoint of PyTorch",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"PK\x03\x04")],
        names: &[".zip", ".mar"],
        is_model: false,
    },
    Known {
        what: "a JSON text, not weights",
        advice: "name the weights, or the folder that they are in",
        magic: &[(0, b"{\n"), (0, b"{\r\n"), (0, b"{\"")],
        names: &[],
        is_model: false,
    },
    Known {
        what: "a pickle that torch.save did not write",
        advice: "load it where it is trusted and save the tensors as safetensors",
        magic: &[(0, b"\x80\x02"), (0, b"\x80\x03"), (0, b"\x80\x04"), (0, b"\x80\x05")],
        names: &[".pkl", ".pickle", ".joblib"],
        is_model: false,
    },
];

/// All kinds.
pub fn kinds() -> &'static [Known] {
    KINDS
}

/// What a file is by its first bytes, or else by its name.
pub fn of_file(name: &str, head: &[u8]) -> Option<&'static Known> {
    let begins =
        |(at, magic): &(usize, &[u8])| head.get(*at..).is_some_and(|head| head.starts_with(magic));
    KINDS.iter().find(|kind| kind.magic.iter().any(begins)).or_else(|| of_name(name))
}

/// What a file is by its name.
pub fn of_name(name: &str) -> Option<&'static Known> {
    let base = name.rsplit('/').next().unwrap_or(name);
    KINDS.iter().find(|kind| {
        let fits = |end: &&str| base == *end || (end.starts_with('.') && base.ends_with(end));
        kind.names.iter().any(fits)
    })
}
