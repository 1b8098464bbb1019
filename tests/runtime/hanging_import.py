"""A runtime whose import never ends, and whose process says by its name that it has come so far."""

import threading

from runtime_adapters.keeper import name_process

name_process("hanging")
threading.Event().wait()
