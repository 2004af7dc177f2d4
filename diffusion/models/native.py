"""Published denoisers whose own code is Llama's or Qwen2's under other names: read without it.

LLaDA (arXiv:2502.09992) is a Llama, Dream (arXiv:2508.15487) a Qwen2 that reads each token one slot to
the left; both with full attention.
"""

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

_LLADA = {  # Llama's names of what LLaDA's config calls otherwise
    "vocab_size": "embedding_size",
    "hidden_size": "d_model",
    "intermediate_size": "mlp_hidden_size",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "max_position_embeddings": "max_sequence_length",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "weight_tying",
    "attention_bias": "include_qkv_bias",
}
_LLADA_WEIGHTS = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.(\d+)\.q_proj\.": r"model.layers.\1.self_attn.q_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.k_proj\.": r"model.layers.\1.self_attn.k_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.v_proj\.": r"model.layers.\1.self_attn.v_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
}
_IDS = ("mask_token_id", "pad_token_id", "eos_token_id", "bos_token_id", "rope_theta")


def _settings(shift: bool) -> dict:
    return {"objective": "diffusion", "shift": shift}


def _llada(raw: dict) -> PretrainedConfig:
    names = {ours: raw[theirs] for ours, theirs in _LLADA.items() if raw.get(theirs) is not None}
    names |= {name: raw[name] for name in _IDS if raw.get(name) is not None}
    return LlamaConfig(**names, diffusion=_settings(shift=False))


def _dream(raw: dict) -> PretrainedConfig:
    own = ("auto_map", "model_type", "architectures", "transformers_version")
    return Qwen2Config(
        **{key: value for key, value in raw.items() if key not in own},
        diffusion=_settings(shift=True),
    )


# By ``model_type``: the config of transformers for theirs, and the names of weights.
NATIVE = {"llada": (_llada, _LLADA_WEIGHTS), "Dream": (_dream, None)}
