"""KServe's V1 protocol over REST: predict, explain, and who is there.

A verb follows the last colon of the path (`/v1/models/NAME:predict`), so that names may hold
colons; a slash in a name is written %2F. Bodies are KServe's on purpose, to the byte.
"""

from typing import Final

from modelmesh.api import rest_answers as answers
from modelmesh.api.dispatch import Method
from modelmesh.api.rest_infer import infer
from modelmesh.api.serving_face import Serving
from modelmesh.wire.kinds import V1_EXPLAIN, V1_PREDICT
from modelmesh.wire.transport import Call

MODELS: Final = "/v1/models/"
_VERBS: Final = {"predict": V1_PREDICT, "explain": V1_EXPLAIN}


class RestV1:
    """The routes of the V1 protocol."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def methods(self) -> dict[str, Method]:
        """Routes whose paths hold no name."""
        return {"GET /": self._alive, "GET /v1/models": self._models}

    def _alive(self, call: Call) -> None:
        call.reply.answer(b'{"status":"alive"}')

    def _models(self, call: Call) -> None:
        answers.answer_names(call, self._serving.names())

    def model(self, call: Call, verb: str, rest: str) -> None:
        """A request below `MODELS`, of which `rest` is what follows."""
        raw_name, colon, action = rest.rpartition(":")
        kind = _VERBS.get(action) if colon else None
        if "/" in rest or not rest:
            answers.no_route(call)
        elif kind is not None:
            if verb == "POST":
                infer(self._serving, kind, raw_name, call)
            else:
                answers.wrong_verb(call, "POST")
        elif verb == "GET":
            model_id = answers.model_name(rest)
            answers.answer_readiness(call, model_id, self._serving.ready(model_id))
        else:
            answers.wrong_verb(call, "GET, HEAD")
