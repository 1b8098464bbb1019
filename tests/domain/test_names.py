"""What a model may be called."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.names import MOST_BYTES, fits_header, refusal
from modelmesh.errors import Code

USABLE = [
    "sklearn-iris",
    "..",
    "../../etc/passwd",
    "/",
    "a b",
    " leading",
    "name__isvc-0123456789",
    "модель",
    "模型",
    "🦊",
    "👩‍👩‍👧",  # joined by U+200D
    "%00",
    "'; drop table models; --",
    "***GETSTATE***",
    "x" * MOST_BYTES,
    "é" * (MOST_BYTES // 2),
]

REFUSED = [
    ("", "must provide non-empty modelId"),
    ("\0", "the modelId must not contain U+0000 (at character 0)"),
    ("a\r\nb", "the modelId must not contain U+000D (at character 1)"),
    ("tab\t", "the modelId must not contain U+0009 (at character 3)"),
    ("\x7f", "the modelId must not contain U+007F (at character 0)"),
    ("\x9b31m", "the modelId must not contain U+009B (at character 0)"),
    ("a\u2028b", "the modelId must not contain U+2028 (at character 1)"),
    ("\ud83e", "the modelId must not contain U+D83E (at character 0)"),
    ("x" * 10_000, "the modelId has 10000 bytes of UTF-8, more than 1024"),
    ("é" * 513, "the modelId has 1026 bytes of UTF-8, more than 1024"),
]


@pytest.mark.parametrize("model_id", USABLE)
def test_usable(model_id: str) -> None:
    assert refusal(model_id) is None


@pytest.mark.parametrize(("model_id", "message"), REFUSED)
def test_refused(model_id: str, message: str) -> None:
    failure = refusal(model_id)
    assert failure is not None
    assert (failure.code, failure.message) == (Code.INVALID_ARGUMENT, message)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_what_is_usable_is_one_line_of_valid_unicode_that_comes_back(model_id: str) -> None:
    if refusal(model_id) is None:
        assert model_id.encode().decode() == model_id
        assert model_id.splitlines() == [model_id]
        assert not {unicodedata.category(c) for c in model_id} & {"Cc", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_a_refusal_never_repeats_the_name(model_id: str) -> None:
    failure = refusal(model_id)
    if failure is not None:
        assert failure.message.isascii()
        assert failure.message.isprintable()


@pytest.mark.parametrize(
    ("model_id", "fits"),
    [("iris", True), ("a b", True), ("~!", True), (" a", False), ("a ", False), ("é", False),
     ("a\tb", False), ("\x7f", False)],
)  # fmt: skip
def test_fits_header(model_id: str, fits: bool) -> None:
    assert fits_header(model_id) is fits
