"""The daemon imports the codecs, so they must not bring the numeric stack with them."""

import subprocess
import sys

_IMPORT = """
import sys
from modelmesh.codec import json_v1, json_v2, proto_v2, splice, tensors
print([name for name in ("numpy", "pandas", "grpc", "asyncio") if name in sys.modules])
"""


def test_the_codecs_load_no_numeric_stack() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", _IMPORT], capture_output=True, text=True, timeout=60, check=True
    )
    assert loaded.stdout.strip() == "[]"
