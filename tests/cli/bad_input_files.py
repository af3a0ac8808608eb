"""Makes one thing wrong in the current directory, for the cases of bad input."""

import pathlib


def one(pattern):
    """The only, or the first, file of a pattern."""
    return sorted(pathlib.Path().glob(pattern))[0]


def flip(pattern, place=0.5):
    """Flips a bit of a file, in its middle."""
    path = one(pattern)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def flip_record(pattern):
    """Flips a bit of the first record of an ArrayRecord file: its text is there as it is."""
    path = one(pattern)
    content = bytearray(path.read_bytes())
    start = content.index(b"inputs_pretokenized") if b"inputs_pretokenized" in content else len(content) // 100
    content[start + 25] ^= 1
    path.write_bytes(content)


def truncate(pattern):
    path = one(pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write(name, text):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def replace(name, old, new):
    write(name, pathlib.Path(name).read_text().replace(old, new))


OWN_LOSS = """
import dataclasses
from cat_jax.losses.objective import Objective

@dataclasses.dataclass(frozen=True)
class Boosted(Objective):
    boost: float = 2.0

    def token_weights(self, tokens):
        return self.boost * tokens.loss[:1]
"""


def own_loss(binding):
    """Writes an objective of one's own whose weights have a wrong shape, and a gin file that uses it."""

    def spoil():
        write("own_losses.py", OWN_LOSS)
        fields = ("w = 1.0", "keep = 'all'", binding)
        bound = "".join(f"own_losses.Boosted.{field}\n" for field in fields)
        write("own.gin", f"import own_losses\nOBJECTIVE = @own_losses.Boosted()\n{bound}")

    return spoil
