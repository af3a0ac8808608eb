"""Whether published weights say here what they say elsewhere: real models, read, decoded and compared.

    python benchmarks/real_weights.py smollm2 --gguf=SmolLM2-135M-Instruct.Q4_1.gguf --reference
    python benchmarks/real_weights.py stories15m --bin=stories15M.bin --tokenizer=llama2_tokenizer.model --reference

`smollm2` reads a GGUF file of an instruction-tuned model, asks a question through its chat template and decodes the
answer greedily; `--reference` exports the model and has `transformers` read that folder: the same tokens of a passage,
and log-probabilities of every next token that differ by 1e-3 nats at most.

`stories15m` turns llama2.c's file into a folder of `transformers`, and tells a story greedily and one that is drawn.
The loss on each, in nats a token, is compared with that of llama2.c's own order of rotary positions (`stories.py`), and
with `--reference` with that of `transformers`: 1e-4 at most apart, and 1.6 at most by themselves.

Prints JSON; exit code 1 says that a bar was missed. CPU, a minute each. docs/checkpoints.md says where weights are.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import stories
from flax import nnx

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import KEPT, import_checkpoint
from cat_jax.checkpoint.params import load_model
from cat_jax.data.chat import ChatTemplate
from cat_jax.data.hugging_face import load_tokenizer
from cat_jax.data.tokenizer_files import read_tokenizer
from cat_jax.decode.greedy import Greedy
from cat_jax.decode.loop import Decoding
from cat_jax.decode.sample import Sampling
from cat_jax.errors import UserError
from cat_jax.evaluate.prompts import prompt_batch
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch

QUESTION = "What is the capital of France?"
PASSAGE = (
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a small village by the sea, and in it "
    "lived a fisherman who had three daughters. In 1987 they bought a boat for $1,250.50, and called it 'L’Étoile'."
)
LARGEST_LOG_PROBABILITY, LARGEST_LOSS_APART, LARGEST_LOSS = 1e-3, 1e-4, 1.6


class Ours:
    """A model as this package reads, computes and decodes it, in float32 on one device."""

    def __init__(self, path: pathlib.Path):
        mesh = MeshConfig(data=1).build(jax.devices()[:1])
        self.config, self._graphdef, self._params, _ = load_model(path, mesh=mesh)

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """f32[T, V]: of what stands at each place, given what is before it; of the first where something begins."""
        row = np.array([tokens], np.int32)
        batch = Batch(row, np.pad(row, [(0, 0), (1, 0)])[:, :-1], np.ones(row.shape, np.float32))

        @jax.jit
        def compute(params: Any, batch: Batch) -> jax.Array:
            output = nnx.merge(self._graphdef, params)(batch)
            return jax.nn.log_softmax(output.head.logits(output.hidden))[0]

        return np.asarray(compute(self._params, batch))

    def write(self, prompt: Sequence[int], decoding: Decoding, length: int, end: int) -> list[int]:
        """What follows a prompt, the end included if it comes."""

        @jax.jit
        def compute(params: Any, inputs: jax.Array, lengths: jax.Array):
            batch = prompt_batch(inputs, self.config.prompt, lengths)
            model = nnx.merge(self._graphdef, params)
            return decoding(model, batch, max_decode_length=length, eos_id=end, rows=jnp.zeros(1, jnp.int32))

        inputs = jnp.array([list(prompt) or [0]], jnp.int32)
        found = compute(self._params, inputs, jnp.array([len(prompt)], jnp.int32))
        return np.asarray(found.tokens)[0, : int(found.lengths[0])].tolist()


class Theirs:
    """The same in `transformers`."""

    def __init__(self, folder: pathlib.Path):
        try:
            import torch
            import transformers
        except ImportError as e:
            raise UserError(f"--reference compares with transformers ({e})", "pip install 'cat-jax[hf]' torch") from e
        self._torch, self.versions = torch, {"torch": torch.__version__, "transformers": transformers.__version__}
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """f32[T - 1, V]: of what stands at each place but the first."""
        with self._torch.no_grad():
            logits = self._model(self._torch.tensor([list(tokens[:-1])])).logits[0]
            return self._torch.log_softmax(logits, -1).numpy()

    def loss(self, tokens: Sequence[int]) -> float:
        """Nats a token, but for the first, as the library has it."""
        row = self._torch.tensor([list(tokens)])
        with self._torch.no_grad():
            return float(self._model(row, labels=row).loss)


def smollm2(args: argparse.Namespace, scratch: pathlib.Path) -> dict[str, Any]:
    """An answer of the model in a GGUF file; and how far log-probabilities are from those of `transformers`."""
    summary = import_checkpoint(args.gguf, scratch / "model")
    if summary["vocabulary"] is None:
        raise UserError(f"{args.gguf} has no tokenizer that is read", "take a file of SmolLM2")
    files = read_tokenizer(scratch / "model" / KEPT)
    if files.chat_template is None:
        raise UserError(f"{args.gguf} has no chat template", "take a file of an instruction-tuned model")
    tokenizer = load_tokenizer(files.content, "token", files.path)
    turns = [{"role": "user", "content": args.question}, {"role": "assistant", "content": ""}]
    text, _ = ChatTemplate(files.chat_template, files.tokens, files.tokens["eos"], files.special).split(turns)
    prompt = tokenizer.encode(text, add_special_tokens=False).ids
    start = time.perf_counter()
    model = Ours(pathlib.Path(args.gguf))
    seconds = time.perf_counter() - start
    answer = model.write(prompt, Greedy(), args.length, tokenizer.token_to_id(files.tokens["eos"]))
    passage = tokenizer.encode(PASSAGE, add_special_tokens=False).ids
    ours = {"prompt": model.log_probabilities(prompt), "passage": model.log_probabilities(passage)}
    found: dict[str, Any] = {
        "parameters": summary["parameters"],
        "seconds_to_load": round(seconds, 2),
        "question": args.question,
        "prompt": text,
        "answer": tokenizer.decode(answer, skip_special_tokens=True),
        "passage_loss": _loss(ours["passage"], passage),
        "failed": [],
    }
    if not args.reference:
        return found
    export_checkpoint(scratch / "model", scratch / "folder")
    theirs = Theirs(scratch / "folder")
    apart = {}
    for name, tokens in {"prompt": prompt, "passage": passage}.items():
        apart[name] = float(np.abs(ours[name][1:] - theirs.log_probabilities(tokens)).max())
        if not apart[name] <= LARGEST_LOG_PROBABILITY:
            found["failed"].append(f"log-probabilities of the {name} are {apart[name]:.3g} apart")
    if _ids_of_transformers(scratch / "folder", PASSAGE) != passage:
        found["failed"].append("the tokens of the passage are others in transformers")
    return {**found, "log_probabilities_apart": apart, "versions": theirs.versions}


def _ids_of_transformers(folder: pathlib.Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]


def stories15m(args: argparse.Namespace, scratch: pathlib.Path) -> dict[str, Any]:
    """Two stories, and the loss on each by three programs."""
    import sentencepiece

    if not args.tokenizer.is_file():
        raise UserError(f"there is no tokenizer {args.tokenizer}", "give the SentencePiece model of Llama 2")
    sizes, params = stories.read_checkpoint(args.bin)
    folder = scratch / "folder"
    folder.mkdir()
    stories.write_folder(folder, sizes, params)
    shutil.copyfile(args.tokenizer, folder / "tokenizer.model")
    model, pieces = Ours(folder), sentencepiece.SentencePieceProcessor(model_file=str(args.tokenizer))
    theirs = Theirs(folder) if args.reference else None
    found: dict[str, Any] = {"parameters": int(sum(x.size for x in params.values())), "stories": {}, "failed": []}
    length = min(args.length, sizes.positions - 1)
    for name, decoding in {"greedy": Greedy(), "drawn": Sampling(seed=args.seed)}.items():
        story = model.write([], decoding, length, stories.BOUNDARY)
        losses = {
            "ours": _loss(model.log_probabilities(story), story, 0),
            "llama2.c": loss_of_file(sizes, params, story),
        }
        if theirs is not None:
            losses["transformers"] = theirs.loss([stories.BOUNDARY, *story])
        apart = max(abs(loss - losses["ours"]) for loss in losses.values())
        if not apart <= LARGEST_LOSS_APART:
            found["failed"].append(f"losses on the {name} story are {apart:.3g} apart")
        if not losses["ours"] <= LARGEST_LOSS:
            found["failed"].append(f"the loss on the {name} story is {losses['ours']:.4g}")
        text = pieces.decode([token for token in story if token != stories.BOUNDARY])
        found["stories"][name] = {"text": text, "tokens": len(story), "losses": losses, "apart": apart}
    return {**found, "versions": theirs.versions} if theirs is not None else found


def loss_of_file(sizes: stories.Sizes, params: dict[str, np.ndarray], story: Sequence[int]) -> float:
    """Nats a token of a story by a forward pass in the file's own order."""
    tokens = jnp.array([[stories.BOUNDARY, *story[:-1]]])
    hidden, _ = stories.hidden_states(sizes, params, tokens, jnp.int32(0), stories.empty_cache(sizes, 1))
    return _loss(np.asarray(jax.nn.log_softmax(hidden[0] @ params["embedding"].T)), story, 0)


def _loss(log_probabilities: np.ndarray, tokens: Sequence[int], first: int = 1) -> float:
    """Nats a token, from the token `first` on."""
    return float(-log_probabilities[np.arange(len(tokens)), tokens][first:].astype(np.float64).mean())


def parser() -> argparse.ArgumentParser:
    """Of the arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(required=True)
    one = commands.add_parser("smollm2", help="ask the model in a GGUF file")
    one.add_argument("--gguf", type=pathlib.Path, required=True, help="SmolLM2-135M-Instruct, or another chat model")
    one.add_argument("--question", default=QUESTION)
    one.set_defaults(check=smollm2, length=40)
    other = commands.add_parser("stories15m", help="have llama2.c's stories15M tell a story")
    other.add_argument("--bin", type=pathlib.Path, required=True, help=f"stories15M.bin; {stories.HOW}")
    other.add_argument("--tokenizer", type=pathlib.Path, required=True, help="the SentencePiece model of Llama 2")
    other.add_argument("--seed", type=int, default=0, help="of the story that is drawn")
    other.set_defaults(check=stories15m, length=200)
    for command in (one, other):
        command.add_argument("--length", type=int, help="tokens to write, at most (default: %(default)s)")
        command.add_argument("--reference", action="store_true", help="compare with transformers")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what was found; 1 where a bar was missed."""
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = args.check(args, pathlib.Path(scratch))
        except UserError as e:
            sys.exit(f"error: {e}")
    print(json.dumps({**found, "jax": jax.__version__}, indent=2, ensure_ascii=False))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
