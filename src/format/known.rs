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
    },
    Known { what: "an XML text, not weights", advice: PAGE, magic: &[(0, b"<?xml")], names: &[] },
    Known {
        what: "an archive of Keras",
        advice: "unpack it, as a zip archive, and name `model.weights.h5`",
        magic: &[],
        names: &[".keras"],
    },
    Known {
        what: "a file of elements of an ONNX graph",
        advice: "name the `.onnx` file beside it, which says what they are",
        magic: &[],
        names: &[".onnx_data", ".onnx.data"],
    },
    Known {
        what: "a graph of ONNX Runtime",
        advice: "convert the ONNX graph that it was made of, or the checkpoint before that",
        magic: &[(4, b"ORTM")],
        names: &[".ort"],
    },
    Known {
        what: "a TensorFlow Lite model",
        advice: "convert the checkpoint that it was exported from",
        magic: &[(4, b"TFL3")],
        names: &[".tflite"],
    },
    Known {
        what: "weights of an OpenVINO graph",
        advice: "convert the checkpoint that it was exported from",
        magic: &[],
        names: &["openvino_model.bin", "openvino_model.xml"],
    },
    Known {
        what: "a CTranslate2 model",
        advice: "convert the checkpoint that it was made from",
        magic: &[(4, b"\x10\0TransformerSpec"), (4, b"\x0c\0WhisperSpec")],
        names: &[],
    },
    Known {
        what: "a model of ggml from before GGUF",
        advice: "make a GGUF file of its source, or bring it to GGUF with the scripts of llama.cpp of 2023",
        magic: &[(0, b"lmgg"), (0, b"fmgg"), (0, b"tjgg"), (0, b"algg")],
        names: &[],
    },
    Known {
        what: "a 7z archive",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"7z\xbc\xaf\x27\x1c")],
        names: &[".7z"],
    },
    Known {
        what: "a file that gzip packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\x1f\x8b")],
        names: &[".gz", ".tgz"],
    },
    Known {
        what: "a file that zstd packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\x28\xb5\x2f\xfd")],
        names: &[".zst"],
    },
    Known {
        what: "a file that xz packed",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"\xfd7zXZ")],
        names: &[".xz"],
    },
    Known {
        what: "a tar archive",
        advice: "unpack it and name what is inside",
        magic: &[(257, b"ustar")],
        names: &[".tar", ".nemo"],
    },
    Known {
        what: "a zip archive, and no checkpoint of PyTorch",
        advice: "unpack it and name what is inside",
        magic: &[(0, b"PK\x03\x04")],
        names: &[".zip", ".mar"],
    },
    Known {
        what: "a JSON text, not weights",
        advice: "name the weights, or the folder that they are in",
        magic: &[(0, b"{\n"), (0, b"{\r\n"), (0, b"{\"")],
        names: &[],
    },
    Known {
        what: "a pickle that torch.save did not write",
        advice: "load it where it is trusted and save the tensors as safetensors",
        magic: &[(0, b"\x80\x02"), (0, b"\x80\x03"), (0, b"\x80\x04"), (0, b"\x80\x05")],
        names: &[".pkl", ".pickle", ".joblib"],
    },
];

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
