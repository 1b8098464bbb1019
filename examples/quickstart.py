"""What `make run` does: train a model, start a daemon, register the model, say what to try.

The daemon is a child in the foreground's process group, so Ctrl-C reaches both; this program waits
for the daemon's clean end and hands on its status. It must never leave a daemon behind, nor speak
to one that it did not start: ports are asked for before, not after.
"""

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import grpc

from modelmesh.pb.model_mesh_pb2 import ModelInfo, RegisterModelRequest, UnregisterModelRequest
from modelmesh.pb.model_mesh_pb2_grpc import ModelMeshStub

MODEL = "sklearn-iris"
HOST = "127.0.0.1"
READY_S = 60.0  # a cold disk and a busy machine; a warm start takes a few seconds
ANSWER_S = 60.0
END_S = 60.0  # longer than the daemon's own bound on its end
POLL_S = 0.05
V1 = '{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}'
V2 = (
    '{"inputs":[{"name":"input-0","shape":[2,4],"datatype":"FP64",'
    '"data":[6.8,2.8,4.8,1.4,6.0,3.4,4.5,1.6]}]}'
)

TO_TRY = """
{model} answers. In a second terminal, in this folder:

  curl http://localhost:{rest}/v1/models/{model}:predict -d '{v1}'

  curl http://localhost:{rest}/v2/models/{model}/infer -d '{v2}'

  {bin}/python examples/infer_grpc.py localhost:{grpc}

  {bin}/modelmesh models list --address localhost:{grpc}

Metrics are at http://localhost:{metrics}/metrics. Ctrl-C ends everything.
"""


class Trouble(Exception):
    """One sentence that says why there is no quickstart."""


class Quickstart:
    """One run. `ending` is set once somebody wants it to end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data_dir = Path(args.data_dir).resolve()
        self.model_file = self.data_dir / "models" / f"{MODEL}.joblib"
        self.ending = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.ending.set()

    def run(self) -> int:
        """The status of the daemon; raises Trouble."""
        for name in ("grpc_port", "rest_port", "metrics_port"):
            check_free(name, getattr(self.args, name))
        if not self.model_file.exists():
            self.train()
        if self.ending.is_set():
            return 0
        with subprocess.Popen(self.daemon_command()) as daemon:
            try:
                self.serve(daemon)
            finally:
                status = end(daemon)
        return status if status >= 0 else 128 - status

    def train(self) -> None:
        """In a process of its own, so that none of scikit-learn stays in this one."""
        trainer = Path(__file__).with_name("train_iris.py")
        done = subprocess.run((sys.executable, str(trainer), str(self.model_file)))
        if done.returncode != 0 and not self.ending.is_set():
            raise Trouble(f"the model could not be written to {self.model_file}")

    def daemon_command(self) -> tuple[str, ...]:
        args = self.args
        return (
            *(sys.executable, "-m", "modelmesh", "serve", "--host", HOST),
            *("--grpc-port", str(args.grpc_port), "--rest-port", str(args.rest_port)),
            *("--metrics", f"prometheus:port={args.metrics_port};scheme=http"),
            *("--probe-port", "NONE", "--data-dir", str(self.data_dir)),
            *("--capacity-bytes", str(args.capacity_bytes)),
            *("--log-level", os.environ.get("MM_LOG_LEVEL", "warning")),
        )

    def serve(self, daemon: "subprocess.Popen[bytes]") -> None:
        """Until somebody wants the end, or the daemon ends by itself."""
        if not self.wait_until_ready(daemon):
            return
        self.register()
        self.check_answer()
        if not self.ending.is_set():
            args = self.args
            ports = {"rest": args.rest_port, "grpc": args.grpc_port, "metrics": args.metrics_port}
            programs = os.path.relpath(Path(sys.executable).parent)
            print(TO_TRY.format(model=MODEL, v1=V1, v2=V2, bin=programs, **ports), flush=True)
        while daemon.poll() is None and not self.ending.wait(POLL_S * 4):
            pass

    def wait_until_ready(self, daemon: "subprocess.Popen[bytes]") -> bool:
        """Whether it got ready; False if it ended, having said why, or is to end."""
        for _ in range(round(READY_S / POLL_S)):
            if daemon.poll() is not None or self.ending.wait(POLL_S):
                return False
            if self.ask("GET", "/v2/health/ready")[0] == 200:
                return True
        raise Trouble(f"the daemon was not ready within {READY_S:g} s")

    def register(self) -> None:
        """Make the model known: the same again is a success, an older path is replaced."""
        there = ModelInfo(type="sklearn", path=str(self.model_file))
        request = RegisterModelRequest(modelId=MODEL, modelInfo=there)
        with grpc.insecure_channel(f"{HOST}:{self.args.grpc_port}") as channel:
            mesh = ModelMeshStub(channel)
            try:
                mesh.registerModel(request, timeout=ANSWER_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise Trouble(f"{MODEL} was not registered: {error.details()}") from None
                mesh.unregisterModel(UnregisterModelRequest(modelId=MODEL), timeout=ANSWER_S)
                mesh.registerModel(request, timeout=ANSWER_S)

    def check_answer(self) -> None:
        status, body = self.ask("POST", f"/v1/models/{MODEL}:predict", V1)
        if body != b'{"predictions":[1,1]}' and not self.ending.is_set():
            raise Trouble(f"{MODEL} answers {status}: {body.decode(errors='replace')}")

    def ask(self, verb: str, path: str, body: str = "") -> tuple[int, bytes]:
        """Status and body over REST; (0, b"") while nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.args.rest_port, timeout=ANSWER_S)
        try:
            connection.request(verb, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def check_free(name: str, port: int) -> None:
    """Raises Trouble where somebody listens already, or nobody may."""
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        why = (
            os.strerror(error.errno or 0)
            if isinstance(error, OSError)
            else "no port has this number"
        )
        raise Trouble(f"port {port}: {why}; choose another: make run {name.upper()}=...") from None


def end(daemon: "subprocess.Popen[bytes]") -> int:
    """The daemon's status, after its clean end if it still runs."""
    daemon.terminate()
    try:
        return daemon.wait(END_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


def main() -> int:
    """Run it from the command line (see Makefile)."""
    parser = argparse.ArgumentParser(description="Train, serve and register the iris model.")
    parser.add_argument("--grpc-port", type=int, default=8033)
    parser.add_argument("--rest-port", type=int, default=8008)
    parser.add_argument("--metrics-port", type=int, default=2112)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--capacity-bytes", type=int, default=0)
    try:
        return Quickstart(parser.parse_args()).run()
    except Trouble as trouble:
        print(f"make run: {trouble}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
