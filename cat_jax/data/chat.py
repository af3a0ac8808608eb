"""Conversations as inputs and targets: a SeqIO preprocessor that renders turns with a tokenizer's chat template.

seqio.TaskRegistry.add(
    "chat",
    source=...,  # rows with `roles` and `contents`, a text for each turn, the last one the assistant's
    preprocessors=[render_chat, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={
        "inputs": seqio.Feature(hugging_face_vocabulary(path, special="token"), add_eos=False),
        "targets": seqio.Feature(hugging_face_vocabulary(path, eos="<end_of_turn>")),  # what ends a turn there
    },
)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cat_jax.errors import UserError

ON_SPECIAL = ("refuse", "drop", "keep")


def render_chat(
    dataset: Any,
    output_features: Mapping[str, Any],
    *,
    roles: str = "roles",
    contents: str = "contents",
    template: str | None = None,
    on_special: str = "refuse",
) -> Any:
    """Turns rows of turns into `inputs`, everything up to the answer, and `targets`, the answer of the last turn.

    Both are as the template writes them: the inputs with what it puts before an answer, the targets up to their
    vocabulary's end of sequence, which `append_eos` adds as a token. Other fields stay.

    Args:
      dataset: a tf.data.Dataset of rows.
      output_features: of the task: `inputs` has a `hugging_face_vocabulary` with special="token", `targets` has one
        whose `eos` is what the template ends an answer with, whatever the files name.
      roles: the field of the turns' roles, such as "system", "user" and "assistant": texts [turns].
      contents: the field of their texts, likewise.
      template: Jinja's, in place of the vocabulary's `chat_template`.
      on_special: what becomes of rows with a turn in which a special token is spelled out, which would be read as
        that token: "refuse" stops and names it, "drop" leaves the row out, "keep" lets it be read as the vocabularies
        have it.

    Raises:
      UserError: the inputs' vocabulary has no template or reads special tokens as letters, the targets' has no end;
        Jinja is not installed, or cannot read the template; rows without these fields; a conversation whose turns have
        not both, or that does not end with an answer; an answer that the template ends otherwise, or in which it writes
        a special token that the targets would spell.
    """
    import tensorflow as tf

    if on_special not in ON_SPECIAL:
        raise UserError(f"on_special is {on_special!r}", f"choose one of {', '.join(ON_SPECIAL)}")
    chat = ChatTemplate.of(output_features["inputs"].vocabulary, output_features["targets"].vocabulary, template)

    def render(roles: Any, contents: Any) -> tuple[str, str, bool]:
        try:
            return rendered(roles, contents)
        except UserError as e:
            first = contents[0].decode() if len(contents) else ""
            beginning = first[:_SHOWN] + "…" * (len(first) > _SHOWN)
            raise UserError(f"{e.problem}, in the row whose first turn is {beginning!r}", e.mend) from e

    def rendered(roles: Any, contents: Any) -> tuple[str, str, bool]:
        if len(roles) != len(contents):
            raise UserError(
                f"a conversation has {len(roles)} roles and {len(contents)} contents", "give each turn one of both"
            )
        turns = [{"role": r.decode(), "content": c.decode()} for r, c in zip(roles, contents, strict=True)]
        spelled = None if on_special == "keep" else chat.spelled_out(turns)
        if spelled is not None and on_special == "refuse":
            raise UserError(
                f"a turn spells out {spelled!r}, which the tokenizer reads as a special token",
                "give render_chat on_special='drop' to leave such rows out, or 'keep' to take them as they are",
            )
        return ("", "", False) if spelled is not None else (*chat.split(turns), True)

    def add(row: Mapping[str, Any]) -> dict[str, Any]:
        inputs, targets, keep = tf.numpy_function(render, [row[roles], row[contents]], [tf.string, tf.string, tf.bool])
        texts = {"inputs": inputs, "targets": targets, _KEEP: keep}
        return {**row, **{name: tf.ensure_shape(value, []) for name, value in texts.items()}}

    def without_mark(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != _KEEP}

    for name in (roles, contents):
        if name not in dataset.element_spec:
            raise UserError(
                f"render_chat reads the field {name!r}, and the rows have {', '.join(sorted(dataset.element_spec))}",
                "name the fields (roles=..., contents=...), or split `messages` into them in a preprocessor before",
            )
    as_it_is = tf.autograph.experimental.do_not_convert
    added = dataset.map(as_it_is(add), num_parallel_calls=tf.data.AUTOTUNE)
    return added.filter(as_it_is(lambda row: row[_KEEP])).map(as_it_is(without_mark))


_KEEP = "render_chat_keeps"

_SHOWN = 60
"""Letters of a row's first turn in a message, enough to look it up."""


class ChatTemplate:
    """A chat template, and the texts of the tokenizer's special tokens.

    Args:
      template: Jinja's, as tokenizer_config.json has it.
      tokens: {role: text}: "eos", "bos" and so on, which templates know as eos_token, bos_token.
      end: the text that ends an answer.
      special: the texts of all special tokens.
      spells: whether the answer's vocabulary reads these as letters.

    Raises:
      UserError: Jinja is not installed, or cannot read the template.
    """

    def __init__(
        self, template: str, tokens: Mapping[str, str], end: str, special: Sequence[str] = (), spells: bool = True
    ):
        self._tokens = {f"{role}_token": text for role, text in tokens.items()}
        self._end, self._special, self._spells = end, tuple(special), spells
        self._template, self._error = _compile(template)

    @staticmethod
    def of(vocabulary: Any, targets: Any, template: str | None = None) -> ChatTemplate:
        """That of the inputs' `hugging_face_vocabulary`, or another one for it; the answer's end is the targets'."""
        template = template or getattr(vocabulary, "chat_template", None)
        if template is None:
            raise UserError(
                f"the vocabulary {vocabulary} has no chat template",
                "put one into tokenizer_config.json beside tokenizer.json, or give render_chat one",
            )
        if vocabulary.special != "token":
            raise UserError(
                "the vocabulary of the inputs reads special tokens in a rendered chat as letters",
                "make it with hugging_face_vocabulary(..., special='token')",
            )
        end = getattr(targets, "special_tokens", {}).get("eos")
        if end is None:
            raise UserError(f"the vocabulary of the targets, {targets}, has no end of sequence", _ends_with("..."))
        return ChatTemplate(
            template,
            vocabulary.special_tokens,
            end,
            vocabulary.special_texts,
            getattr(targets, "special", "") == "text",
        )

    def split(self, turns: Sequence[Mapping[str, str]]) -> tuple[str, str]:
        """(the text up to the answer, the answer) of turns {"role", "content"} of which the last is the answer.

        Raises:
          UserError: it is not; the template refuses the turns, writes a question otherwise once it has an answer, or
            does not end the answer as the targets do.
        """
        if not turns or turns[-1]["role"] != "assistant":
            last = f"ends with a turn of {turns[-1]['role']!r}" if turns else "has no turn"
            raise UserError(f"a conversation {last}, not with one of 'assistant'", "leave such ones out of the task")
        before, whole = self._render(turns[:-1], True), self._render(turns, False)
        if not whole.startswith(before):
            raise UserError(
                "the chat template writes what is before an answer in another way once there is the answer",
                "give render_chat a template that does not, or write inputs and targets in a preprocessor of your own",
            )
        return before, self._up_to_end(whole[len(before) :], turns[-1]["content"])

    def _up_to_end(self, written: str, content: str) -> str:
        """The answer without its end and what follows, of which no special token is left to be spelled."""
        answer, end, _ = written.rpartition(self._end)
        written_by_it = sorted((written.find(s), s) for s in self._special if s in written and s not in content)
        if not end:
            ends = written_by_it[0][1] if written_by_it else "..."
            problem = f"the chat template ends an answer with {written[-30:]!r}, without {self._end!r}"
            raise UserError(f"{problem}, which is the targets' end of sequence", _ends_with(ends))
        left = [s for _, s in written_by_it if s in answer]
        if left and self._spells:
            problem = f"the chat template writes {left[0]!r} in an answer, before {self._end!r}"
            raise UserError(f"{problem}, and the targets would spell it", _ends_with(left[0]))
        return answer

    def spelled_out(self, turns: Sequence[Mapping[str, str]]) -> str | None:
        """A special token whose text stands in a turn; None if there is none."""
        return next((s for s in self._special for turn in turns if s in turn["content"]), None)

    def _render(self, turns: Sequence[Mapping[str, str]], asks: bool) -> str:
        try:
            given = {"tools": None, "documents": None, "add_generation_prompt": asks, **self._tokens}
            return self._template.render(messages=list(turns), **given)  # all that `transformers` gives them
        except self._error as e:
            raise UserError(f"the chat template refuses a conversation ({e})", "leave it out, or mend it") from e


def _ends_with(text: str) -> str:
    return f"give the targets what ends an answer there: hugging_face_vocabulary(path, eos={text!r})"


@functools.cache
def _compile(template: str) -> tuple[Any, type[Exception]]:
    """The template in the environment that `transformers` gives it, and what it raises.

    But it has no clock, so that stores can be made again.
    """
    try:
        import jinja2  # pyright: ignore[reportMissingImports]
        import jinja2.ext  # pyright: ignore[reportMissingImports]
        import jinja2.sandbox  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise UserError(f"cannot import jinja2 ({e})", "pip install 'cat-jax[tokenizers]'") from e

    class Generation(jinja2.ext.Extension):
        """{% generation %}, which marks answers for those who ask for marks."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template), jinja2.TemplateError
    except jinja2.TemplateError as e:
        raise UserError(f"Jinja cannot read the chat template ({e})", "mend it, or give render_chat another") from e
