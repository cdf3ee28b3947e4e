"""OpenAI Agents SDK: function tools that Interlock calls. Needs openai-agents."""

import json
from typing import Any

from agents import FunctionTool
from agents.tool_context import ToolContext

from interlock.client.async_interlock import AsyncInterlock
from interlock.client.runs import ToolResult


def governed_tool(
    client: AsyncInterlock,
    name: str,
    description: str,
    params_json_schema: dict[str, Any],
    *,
    agent_id: str,
    tool: str | None = None,
    run_id: str | None = None,
    strict: bool = True,
) -> FunctionTool:
    """A function tool that calls the tool registered at Interlock as `tool` (or `name`), as an agent.

    The model is told the tool's result as JSON; of a refusal or a failure the reason, for it to act on. The SDK's call
    id changes with every retry, so it does not make two calls different: the registered tool's `dedup` decides.
    """
    registered = tool or name

    async def call(_: ToolContext[Any], arguments: str) -> str:
        return told_to_model(await client.run_tool(agent_id, registered, _parsed(arguments), run_id=run_id))

    return FunctionTool(
        name=name,
        description=description,
        params_json_schema=params_json_schema,
        on_invoke_tool=call,
        strict_json_schema=strict,
    )


def told_to_model(told: ToolResult) -> str:
    if told.ok:
        return json.dumps(told.result or {}, ensure_ascii=False)
    what = "not called" if told.blocked else "failed"
    return json.dumps({"error": what, "reason": told.policy_reason, "result": told.result}, ensure_ascii=False)


def _parsed(arguments: str) -> dict[str, Any]:
    """Errors: ValueError, which the SDK tells the model."""
    value = json.loads(arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError("the arguments of a tool are a JSON object")  # noqa: TRY004 - it is about a value, not a type
    return value
