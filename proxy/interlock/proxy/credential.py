"""A tool's own credential on its way: what a try bears for it, and what hides it in the answer."""

from dataclasses import dataclass, field

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Headers
from interlock.proxy.headers import as_read
from interlock.proxy.masking import Mask, mask_of
from interlock.proxy.oauth import Token, Tokens, scheme_of

DEFAULT_HEADER = "Authorization"
IDENTITY = ("Accept-Encoding", "identity")
"""In what is compressed no credential could be found, and masked."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One header field. `token` is set where its value is a token's."""

    header: str
    value: str = field(repr=False)
    mask: Mask | None = None
    token: Token | None = None

    def on(self, headers: Headers) -> Headers:
        """The fields of a request with this one. An agent's own of that name goes: a tool might read the first."""
        replaced = (as_read(self.header), "accept-encoding")
        kept = tuple(field for field in headers if as_read(field[0]) not in replaced)
        return (*kept, IDENTITY, (self.header, self.value))


class Credentials:
    """The credentials of all tools of a sidecar."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def of(self, tool: pb.ToolRoute) -> Credential | None:
        """What a request to this tool bears. Errors: NoTokenError."""
        if not tool.HasField("upstream_credential"):
            return None
        told = tool.upstream_credential
        if told.HasField("oauth2"):
            return _shown(told.oauth2, await self._tokens.token(told.oauth2, tool.name))
        return Credential(told.header, told.value, mask_of(told.value)) if told.header else None

    async def instead_of(self, refused: Credential, tool: pb.ToolRoute) -> Credential | None:
        """Another credential than this one, which the tool did not accept; None if there is none."""
        if refused.token is None:
            return None
        oauth2 = tool.upstream_credential.oauth2
        token = await self._tokens.instead_of(refused.token, oauth2, tool.name)
        return _shown(oauth2, token) if token is not None else None


def _shown(oauth2: pb.OAuth2ClientCredentials, token: Token) -> Credential:
    value = f"{scheme_of(oauth2)} {token.value}".strip()
    return Credential(oauth2.header or DEFAULT_HEADER, value, mask_of(value), token)
