//! The decoder of a logical tensor, from the bytes of its parts.

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::layout::Layout;
use crate::checkpoint::{DType, Parameters};
use crate::encoding::decoder::Decoder;
use crate::encoding::grouped::{self, Compute, GlobalScale, GptqVersion};
use crate::encoding::number::Precision;
use crate::encoding::part::Part;

impl Layout {
    /// A decoder over the parts; `part` has the bytes of each role that is there. The values come
    /// as the parts lie, whatever `transposed` says.
    ///
    /// # Errors
    /// A part is missing or does not fit, or the parameters lack what decoding needs.
    pub fn decoder<'p>(
        &self,
        parameters: &Parameters,
        part: impl Fn(&str) -> Option<Part<'p>>,
    ) -> Result<Decoder<'p>> {
        let need = |role: &str| {
            let message = || format!("{} needs its {role}", self.id);
            part(role).ok_or_else(|| Error::new(ErrorKind::Malformed, message()))
        };
        let Parameters { bits, group_size, block, ref format, ref dtype } = *parameters;
        let small = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let stated_bits = bits.map(small);
        let bits = || {
            let message = || format!("nothing says how many bits {} has", self.id);
            stated_bits.ok_or_else(|| Error::new(ErrorKind::Malformed, message()))
        };
        let block = block.map(|block| block.map(small));
        let payload = || need(&self.parts[0].role);
        match self.decode.as_str() {
            "gptq" => {
                let version = match format.as_deref() {
                    Some("gptq_v2") => GptqVersion::V2,
                    _ => GptqVersion::V1,
                };
                let parts = [need("qweight")?, need("qzeros")?, need("scales")?];
                grouped::gptq(parts, part("g_idx"), bits()?, group_size.map(small), version)
            }
            "awq" => match bits()? {
                4 => grouped::awq([need("qweight")?, need("qzeros")?, need("scales")?]),
                bits => Err(Error::unsupported(format!("AWQ of {bits} bits"))),
            },
            "bitsandbytes_4bit" => {
                let nested = match part("nested_absmax") {
                    Some(absmax) => Some([absmax, need("nested_quant_map")?]),
                    None => None,
                };
                let state = need("quant_state")?.bytes;
                let (absmax, map) = (need("absmax")?, need("quant_map")?);
                grouped::bitsandbytes_4bit(need("weight")?, absmax, map, state, nested)
            }
            "bitsandbytes_int8" => grouped::bitsandbytes_int8(need("weight")?, need("scb")?),
            "mxfp4_blocks" => grouped::mxfp4_blocks(need("blocks")?, need("scales")?),
            "mxfp4" => grouped::mxfp4(need("weight")?, need("scales")?),
            "nvfp4" => grouped::nvfp4(need("packed")?, need("scale")?, None),
            "nvfp4_divided" => {
                let global = (need("global")?, GlobalScale::Divides);
                grouped::nvfp4(need("packed")?, need("scale")?, Some(global))
            }
            "nvfp4_multiplied" => {
                let global = (need("global")?, GlobalScale::Multiplies);
                grouped::nvfp4(need("packed")?, need("scale")?, Some(global))
            }
            "pack_quantized" => {
                let (packed, scale, shape) = (need("packed")?, need("scale")?, need("shape")?);
                let (zero, g_idx) = (part("zero"), part("g_idx"));
                grouped::pack_quantized(packed, scale, shape, zero, g_idx, stated_bits)
            }
            "scaled_f32" => {
                grouped::scaled_bytes(payload()?, need("scale")?, None, block, Compute::F32)
            }
            "scaled_as_scale" => {
                let zero = part("zero");
                grouped::scaled_bytes(payload()?, need("scale")?, zero, block, Compute::AsScale)
            }
            "torchao_int8" => {
                let precision = match dtype.as_deref().and_then(DType::parse) {
                    Some(DType::BF16) => Precision::Bf16,
                    Some(DType::F16) => Precision::F16,
                    _ => Precision::F32,
                };
                let (zero, compute) = (part("zero_point"), Compute::As(precision));
                grouped::scaled_bytes(payload()?, need("scale")?, zero, block, compute)
            }
            "torchao_int4" => {
                grouped::torchao_int4(need("qdata")?, need("scale")?, need("zero_point")?)
            }
            "mlx" => grouped::mlx(need("weight")?, need("scales")?, need("biases")?, bits()?),
            other => Err(Error::unsupported(format!("nothing here decodes {other:?}"))),
        }
    }
}
