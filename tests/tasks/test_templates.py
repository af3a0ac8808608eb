import pytest

tf = pytest.importorskip("tensorflow", reason="needs the `data` extra")

from cat_jax_tasks.templates import Renderer, Template, pieces  # noqa: E402

FIELDS = {"text": tf.constant("Kühe {und} \\1"), "answer": tf.constant("yes"), "unused": tf.constant("?")}


def rendered(templates, which, fields=FIELDS):
    return [part.numpy().decode() for part in Renderer(templates)(fields, tf.constant(which))]


def test_each_template_renders_as_str_format_would():
    templates = [
        Template("{text}? {{{answer}}}\n{text}"),
        Template("no field", "{answer} and {text}"),
        Template("", "{text}"),
    ]
    fields = {name: value.numpy().decode() for name, value in FIELDS.items()}
    for which, template in enumerate(templates):
        expected = [template.inputs.format(**fields), template.targets.format(**fields)]
        assert rendered(templates, which) == expected


def test_it_renders_in_a_graph():
    renderer = Renderer([Template("a {text}"), Template("b {text}")])
    rows = tf.data.Dataset.from_tensor_slices({"text": ["x", "y"], "answer": ["1", "2"], "which": [0, 1]})
    found = rows.map(lambda row: renderer({"text": row["text"], "answer": row["answer"]}, row["which"]))
    assert [(i.decode(), t.decode()) for i, t in found.as_numpy_iterator()] == [("a x", "1"), ("b y", "2")]


def test_a_template_is_turned_if_it_asks_for_something_else_than_the_answer():
    assert not Template("{text}").is_turned
    assert Template("{answer}", "{text}").is_turned
    assert Template("{answer}", "{text}").fields == {"answer", "text"}


@pytest.mark.parametrize("text", ["{", "a } b", "{0}", "{}", "{a.b}", "{a!r}", "{a:>3}"])
def test_what_is_no_field_is_refused(text):
    with pytest.raises(ValueError, match=r"template|[Ss]ingle|expected"):
        pieces(text)


@pytest.mark.parametrize("value", [None, tf.constant(["a", "list"]), tf.constant(3)])
def test_a_field_that_is_no_text_is_named(value):
    fields = {"answer": tf.constant("yes")} | ({} if value is None else {"missing": value})
    with pytest.raises(ValueError, match=r"names \{missing\}, which is no text among the row's fields: answer"):
        Renderer([Template("{missing}")])(fields, tf.constant(0))
