"""LangChain tools: governed ones that Interlock calls, and own ones that are made to run once. Needs langchain-core."""

from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from interlock.client.async_interlock import AsyncInterlock
from interlock.client.canonical import key_of_arguments
from interlock.client.interlock import Interlock
from interlock.client.leases import WorkResult
from interlock.client.runs import ToolResult


def governed_tool(
    name: str,
    description: str,
    args_schema: Any,
    *,
    agent_id: str,
    client: Interlock | None = None,
    async_client: AsyncInterlock | None = None,
    tool: str | None = None,
    run_id: str | None = None,
) -> StructuredTool:
    """A tool that calls the tool registered at Interlock as `tool` (or `name`), as an agent, and gives its result.

    A refusal, or that the tool failed, reaches the model as text with the reason, for it to act on. `client` serves
    `invoke`, `async_client` serves `ainvoke`; give those that are used.
    """
    registered = tool or name

    def call(**arguments: Any) -> dict[str, Any]:
        if client is None:
            raise TypeError(f"{name} was given no client for calls that are not awaited")
        return outcome(client.run_tool(agent_id, registered, arguments, run_id=run_id))

    async def call_async(**arguments: Any) -> dict[str, Any]:
        if async_client is None:
            raise TypeError(f"{name} was given no async_client for calls that are awaited")
        return outcome(await async_client.run_tool(agent_id, registered, arguments, run_id=run_id))

    return StructuredTool.from_function(
        func=call if client else None,
        coroutine=call_async if async_client else None,
        name=name,
        description=description,
        args_schema=args_schema,
        handle_tool_error=True,
    )


def outcome(told: ToolResult) -> dict[str, Any]:
    """What the tool said. Errors: ToolException, which LangChain tells the model."""
    if told.ok:
        return told.result or {}
    what = "was not called" if told.blocked else "failed"
    raise ToolException(f"The tool {what}: {told.policy_reason}. {told.result or ''}".rstrip())


def idempotent_tool(
    tool: BaseTool,
    *,
    client: Interlock | None = None,
    async_client: AsyncInterlock | None = None,
    ttl: int = 300,
    prefix: str = "",
) -> BaseTool:
    """The same tool, run once for equal input in whichever process: who calls it again is given its recorded result.

    What the tool returns has to be JSON. What it raises is recorded as failed for good.
    """

    def key_of(arguments: dict[str, Any]) -> str:
        return key_of_arguments(tool.name, arguments, prefix or "tool")

    def call(**arguments: Any) -> Any:
        if client is None:
            raise TypeError(f"{tool.name} was given no client for calls that are not awaited")
        return recorded(client.run_fn(key_of(arguments), lambda: tool.invoke(arguments), ttl=ttl))

    async def call_async(**arguments: Any) -> Any:
        if async_client is None:
            raise TypeError(f"{tool.name} was given no async_client for calls that are awaited")
        return recorded(await async_client.run_fn(key_of(arguments), lambda: tool.ainvoke(arguments), ttl=ttl))

    return StructuredTool.from_function(
        func=call if client else None,
        coroutine=call_async if async_client else None,
        name=tool.name,
        description=tool.description,
        args_schema=tool.get_input_schema(),
        return_direct=tool.return_direct,
        handle_tool_error=True,
    )


def recorded(done: WorkResult) -> Any:
    """What the tool gave, now or then. Errors: ToolException if it failed then."""
    if not done.ok:
        raise ToolException(f"The tool failed when it was first called: {done.error_code}")
    return done.value
