"""The tables are made as for the tests of the cascade."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "cascade"))
