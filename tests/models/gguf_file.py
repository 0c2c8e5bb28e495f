"""A tiny Llama model and its tokenizer as a .gguf file, by the package's own writer, in the layout that llama.cpp's converter writes."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from torch import Tensor
from transformers import PreTrainedModel

_Q8 = GGMLQuantizationType.Q8_0
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(model: PreTrainedModel, tokenizer: Any, file: Path, *, quantized: bool = False) -> Path:
    """Float32 tensors, or matrices of the layers in 8-bit blocks. Rows of queries and keys are reordered: llama.cpp turns neighbouring pairs of a head, transformers its halves."""
    config: Any = model.config
    writer = GGUFWriter(file, "llama")
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "q_proj" in name or "k_proj" in name:
            weight = _pairs(weight, heads if "q_proj" in name else groups)
        values = weight.float().numpy()
        if quantized and "proj" in name:
            writer.add_tensor(_renamed(name), gguf.quantize(values, _Q8), raw_dtype=_Q8)
        else:
            writer.add_tensor(_renamed(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def as_read(values: np.ndarray) -> np.ndarray:
    """What is left of a matrix that was written in 8-bit blocks."""
    return gguf.dequantize(gguf.quantize(values, _Q8), _Q8)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Any) -> None:
    tokens = [tokenizer.convert_ids_to_tokens(id) for id in range(len(tokenizer))]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if each in special else TokenType.NORMAL for each in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(each) for each in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)  # as `tokenizer` writes
    writer.add_chat_template(tokenizer.chat_template)


def _renamed(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _pairs(weight: Tensor, heads: int) -> Tensor:
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)
