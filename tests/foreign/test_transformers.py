"""Models that transformers made come in and go out again: same logits, same loss, same answers, same bits."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat_jax.checkpoint.exported import export_checkpoint
from cat_jax.checkpoint.imported import import_checkpoint
from cat_jax.checkpoint.params import load_model
from cat_jax.decode.greedy import greedy
from cat_jax.models.t5_layers import T5DecoderLayer, T5EncoderLayer
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.parallel.names import flatten_names
from cat_jax.types import Batch

torch = pytest.importorskip("torch", reason="compared where torch is installed")
transformers = pytest.importorskip("transformers", reason="compared where transformers is installed")

# As ByT5's: more layers in the encoder, 384 ids. All of one size, so that they are compiled once.
SIZES = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "vocab_size": 384,
}
T5_1_1 = {**SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
KINDS = {
    "original": ("T5", {**SIZES, "feed_forward_proj": "relu"}, False),
    "t5_1_1": ("T5", T5_1_1, True),
    "mt5": ("MT5", T5_1_1, True),
    "flan": ("T5", T5_1_1, False),  # its head equals its table: transformers 5 leaves it out of the file
    "byt5": ("T5", T5_1_1, True),
}
STEPS = 8


def build(kind):
    """A random model of `kind`; norms of their own, so that one that is left out would show."""
    prefix, fields, head = KINDS[kind]
    torch.manual_seed(len(kind))
    config = getattr(transformers, f"{prefix}Config")(**fields, decoder_start_token_id=0)
    theirs = getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.mul_(1.5) if weight.ndim > 1 else weight.uniform_(0.5, 1.5)
            if "relative" in name:
                weight.mul_(4.0)
        if head:
            theirs.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
            theirs.lm_head.weight.normal_()
    return theirs


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """(kind, their model, its folder, the directory it was imported to)."""
    root = tmp_path_factory.mktemp(request.param)
    theirs = build(request.param)
    theirs.save_pretrained(root / "theirs")
    import_checkpoint(root / "theirs", root / "ours")
    return request.param, theirs, root


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(2, 384, (3, 9)), rng.integers(2, 384, (3, 6))
    inputs[1, 6:] = inputs[2, 4:] = targets[1, 4:] = 0
    return Batch(
        decoder_target_tokens=jnp.asarray(targets),
        decoder_input_tokens=jnp.asarray(np.pad(targets, ((0, 0), (1, 0)))[:, :-1] * (targets > 0)),
        decoder_loss_weights=jnp.asarray(targets > 0, jnp.float32),
        encoder_input_tokens=jnp.asarray(inputs),
    )


@functools.partial(jax.jit, static_argnums=0)
def ours_on(graphdef, params, batch):
    """(logits, loss, tokens of greedy decoding)."""
    model = nnx.merge(graphdef, params)
    output = model(batch)
    logits = output.head.logits(output.hidden)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.decoder_target_tokens[..., None], -1)[..., 0]
    loss = jnp.sum(losses * batch.decoder_loss_weights) / jnp.sum(batch.decoder_loss_weights)
    return logits, loss, greedy(model, batch, max_decode_length=STEPS, eos_id=1).tokens


def to_torch(array):
    return torch.tensor(np.array(array), dtype=torch.long)


def theirs_on(model, batch, **options):
    """(logits, loss, all that it gives)."""
    inputs, targets = to_torch(batch.encoder_input_tokens), to_torch(batch.decoder_target_tokens)
    mask, labels = (inputs > 0).long(), targets.masked_fill(targets == 0, -100)
    with torch.no_grad():
        output = model(input_ids=inputs, attention_mask=mask, labels=labels, **options)
    return output.logits.numpy(), float(output.loss), output


def written_by(model, batch):
    """Tokens of greedy decoding."""
    inputs = to_torch(batch.encoder_input_tokens)
    options = {"max_new_tokens": STEPS, "do_sample": False, "num_beams": 1, "use_cache": False}
    return model.generate(input_ids=inputs, attention_mask=(inputs > 0).long(), **options).numpy()[:, 1:]


def errors_by_layer(graphdef, params, theirs):
    """The largest error of what each layer but the last gives: the encoder's, then the decoder's."""
    ours = {T5EncoderLayer: [], T5DecoderLayer: []}

    def recorded(layer):
        call = layer.__call__

        def call_and_record(self, *args, **options):
            ours[layer].append(call(self, *args, **options))
            return ours[layer][-1]

        return call_and_record

    with pytest.MonkeyPatch.context() as patch:
        for layer in ours:
            patch.setattr(layer, "__call__", recorded(layer))
        nnx.merge(graphdef, params)(batch())
    found = theirs_on(theirs, batch(), output_hidden_states=True)[2]
    wanted = {T5EncoderLayer: found.encoder_hidden_states, T5DecoderLayer: found.decoder_hidden_states}
    real = {T5EncoderLayer: batch().encoder_input_tokens > 0, T5DecoderLayer: batch().decoder_loss_weights > 0}
    return {
        layer.__name__: [
            f"{np.abs(np.array(x) - y.numpy())[np.array(real[layer])].max():.1e}"
            for x, y in zip(ours[layer][:-1], wanted[layer][1:-1], strict=True)  # theirs end with a norm
        ]
        for layer in ours
    }


def agree(graphdef, params, theirs):
    logits, loss, tokens = ours_on(graphdef, params, batch())
    expected, expected_loss, _ = theirs_on(theirs, batch())
    written = written_by(theirs, batch())
    real = np.array(batch().decoder_loss_weights) > 0
    if not np.allclose(np.array(logits)[real], expected[real], rtol=1e-7, atol=1e-4):
        worst = np.abs(np.array(logits) - expected)[real].max()
        pytest.fail(f"logits differ by {worst:.1e}; by layer: {errors_by_layer(graphdef, params, theirs)}")
    assert abs(float(loss) - expected_loss) < 1e-4
    np.testing.assert_array_equal(np.array(tokens)[:, : written.shape[1]], written)
    assert len({tuple(row) for row in written.tolist()}) > 1  # the inputs tell


def test_imported_it_says_the_same(case):
    kind, theirs, root = case
    config, graphdef, params, _ = load_model(root / "ours", mesh=MeshConfig().build())
    assert config.vocab_size == theirs.config.vocab_size
    assert config.tie_embeddings == (kind == "original")
    agree(graphdef, params, theirs)


def test_exported_it_has_the_same_bits(case):
    kind, theirs, root = case
    export_checkpoint(root / "ours", root / "again", tokenizer="bytes" if kind == "byt5" else None)
    reopened = type(theirs).from_pretrained(root / "again")
    assert reopened.config.model_type == ("mt5" if kind == "mt5" else "t5")
    before, after = theirs.state_dict(), reopened.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(theirs_on(reopened, batch())[0], theirs_on(theirs, batch())[0])
    fields = (json.loads((root / name / "config.json").read_text()) for name in ("theirs", "again"))
    first, second = ({k: v for k, v in f.items() if k not in ("dtype", "torch_dtype")} for f in fields)
    changed = {name for name in first | second if first.get(name) != second.get(name)}
    assert changed <= {"transformers_version", "tie_word_embeddings", "scale_decoder_outputs"}
    if kind == "byt5":
        assert transformers.AutoTokenizer.from_pretrained(root / "again")("hi").input_ids == [107, 108, 1]


def test_shards_and_half_precision(tmp_path):
    """In several files and in bfloat16 and float16: the same after rounding."""
    theirs = build("t5_1_1")
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    config, _, params, _ = load_model(tmp_path / "sharded", mesh=MeshConfig().build())
    expected = flatten_names(params)
    for dtype in (torch.bfloat16, torch.float16):
        folder = tmp_path / str(dtype)
        theirs.to(dtype).save_pretrained(folder)
        theirs.float()
        found = flatten_names(load_model(folder, mesh=MeshConfig().build())[2])
        name = str(dtype).removeprefix("torch.")
        for key in expected:
            # Rounded once to bfloat16, then to float16: both as torch rounds.
            rounded = torch.tensor(np.array(expected[key])).to(torch.bfloat16).to(dtype).float().numpy()
            if name == "bfloat16":
                np.testing.assert_array_equal(found[key], rounded)
            assert found[key].dtype == jnp.float32
    import_checkpoint(tmp_path / "sharded", tmp_path / "model", dtype="bfloat16")
    export_checkpoint(tmp_path / "model", tmp_path / "small", shard_bytes=6_000)
    files = sorted(path.name for path in (tmp_path / "small").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    reopened = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "small", dtype="auto")
    assert reopened.dtype == torch.bfloat16
    table = np.array(expected["embedding.table"].astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(reopened.shared.weight.detach().float().numpy(), table)
    assert config.param_dtype == "float32"
