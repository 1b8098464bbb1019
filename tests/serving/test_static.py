"""Models registered at start."""

import pytest

from modelmesh.errors import MeshError
from modelmesh.serving import static
from tests.serving.fleet_of_one import One

GOOD = (
    '[{"modelId":"a","modelInfo":{"type":"dummy","path":"/a"},"ensureLoaded":true},'
    '{"modelId":"b","modelInfo":{"type":"dummy"}}]'
)


async def test_models_are_registered_and_loaded_where_asked() -> None:
    one = One()
    await static.register(static.parse(GOOD), one.management, 5)
    assert one.runtime.loads == ["a"]
    assert list(one.instance.names()) == ["a", "b"]


async def test_a_model_that_does_not_load_stops_the_start() -> None:
    one = One()
    one.runtime.failing.add("a")
    with pytest.raises(MeshError, match="a does not load: not a model"):
        await static.register(static.parse(GOOD), one.management, 5)


def test_one_object_is_a_list_of_one() -> None:
    (model,) = static.parse('{"modelId":"a","modelInfo":{"type":"dummy","path":null}}')
    assert (model.model_id, model.record.path) == ("a", "")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        "[7]",
        '[{"modelId":"a"}]',
        '[{"modelId":"","modelInfo":{"type":"t"}}]',
        '[{"modelId":"a","modelInfo":{}}]',
        '[{"modelId":"a\\u0000b","modelInfo":{"type":"t"}}]',
        '[{"modelId":"a","modelInfo":{"type":"t"},"vModelId":"v"}]',
        '[{"modelId":"a","modelInfo":{"type":"t"},"colour":"red"}]',
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(MeshError, match="MM_AUTO_REGISTER_MODELS"):
        static.parse(text)
