"""Models registered at start."""

import pytest

from modelmesh.domain.records import ModelRecord
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import MeshError
from modelmesh.registry.vmodels import VModels
from modelmesh.serving import static
from modelmesh.serving.standing import Here
from modelmesh.serving.vmodels import VModelManagement
from tests.serving.fleet_of_one import One

GOOD = (
    '[{"modelId":"a","modelInfo":{"type":"dummy","path":"/a"},"ensureLoaded":true},'
    '{"modelId":"b","modelInfo":{"type":"dummy"}}]'
)


def vmodels(one: One) -> VModelManagement:
    copies = Here(one.parts, one.management)
    return VModelManagement(VModels(one.store), one.management, copies, lambda: 5)


async def test_a_model_may_be_the_target_of_a_vmodel() -> None:
    one = One()
    text = (
        '[{"modelId":"a","modelInfo":{"type":"dummy"},"vModelId":"v","ensureLoaded":true},'
        '{"modelId":"b","modelInfo":{"type":"dummy"},"vModelId":"w","retainAfterTransition":true}]'
    )
    await static.register(static.parse(text), one.management, vmodels(one), 5)
    assert one.runtime.loads == ["a"]
    table = VModels(one.store)
    assert table.get("v") == VModelRecord("a", "a")
    for model_id, goes in (("a", True), ("b", False)):
        expected = ModelRecord("dummy", refs=1, auto_delete=goes, last_used_ms=5)
        assert one.models.get(model_id) == expected
    (wrong,) = static.parse(
        '{"modelId":"b","modelInfo":{"type":"dummy","path":"/"},"vModelId":"v"}'
    )
    with pytest.raises(MeshError, match="different attribute values"):
        await static.register([wrong], one.management, vmodels(one), 5)


async def test_models_are_registered_and_loaded_where_asked() -> None:
    one = One()
    await static.register(static.parse(GOOD), one.management, vmodels(one), 5)
    assert one.runtime.loads == ["a"]
    assert list(one.instance.names()) == ["a", "b"]


async def test_a_model_that_does_not_load_stops_the_start() -> None:
    one = One()
    one.runtime.failing.add("a")
    with pytest.raises(MeshError, match="a does not load: not a model"):
        await static.register(static.parse(GOOD), one.management, vmodels(one), 5)


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
        '[{"modelId":"a","modelInfo":{"type":"t"},"vModelId":7}]',
        '[{"modelId":"a","modelInfo":{"type":"t"},"vModelId":"a\\u0000b"}]',
        '[{"modelId":"a","modelInfo":{"type":"t"},"colour":"red"}]',
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(MeshError, match="MM_AUTO_REGISTER_MODELS"):
        static.parse(text)
