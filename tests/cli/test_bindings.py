"""A configuration as data: scopes, reach, text."""

from cat_jax.cli import configuration
from cat_jax.cli.bindings import Binding, Bindings, Macro, Reference


def read(tmp_path, text):
    path = tmp_path / "x.gin"
    path.write_text(text)
    return configuration.read([str(path)])


def test_text_reads_back_as_the_same_bindings(tmp_path):
    bindings = read(
        tmp_path,
        """
        import json
        A = 'it''s'
        s/t/T5Config.activations = ('gelu', "linear")
        train:
          model = @s/T5Config()
          steps = {'a': [1, -2.5e-3, None, True, %A, @Objective]}
        train.x = (1,)
        """.replace("        ", ""),
    )
    again = read(tmp_path, str(bindings))
    assert str(again) == str(bindings)
    assert again.merged() == bindings.merged()
    assert again.imports == bindings.imports
    assert len(bindings.merged()) == 5


def test_the_last_binding_of_a_key_counts(tmp_path):
    assert read(tmp_path, "A = 1\nB = 2\nA = 3\n").macro("A") == 3


def test_a_scope_narrows_bindings_and_macros_whatever_the_order(tmp_path):
    bindings = read(
        tmp_path,
        "student/cat_xent/AdamW.rate = 3\nstudent/AdamW.rate = 2\nAdamW.rate = 1\nteacher/STEPS = 9\n"
        "STEPS = 5\nstudent/in/AdamW.rate = 4\nteacher/AdamW.rate = 7\n",
    )
    student = bindings.in_scope("student/cat_xent").merged()
    assert student["AdamW.rate"].value == 3
    assert student["in/AdamW.rate"].value == 4
    assert student["STEPS"].value == 5
    assert bindings.in_scope("student").merged()["AdamW.rate"].value == 2
    assert bindings.in_scope("teacher").merged()["STEPS"].value == 9
    assert bindings.in_scope("").merged()["AdamW.rate"].value == 1


def test_reach_follows_references_macros_and_scopes(tmp_path):
    bindings = read(
        tmp_path,
        """
train.model = %MODEL
train.optimizer = @fast/AdamW()
MODEL = @T5Config()
T5Config.vocab_size = %SIZE
MODEL/T5Config.embed_dim = 3
other/T5Config.embed_dim = 4
SIZE = 8
UNUSED = 9
AdamW.rate = 1
fast/AdamW.rate = 2
evaluate.batch_size = 4
""",
    )
    reach = bindings.reachable(["train"])
    assert {item.key for item in reach.used} == {
        "train.model", "train.optimizer", "MODEL", "T5Config.vocab_size", "MODEL/T5Config.embed_dim", "SIZE",
        "fast/AdamW.rate",
    }  # fmt: skip
    assert reach.visited == ("AdamW", "T5Config", "train")
    assert reach.missing == ()


def test_the_fingerprint_sees_what_is_used_and_nothing_else(tmp_path):
    first = read(tmp_path, "train.a = %A\nA = 1\nevaluate.b = 2\n").reachable(["train"]).fingerprint
    unrelated = read(tmp_path, "evaluate.b = 3\nA = 1\ntrain.a = %A\nC = 4\n").reachable(["train"]).fingerprint
    changed = read(tmp_path, "train.a = %A\nA = 2\nevaluate.b = 2\n").reachable(["train"]).fingerprint
    assert first == unrelated != changed


def test_missing_values_are_collected():
    bindings = Bindings(
        (
            Binding("", "train", "a", Macro("A")),
            Binding("", "train", "b", [Macro("B"), Reference("", "Mesh", True)]),
            Binding("", "A", "", Macro("gin.REQUIRED")),
            Binding("", "Mesh", "size", Macro("gin.REQUIRED")),
            Binding("", "UNUSED", "", Macro("gin.REQUIRED")),
        )
    )
    assert bindings.reachable(["train"]).missing == ("A", "B", "Mesh.size")


def test_required_never_replaces_a_value(tmp_path):
    bindings = read(tmp_path, "A = 1\nA = %gin.REQUIRED\nB = %gin.REQUIRED\nB = 2\nC = %gin.REQUIRED\n")
    assert (bindings.macro("A"), bindings.macro("B"), bindings.macro("C")) == (1, 2, Macro("gin.REQUIRED"))
