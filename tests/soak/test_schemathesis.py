"""The long form of the search for answers that the OpenAPI document does not allow: more examples, and in sequences."""

from pathlib import Path

import pytest

from tests.conftest import StartDev
from tests.schemathesis_run import schemathesis

pytestmark = pytest.mark.soak


@pytest.mark.timeout(1800)
async def test_schemathesis_finds_nothing_in_many_examples_and_sequences(
    interlock_dev: StartDev, tmp_path: Path
) -> None:
    folder = tmp_path / "schemathesis"
    folder.mkdir()
    found = await schemathesis(await interlock_dev(), folder, examples=15, phases="examples,coverage,fuzzing,stateful")
    assert found.returncode == 0, found.output[-20_000:]
