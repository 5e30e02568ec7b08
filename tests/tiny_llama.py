"""A llama.cpp server of a random model, as a process: `python tiny_llama.py FOLDER LETTERS`; says where it listens.

The model has one layer of random weights and 115 KB. It writes letters that mean nothing, or, where LETTERS
is `bytes`, bytes that are mostly no text at all. With `json_schema` llama.cpp holds it to the schema all the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

WIDTH, WIDE, HEADS = 32, 64, 2
TEXT = "abcdefghijklmnopqrstuvwxyz ETAOIN.,!?灯火门楼梯的一了你它影声夜风走看血。，！🔥"
CONTROL = ("<unk>", "<s>", "</s>")
FAR = -100.0


def tokens() -> list[str]:
    return [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(TEXT)]


def model(path: Path, *, only_bytes: bool) -> Path:
    """A model file whose weights are drawn from one seed, so that it is the same on every machine."""
    import gguf  # noqa: PLC0415 - slow to import, and this file is imported where it is not needed
    import numpy  # noqa: ICN001, PLC0415 - the same

    draw = numpy.random.default_rng(7).standard_normal
    writer = gguf.GGUFWriter(path, "llama")
    words = tokens()
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.BYTE] * 256
    describe(writer, words, [*kinds, *[gguf.TokenType.NORMAL] * (len(words) - len(kinds))])
    for name, shape in shapes(len(words)).items():
        weights = numpy.ones(shape) if "norm" in name else draw(shape) * 0.1
        if name == "token_embd.weight":
            weights[:, 0] = 3.0
        if name == "output.weight":
            # The first number is the same everywhere: its weight moves a whole class of tokens away.
            weights *= 5
            weights[:, 0] = 0.0
            weights[slice(len(kinds), None) if only_bytes else slice(3, len(kinds)), 0] = FAR
        writer.add_tensor(name, weights.astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def describe(writer: Any, words: list[str], kinds: list[Any]) -> None:
    writer.add_context_length(8192)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")


def shapes(count: int) -> dict[str, tuple[int, ...]]:
    whole = {"token_embd.weight": (count, WIDTH), "output_norm.weight": (WIDTH,), "output.weight": (count, WIDTH)}
    square = {f"blk.0.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    feed = {"ffn_gate": (WIDE, WIDTH), "ffn_up": (WIDE, WIDTH), "ffn_down": (WIDTH, WIDE)}
    norms = {f"blk.0.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    return {**whole, **square, **norms, **{f"blk.0.{name}.weight": shape for name, shape in feed.items()}}


def serve(path: Path) -> None:
    """Serve until standard input ends."""
    import xllamacpp  # noqa: PLC0415 - loads 100 MB

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.port, parameters.warmup = 8192, 1, 0, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(f"llama listens on {server.listening_address}", flush=True)  # noqa: T201 - whoever started it reads it
    sys.stdin.read()


if __name__ == "__main__":
    serve(model(Path(sys.argv[1]) / "tiny.gguf", only_bytes=sys.argv[2] == "bytes"))
