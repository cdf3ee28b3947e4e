"""A tool's answer as it comes."""

from hashlib import sha256

from interlock.governance.values import replace
from interlock.proxy.call import Forwarded


class Body:
    """A body on its way: always its size and digest, and all of it as long as that is at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._pieces: list[bytes] = []
        self._digest = sha256()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._digest.update(piece)
        if self.size <= self._limit:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def of(self, head: Forwarded) -> Forwarded:
        whole = self.size <= self._limit
        return replace(head, body=b"".join(self._pieces), whole=whole, size=self.size, digest=self._digest.digest())
