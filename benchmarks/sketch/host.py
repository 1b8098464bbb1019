"""The other end: a zygote that forks keepers that fork hosts, and the host's one blocking loop."""

import gc
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import sklearn.svm
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HEAD = struct.Struct("<IQB")
INFER, PREDICT_JSON, LOAD, PING = range(1, 5)
PAGE = 1 << 16
# message -> (name, number, type, repeated); the wire numbers of the open inference protocol
FIELDS = {
    "Tensor": [("name", 1, "STRING", 0), ("datatype", 2, "STRING", 0), ("shape", 3, "INT64", 1)],
    "Request": [
        ("model_name", 1, "STRING", 0),
        ("id", 3, "STRING", 0),
        ("inputs", 5, "Tensor", 1),
        ("raw", 7, "BYTES", 1),
    ],
    "Response": [
        ("model_name", 1, "STRING", 0),
        ("id", 3, "STRING", 0),
        ("outputs", 5, "Tensor", 1),
        ("raw", 6, "BYTES", 1),
    ],
}


def messages() -> dict[str, Any]:
    """The messages of V2 without a .proto file."""
    file = descriptor_pb2.FileDescriptorProto(
        name="sketch.proto", package="sketch", syntax="proto3"
    )
    for message, fields in FIELDS.items():
        entry = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = entry.field.add(name=name, number=number, label=3 if repeated else 1)
            if kind in FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".sketch.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sketch.{name}"))
        for name in FIELDS
    }


MESSAGES = messages()


def groups(keys: Iterable[Any]) -> list[list[int]]:
    """Places of equal keys, in the order of their first."""
    found: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return list(found.values())


class Models:
    def __init__(self) -> None:
        self.predict: dict[bytes, Any] = {}

    def load(self, model: bytes, path: str) -> None:
        self.predict[model] = joblib.load(path).predict

    def answer(self, kind: int, model: bytes, bodies: list[bytes]) -> list[bytes]:
        return (self.infer if kind == INFER else self.predict_json)(model, bodies)

    def infer(self, model: bytes, bodies: list[bytes]) -> list[bytes]:
        """Joins the rows of all bodies whose tensors agree into one predict each."""
        requests = [MESSAGES["Request"].FromString(body) for body in bodies]
        keys = [(r.inputs[0].name, r.inputs[0].datatype, *r.inputs[0].shape[1:]) for r in requests]
        answers: list[bytes] = [b""] * len(bodies)
        for places in groups(keys):
            rows = np.frombuffer(b"".join(requests[p].raw[0] for p in places), np.float64)
            labels = self.predict[model](rows.reshape(-1, keys[places[0]][2])).astype(np.int64)
            at = 0
            for place in places:
                count = requests[place].inputs[0].shape[0]
                reply = MESSAGES["Response"](
                    model_name="iris", raw=[labels[at : at + count].tobytes()]
                )
                reply.outputs.add(name="predict", datatype="INT64", shape=[count])
                answers[place] = reply.SerializeToString()
                at += count
        return answers

    def predict_json(self, model: bytes, bodies: list[bytes]) -> list[bytes]:
        instances = [orjson.loads(body)["instances"] for body in bodies]
        rows = np.array([row for rows in instances for row in rows], np.float64)
        labels = self.predict[model](rows).tolist()
        answers, at = [], 0
        for rows in instances:
            answers.append(orjson.dumps({"predictions": labels[at : at + len(rows)]}))
            at += len(rows)
        return answers


def frames(sock: socket.socket, rest: bytearray) -> list[tuple[int, int, bytes, bytes]]:
    """Blocks, takes all that is there, returns the whole frames: (id, kind, model, body)."""
    try:
        data = sock.recv(1 << 18)
    except ConnectionResetError:  # a daemon that died without reading our answers
        data = b""
    if not data:
        os._exit(0)
    rest += data
    found, at, have = [], 0, len(rest)
    while have - at >= HEAD.size:
        size, ident, kind = HEAD.unpack_from(rest, at)
        if have - at < size:
            break
        start = at + HEAD.size + 1
        split = start + rest[start - 1]
        found.append((ident, kind, bytes(rest[start:split]), bytes(rest[split : at + size])))
        at += size
    del rest[:at]
    return found


def host_loop(sock: socket.socket, journal: mmap.mmap) -> None:
    """One thread: read all, join by model, journal, predict, answer each group in one send."""
    models, rest = Models(), bytearray()
    while True:
        work = frames(sock, rest)
        for places in groups((kind, model) for _, kind, model, _ in work):
            _, kind, model, body = work[places[0]]
            idents = [work[place][0] for place in places]
            struct.pack_into(f"<I{len(idents)}Q", journal, 0, len(idents), *idents)
            if kind == LOAD:
                models.load(model, body.decode())
            answered = kind in (INFER, PREDICT_JSON)
            answers = (
                models.answer(kind, model, [work[p][3] for p in places])
                if answered
                else [b""] * len(places)
            )
            out = [
                HEAD.pack(HEAD.size + len(a), i, kind) + a
                for i, a in zip(idents, answers, strict=True)
            ]
            sock.sendall(b"".join(out))


def practice_model() -> bytes:
    """A tiny pickled model, fitted in a child: the zygote itself never runs one."""
    out, into = os.pipe()
    if os.fork() == 0:
        rows = np.arange(16.0).reshape(4, 4)
        with os.fdopen(into, "wb") as pipe:
            pickle.dump(sklearn.svm.SVC().fit(rows, [0, 0, 1, 1]), pipe)
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        return pipe.read()


def birth(link: int, page: int, options: list[str], practice: bytes) -> None:
    """Runs in the keeper: forks the host, then only waits for it.

    A model that kills its parent so costs one host, not the zygote.
    """
    if os.fork():
        os.close(link)
        os.close(page)
        os.wait()
        os._exit(0)
    os.setsid()
    if "batch" in options:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if practice:  # takes the page faults of a first predict before the first caller waits for it
        pickle.loads(practice).predict(np.zeros((1, 4)))
    sock, journal = socket.socket(fileno=link), mmap.mmap(page, PAGE)
    socket.send_fds(sock, [b"ready"], [os.pidfd_open(os.getpid())])
    host_loop(sock, journal)


def zygote(control: socket.socket, options: list[str]) -> None:
    """Imported everything, never ran a model; forks a keeper for each pair of descriptors."""
    practice = practice_model() if "warm" in options else b""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 2)
        if not message:
            return
        assert len(os.listdir("/proc/self/task")) == 1
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            birth(fds[0], fds[1], options, practice)
        for fd in fds:
            os.close(fd)


def make_fixtures(folder: Path) -> None:
    """The model, a gRPC body (prefix + message) and a JSON body, for the same two rows."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    joblib.dump(sklearn.svm.SVC(gamma="scale").fit(x, y), folder / "iris.joblib")
    request = MESSAGES["Request"](model_name="iris", raw=[x[60:62].tobytes()])
    request.inputs.add(name="predict", datatype="FP64", shape=[2, 4])
    body = request.SerializeToString()
    (folder / "infer.bin").write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
    (folder / "v1.json").write_bytes(orjson.dumps({"instances": x[60:62].tolist()}))


if __name__ == "__main__":
    if sys.argv[1] == "fixtures":
        make_fixtures(Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir()))
    else:
        zygote(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
