"""A daemon as far as `modelmesh up` sees one: ports, /ready, a metrics page, an end on SIGTERM.

Configured by the same variables. `GET /end/STATUS` on its REST port ends it with that status.
FAKE_NEVER_READY names the pods that never get ready, FAKE_BROKEN those that end as soon as their
neighbour `a` has said a word, FAKE_DEAF those that do not end when asked to.
"""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ID = os.environ["MM_INSTANCE_ID"]
METRICS = f"""# TYPE modelmesh_instance_models_total gauge
modelmesh_instance_models_total 0.0
modelmesh_instance_used_bytes 0.0
modelmesh_instance_capacity_bytes {os.environ.get("MM_CAPACITY_BYTES", 0)}
modelmesh_api_request_milliseconds_count{{method="x",code="OK"}} 7.0
"""


def among(variable: str) -> bool:
    return ID in os.environ.get(variable, "").split(",")


class Faces(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = 200, b"ok\n"
        if self.path == "/ready" and among("FAKE_NEVER_READY"):
            status, body = 503, b"starting\n"
        elif self.path.startswith("/metrics"):
            body = METRICS.encode()
        elif self.path.startswith("/end/"):
            os._exit(int(self.path.removeprefix("/end/")))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> int:
    print(f"{ID} runs as {os.getpid()}", flush=True)
    if among("FAKE_BROKEN"):
        log, pause = Path(os.environ["MM_DATA_DIR"]).with_name("a.log"), threading.Event()
        while not log.exists() or "runs as" not in log.read_text():
            pause.wait(0.02)
        print("no such thing", file=sys.stderr)
        return 3
    # Blocked before there are threads: one of them could get the signal, and the main thread, which
    # alone runs handlers, would sleep on.
    asked = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    metrics = int(os.environ["MM_METRICS"].partition("port=")[2].partition(";")[0])
    names = ("MM_SVC_GRPC_PORT", "MM_REST_PORT", "MM_PEER_PORT")
    for port in (*(int(os.environ[name]) for name in names), metrics):
        server = ThreadingHTTPServer(("127.0.0.1", port), Faces)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    while signal.sigwait(asked) and among("FAKE_DEAF"):
        pass
    print(f"{ID} ends well", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
