"""Decoding: tokens/s of cat-jax beside `transformers` on torch, the same weights, one interleaved run on CPU.

    python benchmarks/decode.py                  # greedy; T5 1.1 style, 25.9M parameters, batch 32, 64 tokens
    python benchmarks/decode.py --beams 4        # beam search
    python benchmarks/decode.py --rounds 7 --input_length 128

Both write all their tokens (no end of sequence), so that equal work is compared; the tokens are compared too. What is
counted is the answers' tokens, whatever the number of beams.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
from flax import nnx

from cat_jax.decode.beam import BeamSearch
from cat_jax.decode.greedy import Greedy
from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.models.flops import parameter_count
from cat_jax.models.t5_config import T5Config

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "models"))

from transformers_t5 import build_theirs, params_from_theirs

CONFIG = T5Config(
    vocab_size=32128,
    embed_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=4,
    num_decoder_layers=4,
)


def main() -> None:
    """Prints one JSON object."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input_length", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = build_theirs(CONFIG)
    graphdef, params = nnx.split(CONFIG.build(jax.random.key(0)))
    params = params_from_theirs(theirs, params)
    inputs = np.random.default_rng(0).integers(2, CONFIG.vocab_size, (args.batch, args.input_length)).astype(np.int32)

    decoding = BeamSearch(args.beams) if args.beams > 1 else Greedy()

    @jax.jit
    def decode(params, inputs):
        # No token has id -1: every row runs to the last token.
        model = nnx.merge(graphdef, params)
        return decoding(model, prompt_batch(inputs), max_decode_length=args.tokens, eos_id=-1)

    tensor = torch.tensor(inputs, dtype=torch.long)
    settings = {"max_new_tokens": args.tokens, "do_sample": False, "num_beams": args.beams}
    theirs.generation_config.eos_token_id = None

    def run_ours() -> np.ndarray:
        return np.asarray(decode(params, inputs).tokens)

    def run_theirs() -> np.ndarray:
        with torch.no_grad():
            return theirs.generate(tensor, attention_mask=torch.ones_like(tensor), **settings)[:, 1:].numpy()

    equal = float(np.mean(run_ours() == run_theirs()))  # and warms both up
    seconds: dict[str, list[float]] = {"cat_jax": [], "transformers": []}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in seconds}  # what counts on a machine with other guests
    for _ in range(args.rounds):
        for name, run in (("cat_jax", run_ours), ("transformers", run_theirs)):
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    rates = {name: args.batch * args.tokens / statistics.median(times) for name, times in seconds.items()}
    report = {
        "parameters": parameter_count(CONFIG),
        "shape": {"batch": args.batch, "input_length": args.input_length, "tokens": args.tokens, "beams": args.beams},
        "equal_tokens": equal,
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "seconds": {name: [round(t, 4) for t in times] for name, times in seconds.items()},
        "cpu_seconds": {name: [round(t, 4) for t in times] for name, times in cpu_seconds.items()},
        "ratio": round(rates["cat_jax"] / rates["transformers"], 3),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
