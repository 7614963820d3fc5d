//! Inputs for a comparison: the same for every model of the same sizes.

use super::Inputs;
use super::conv::Stem;
use super::keys::Keys;
use super::memory::given_dim;
use crate::base::error::Result;
use crate::package::{Model, Value};

/// How long sequences are, unless the model takes only shorter ones.
const LEN: usize = 12;

/// A linear congruential generator (Knuth's MMIX), whose upper bits are used.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    fn ids(&mut self, len: usize, vocab_size: usize) -> Vec<i64> {
        (0..len).map(|_| self.below(vocab_size) as i64).collect()
    }
}

impl Inputs {
    /// One pseudo-random sequence that a model can read: ids, token types where it has some, ids for
    /// the decoder of an encoder-decoder, a spectrogram where it reads that, shapes, sounds and an adapter
    /// where it knows them.
    ///
    /// # Errors
    /// A hyperparameter is missing or senseless.
    pub fn sample(model: &Model) -> Result<Inputs> {
        let keys = |stack| Keys::new(&model.hyperparameters, Some(stack));
        let (encoder, decoder) = (keys("encoder"), keys("decoder"));
        // A stack that is not there is seen through the other's keys.
        let len = |keys: Keys<'_>| -> Result<usize> {
            Ok(keys.opt_count("max_positions")?.unwrap_or(LEN).clamp(1, LEN))
        };
        let vocab_size = encoder.count("vocab_size")?;
        // Some poolings take the vector of the last end of a sequence.
        let eos = match model.tokens.get("eos") {
            Some(Value::List(eos)) => eos.first(),
            eos => eos,
        };
        let end = |ids: &mut Vec<i64>| {
            if let (Some(Value::Int(eos)), Some(last)) = (eos, ids.last_mut()) {
                *last = *eos;
            }
        };
        let mut random = Random(1);
        let mut inputs = Inputs::default();
        let mel_bins = encoder.count("audio.mel_bins")?;
        if 0 < mel_bins {
            let n_frames = Stem::read(encoder)?.frames(len(encoder)?);
            let mut frame = || random.below(2_000) as f32 / 1_000.0 - 1.0;
            let mut bin = || (0..n_frames).map(|_| frame()).collect();
            inputs.input_features = vec![(0..mel_bins).map(|_| bin()).collect()];
        } else {
            let len = len(encoder)?;
            let mut ids = random.ids(len, vocab_size);
            end(&mut ids);
            inputs.input_ids = vec![ids];
            let segments = if encoder.bool("attn_segments")? { 2 } else { 0 };
            let n_types = encoder.count("type_vocab_size")?.max(segments);
            inputs.token_type_ids = (0 < n_types).then(|| vec![random.ids(len, n_types)]);
            let mut ids_of = |rows: usize| (0 < rows).then(|| vec![random.ids(len, rows)]);
            inputs.shape_ids = ids_of(encoder.count("shape_embed.rows")?);
            inputs.sound_ids = ids_of(encoder.count("sound_embed.rows")?);
            if encoder.bool("has_mlp")? && 0 < encoder.count("mlp_adapter.dim")? {
                let n_adapters = encoder.words("mlp_adapter.names")?.len();
                inputs.adapter_ids = Some(random.ids(1, n_adapters));
            }
        }
        if encoder.bool("cross_attention")? {
            // Only a decoder that stands alone is the first stack and attends to another.
            let hidden = given_dim(encoder)?;
            let mut number = || random.below(2_000) as f32 / 1_000.0 - 1.0;
            let mut state = |_| (0..hidden).map(|_| number()).collect();
            inputs.encoder_hidden_states = Some(vec![(0..5).map(&mut state).collect()]);
        } else if decoder.bool("cross_attention")? {
            let own = decoder.count("decoder_vocab_size")?;
            let vocab_size = if own == 0 { vocab_size } else { own };
            let mut ids = random.ids(len(decoder)?, vocab_size);
            end(&mut ids);
            inputs.decoder_input_ids = Some(vec![ids]);
        }
        Ok(inputs)
    }
}
