"""schemathesis, whose threads parse Python in turn: CPython 3.11 counts the depth of what all of them parse in one place (python/cpython#106905)."""

import ast
import sys
import threading

_turn = threading.RLock()
_parse = ast.parse


def _parse_in_turn(*arguments, **options):
    with _turn:
        return _parse(*arguments, **options)


ast.parse = _parse_in_turn

from schemathesis.cli import schemathesis  # noqa: E402

sys.exit(schemathesis())
