"""The OpenAPI document against what is served: schemathesis asks whatever the document allows, and what it forbids."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from interlock.proxy.api.document import document
from tests.acceptance.scene import Sidecars
from tests.interlock_dev import InterlockDev
from tests.schemathesis_run import schemathesis
from tests.tool import Tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[InterlockDev]:
    """A sidecar of its own: somebody is going to pull every switch it has."""
    dev = InterlockDev(tmp_path / "data", None, {})
    await dev.start()
    try:
        yield dev
    finally:
        await dev.stop()


async def test_the_document_is_served_to_anybody_and_is_that_of_the_code(sidecars: Sidecars) -> None:
    async with sidecars.first.client("") as nobody:
        answer = await nobody.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json() == document()


def test_the_copy_of_the_document_is_fresh() -> None:
    """If it is not: `make openapi`."""
    assert json.loads((ROOT / "deploy" / "openapi.json").read_text()) == document()


@pytest.mark.timeout(300)  # thousands of requests, on however busy a machine
async def test_schemathesis_finds_nothing(alone: InterlockDev, tool: Tool, tmp_path: Path) -> None:
    found = await schemathesis(alone, tmp_path, examples=1, phases="examples,coverage,fuzzing")
    assert found.returncode == 0, found.output[-20_000:]


async def test_the_page_for_people_is_whole_and_may_load_nothing(sidecars: Sidecars) -> None:
    async with httpx.AsyncClient() as anybody:
        page = await anybody.get(f"{sidecars.first.admin_url}/api")
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "<script" not in page.text
    assert "http-equiv" not in page.text
    for operation in (operation for item in document()["paths"].values() for operation in item.values()):
        assert f'id="{operation["operationId"]}"' in page.text
