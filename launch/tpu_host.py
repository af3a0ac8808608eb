"""What runs on each host of a TPU VM slice: a start of the command, and what tells the starts there to save and end."""

from __future__ import annotations

from .command import Command
from .restart import EXIT_SIGTERM

SAVING_SECONDS = 120
"""How long processes that were told to stop may take: they save a checkpoint."""

ENDED = "cat-jax on this host has ended with exit code"
"""What a start says at its end, before the number."""

IDLE = "cat-jax does not run on this host"
"""What a stop says where no start is left."""

_PLACE = 'export PATH="$HOME/.cat-jax/bin:$PATH"'

# Each start has a file, named after its process. The number may be another's by now, where a host was killed or started
# anew: only a process whose command line has the mark is a start. A second signal ends a process that still saves, so
# that each is told once.
_STARTS = """\
starts="$HOME/.cat-jax.{name}.starts"
stop="$HOME/.cat-jax.{name}.stop"
running() {{
for file in "$starts"/*; do
if grep -aq '{pattern}' "/proc/${{file##*/}}/cmdline" 2> /dev/null; then echo "${{file##*/}}"; else rm -f "$file"; fi
done
}}
tell() {{
[ -s "$starts/$1" ] || {{ echo told > "$starts/$1"; kill -s TERM "$1" 2> /dev/null; }}
}}"""

_OLDER = """\
for pid in $(running); do [ "$pid" = $$ ] || tell "$pid"; done
for i in $(seq {seconds}); do [ "$(running)" != $$ ] || break; sleep 1; done
for pid in $(running); do [ "$pid" = $$ ] || pkill -KILL -P "$pid"; done  # it waits for hosts that are gone"""


def start_script(name: str, token: str, command: Command) -> str:
    """What every host runs. What an earlier start left running when its connection broke is told to save first.

    Args:
      name: of the slice.
      token: of the launcher: its stop also ends a start that reaches the host after it.
      command: what is run.
    """
    stopped = f'[ "$(cat "$stop" 2> /dev/null)" != {token} ] || exit {EXIT_SIGTERM}'
    setup = [
        f"# {_mark(name)}",
        _PLACE,
        _starts(name),
        f'trap \'code=$?; rm -f "$starts/$$"; echo "{ENDED} $code"\' EXIT',
        # A stop writes its token and then looks for starts; this one shows itself and then looks for the token.
        'mkdir -p "$starts" && : > "$starts/$$"',
        stopped,
        _OLDER.format(seconds=SAVING_SECONDS),
        stopped,
    ]
    return command.script(setup)


def stop_script(name: str, token: str) -> str:
    """Tells the starts on a host to save and end, those of the same launcher that are still to come included."""
    lines = [
        _starts(name),
        f'echo {token} > "$stop"',
        'for pid in $(running); do tell "$pid"; done',
        f'[ -n "$(running)" ] || echo "{IDLE}"',
    ]
    return "\n".join(lines)


def _mark(name: str) -> str:
    return f"cat_jax_launch: a start on {name};"


def _starts(name: str) -> str:
    mark = _mark(name)
    return _STARTS.format(name=name, pattern=f"[{mark[0]}]{mark[1:]}")  # the pattern is not itself a mark
