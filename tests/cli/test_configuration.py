"""The gin seam: names, parameters, missing values, quoting, search paths, bundled files."""

import dataclasses
import sys
import types

import pytest

from cat_jax.cli import configuration, names
from cat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Width:
    size: int
    dropout: float = 0.1

    def __post_init__(self):
        if self.size < 0:
            raise UserError(f"Width.size is {self.size}", "give a positive number")


def work(model, steps, *, name="x", models=None):
    return model, steps, name, models


def refuses_to_load():
    raise AssertionError("a name that the command does not use was imported")


@pytest.fixture(autouse=True)
def _fake_names(monkeypatch):
    module = types.ModuleType("fake_room")
    module.Width, module.work = Width, work
    monkeypatch.setitem(sys.modules, "fake_room", module)
    fakes = {
        "work": names.Name("fake_room", "work", light=True),
        "Width": names.Name("fake_room", "Width", light=True),
        "Heavy": names.Name("no_such_module_anywhere", "Heavy"),
    }
    for name, target in fakes.items():
        monkeypatch.setitem(names.NAMES, name, target)
    monkeypatch.setitem(names.ROOTS, "work", fakes["work"])


def configure(*flags, files=(), search_paths=()):
    return configuration.configure(configuration.read(files, flags, search_paths), "work")


def error(*flags, **kwargs):
    with pytest.raises(UserError) as caught:
        configure(*flags, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_arguments_are_built_and_both_configurations_told():
    command = configure("work.model=@Width()", "Width.size=%SIZE", "SIZE=3", "work.steps=[1,2]")
    assert command.arguments == {"model": Width(3), "steps": [1, 2], "name": "x", "models": None}
    assert type(command.arguments["model"]) is Width
    assert command.call() == (Width(3), [1, 2], "x", None)
    assert command.configuration == "SIZE = 3\nWidth.size = %SIZE\nwork.model = @Width()\nwork.steps = [1, 2]\n"
    assert "Width.dropout = 0.1" in command.operative
    assert "work.name = 'x'" in command.operative


def test_a_configuration_does_not_leak_into_the_next():
    configure("work.model=1", "work.steps=1", 'work.name="first"')
    assert configure("work.model=1", "work.steps=1").call() == (1, 1, "x", None)


def test_scoped_references():
    command = configure(
        "work.models=[@a/Width(), @b/Width()]", "Width.size=1", "b/Width.size=2", "work.model=0", "work.steps=0"
    )
    assert command.arguments["models"] == [Width(1), Width(2)]


def test_unknown_name_is_named_with_its_place_and_a_close_match(tmp_path):
    path = tmp_path / "typo.gin"
    path.write_text("work.model = 1\n\nWidht.size = 3\n")
    text = error("work.steps=1", files=[str(path)])
    assert text == f"unknown name Widht (Widht.size = 3; {path} line 3): did you mean Width?"
    assert "unknown name Widht" in error("work.model=@Widht()", "work.steps=1")


def test_unknown_parameter_is_named_with_a_close_match():
    assert error("work.model=1", "work.stepps=1") == (
        "work has no parameter stepps (work.stepps = 1; --gin.work.stepps=1): did you mean steps?"
    )
    assert "Width has no parameter colour" in error("Width.colour=1", "work.model=1", "work.steps=1")
    assert error("Width.colour=1", "work.model=1", "work.steps=1").endswith("it has size, dropout")


def test_names_that_the_command_does_not_use_are_not_imported():
    assert configure("Heavy.anything=1", "M=@Heavy()", "N=%M", "Heavy.n=%N", "work.model=1", "work.steps=2").call()


def test_all_missing_values_are_named_together(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text("work.model = @Width()\nwork.name = %NAME\nNAME = %gin.REQUIRED\nwork.models = %MODELS\n")
    text = error(files=[str(path)])
    assert text.startswith("work needs a value for ")
    for name in ("NAME", "MODELS", "Width.size", "work.steps"):
        assert name in text
    assert "--gin.NAME=VALUE" in text


@pytest.mark.parametrize("value", ["/tmp/x", "hello", "a b", "gs://bucket/x", "", "{'a': 1", "'open"])
def test_an_unquoted_string_is_shown_quoted(value):
    text = error(f"work.model={value}")
    assert text.startswith(f"--gin.work.model={value} is not a gin value")
    assert f"""--gin.work.model='"{value}"'""" in text


@pytest.mark.parametrize("value", ["StoredTeacher", "StoredTeacher()"])
def test_a_name_without_its_sign_is_shown_with_it(value):
    assert error(f"work.model={value}").endswith("is not a gin value: write --gin.work.model=@StoredTeacher()")


def test_a_flag_without_a_value():
    assert "write --gin.NAME=VALUE" in error("work.model")


def test_a_misspelt_macro_flag_is_refused(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text("work.model = %TRAIN_STEPS\nwork.steps = %gin.REQUIRED\nFREE = 3\n")
    text = error("TRIAN_STEPS=1", files=[str(path)])
    assert text == "nothing reads the macro TRIAN_STEPS (--gin.TRIAN_STEPS=1): did you mean TRAIN_STEPS?"
    text = error("a/b/TRIAN_STEPS=1", files=[str(path)])
    assert text == "nothing reads the macro a/b/TRIAN_STEPS (--gin.a/b/TRIAN_STEPS=1): did you mean TRAIN_STEPS?"


def test_a_flag_for_what_nothing_makes_is_told(caplog):
    configure("work.model=@Width()", "Width.size=3", "work.steps=1")
    assert not caplog.messages
    configure("work.model=2", "Width.size=5", "work.steps=1")
    line = "warning: nothing refers to @Width(): Width.size has no effect (--gin.Width.size=5)"
    assert caplog.messages == [line]


def test_what_a_constructor_refuses_is_one_line_without_gins_additions():
    assert error("work.model=@Width()", "Width.size=-1", "work.steps=1") == "Width.size is -1: give a positive number"


def test_includes_search_paths_and_files_beside(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "base.gin").write_text("include 'beside.gin'\nwork.steps = 1\n")
    (tmp_path / "lib" / "beside.gin").write_text("work.model = 5\n")
    (tmp_path / "here.gin").write_text("include 'base.gin'\nwork.steps = 2\n")
    monkeypatch.chdir(tmp_path)
    command = configure(files=["here.gin"], search_paths=[str(tmp_path / "lib")])
    assert (command.arguments["model"], command.arguments["steps"]) == (5, 2)


def test_a_file_that_includes_itself(tmp_path):
    path = tmp_path / "loop.gin"
    path.write_text(f"include '{path}'\n")
    assert "includes itself" in error(files=[str(path)])


def test_a_file_that_is_not_there_names_where_it_was_looked_for(tmp_path):
    text = error(files=["runs/no_such_thing_at_all.gin"], search_paths=[str(tmp_path)])
    assert text.startswith("no gin file runs/no_such_thing_at_all.gin")
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("content", "line"),
    [("A = 1\nB = = 2\n", 2), ("A = [1,\n", 1), ("A = hello\n", 1), ("just words\n", 1), ("A 1\n", 1)],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, content, line):
    path = tmp_path / "broken.gin"
    path.write_text(content)
    text = error(files=[str(path)])
    assert str(path) in text
    assert f"line {line}" in text


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "binary.gin"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert f"cannot read the gin file {path}" in error(files=[str(path)])


def test_users_own_modules(tmp_path, monkeypatch):
    (tmp_path / "my_thing.py").write_text(
        "import gin\nclass Mine:\n    def __init__(self, n):\n        self.n = n\n"
        "@gin.configurable\ndef registered(k=1):\n    return k\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\nimport my_thing\nwork.model = @my_thing.Mine()\n"
        "my_thing.Mine.n = 4\nwork.steps = @registered()\nregistered.k = 7\n"
    )
    command = configure(files=[str(path)])
    assert command.arguments["model"].n == 4
    assert command.arguments["steps"] == 7
    saved = tmp_path / "saved.gin"
    saved.write_text(command.configuration)
    assert configure(files=[str(saved)]).arguments["model"].n == 4
    path.write_text("import no_such_module_of_mine\n")
    assert "no module no_such_module_of_mine (imported by" in error(files=[str(path)])
    path.write_text("import my_thing\nwork.model = @my_thing.Yours()\n")
    assert "unknown name my_thing.Yours" in error(files=[str(path)])
