"""What is said of a task whose code or data fails."""

import pytest

from cat_jax.data import seqio_task
from cat_jax.errors import UserError


@pytest.mark.parametrize(
    ("said", "of_a_vocabulary"),
    [
        ('Not found: "spiece.model": No such file or directory', True),
        ("could not parse /a/spiece.model", True),
        ("config.model is not set", False),
    ],
)
def test_the_advice_is_on_what_is_missing(said, of_a_vocabulary):
    with pytest.raises(UserError) as raised, seqio_task.source_errors("some"):
        raise OSError(said)
    assert ("check the path of its vocabulary" in str(raised.value)) == of_a_vocabulary
