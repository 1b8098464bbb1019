"""The REST port's handler: V1 and V2 behind one table of paths.

Fixed paths are a look-up; what stands below a path of models is its face's to read. A HEAD request
is a GET whose body stays here (the wire drops it).
"""

from modelmesh.api import rest_answers as answers
from modelmesh.api import rest_v1, rest_v2
from modelmesh.api.asking import Tasks
from modelmesh.api.dispatch import Dispatch, Method
from modelmesh.api.serving_face import Repository, Serving
from modelmesh.wire.transport import Call, Handler


def rest_handler(
    serving: Serving, repository: Repository, tasks: Tasks, scrape: Method | None = None
) -> Handler:
    """What an HTTP/1.1 server of the REST port is started with; `scrape` answers GET /metrics."""
    return Dispatch(*_routes(serving, repository, tasks, scrape))


def _routes(
    serving: Serving, repository: Repository, tasks: Tasks, scrape: Method | None
) -> tuple[dict[str, Method], Method]:
    v1, v2 = rest_v1.RestV1(serving), rest_v2.RestV2(serving, repository, tasks)
    fixed = v1.methods() | v2.methods()
    if scrape is not None:
        fixed["GET /metrics"] = scrape
    verbs = {path: verb for verb, path in (kind.split(" ") for kind in fixed)}
    below = (
        (rest_v1.MODELS, v1.model),
        (rest_v2.MODELS, v2.model),
        (rest_v2.REPOSITORY, v2.repository),
    )

    def otherwise(call: Call) -> None:
        verb, _, path = call.kind.partition(" ")
        if verb == "HEAD":
            verb = "GET"
        for start, method in below:
            if path.startswith(start):
                method(call, verb, path[len(start) :])
                return
        expected = verbs.get(path)
        if expected is None:
            answers.no_route(call)
        elif verb != expected:
            answers.wrong_verb(call, "GET, HEAD" if expected == "GET" else expected)
        else:
            fixed[f"{verb} {path}"](call)

    return fixed, otherwise
